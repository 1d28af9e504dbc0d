"""
HTTP requests and their replies, so that afterwards it is known whether a request may have been read.

What may be done twice goes over a connection that is kept; one that turned out closed is replaced, and asked again.
Everything else has a connection of its own: a kept one could turn out closed only after the
request was written, and then nobody knows whether it ran. Nothing is followed, cached or taken from the
environment (no redirects, proxies or ``.netrc``).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import secrets
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult

from agent.connectors.soap import digest
from agent.connectors.soap.address import place, server_of, split, target
from agent.connectors.soap.line import Line, request_bytes
from agent.connectors.soap.reply import Reply
from agent.errors import Cancelled, ConnectorError, OutcomeUnknown, SourceFailed, SourceUnavailable

CONNECT_S: Final = 10.0  # seconds for TCP and TLS; a service that is there answers in far less
KEPT_S: Final = 30.0  # seconds an unused connection is kept; firewalls forget one without a word, but later

# How a connection shows that the other side closed it earlier.
_CLOSED: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
# TLS 1.3 tells only after the handshake, with these, that a client certificate is missing or refused.
_CERTIFICATE_ALERTS: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE", "DECRYPT_ERROR")


@dataclass(frozen=True, slots=True)
class Login:
    """
    How HTTP itself is to know us.

    Attributes:
        scheme: ``none``, ``basic`` or ``digest``.
    """

    scheme: str = "none"
    username: str = ""
    password: str = ""


class Exchange:
    """
    Makes requests, one at a time; ``cancel`` may come from another thread.

    Args:
        tls: verifies the service; holds the client certificate, if there is one.
        max_reply_bytes: a longer document is refused while it is read.
    """

    def __init__(self, login: Login, tls: ssl.SSLContext, max_reply_bytes: int) -> None:
        self._login = login
        self._tls = tls
        self._max_reply_bytes = max_reply_bytes
        self._lock = threading.Lock()
        self._busy: Line | None = None
        self._stopped = False
        self._kept: tuple[Line, float] | None = None  # and since when

    def begin(self) -> None:
        """What was cancelled so far is over: from now on ``cancel`` means the next request."""
        self._stopped = False

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, *, repeatable: bool = False
    ) -> Reply:
        """
        Send ``body`` and return the reply, whatever its status, once its headers are there.

        Args:
            timeout_s: until the reply's last byte.
            repeatable: whether the request may be sent again where nothing of a reply came.

        Raises:
            SourceUnavailable: no connection; nothing was sent.
            Cancelled: before anything was sent.
            SourceFailed: our certificate or the server's challenge was refused.
            OutcomeUnknown: the request was sent, at least in part, and no reply came.
        """
        return self._request("POST", url, body, headers, self._login, time.monotonic() + timeout_s, repeatable)

    def get(self, url: str, timeout_s: float, *, known: bool) -> tuple[int, bytes]:
        """
        Fetch a document; return status and body. Raises as ``post``.

        Args:
            known: whether the credentials may be shown there.
        """
        login = self._login if known else Login()
        self.begin()
        with self._request("GET", url, None, {}, login, time.monotonic() + timeout_s, True) as reply:
            return reply.status, reply.body(self._max_reply_bytes)

    def reach(self, url: str, timeout_s: float = CONNECT_S) -> str:
        """
        Connect, TLS included, and close again; return what was agreed on.

        Raises:
            SourceUnavailable: no connection.
        """
        line = self._connect(split(url), time.monotonic() + timeout_s)
        line.close()
        return line.agreed

    def cancel(self) -> None:
        """End the running request; what was sent can't be called back."""
        with self._lock:
            self._stopped = True
            if self._busy is not None:
                self._busy.cut()

    def close(self) -> None:
        """Close the connection that was kept."""
        if self._kept is not None:
            self._kept[0].close()
            self._kept = None

    def _request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        login: Login,
        deadline: float,
        repeatable: bool,
    ) -> Reply:
        parts = split(url)
        # identity: a compressed reply could be of any size once unpacked.
        sent = {**headers, "Accept-Encoding": "identity", "User-Agent": "outhaul-agent"}
        if not repeatable:
            sent["Connection"] = "close"
        if login.scheme == "basic":
            pair = f"{login.username}:{login.password}".encode()
            sent["Authorization"] = "Basic " + base64.b64encode(pair).decode("ascii")
        reply = self._reply(method, parts, body, sent, deadline, repeatable)
        if reply.status == 401 and login.scheme == "digest":
            with reply:
                reply.body(self._max_reply_bytes)
                sent["Authorization"] = _answered(reply, method, parts, login)
            reply = self._reply(method, parts, body, sent, deadline, repeatable)
        return reply

    def _reply(
        self,
        method: str,
        parts: SplitResult,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
        repeatable: bool,
    ) -> Reply:
        url = parts.geturl()
        try:
            request = request_bytes(method, parts, headers, body)
        except ValueError as exc:
            raise SourceFailed(f"{place(url)}: no request can be made: {exc}", touched=False) from exc
        if repeatable and (line := self._take(parts)) is not None:
            with contextlib.suppress(_Stale):
                return self._ask(line, request, url, deadline, kept=True)
        return self._ask(self._connect(parts, deadline), request, url, deadline, kept=False)

    def _ask(self, line: Line, request: bytes, url: str, deadline: float, *, kept: bool) -> Reply:
        with self._lock:
            self._busy = line
        try:
            if self._stopped:
                raise Cancelled(f"{place(url)}: it was cancelled before the request was sent", touched=False)
            # From the first byte on, the service may act on it.
            response = line.ask(request, deadline)
        except (OSError, http.client.HTTPException) as exc:
            self._let_go(line, kept=False)
            if kept and not self._stopped and isinstance(exc, _CLOSED):
                raise _Stale from exc
            if isinstance(exc, ssl.SSLError) and any(word in (exc.reason or "") for word in _CERTIFICATE_ALERTS):
                raise SourceFailed(
                    f"{place(url)} did not let us in: it refused our certificate, or wants one ({exc.reason})",
                    touched=False,
                    remedy="soap.account",
                ) from exc
            raise self._lost(url, exc) from exc
        except BaseException:  # also where the worker is told to stop: the line is counted
            self._let_go(line, kept=False)
            raise
        return Reply(
            response,
            url,
            lambda exc: self._lost(url, exc),
            lambda: self._stopped,
            lambda usable: self._let_go(line, kept=usable),
        )

    def _let_go(self, line: Line, *, kept: bool) -> None:
        """End the use of a line; the one that is kept serves the next request that may be sent twice."""
        with self._lock:
            self._busy = None
        if kept and not self._stopped:
            self.close()
            self._kept = (line, time.monotonic())
        else:
            line.close()

    def _take(self, parts: SplitResult) -> Line | None:
        """Return the connection that was kept, if it goes there and is still good."""
        if self._kept is None:
            return None
        line, since = self._kept
        if line.server == server_of(parts) and time.monotonic() - since < KEPT_S and line.quiet():
            self._kept = None
            return line
        self.close()
        return None

    def _connect(self, parts: SplitResult, deadline: float) -> Line:
        timeout_s = min(CONNECT_S, deadline - time.monotonic())
        url = parts.geturl()
        if timeout_s <= 0:
            raise SourceUnavailable(f"{place(url)}: no time was left to connect", touched=False)
        try:
            return Line(parts, self._tls if parts.scheme == "https" else None, timeout_s)
        except ssl.SSLCertVerificationError as exc:
            raise SourceUnavailable(
                f"{place(url)}: its certificate is not trusted: {exc.verify_message}; "
                "name the authority's PEM file as `ca` of the connection",
                touched=False,
                remedy="soap.tls",
            ) from exc
        except (OSError, UnicodeError) as exc:
            raise SourceUnavailable(
                f"{place(url)} can't be reached: {exc}; is the service running, and the address right?",
                touched=False,
                remedy="soap.unreachable",
            ) from exc

    def _lost(self, url: str, exc: Exception) -> ConnectorError:
        """Return what a line that broke means for the request that was sent over it."""
        if self._stopped:
            reason = "it was cancelled"
        else:
            reason = "no whole answer came in time" if isinstance(exc, TimeoutError) else str(exc)
        return OutcomeUnknown(
            f"{place(url)}: contact was lost after the request was sent: {reason}; it may have been done"
        )


class _Stale(Exception):
    """A connection that was kept turned out closed, and nothing of a reply had come."""


def _answered(reply: Reply, method: str, parts: SplitResult, login: Login) -> str:
    try:
        return digest.answer(
            reply.headers.get("www-authenticate", ""),
            method,
            target(parts),
            login.username,
            login.password,
            secrets.token_hex(16),
        )
    except digest.ChallengeRefused as exc:
        raise SourceFailed(
            f"{place(parts.geturl())}: {exc}", source_code="401", touched=False, remedy="soap.account"
        ) from exc
