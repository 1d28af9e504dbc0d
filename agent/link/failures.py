"""
Why a dial failed, in a plain sentence with its fix: foreign errors become LinkError or LinkRefused here.

A pure table of decisions; ``websocket.py`` does the waiting.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.http11 import Response

from agent.errors import LinkError, LinkRefused

SHOWN_CHARS: Final = 300  # characters of a foreign answer
# OpenSSL's codes: X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH.
NOT_YET_VALID, EXPIRED, WRONG_NAMES = 9, 10, (62, 64)
# TLS alerts by which a server refuses a client's certificate; with TLS 1.3 they come after the handshake.
_ALERTS: Final = {
    "CERTIFICATE_EXPIRED": "it has run out",
    "UNKNOWN_CA": "another authority issued it",
    "CERTIFICATE_REQUIRED": "none was shown",
    "BAD_CERTIFICATE": "it is not one for an agent",
    "UNSUPPORTED_CERTIFICATE": "it is not one for an agent",
    "CERTIFICATE_UNKNOWN": "it is not one for an agent",
    "CERTIFICATE_REVOKED": "it was revoked",
    "ACCESS_DENIED": "it is not let in",
}


@dataclass(frozen=True, slots=True)
class Way:
    """
    What was tried.

    Attributes:
        host: the broker's.
        port: the broker's.
        proxy: the proxy's URL without its password; "" if there is none.
        certificate_ends: when the certificate that we show ends, seconds since 1970; ``None`` if we show none.
        timeout_s: seconds for the whole dial.
    """

    host: str
    port: int
    proxy: str
    certificate_ends: float | None
    timeout_s: float

    @property
    def broker(self) -> str:
        """The broker, for people, with the way that leads there."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + (f" through the proxy {self.proxy}" if self.proxy else "")


@dataclass(frozen=True, slots=True)
class Shown:
    """
    The certificate that the other end showed.

    Attributes:
        issuer: who signed it, for people.
        names: hosts it is for.
        not_before: seconds since 1970.
        not_after: seconds since 1970.
    """

    issuer: str
    names: tuple[str, ...]
    not_before: float
    not_after: float


def explain(exc: Exception, way: Way, *, connected: bool, shunned: bool = False) -> LinkError:
    """
    Return what to raise for an error of the dial.

    Args:
        connected: TCP, proxy and TLS were done, as far as our side can tell.
        shunned: the broker ended the connection with our certificate, and answered one without.
    """
    if isinstance(exc, LinkError):
        return exc  # the proxy's part has explained itself
    if isinstance(exc, InvalidStatus):
        return _status(exc.response, way)
    if isinstance(exc, TimeoutError):
        return _timeout(way, connected=connected)
    if connected and isinstance(exc, InvalidMessage | OSError | EOFError):
        return _cut_after_tls(exc, way, shunned=shunned)
    if isinstance(exc, InvalidHandshake):
        return LinkError(f"{way.broker} answered, but not as a broker of Outhaul does: {_text(exc)}", stage="http")
    if isinstance(exc, socket.gaierror):
        return LinkError(
            f"the name {way.host} can't be resolved ({exc.strerror}); check DNS on this machine", stage="dns"
        )
    if isinstance(exc, ssl.SSLError):
        return _tls(exc, way)
    if isinstance(exc, OSError):
        return _unreachable(exc, way)
    return LinkError(f"{way.broker}: {type(exc).__name__}: {_text(exc)}", stage="setup")


def untrusted(exc: ssl.SSLCertVerificationError, shown: Shown | None, way: Way, now: float) -> LinkError:
    """Return what to raise for a broker's certificate that did not pass; ``shown`` is ``None`` if it is unknown."""
    if exc.verify_code in (NOT_YET_VALID, EXPIRED):
        validity = f", valid from {_when(shown.not_before)} to {_when(shown.not_after)}" if shown else ""
        return LinkError(
            f"{way.broker}: the certificate{validity}, does not fit this machine's clock, which says {_when(now)}; "
            "set the clock, or have the broker's certificate renewed if the clock is right",
            stage="tls",
        )
    if exc.verify_code in WRONG_NAMES:
        names = f" but for {', '.join(shown.names)}" if shown and shown.names else ""
        return LinkError(
            f"{way.broker}: the certificate is not for {way.host}{names}; "
            "[link] public_url in the broker's file must name a host that agents dial",
            stage="tls",
        )
    issuer = f"was issued by {shown.issuer}, not by" if shown else "was not issued by"
    return LinkError(
        f"{way.broker}: the certificate {issuer} the broker's authority that the token named. Either the link is "
        "inspected on the way (then have TLS inspection switched off for this host: it can't work with the agent's "
        "own certificate), or the broker was set up anew (then enrol again with a new token)",
        stage="tls",
    )


