"""The audit trail: listed, and exported as JSON lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from cloud_broker.api import headers
from cloud_broker.api.auth import caller, holder
from cloud_broker.api.bodies import answer
from cloud_broker.api.commands import seconds
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import services
from cloud_broker.api.turnstile import visit
from cloud_broker.api.views import ListView
from cloud_broker.audit.lines import Line, encode, line_of
from cloud_broker.audit.trail import ACTIONS, BROKER, AuditFilter, Record, time_text
from cloud_broker.errors import Forbidden, NotAcceptable, RequestInvalid, StoreUnavailable
from cloud_broker.store.base import Store

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
MAX_PAGE: Final = 500  # records in one part of a list
EXPORTED: Final = 500  # records read at a time for an export

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get(
    "",
    **describe(
        "Read the audit trail",
        scope="audit:read",
        answers={200: ("Newest first; as JSON lines all of them, oldest first.", ListView)},
        items=Line,
        problems=[NotAcceptable, StoreUnavailable],
    ),
)
async def trail(
    request: Request,
    action: Annotated[str | None, Query(description="Only this, such as `key_created`.", max_length=100)] = None,
    target: Annotated[str | None, Query(description="Only what was done to this.", max_length=500)] = None,
    since: Annotated[datetime | None, Query(description="Only what was done then or later, RFC 3339.")] = None,
    chain: Annotated[
        Literal["tenant", "broker"],
        Query(description="`broker`: its own acts, which concern no tenant; for a key that spans tenants."),
    ] = "tenant",
    cursor: Annotated[str | None, Query(description="`next` of the part before.", max_length=20)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Records in this part.")] = 50,
) -> Response:
    """
    List who did what.

    A part may hold fewer records than asked for and still have a `next`, where few of many fit the filter. With
    `Accept: application/x-ndjson` the chain is exported from its first record on, for `outhaul-broker verify-audit`.
    """
    tenant = await _chain(request, chain)
    if action is not None and action not in ACTIONS:
        raise RequestInvalid(f"action: there is no {action!r}; there are: {', '.join(sorted(ACTIONS))}.")
    at = seconds("since", since)
    wanted = AuditFilter(action, target, None if at is None else time_text(at))
    accept = request.headers.getlist("accept")
    media_type = headers.choose(accept, [JSON, NDJSON])
    store = services(request).store
    if media_type == JSON:
        page = await store.audit_page(tenant, wanted, _number(cursor), limit)
        following = None if page.next is None else str(page.next)
        return answer(ListView([line_of(record) for record in page.items], following))
    if media_type is None:
        raise NotAcceptable(f"the audit trail comes as {JSON} or {NDJSON}; Accept allows neither.")
    if cursor is not None:
        raise RequestInvalid(f"cursor: an export as {NDJSON} is whole; leave it away.")
    number, _ = await store.audit_head(tenant)
    here = visit(request)
    here.rest()
    lines = _export(store, tenant, wanted, number, here.stream_turn)
    return StreamingResponse(lines, media_type=NDJSON, headers={"Cache-Control": "no-store"})


async def _chain(request: Request, chain: str) -> str:
    if chain == "tenant":
        return (await caller(request, "audit:read")).scope.tenant
    if (await holder(request, "audit:read")).tenants is not None:
        raise Forbidden("The broker's own chain is read with a key that spans tenants.")
    return BROKER


def _number(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 15):
        raise RequestInvalid(f"cursor: wants `next` of the part before as it stands, found {cursor!r}.")
    return int(cursor)


async def _export(
    store: Store, tenant: str, wanted: AuditFilter, last: int, turn: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    """Yield the records that a chain had when it was asked for, in pieces."""
    number = 0
    while number < last:
        records = await store.audit_after(tenant, number, min(EXPORTED, last - number))
        if not records:
            return
        number = records[-1].number
        if piece := b"".join(encode(record) for record in records if _fits(record, wanted)):
            yield piece
        await turn()


def _fits(record: Record, wanted: AuditFilter) -> bool:
    return (
        wanted.action in (None, record.action)
        and wanted.target in (None, record.target)
        and (wanted.since is None or record.at >= wanted.since)
    )
