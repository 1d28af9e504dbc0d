"""The rows of a command, while it still runs or afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request, Response

from cloud_broker.api import headers
from cloud_broker.api.auth import caller
from cloud_broker.api.commands import CommandId
from cloud_broker.api.csv_rows import MEDIA_TYPE as CSV_WITH_HEADER
from cloud_broker.api.csv_rows import csv_of
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import RowReader, services
from cloud_broker.api.streamed import Streamed
from cloud_broker.api.turnstile import visit
from cloud_broker.errors import (
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
ARROW: Final = "application/vnd.apache.arrow.stream"
FORMATS: Final = {"ndjson": NDJSON, "csv": CSV, "arrow": ARROW}
KEPT: Final = {"ndjson": (NDJSON, CSV), "arrow": (ARROW,)}  # as what rows can be had, by what they were asked for as

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
            ARROW: {"schema": {"type": "string", "format": "binary"}},
            SEALED: {"schema": {"type": "string", "format": "binary"}},
        },
        problems=[CommandNotFound, RowSetNotFound, NotAcceptable, ResultGone, StoreUnavailable],
    ),
)
async def rows(
    request: Request,
    command_id: CommandId,
    set: Annotated[int, Query(ge=0, description="Which row set, counted from 0.")] = 0,
    format: Annotated[Literal["ndjson", "csv", "arrow"] | None, Query(description="Goes before Accept.")] = None,
) -> Response:
    """
    Stream one row set: one JSON object per line, or CSV; as an Arrow stream what was submitted with
    `"rows_as": "arrow"`; a sealed one as it is.

    It waits for the row set to begin and may be read while the command runs, at the reader's own pace.
    A result that is cut ends the connection inside the body.
    """
    who = await caller(request, "commands:read")
    accept = request.headers.getlist("accept")
    asked = [FORMATS[format]] if format else accept
    if headers.choose(asked, [*FORMATS.values(), SEALED]) is None:
        raise NotAcceptable(f"rows come as {NDJSON}, {CSV} or {ARROW}; Accept allows none: {', '.join(accept)[:200]}.")
    if request.scope["http_version"] == "1.0":
        raise RequestInvalid("rows need HTTP/1.1: with HTTP/1.0 a cut result looks like a whole one.")
    here = visit(request)
    reader = await here.wait(request, services(request).commands.open_rows(who.scope, command_id, set))
    media_type = _media_type(reader, asked)
    pieces = csv_of(reader.columns, reader.chunks()) if media_type == CSV else reader.chunks()
    content_type = CSV_WITH_HEADER if media_type == CSV else media_type
    return Streamed(pieces, content_type, command_id, here.stream_turn)


def _media_type(reader: RowReader, asked: Sequence[str]) -> str:
    """Return what the rows are written as; raises ``NotAcceptable``."""
    found = headers.choose(asked, [SEALED] if reader.sealed else KEPT.get(reader.rows_as, [SEALED]))
    if found is not None:
        return found
    if reader.sealed:
        raise NotAcceptable(
            f"these rows are sealed: only who has the caller's key can read them, for instance `outhaul commands rows "
            f"ID --seal-key FILE`. They come as {SEALED}, which Accept does not allow.",
            sealed=True,
        )
    if reader.rows_as == "arrow":
        raise NotAcceptable(
            f'these rows were asked for with "rows_as": "arrow": they come as {ARROW}, which Accept does not allow; '
            "submit the command without rows_as to have NDJSON and CSV."
        )
    raise NotAcceptable(
        f"these rows are not sealed: they come as {NDJSON} or {CSV}, and Accept allows neither. They come as {ARROW} "
        'where the command was submitted with "rows_as": "arrow".'
    )
