"""A picked file as it was, while its command still runs or afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from cloud_broker.api.auth import caller
from cloud_broker.api.commands import CommandId
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import RowReader, services
from cloud_broker.api.streamed import Streamed, closing
from cloud_broker.api.turnstile import visit
from cloud_broker.errors import (
    CommandNotFound,
    ContentNotFound,
    NotAcceptable,
    RequestInvalid,
    ResultGone,
    RowSetNotFound,
    StoreUnavailable,
)
from protocol.raw_content import NotContent, RawContent

BYTES: Final = "application/octet-stream"

router = APIRouter(prefix="/v1/commands", tags=["commands"])


@router.get(
    "/{command_id}/content",
    **describe(
        "Read a picked file",
        scope="commands:read",
        answers={200: ("The file's bytes, from the first; the body ends whole only if they do.", None)},
        media={BYTES: {"schema": {"type": "string", "format": "binary"}}},
        problems=[CommandNotFound, RowSetNotFound, ContentNotFound, NotAcceptable, ResultGone, StoreUnavailable],
    ),
)
async def content(
    request: Request,
    command_id: CommandId,
    file: Annotated[str | None, Query(description="Its name, where several were picked; else the first.")] = None,
) -> Response:
    """
    Stream one file that an operation with the format raw has picked, as it was beside the ERP.

    The same bytes stand in base64 in its rows. It waits for the file, and may be read while the command runs; the
    command's outputs have each file's SHA-256.
    """
    who = await caller(request, "commands:read")
    if request.scope["http_version"] == "1.0":
        raise RequestInvalid("a content needs HTTP/1.1: with HTTP/1.0 a cut one looks like a whole one.")
    here = visit(request)
    reader = await here.wait(request, services(request).commands.open_rows(who.scope, command_id, 0))
    if reader.sealed:
        raise NotAcceptable(
            "this content is sealed: only who has the caller's key can read it, for instance `outhaul commands rows ID "
            "--seal-key FILE -o NAME`.",
            sealed=True,
        )
    return Streamed(_bytes(reader, file), BYTES, command_id, here.stream_turn)


async def _bytes(reader: RowReader, name: str | None) -> AsyncIterator[bytes]:
    found = RawContent(name)
    try:
        async with closing(reader.chunks()) as pieces:
            async for piece in pieces:
                if data := found.feed(piece):
                    yield data
                if found.whole:
                    return
    except NotContent as exc:
        raise ContentNotFound(f"this command has picked no raw file: {exc}") from exc
    if found.found:
        raise ResultGone("the content is no longer whole")
    raise ContentNotFound("no file was picked" if name is None else f"no file {name!r} was picked")
