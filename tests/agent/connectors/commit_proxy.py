"""A TCP proxy before a database that does something to the first COMMIT that passes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal

from config.dev.databases import HOST

What = Literal["drop the reply", "cut before it", "hold it"]


class CommitProxy:
    """
    Forwards everything; a packet of the client with ``COMMIT`` in it is where it happens.

    Attributes:
        port: to connect to.
        armed: to be set by the test: from now on a COMMIT counts.
        met: set when the COMMIT is there.
        let_go: to be set by the test: the COMMIT that was held goes on.
    """

    def __init__(self, target: int, what: What) -> None:
        self._target = target
        self._what = what
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.armed = threading.Event()
        self.met = threading.Event()
        self.let_go = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((HOST, self._target))
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                if b"COMMIT" in data and self.armed.is_set() and not self.met.is_set():
                    self.met.set()
                    if self._what == "cut before it":
                        break
                    if self._what == "hold it":
                        self.let_go.wait(30)
                server.sendall(data)
        _end(client, server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                if self._what == "drop the reply" and self.met.is_set():
                    break
                client.sendall(data)
        _end(client, server)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


@contextlib.contextmanager
def commit_proxy(target: int, what: What) -> Iterator[CommitProxy]:
    """Run a proxy before the port ``target``."""
    proxy = CommitProxy(target, what)
    try:
        yield proxy
    finally:
        proxy.close()
