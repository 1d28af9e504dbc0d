"""An answer that is sent while it is made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import Response
from starlette.types import Receive, Scope, Send

from cloud_broker.api import problems
from cloud_broker.api.turnstile import gone
from cloud_broker.errors import BrokerError

log = logging.getLogger(__name__)


class Streamed(Response):
    """A body that ends only if the rows do, and stops as soon as nobody reads it."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        content_type: str,
        command_id: str,
        turn: Callable[[], Awaitable[None]],
    ) -> None:
        """
        Args:
            pieces: raise BrokerError where what came is not all of it.
            turn: waits until the stream may go on for one round of the event loop.
        """
        super().__init__(None, 200, {"Cache-Control": "no-store", "Content-Type": content_type})
        del self.headers["content-length"]
        self._pieces = pieces
        self._command_id = command_id
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streaming = asyncio.create_task(self._stream(scope, receive, send), name=f"rows of {self._command_id}")
        leaving = asyncio.create_task(gone(receive), name=f"reader of {self._command_id}")
        try:
            await asyncio.wait((streaming, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (streaming, leaving):
                task.cancel()
            await asyncio.wait((streaming, leaving))
        if not streaming.cancelled():
            streaming.result()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async with closing(self._pieces) as pieces:
                async for piece in pieces:
                    if not started:
                        await self._start(send)
                        started = True
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    # Neither rows that are at hand nor a fast reader, nor one that is gone, make us wait:
                    # without this, nobody else would have a turn.
                    await self._turn()
        except BrokerError as exc:
            if not started:
                await problems.answer(exc)(scope, receive, send)
                return
            # No end of the body: the server closes the connection, and the caller sees that it is cut.
            log.warning("rows cut: %s", exc, extra={"event": "rows_cut", "command": self._command_id})
            return
        if not started:
            await self._start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


@contextlib.asynccontextmanager
async def closing(pieces: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close what is an async generator, so that a file is not left open until its garbage is collected."""
    try:
        yield pieces
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
