"""A transport in memory: two ends of one link, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from agent.errors import LinkError
from agent.link.base import Peer, Transport

T = TypeVar("T")

ROOM: Final = 4  # messages on their way in one direction; then `send` waits, as on a real line


class MemoryTransport(Transport):
    """One end; made by `pair`."""

    def __init__(self, outgoing: asyncio.Queue[bytes], incoming: asyncio.Queue[bytes], closed: asyncio.Event) -> None:
        self.peer = Peer("memory:")
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = closed

    async def send(self, data: bytes) -> None:
        if self._closed.is_set():
            raise LinkError("the link was closed")
        await self._unless_closed(self._outgoing.put(data))

    async def receive(self) -> bytes:
        if not self._incoming.empty():
            # What was sent before the close arrives, as it does on a line that is closed in order.
            return self._incoming.get_nowait()
        return await self._unless_closed(self._incoming.get())

    async def close(self, reason: str = "") -> None:
        self._closed.set()

    async def closed(self) -> None:
        """Wait until either end is closed, and say so as ``receive`` does."""
        await self._closed.wait()
        raise LinkError("the link was closed")

    async def _unless_closed(self, step: Coroutine[Any, Any, T]) -> T:
        step_task = asyncio.ensure_future(step)
        closed_task = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((step_task, closed_task), return_when=asyncio.FIRST_COMPLETED)
            if closed_task.done() and not step_task.done():
                raise LinkError("the link was closed")
            return await step_task
        finally:
            step_task.cancel()
            closed_task.cancel()


def pair() -> tuple[MemoryTransport, MemoryTransport]:
    """Return both ends of a new link; closing either closes both."""
    there: asyncio.Queue[bytes] = asyncio.Queue(ROOM)
    back: asyncio.Queue[bytes] = asyncio.Queue(ROOM)
    closed = asyncio.Event()
    return MemoryTransport(there, back, closed), MemoryTransport(back, there, closed)
