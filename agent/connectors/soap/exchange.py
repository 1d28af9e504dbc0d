"""
One HTTP request and its reply, so that afterwards it is known whether the request may have been read.

A connection is made for each request: one that was kept could turn out closed only after the
request was written, and then nobody knows whether it ran. Nothing is followed, cached or taken from the
environment (no redirects, proxies or ``.netrc``).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from agent.connectors.soap import digest
from agent.errors import Cancelled, ConnectorError, OutcomeUnknown, SourceFailed, SourceUnavailable

CONNECT_S: Final = 10.0  # seconds for TCP and TLS; a service that is there answers in far less
READ_BYTES: Final = 65_536
SHOWN_CHARS: Final = 300  # of a page that is no SOAP; enough to recognise the proxy or error page it is

# TLS 1.3 tells only after the handshake, with these, that a client certificate is missing or refused.
_CERTIFICATE_ALERTS: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE", "DECRYPT_ERROR")


@dataclass(frozen=True, slots=True)
class Reply:
    """
    What the service sent back.

    Attributes:
        headers: names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def shown(self) -> str:
        """Return the start of the body on one line, for an error."""
        text = " ".join(self.body[: SHOWN_CHARS * 4].decode("utf-8", "replace").split())
        return text[:SHOWN_CHARS] + ("…" if len(text) > SHOWN_CHARS else "")


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
        max_reply_bytes: a longer reply is refused while it is read.
    """

    def __init__(self, login: Login, tls: ssl.SSLContext, max_reply_bytes: int) -> None:
        self._login = login
        self._tls = tls
        self._max_reply_bytes = max_reply_bytes
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._stopped: str | None = None

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Reply:
        """
        Send ``body`` and return the reply, whatever its status.

        Raises:
            SourceUnavailable: no connection; nothing was sent.
            Cancelled: before anything was sent.
            SourceFailed: our certificate or the server's challenge was refused.
            OutcomeUnknown: the request was sent, at least in part, and no whole reply came.
        """
        return self._request("POST", url, body, headers, self._login, time.monotonic() + timeout_s)

    def get(self, url: str, timeout_s: float, *, known: bool) -> Reply:
        """
        Fetch a document; as ``post``.

        Args:
            known: whether the credentials may be shown there.
        """
        login = self._login if known else Login()
        return self._request("GET", url, None, {}, login, time.monotonic() + timeout_s)

    def reach(self, url: str, timeout_s: float = CONNECT_S) -> str:
        """
        Connect, TLS included, and close again; return what was agreed on.

        Raises:
            SourceUnavailable: no connection.
        """
        parts = split(url)
        connection = self._connect(parts, time.monotonic() + timeout_s)
        with contextlib.closing(connection):
            sock = connection.sock
            return f"{sock.version()}" if isinstance(sock, ssl.SSLSocket) else "plain HTTP"

    def cancel(self) -> None:
        """End the running request; what was sent can't be called back."""
        self._stop("it was cancelled")

    def _request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], login: Login, deadline: float
    ) -> Reply:
        self._stopped = None
        sent = dict(headers)
        if login.scheme == "basic":
            pair = f"{login.username}:{login.password}".encode()
            sent["Authorization"] = "Basic " + base64.b64encode(pair).decode("ascii")
        reply = self._once(method, url, body, sent, deadline)
        if reply.status == 401 and login.scheme == "digest":
            target = _target(split(url))
            try:
                sent["Authorization"] = digest.answer(
                    reply.headers.get("www-authenticate", ""),
                    method,
                    target,
                    login.username,
                    login.password,
                    secrets.token_hex(16),
                )
            except digest.ChallengeRefused as exc:
                raise SourceFailed(
                    f"{place(url)}: {exc}", source_code="401", touched=False, remedy="soap.account"
                ) from exc
            reply = self._once(method, url, body, sent, deadline)
        return reply

    def _once(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], deadline: float) -> Reply:
        parts = split(url)
        connection = self._connect(parts, deadline)
        with contextlib.closing(connection), self._watched(connection.sock, deadline):
            if self._stopped is not None:
                raise Cancelled(f"{place(url)}: {self._stopped} before the request was sent", touched=False)
            try:
                # From the first byte on, the service may act on it.
                connection.request(
                    method,
                    _target(parts),
                    body,
                    # identity: a compressed reply could be of any size once unpacked.
                    {**headers, "Accept-Encoding": "identity", "Connection": "close", "User-Agent": "outhaul-agent"},
                )
                # Closed here: with `Connection: close` the response alone holds the socket.
                with contextlib.closing(connection.getresponse()) as response:
                    reply = Reply(
                        response.status,
                        {name.lower(): value for name, value in response.getheaders()},
                        self._read(response, url),
                    )
                if self._stopped is not None:
                    # What our own cut ended may look whole: a reply may have no length.
                    raise ConnectionAbortedError(self._stopped)
                return reply
            except ssl.SSLError as exc:
                if any(word in (exc.reason or "") for word in _CERTIFICATE_ALERTS):
                    raise SourceFailed(
                        f"{place(url)} did not let us in: it refused our certificate, or wants one ({exc.reason})",
                        touched=False,
                        remedy="soap.account",
                    ) from exc
                raise self._lost(url, exc) from exc
            except (OSError, http.client.HTTPException) as exc:
                raise self._lost(url, exc) from exc

    def _connect(self, parts: SplitResult, deadline: float) -> http.client.HTTPConnection:
        timeout_s = min(CONNECT_S, deadline - time.monotonic())
        url = parts.geturl()
        if timeout_s <= 0:
            raise SourceUnavailable(f"{place(url)}: no time was left to connect", touched=False)
        connection = (
            http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout_s, context=self._tls)
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        )
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as exc:
            connection.close()
            raise SourceUnavailable(
                f"{place(url)}: its certificate is not trusted: {exc.verify_message}; "
                "name the authority's PEM file as `ca` of the connection",
                touched=False,
                remedy="soap.tls",
            ) from exc
        except OSError as exc:
            connection.close()
            raise SourceUnavailable(
                f"{place(url)} can't be reached: {exc}; is the service running, and the address right?",
                touched=False,
                remedy="soap.unreachable",
            ) from exc
        return connection

    @contextlib.contextmanager
    def _watched(self, sock: socket.socket, deadline: float) -> Iterator[None]:
        """End the exchange at ``deadline`` even if the other side sends a byte now and then."""
        left_s = max(deadline - time.monotonic(), 0.001)
        sock.settimeout(left_s)
        timer = threading.Timer(left_s, self._stop, args=("no whole answer came in time",))
        timer.daemon = True
        with self._lock:
            self._socket = sock
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._socket = None

    def _stop(self, reason: str) -> None:
        with self._lock:
            self._stopped = self._stopped or reason
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown, which takes TLS away under the reading thread.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _read(self, response: http.client.HTTPResponse, url: str) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise OutcomeUnknown(f"{place(url)} sent a compressed reply, which was not asked for and is not unpacked")
        pieces, size = [], 0
        while piece := response.read1(READ_BYTES):
            size += len(piece)
            if size > self._max_reply_bytes:
                raise OutcomeUnknown(
                    f"{place(url)} sent more than {self._max_reply_bytes} bytes; raise max_reply_bytes of the "
                    "connection if that is right"
                )
            pieces.append(piece)
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(pieces)

    def _lost(self, url: str, exc: Exception) -> ConnectorError:
        reason = self._stopped or ("no whole answer came in time" if isinstance(exc, TimeoutError) else str(exc))
        return OutcomeUnknown(
            f"{place(url)}: contact was lost after the request was sent: {reason}; it may have been done"
        )


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


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
