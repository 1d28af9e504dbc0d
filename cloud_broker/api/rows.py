"""The rows of a command, while it still runs or afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from starlette.types import Receive, Scope, Send

from cloud_broker.api import headers, problems
from cloud_broker.api.auth import caller
from cloud_broker.api.commands import CommandId
from cloud_broker.api.csv_rows import MEDIA_TYPE as CSV_WITH_HEADER
from cloud_broker.api.csv_rows import csv_of
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import RowReader, services
from cloud_broker.api.turnstile import gone, visit
from cloud_broker.errors import (
    BrokerError,
    CommandNotFound,
    NotAcceptable,
    RequestInvalid,
    ResultGone,
    RowSetNotFound,
    StoreUnavailable,
)

NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"
SEALED: Final = "application/octet-stream"
FORMATS: Final = {"ndjson": NDJSON, "csv": CSV}

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/commands", tags=["commands"])


@router.get(
    "/{command_id}/rows",
    **describe(
        "Read the rows of a command",
        scope="commands:read",
        answers={200: ("The rows, from the first; the body ends whole only if they do.", None)},
        media={
            NDJSON: {"schema": {"type": "string"}, "example": '{"no":"4711","total":"12.50"}\n'},
            CSV: {"schema": {"type": "string"}, "example": "no,total\r\n4711,12.50\r\n"},
            SEALED: {"schema": {"type": "string", "format": "binary"}},
        },
        problems=[CommandNotFound, RowSetNotFound, NotAcceptable, ResultGone, StoreUnavailable],
    ),
)
async def rows(
    request: Request,
    command_id: CommandId,
    set: Annotated[int, Query(ge=0, description="Which row set, counted from 0.")] = 0,
    format: Annotated[Literal["ndjson", "csv"] | None, Query(description="Goes before Accept.")] = None,
) -> Response:
    """
    Stream one row set: one JSON object per line, or CSV; a sealed one as it is.

    It waits for the row set to begin and may be read while the command runs, at the reader's own pace.
    A result that is cut ends the connection inside the body.
    """
    who = await caller(request, "commands:read")
    accept = request.headers.getlist("accept")
    asked = [FORMATS[format]] if format else accept
    if headers.choose(asked, [NDJSON, CSV, SEALED]) is None:
        raise NotAcceptable(f"rows come as {NDJSON} or {CSV}; Accept allows neither: {', '.join(accept)[:200]}.")
    if request.scope["http_version"] == "1.0":
        raise RequestInvalid("rows need HTTP/1.1: with HTTP/1.0 a cut result looks like a whole one.")
    here = visit(request)
    reader = await here.wait(request, services(request).commands.open_rows(who.scope, command_id, set))
    return _Rows(reader, _media_type(reader, asked), command_id, here.stream_turn)


def _media_type(reader: RowReader, asked: Sequence[str]) -> str:
    """Return what the rows are written as; raises ``NotAcceptable``."""
    found = headers.choose(asked, [SEALED] if reader.sealed else list(FORMATS.values()))
    if found is not None:
        return found
    if reader.sealed:
        raise NotAcceptable(
            f"these rows are sealed: only who has the caller's key can read them, for instance `outhaul commands rows "
            f"ID --seal-key FILE`. They come as {SEALED}, which Accept does not allow.",
            sealed=True,
        )
    raise NotAcceptable(f"these rows are not sealed: they come as {NDJSON} or {CSV}, and Accept allows neither.")


class _Rows(Response):
    """A body that ends only if the rows do, and stops as soon as nobody reads it."""

    def __init__(
        self, reader: RowReader, media_type: str, command_id: str, turn: Callable[[], Awaitable[None]]
    ) -> None:
        content_type = CSV_WITH_HEADER if media_type == CSV else media_type
        super().__init__(None, 200, {"Cache-Control": "no-store", "Content-Type": content_type})
        del self.headers["content-length"]
        self._pieces = csv_of(reader.columns, reader.chunks()) if media_type == CSV else reader.chunks()
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
            async with _closing(self._pieces) as pieces:
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
async def _closing(pieces: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close what is an async generator, so that a file is not left open until its garbage is collected."""
    try:
        yield pieces
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