def _status(response: Response, way: Way) -> LinkError:
    status = response.status_code
    said = " ".join(bytes(response.body or b"").decode("utf-8", "replace").split())[:SHOWN_CHARS]
    if status in (401, 403):
        return LinkRefused(f"the broker {way.broker} refused this agent: {said or f'HTTP {status}'}", stage="http")
    if status in (429, 503):
        return LinkError(
            f"the broker {way.broker} is busy or stopping (HTTP {status}); it is tried again",
            stage="http",
            retry_after_s=_retry_after(response.headers.get("Retry-After", "")),
        )
    if 300 <= status < 400:
        location = response.headers.get("Location", "nowhere")[:SHOWN_CHARS]
        return LinkError(
            f"{way.broker} sends us on to {location}; an agent goes only where its token says", stage="http"
        )
    return LinkError(
        f"{way.broker} answered HTTP {status}, not as a broker of Outhaul does; is another program on this port?",
        stage="http",
    )


def _retry_after(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _timeout(way: Way, *, connected: bool) -> LinkError:
    if connected:
        return LinkError(
            f"{way.broker} let us connect but did not answer within {way.timeout_s:.0f} s; "
            "does something on the way swallow websockets?",
            stage="http",
        )
    return LinkError(
        f"{way.broker} did not answer within {way.timeout_s:.0f} s; does a firewall drop the connection?",
        stage="proxy" if way.proxy else "tcp",
    )


def _cut_after_tls(exc: Exception, way: Way, *, shunned: bool) -> LinkError:
    cause = exc if isinstance(exc, ssl.SSLError) else exc.__cause__
    reason = (cause.reason or "") if isinstance(cause, ssl.SSLError) else ""
    found = next((meaning for alert, meaning in _ALERTS.items() if reason.endswith(alert)), "")
    if not found and shunned:
        found = "another authority issued it, or it has run out; the broker's log tells"
    if found and way.certificate_ends is not None and way.certificate_ends < time.time():
        return LinkRefused(
            f"the broker {way.broker} did not accept this agent's certificate: it ran out on "
            f"{_when(way.certificate_ends)}. A running agent gets another by itself for as long as the broker allows; "
            "after that, enrol again with a new token",
            stage="certificate",
        )
    if found:
        return LinkRefused(
            f"the broker {way.broker} did not accept this agent's certificate: {found}; enrol again with a new token",
            stage="certificate",
        )
    return LinkError(
        f"{way.broker} ended the connection before it answered ({_text(cause or exc)}); it may be stopping, or "
        "something on the way cuts websockets",
        stage="http",
    )


def _tls(exc: ssl.SSLError, way: Way) -> LinkError:
    reason = exc.reason or ""
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return LinkError(f"{way.broker} does not speak TLS; is another program on this port?", stage="tls")
    if reason in ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"):
        return LinkError(f"{way.broker} does not speak TLS 1.3; is it a broker, or a proxy that inspects?", stage="tls")
    return LinkError(f"{way.broker}: no TLS connection came about ({reason or _text(exc)})", stage="tls")


def _unreachable(exc: OSError, way: Way) -> LinkError:
    said = exc.strerror or _text(exc)
    if isinstance(exc, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return LinkError(
            f"{way.broker} cut the connection before TLS was done ({said}); does a firewall or an old proxy reset it?",
            stage="proxy" if way.proxy else "tls",
        )
    return LinkError(
        f"{way.broker} can't be reached ({said}); does the broker run, and does the firewall allow it?", stage="tcp"
    )


def _text(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__)[:SHOWN_CHARS]


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
