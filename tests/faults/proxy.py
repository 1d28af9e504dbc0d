"""
A TCP proxy that does to a connection what networks do: between agent and broker, and between a driver and its database.

It runs in a thread of its own; what it does may be changed at any time, and acts on connections that are open.

    with Proxy(port) as proxy:
        proxy.set("down", Toxics(frozen=True))      # from the target to who dialled: nothing more comes
        proxy.clear()
        proxy.cut(reset=True)
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, Self

Direction = Literal["up", "down"]  # towards the target, and back
HOST: Final = "127.0.0.1"
READ_BYTES: Final = 65_536
SETTLE_S: Final = 5.0  # seconds for the thread to do what it was asked


@dataclass(frozen=True, slots=True)
class Toxics:
    """
    What becomes of the bytes of one direction.

    Attributes:
        latency_s: seconds that each part is kept, and up to ``jitter_s`` more.
        bytes_per_s: how fast they go; 0 means as fast as they can.
        slice_bytes: into how small parts they are cut, each sent by itself; 0 means not at all.
        frozen: nothing goes on, nothing is lost.
        swallowed: taken and dropped, as when a reply is lost.
        cut_after: bytes of a connection after which it is ended; ``None`` for never.
        how: how it is then ended: ``close``, ``reset``, or ``half``, this direction only.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: int = 0
    slice_bytes: int = 0
    frozen: bool = False
    swallowed: bool = False
    cut_after: int | None = None
    how: Literal["close", "reset", "half"] = "close"


CLEAR: Final = Toxics()


@dataclass(slots=True)
class Trap:
    """
    Loses the answer to one request, or holds the request up.

    Attributes:
        request: what the request looks like on the wire.
        after: what must have gone the same way before it, on the same connection.
        passed: whether the target gets it; only its answer is lost then.
        held_s: instead of losing anything: seconds that it is under way, whatever becomes of who sent it.
        sprung: how often it has closed; it closes once.
    """

    request: re.Pattern[bytes]
    passed: bool = True
    held_s: float = 0.0
    after: re.Pattern[bytes] = re.compile(b"")
    sprung: int = 0


@dataclass(slots=True, eq=False)
class _Connection:
    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    answer_lost: bool = False
    primed: bool = False  # whether what must come before the trapped request has come
    passed: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})

    def end(self, *, reset: bool) -> None:
        for writer in (self.near, self.far):
            if reset:
                raw = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """
    Listens on a free port of the loopback interface.

    Attributes:
        port: where to dial.
        refusing: whether new connections are ended at once.
        trap: set to lose one answer.
        connections: how many were opened.
        cuts: how many we have ended.
        carried: bytes passed on, of all connections.
    """

    def __init__(self, target: int, *, seed: int = 0) -> None:
        self.target = target
        self.port = 0
        self.refusing = False
        self.trap: Trap | None = None
        self.connections = 0
        self.cuts = 0
        self.carried: dict[Direction, int] = {"up": 0, "down": 0}
        self._random = random.Random(seed)  # noqa: S311 - jitter is no secret
        self._toxics: dict[Direction, Toxics] = {"up": CLEAR, "down": CLEAR}
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy to {target}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, HOST, 0), self._loop).result()
        self.port = server.sockets[0].getsockname()[1]
        self._server = server
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(SETTLE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SETTLE_S)
        self._loop.close()

    # --- what is done to it -----------------------------------------------------------------------

    def set(self, direction: Direction, toxics: Toxics) -> None:
        """Do this to one direction from now on; bytes that count for ``cut_after`` are counted anew."""

        def change() -> None:
            self._toxics[direction] = toxics
            for connection in self._open:
                connection.passed[direction] = 0
            self._changed.set()
            self._changed = asyncio.Event()

        self._do(change)

    def clear(self) -> None:
        """Let everything through again."""
        self.refusing, self.trap = False, None
        self.set("up", CLEAR)
        self.set("down", CLEAR)

    def cut(self, *, reset: bool = False) -> None:
        """End all connections now."""

        def end() -> None:
            self.cuts += len(self._open)
            for connection in list(self._open):
                connection.end(reset=reset)

        self._do(end)

    def _do(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(run)
        if not done.wait(SETTLE_S):
            raise TimeoutError("the proxy's thread hangs")

    # --- in its own thread ------------------------------------------------------------------------

    async def _close(self) -> None:
        self._server.close()
        for connection in list(self._open):
            connection.end(reset=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            if self.refusing:
                raise ConnectionRefusedError
            far_reader, far = await asyncio.open_connection(HOST, self.target)
        except OSError:
            near.transport.abort()
            return
        connection = _Connection(near, far)
        self._open.add(connection)
        try:
            # A connection whose one direction is over may still carry the other.
            await asyncio.gather(
                self._pump(connection, "up", reader, far), self._pump(connection, "down", far_reader, near)
            )
        finally:
            self._open.discard(connection)
            connection.end(reset=False)

    async def _pump(
        self, connection: _Connection, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await reader.read(READ_BYTES):
                if not await self._carry(connection, direction, data, writer):
                    return
            writer.write_eof()
        except OSError:
            connection.end(reset=False)

    async def _carry(
        self, connection: _Connection, direction: Direction, data: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        """Pass some bytes on as the direction has it; return whether it goes on after them."""
        while (toxics := self._toxics[direction]).frozen:
            await self._changed.wait()
        trap = self.trap
        if direction == "up" and trap is not None and self._springs(trap, connection, data):
            trap.sprung += 1
            await asyncio.sleep(trap.held_s)
            connection.answer_lost = not trap.held_s
            if not trap.passed:
                return self._trapped(connection)
        elif direction == "down" and connection.answer_lost:
            return self._trapped(connection)
        room = len(data) if toxics.cut_after is None else max(0, toxics.cut_after - connection.passed[direction])
        connection.passed[direction] += len(data)
        for part in _parts(data[:room], toxics.slice_bytes):
            await self._wait(toxics, len(part))
            if not toxics.swallowed:
                writer.write(part)
                await writer.drain()
                self.carried[direction] += len(part)
        if toxics.cut_after is None or connection.passed[direction] < toxics.cut_after:
            return True
        self.cuts += 1
        if toxics.how == "half":
            writer.write_eof()
        else:
            connection.end(reset=toxics.how == "reset")
        return False

    def _springs(self, trap: Trap, connection: _Connection, data: bytes) -> bool:
        connection.primed = connection.primed or bool(trap.after.search(data))
        return connection.primed and not trap.sprung and bool(trap.request.search(data))

    def _trapped(self, connection: _Connection) -> bool:
        self.cuts += 1
        connection.end(reset=True)
        return False

    async def _wait(self, toxics: Toxics, count: int) -> None:
        pause_s = toxics.latency_s + self._random.random() * toxics.jitter_s
        if toxics.bytes_per_s:
            pause_s += count / toxics.bytes_per_s
        if pause_s or toxics.slice_bytes:
            await asyncio.sleep(pause_s)


def _parts(data: bytes, size: int) -> Iterator[bytes]:
    size = size or len(data) or 1
    return (data[start : start + size] for start in range(0, len(data), size))
