"""The agents' port: a place in the lobby for whoever comes, then TLS; after that one task for each, to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from cloud_broker.link.lobby import Lobby
from cloud_broker.link.wire import CLOSE_S, Wire
from protocol import limits

TELL_S: Final = 60.0  # seconds between two lines of the log about those who were turned away
BACKLOG: Final = 2_048  # connections that the system holds until they are taken
PAUSE_S: Final = 0.5  # seconds until the next try when the system has no room for another connection

log = logging.getLogger(__name__)


class Entrance:
    """
    A listening port.

    Args:
        see_through: carries a connection to its end, from where TLS is through; it is told which task it is.

    Attributes:
        port: where it listens.
        tasks: one for each connection.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext,
        lobby: Lobby,
        see_through: Callable[[Wire, asyncio.Task[None]], Coroutine[Any, Any, None]],
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._tls = tls
        self._lobby = lobby
        self._see_through = see_through
        self._told_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[None]] = set()
        self._taking = self._loop.create_task(self._take(), name="take agents' connections")

    async def shut(self) -> None:
        """Let nobody in any more; return once the port is free."""
        self._taking.cancel()
        await asyncio.wait((self._taking,))

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
        guest = self._lobby.enter(host, time.monotonic(), partial(_end, connection))
        if guest is None:
            connection.close()
            self._turned_away(host)
            return
        task = self._loop.create_task(self._hand_on(connection, Wire(partial(self._lobby.leave, guest))))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _hand_on(self, connection: socket.socket, wire: Wire) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: wire,
                connection,
                ssl=self._tls,
                # Silence costs a stranger his place.
                ssl_handshake_timeout=limits.GREETING_S,
                ssl_shutdown_timeout=CLOSE_S,
            )
        except Exception:  # whatever a stranger sends, or leaves in the middle of, is no failure of ours
            wire.known()
            log.debug("no TLS", exc_info=True)
            return
        except asyncio.CancelledError:
            wire.known()
            raise
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs has one
        await self._see_through(wire, task)

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
