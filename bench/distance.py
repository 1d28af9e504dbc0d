"""A line of some length between two programs: every byte arrives later, and as many as like may be on their way."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Self

HOST: Final = "127.0.0.1"
AHEAD_BYTES: Final = 1_048_576  # that wait for who reads slowly; beyond them the other end waits too


class _End(asyncio.Protocol):
    """One end; what it hears goes to ``other``."""

    def __init__(self, line: Distance) -> None:
        self._line = line
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[bytes] = deque()  # on their way to this end
        self.early: list[bytes] = []  # heard before there is another end: a pause is not at once in every Python

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(AHEAD_BYTES)
        if self.other is None:
            transport.pause_reading()
            self._line.join(self)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
            return
        self.other.waiting.append(data)
        self._line.later(self.other.arrives)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self._line.later(self.other.ends)

    def arrives(self) -> None:
        data = self.waiting.popleft()
        if self.transport is not None:
            self.transport.write(data)

    def ends(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


class Distance:
    """
    Listens on a free port of the loopback interface and passes on to ``target``, in a thread of its own.

    Attributes:
        port: where to dial.
        round_trip_s: there and back; may be changed at any time.
    """

    def __init__(self, target: int, round_trip_s: float = 0.0) -> None:
        self.target = target
        self.port = 0
        self.round_trip_s = round_trip_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"line to {target}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        listening = self._loop.create_server(lambda: _End(self), HOST, 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def later(self, act: Callable[[], None]) -> None:
        """Do something once it has come as far as the other end."""
        self._loop.call_later(self.round_trip_s / 2, act)

    def join(self, near: _End) -> None:
        """Dial the target for who has dialled us."""
        task = self._loop.create_task(self._joined(near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _joined(self, near: _End) -> None:
        far = _End(self)
        far.other = near
        try:
            await self._loop.create_connection(lambda: far, HOST, self.target)
        except OSError:
            near.ends()
            return
        near.other = far
        for data in near.early:
            near.data_received(data)
        assert near.transport is not None
        near.transport.resume_reading()
