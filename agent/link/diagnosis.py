"""What an error of a dial means: foreign errors become ours here, by the table in ``failures.py``; pure."""

from __future__ import annotations

import re
import socket
import ssl
import time
from datetime import UTC, datetime
from typing import Final

import msgspec

from agent.errors import LinkError
from agent.link.failures import NOT_TLS, SHOWN_CHARS, short, trouble
from agent.link.library import InvalidHandshake, InvalidMessage, InvalidStatus, Response

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
_OURS: Final = "CN=Outhaul authority"  # how the names of our authorities begin
_TITLE: Final = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAG: Final = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)
LOOK_AGAIN_S: Final = 900.0  # seconds for which what was seen of who is not trusted is taken for true


class Way(msgspec.Struct, frozen=True):
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


class Shown(msgspec.Struct, frozen=True):
    """
    What the other end showed when it was looked at a second time, without trust.

    Attributes:
        issuer: who signed its certificate, for people.
        names: hosts it is for.
        not_before: seconds since 1970.
        not_after: seconds since 1970.
        known: whether this machine's own list of authorities, or ``link.extra_authorities``, has the issuer.
    """

    issuer: str
    names: tuple[str, ...]
    not_before: float
    not_after: float
    known: bool = False


class Looks:
    """
    What was lately seen of who is not trusted.

    To look costs two connections and the machine's whole list of authorities, and a trouble that lasts is dialled into
    again and again.
    """

    def __init__(self) -> None:
        self._trouble = ""
        self._until = 0.0
        self._shown: Shown | None = None

    def lately(self, trouble: str, now: float) -> Shown | None:
        """Return what was seen with the same trouble; ``None`` if it is time to look again."""
        return self._shown if trouble == self._trouble and now < self._until else None

    def keep(self, trouble: str, shown: Shown | None, now: float) -> None:
        """Keep what was seen."""
        self._trouble, self._shown, self._until = trouble, shown, now + LOOK_AGAIN_S


def explain(exc: Exception, way: Way, *, stage: str, shunned: bool = False) -> LinkError:
    """
    Return what to raise for an error of the dial.

    Args:
        stage: what was under way: ``tcp``, ``proxy``, ``tls`` or ``http``.
        shunned: the broker ended the connection with our certificate, and answered one without.
    """
    if isinstance(exc, LinkError):
        return exc  # the proxy's part has explained itself
    if isinstance(exc, InvalidStatus):
        return _status(exc.response, way)
    if isinstance(exc, TimeoutError):
        return _timeout(way, stage)
    if stage == "http" and isinstance(exc, InvalidMessage | OSError | EOFError):
        return _cut_after_tls(exc, way, shunned=shunned)
    if isinstance(exc, InvalidHandshake):
        return trouble("no-broker", broker=way.broker, said=_text(exc))
    if isinstance(exc, socket.gaierror):
        return trouble("name-unknown", host=way.host, said=short(exc))
    if isinstance(exc, ssl.SSLError):
        return _tls(exc, way)
    if isinstance(exc, OSError) and stage == "tls":
        return trouble("reset-in-tls", broker=way.broker, said=short(exc))
    if isinstance(exc, OSError):
        return trouble("not-reached", broker=way.broker, said=short(exc))
    return trouble("other", broker=way.broker, said=f"{type(exc).__name__}: {_text(exc)}")


def untrusted(exc: ssl.SSLCertVerificationError, shown: Shown | None, way: Way, now: float) -> LinkError:
    """Return what to raise for a broker's certificate that did not pass; ``shown`` is ``None`` if it is unknown."""
    # A foreign certificate first: it may be out of its time as well.
    if exc.verify_code in (NOT_YET_VALID, EXPIRED):
        validity = f", valid from {when(shown.not_before)} to {when(shown.not_after)}," if shown else ""
        return trouble("wrong-time", broker=way.broker, validity=validity, now=when(now), skew=skew(shown, now))
    if exc.verify_code in WRONG_NAMES:
        names = f" but for {', '.join(shown.names)}" if shown and shown.names else ""
        return trouble("wrong-name", broker=way.broker, host=way.host, names=names)
    if shown is None:
        return trouble("untrusted", broker=way.broker, said=exc.verify_message)
    if shown.known or not shown.issuer.startswith(_OURS):
        known = " (which this machine trusts, and the agent does not)" if shown.known else ""
        return trouble("inspected", broker=way.broker, issuer=shown.issuer, known=known)
    return trouble("other-authority", broker=way.broker, issuer=shown.issuer)


