"""One connection to one server: requests out, replies in, each byte before a deadline."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult

from agent.connectors.soap.address import host, server_of, target

READ_BYTES: Final = 65_536

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Line:
    """
    A connection that is open.

    Args:
        tls: ``None`` speaks plain HTTP.
        timeout_s: for connecting, TLS included.

    Raises:
        OSError: no connection.
    """

    def __init__(self, parts: SplitResult, tls: ssl.SSLContext | None, timeout_s: float) -> None:
        _, name, port = server_of(parts)
        self.server = server_of(parts)
        plain = socket.create_connection((name, port), timeout_s)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sock = plain if tls is None else tls.wrap_socket(plain, server_hostname=name)
        except BaseException:  # whatever ends it: nobody else has the socket
            plain.close()
            raise
        self._incoming = _Incoming(self._sock)
        self._reader = _Reader(self._incoming, READ_BYTES)

    @property
    def agreed(self) -> str:
        """What is spoken below HTTP, such as ``TLSv1.3``."""
        return f"{self._sock.version()}" if isinstance(self._sock, ssl.SSLSocket) else "plain HTTP"

    def ask(self, request: bytes, deadline: float) -> http.client.HTTPResponse:
        """
        Send a request and return its reply once the headers are there; the body is read under the same deadline.

        Args:
            request: as ``request_bytes`` returns it.
            deadline: by ``time.monotonic``.

        Raises:
            OSError, http.client.HTTPException: the line broke, the time was up, or what came is no HTTP.
        """
        self._incoming.deadline = deadline
        self._sock.settimeout(_left(deadline))
        self._sock.sendall(request)
        # All that it wants of a socket is makefile.
        response = http.client.HTTPResponse(_Readable(self._reader))  # type: ignore[arg-type] # see above
        response.begin()
        return response

    def quiet(self) -> bool:
        """Whether it may be used for another request: the other side has neither closed it nor said anything more."""
        self._incoming.deadline = None
        try:
            return not self._reader.peek(1) and not self._incoming.ended
        except OSError:
            return False

    def cut(self) -> None:
        """End it under whoever reads, from another thread."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which takes TLS away under the reading thread.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self._sock.close()


class _Incoming(io.RawIOBase):
    """
    The bytes that come in; a byte now and then does not stretch the time.

    Attributes:
        deadline: by ``time.monotonic``; ``None`` takes only what is there already.
        ended: whether the other side has closed.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.deadline: float | None = None
        self.ended = False
        self._sock = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(0.0 if self.deadline is None else _left(self.deadline))
        try:
            count = self._sock.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        self.ended = count == 0
        return count


class _Reader(io.BufferedReader):
    """Stays open when a response that was read to its end closes it: the next one comes the same way."""

    def close(self) -> None:
        return


class _Readable:
    """What ``HTTPResponse`` wants of a socket."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def makefile(self, _mode: str) -> _Reader:
        return self._reader


def _left(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s


def request_bytes(method: str, parts: SplitResult, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """
    Return a request as it goes over the line, in one piece: some servers are slow to take a second one.

    Raises:
        ValueError: a header's value can't stand in a request.
    """
    lines = [f"{method} {target(parts)} HTTP/1.1", f"Host: {host(parts)}"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    for name, value in headers.items():
        if _CONTROL.search(value):
            raise ValueError(f"{name} holds a control character")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
