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
import functools
import http.client
import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from agent.connectors.soap import digest
from agent.connectors.soap.line import READ_BYTES, Line, request_bytes, server_of, target
from agent.errors import Cancelled, ConnectorError, OutcomeUnknown, SourceFailed, SourceUnavailable

CONNECT_S: Final = 10.0  # seconds for TCP and TLS; a service that is there answers in far less
KEPT_S: Final = 30.0  # seconds an unused connection is kept; firewalls forget one without a word, but later
SHOWN_CHARS: Final = 300  # of a page that is no SOAP; enough to recognise the proxy or error page it is
SHOWN_BYTES: Final = SHOWN_CHARS * 4

# How a connection shows that the other side closed it earlier.
_CLOSED: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
# TLS 1.3 tells only after the handshake, with these, that a client certificate is missing or refused.
_CERTIFICATE_ALERTS: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE", "DECRYPT_ERROR")


class Reply:
    """
    What the service sends back; close it when what is wanted of it was read.

    Attributes:
        status: of HTTP.
        headers: names in lower case.
    """

    def __init__(self, exchange: Exchange, line: Line, response: http.client.HTTPResponse, url: str) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self._exchange = exchange
        self._line = line
        self._response = response
        self._url = url
        self._start = bytearray()
        self._whole = False

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self._exchange.let_go(self._line, kept=self._whole and not self._response.will_close)
        self._response.close()

    def pieces(self) -> Iterator[bytes]:
        """
        Yield the body as it comes; asked again, the rest of it.

        Raises:
            OutcomeUnknown: it ended too early, not in time, or is compressed.
        """
        response = self._response
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise OutcomeUnknown(
                f"{place(self._url)} sent a compressed reply, which was not asked for and is not unpacked"
            )
        try:
            while piece := response.read1(READ_BYTES):
                if len(self._start) < SHOWN_BYTES:
                    self._start += piece[:SHOWN_BYTES]
                yield piece
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            if self._exchange.stopped:
                # What our own cut ended may look whole: a reply may have no length.
                raise ConnectionAbortedError
        except (OSError, http.client.HTTPException) as exc:
            raise self._exchange.lost(self._url, exc) from exc
        self._whole = True

    def body(self, most: int) -> bytes:
        """
        Return all of it.

        Raises:
            OutcomeUnknown: as ``pieces``, or it is longer than ``most`` bytes.
        """
        found = bytearray()
        for piece in self.pieces():
            found += piece
            if len(found) > most:
                raise self.too_long(most)
        return bytes(found)

    def too_long(self, most: int, of_what: str = "") -> OutcomeUnknown:
        """Return the refusal of a reply that is longer than it may be."""
        return OutcomeUnknown(
            f"{place(self._url)} sent more than {most} bytes{of_what}; raise max_reply_bytes of the "
            "connection if that is right"
        )

    def skim(self) -> None:
        """Read as much as ``shown`` tells; raises as ``pieces``."""
        for _ in self.pieces():
            if len(self._start) >= SHOWN_BYTES:
                return

    def shown(self) -> str:
        """Return the start of the body on one line, for an error; only what was read is known."""
        return shown(bytes(self._start))


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

    Attributes:
        stopped: whether the request was cancelled.
    """

    def __init__(self, login: Login, tls: ssl.SSLContext, max_reply_bytes: int) -> None:
        self._login = login
        self._tls = tls
        self._max_reply_bytes = max_reply_bytes
        self._lock = threading.Lock()
        self._busy: Line | None = None
        self.stopped = False
        self._kept: tuple[Line, float] | None = None  # and since when

    def begin(self) -> None:
        """What was cancelled so far is over: from now on ``cancel`` means the next request."""
        self.stopped = False

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
            self.stopped = True
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
            if self.stopped:
                raise Cancelled(f"{place(url)}: it was cancelled before the request was sent", touched=False)
            # From the first byte on, the service may act on it.
            return Reply(self, line, line.ask(request, deadline), url)
        except (OSError, http.client.HTTPException) as exc:
            self.let_go(line, kept=False)
            if kept and not self.stopped and isinstance(exc, _CLOSED):
                raise _Stale from exc
            raise self.lost(url, exc) from exc
        except BaseException:
            self.let_go(line, kept=False)
            raise

    def let_go(self, line: Line, *, kept: bool) -> None:
        """End the use of a line; the one that is kept serves the next request that may be sent twice."""
        with self._lock:
            self._busy = None
        if kept and not self.stopped:
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

    def lost(self, url: str, exc: Exception) -> ConnectorError:
        """Return what a line that broke means for the request that was sent over it."""
        if isinstance(exc, ssl.SSLError) and any(word in (exc.reason or "") for word in _CERTIFICATE_ALERTS):
            return SourceFailed(
                f"{place(url)} did not let us in: it refused our certificate, or wants one ({exc.reason})",
                touched=False,
                remedy="soap.account",
            )
        if self.stopped:
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


def shown(body: bytes) -> str:
    """Return the start of a body on one line, for an error."""
    text = " ".join(body[:SHOWN_BYTES].decode("utf-8", "replace").split())
    return text[:SHOWN_CHARS] + ("…" if len(text) > SHOWN_CHARS else "")


@functools.lru_cache(maxsize=64)  # few addresses, asked of in every call
def split(url: str) -> SplitResult:
    """
    Return the parts of an http or https address.

    Raises:
        SourceFailed: it is none.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or any(character <= " " for character in url):
        raise SourceFailed(f"{url[:200]!r} is not an http or https address; correct wsdl or endpoint", touched=False)
    return parts


def place(url: str) -> str:
    """Return an address as it may be shown: without credentials and query."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
