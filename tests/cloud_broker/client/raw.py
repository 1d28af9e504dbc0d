"""An HTTP server that says exactly the bytes it is told to, for faults that no honest server has."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType


@dataclass
class RawServer:
    """
    Answers the first connection with the first answer, and so on; the last one again and again.

    Attributes:
        answers: the bytes of each; the connection is closed after them, unless they end with ``HOLD``.
        tls: speaks HTTPS if there is one.
        requests: what was asked, one text each.
    """

    answers: Sequence[bytes]
    tls: ssl.SSLContext | None = None
    requests: list[str] = field(default_factory=list)

    HOLD = b"\0hold"

    def __enter__(self) -> RawServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="raw server")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        # A last connection wakes the thread, which then sees that it is over.
        self._over = True
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()
        for connection in self._held:
            connection.close()

    _over = False

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._over:
                connection.close()
                return
            with suppress(OSError):  # a caller that does not trust us leaves
                self._answer(self.tls.wrap_socket(connection, server_side=True) if self.tls else connection)

    def _answer(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65_536)
            if not piece:
                connection.close()
                return
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += connection.recv(65_536)
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append((head + b"\r\n\r\n" + body).decode())
        connection.sendall(answer.removesuffix(self.HOLD))
        if answer.endswith(self.HOLD):
            self._held.append(connection)
        else:
            connection.close()


def reply(status: int, body: bytes, media_type: str = "application/json", **headers: str) -> bytes:
    """Return a whole answer."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def chunked(*pieces: bytes, whole: bool = True) -> bytes:
    """Return an answer with rows in chunks; without its last chunk if not ``whole``."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + body + (b"0\r\n\r\n" if whole else b"")