def skew(shown: Shown | None, now: float) -> str:
    """Return by how much this machine's clock must be wrong, if it is, for people; ``now`` in seconds since 1970."""
    if shown is None or shown.not_before <= now <= shown.not_after:
        return ""
    off_s, which = (shown.not_before - now, "behind") if now < shown.not_before else (now - shown.not_after, "ahead")
    return f" and would be at least {_span(off_s)} {which}"


def page_title(body: bytes) -> str:
    """Return what a web page says of itself: its title, else its first words; "" where it is none."""
    text = body.decode("utf-8", "replace")
    begins = text.find("<")
    if begins < 0:
        return ""
    text = text[begins:]  # what stands before is the head of an answer
    titled = _TITLE.search(text)
    return " ".join((titled[1] if titled else _TAG.sub(" ", text)).split())[:SHOWN_CHARS]


def _status(response: Response, way: Way) -> LinkError:
    status = response.status_code
    body = bytes(response.body or b"")
    said = " ".join(body.decode("utf-8", "replace").split())[:SHOWN_CHARS]
    if status in (401, 403) and not _is_page(response):
        return trouble("refused", broker=way.broker, said=said or f"HTTP {status}")
    if status in (429, 502, 503, 504):
        after_s = retry_after(response.headers.get("Retry-After", ""))
        return trouble("busy", retry_after_s=after_s, broker=way.broker, status=status)
    if 300 <= status < 400:
        location = response.headers.get("Location", "nowhere")[:SHOWN_CHARS]
        return trouble("redirect", broker=way.broker, location=location)
    if _is_page(response):
        return trouble("page", broker=way.broker, status=status, said=page_title(body) or "without a title")
    return trouble("no-broker", broker=way.broker, said=f"HTTP {status}")


def _is_page(response: Response) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower()


def retry_after(text: str) -> float:
    """Return the seconds that a Retry-After asks for; 0 where it can't be read."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    # Imported here: what reads mail is large, and few answers have a date.
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _timeout(way: Way, stage: str) -> LinkError:
    name = {"http": "upgrade-swallowed", "tls": "silent-in-tls"}.get(stage, "no-answer")
    if stage == "proxy" or (name == "no-answer" and way.proxy):
        name = "proxy-no-answer"
    return trouble(name, broker=way.broker, timeout=f"{way.timeout_s:.0f} s")


def _cut_after_tls(exc: Exception, way: Way, *, shunned: bool) -> LinkError:
    cause = exc if isinstance(exc, ssl.SSLError) else exc.__cause__
    reason = (cause.reason or "") if isinstance(cause, ssl.SSLError) else ""
    found = next((meaning for alert, meaning in _ALERTS.items() if reason.endswith(alert)), "")
    if not found and shunned:
        found = "another authority issued it, or it has run out; the broker's log tells"
    if found and way.certificate_ends is not None and way.certificate_ends < time.time():
        return trouble("certificate-ran-out", broker=way.broker, ended=when(way.certificate_ends))
    if found:
        return trouble("certificate-refused", broker=way.broker, said=found)
    return trouble("upgrade-cut", broker=way.broker, said=_text(cause or exc))


def _tls(exc: ssl.SSLError, way: Way) -> LinkError:
    reason = exc.reason or ""
    if reason in NOT_TLS:
        return trouble("no-tls", broker=way.broker)
    if reason in ("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"):
        return trouble("old-tls", broker=way.broker)
    return trouble("no-tls-done", broker=way.broker, said=reason or _text(exc))


def _text(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__)[:SHOWN_CHARS]


def when(seconds: float) -> str:
    """Return a time for people; ``seconds`` since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _span(seconds: float) -> str:
    for length, word in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {word}"
    return f"{seconds:.0f} s"
