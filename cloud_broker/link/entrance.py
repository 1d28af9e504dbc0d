"""The agents' port before anything is known of who comes: a place in the lobby, then TLS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from cloud_broker.link.lobby import Guest, Lobby
from protocol import limits

TELL_S: Final = 60.0  # seconds between two lines of the log about those who were turned away
BACKLOG: Final = 2_048  # connections that the system holds until they are taken
PAUSE_S: Final = 0.5  # seconds until the next try when the system has no room for another connection

log = logging.getLogger(__name__)


class Entrance:
    """
    A listening port: who comes in gets a place in the lobby, and is handed on once TLS is through.

    It is to websockets what an ``asyncio.Server`` is, which would begin TLS with whoever comes.

    Args:
        welcome: returns what carries a guest's connection on; it leaves the lobby when it ends, or earlier.
        close_s: seconds that the other side has for its last words of TLS.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext,
        lobby: Lobby,
        welcome: Callable[[Guest], asyncio.Protocol],
        close_s: float,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self._listener.setblocking(False)
        self._tls = tls
        self._lobby = lobby
        self._welcome = welcome
        self._close_s = close_s
        self._told_at = float("-inf")
        self._open = True
        self.sockets = (self._listener,)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._start(self._take(), "take agents' connections")

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop that it runs on."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether anybody gets in."""
        return self._open

    def close(self) -> None:
        """Let nobody in any more; who has not come in yet goes."""
        self._open = False
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until the port is free."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self) -> None:
        with self._listener:
            while True:
                try:
                    connection, address = await self._next()
                except OSError as exc:  # no file descriptors are left, for instance
                    log.warning("no connection can be taken: %s", exc, extra={"event": "connections_not_taken"})
                    await asyncio.sleep(PAUSE_S)
                    continue
                self._enter(connection, str(address[0]))
                # One round of the loop: a crowd outside keeps nobody waiting who is inside.
                await asyncio.sleep(0)

    async def _next(self) -> tuple[socket.socket, Any]:
        # Of a crowd one is there already; only for the first of it the event loop has to tell.
        try:
            found = self._listener.accept()
        except BlockingIOError:
            return await self._loop.sock_accept(self._listener)
        found[0].setblocking(False)
        return found

    def _enter(self, connection: socket.socket, host: str) -> None:
        # TLS and the websocket close what they are given; shutting it down ends it also while they wait.
        guest = self._lobby.enter(host, time.monotonic(), lambda: _end(connection))
        if guest is None:
            connection.close()
            self._turned_away(host)
        else:
            self._start(self._hand_on(connection, guest), f"TLS with {host}")

    async def _hand_on(self, connection: socket.socket, guest: Guest) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._welcome(guest),
                connection,
                ssl=self._tls,
                # Silence costs a stranger his place.
                ssl_handshake_timeout=limits.GREETING_S,
                ssl_shutdown_timeout=self._close_s,
            )
        except Exception:  # whatever a stranger sends, or leaves in the middle of, is no failure of ours
            self._lobby.leave(guest)
            log.debug("no TLS", exc_info=True)
        except asyncio.CancelledError:
            self._lobby.leave(guest)
            raise

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _turned_away(self, host: str) -> None:
        now = time.monotonic()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            log.warning(
                "connections are turned away, such as one from %s: too many are there of which it is not known yet "
                "who they are; see limits.strangers and limits.strangers_per_address",
                host,
                extra={"event": "strangers_turned_away", "address": host},
            )


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
