"""Commands: submit, look, wait, list, cancel."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response

from cloud_broker.api import headers
from cloud_broker.api.auth import caller
from cloud_broker.api.bodies import ENVELOPE_BYTES, answer, read
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import Services, services
from cloud_broker.api.submissions import MAX_TEXT_CHARS, NewCommand, submission_of
from cloud_broker.api.turnstile import visit
from cloud_broker.api.views import CommandView, ListView, command_view
from cloud_broker.errors import (
    AgentNotFound,
    CommandNotFound,
    Conflict,
    ContentTypeUnsupported,
    IdempotencyKeyReused,
    OperationNotFound,
    ParametersInvalid,
    RequestInvalid,
    RequestTooLarge,
    StoreUnavailable,
    TenantSuspended,
    TooManyOpenCommands,
    Unavailable,
)
from cloud_broker.store.commands import Command, CommandFilter
from cloud_broker.tenants import Scope
from protocol.states import FINAL, CommandState

MAX_WAIT_S: Final = 300  # seconds of one request; who wants to wait longer asks again
SOON_S: Final = 0.25  # seconds of them in which nobody looks whether the caller has left
MAX_PAGE: Final = 200  # commands in one part of a list

ID: Final = re.compile(r"cmd_[0-9a-hjkmnp-tv-z]{26}")

router = APIRouter(prefix="/v1/commands", tags=["commands"])

CommandId = Annotated[str, Path(description="Of the command.", max_length=MAX_TEXT_CHARS)]


EXAMPLE: Final = {
    "agent": "plant-1",
    "operation": "open-invoices",
    "params": {"customer": "C042"},
    "correlation_id": "order-4711",
    "ttl": 600,
}
IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key and body again give what they gave before; another body is refused with 422.",
    "schema": {"type": "string", "minLength": 1, "maxLength": headers.MAX_KEY_CHARS},
    "example": "8e03978e-40d5-43dd-bc93-6894a57f9324",
}
SUBMIT_HEADERS: Final = [
    IDEMPOTENCY_KEY,
    {
        "name": "Prefer",
        "in": "header",
        "description": f"wait=N: answer once the command is final, or after N seconds (at most {MAX_WAIT_S}).",
        "schema": {"type": "string"},
        "example": "wait=30",
    },
    {
        "name": "traceparent",
        "in": "header",
        "description": "W3C trace context; handed on to the agent.",
        "schema": {"type": "string"},
        "example": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
]


@router.post(
    "",
    **describe(
        "Submit a command",
        scope="commands:write",
        answers={
            202: ("Accepted; it is kept, and will end in one final state.", CommandView),
            200: ("It is final already: the wait was long enough, or it is an earlier one.", CommandView),
        },
        problems=[
            AgentNotFound,
            OperationNotFound,
            Conflict,
            ParametersInvalid,
            IdempotencyKeyReused,
            RequestTooLarge,
            ContentTypeUnsupported,
            TenantSuspended,
            TooManyOpenCommands,
            StoreUnavailable,
            Unavailable,
        ],
        body=NewCommand,
        example=EXAMPLE,
        parameters=SUBMIT_HEADERS,
    ),
)
async def submit(request: Request) -> Response:
    """Keep a command and see it through; answered as soon as it is durable."""
    who = await caller(request, "commands:write", new_work=True, body=True)
    there = services(request)
    limit = there.settings.limits.command_bytes
    wanted = await read(request, NewCommand, limit + ENVELOPE_BYTES)
    key = headers.idempotency_key(headers.given(request.scope, "idempotency-key"))
    traceparent = headers.traceparent(headers.first(request.scope, "traceparent", ""))
    submission = submission_of(wanted, key, traceparent, limit, who.key.id)
    command, _created = await there.commands.submit(who.scope, submission)
    told: dict[str, str] = {"Location": f"/v1/commands/{command.id}"}
    wait_s = headers.wait_s(headers.given(request.scope, "prefer"))
    if wait_s is not None:
        wait_s = min(wait_s, MAX_WAIT_S)
        told["Preference-Applied"] = f"wait={wait_s}"
        if command.state not in FINAL:
            command = await _ended(request, there, who.scope, command.id, wait_s)
    status = 200 if command.state in FINAL else 202
    return answer(await view(there, who.scope, command), status, told)


async def _ended(request: Request, there: Services, scope: Scope, command_id: str, wait_s: float) -> Command:
    """Return a command once it is final, or the time is up."""
    here = visit(request)
    # Most end soon: to look whether the caller is still there costs more than all the waiting.
    here.rest()
    soon_s = min(SOON_S, wait_s)
    command = await there.commands.wait(scope, command_id, soon_s)
    if command.state in FINAL or wait_s <= soon_s:
        return command
    return await here.wait(request, there.commands.wait(scope, command_id, wait_s - soon_s))


@router.get(
    "",
    **describe(
        "List commands",
        scope="commands:read",
        answers={200: ("Newest first.", ListView)},
        items=CommandView,
        problems=[StoreUnavailable],
    ),
)
async def search(
    request: Request,
    state: Annotated[CommandState | None, Query(description="Only those in this state.")] = None,
    operation: Annotated[str | None, Query(description="Only those of this operation.")] = None,
    agent: Annotated[str | None, Query(description="Only those of this agent.")] = None,
    correlation_id: Annotated[str | None, Query(description="Only those with this correlation id.")] = None,
    since: Annotated[datetime | None, Query(description="Only those created at this time or later, RFC 3339.")] = None,
    cursor: Annotated[str | None, Query(description="`next` of the part before.", max_length=MAX_TEXT_CHARS)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Commands in this part.")] = 50,
) -> Response:
    """List a tenant's commands, newest first."""
    who = await caller(request, "commands:read")
    there = services(request)
    wanted = CommandFilter(state, operation, agent, correlation_id, seconds("since", since))
    page = await there.store.commands(who.scope, wanted, checked_cursor(cursor), limit)
    return answer(ListView([await view(there, who.scope, command) for command in page.items], page.next))


@router.get(
    "/{command_id}",
    **describe(
        "Look at a command",
        scope="commands:read",
        answers={200: ("As it is now, or once it ended.", CommandView)},
        problems=[CommandNotFound, StoreUnavailable],
    ),
)
async def look(
    request: Request,
    command_id: CommandId,
    wait: Annotated[
        float, Query(ge=0, allow_inf_nan=False, description=f"Seconds to wait for its end; at most {MAX_WAIT_S} count.")
    ] = 0.0,
) -> Response:
    """Return one command; with ``wait``, once it is final or the time is up."""
    who = await caller(request, "commands:read")
    there = services(request)
    if wait > 0:
        waiting = there.commands.wait(who.scope, command_id, min(wait, MAX_WAIT_S))
        command = await visit(request).wait(request, waiting)
    else:
        command = await there.commands.get(who.scope, command_id)
    return answer(await view(there, who.scope, command))


@router.post(
    "/{command_id}/cancel",
    **describe(
        "Cancel a command",
        scope="commands:write",
        answers={200: ("As it is now: its state tells whether it is cancelled.", CommandView)},
        problems=[CommandNotFound, StoreUnavailable],
    ),
)
async def cancel(request: Request, command_id: CommandId) -> Response:
    """Ask for a command's end. One that runs may still succeed; one that ended stays as it is."""
    who = await caller(request, "commands:write")
    there = services(request)
    return answer(await view(there, who.scope, await there.commands.cancel(who.scope, command_id, who.key.actor)))


async def view(there: Services, scope: Scope, command: Command) -> CommandView:
    """Return what a caller sees of a command now."""
    waiting_for = there.commands.waiting_for(scope, command) if command.state is CommandState.QUEUED else None
    return command_view(command, waiting_for, await there.commands.row_sets(scope, command))


def seconds(name: str, moment: datetime | None) -> float | None:
    """Return a time in seconds since 1970; raises ``RequestInvalid`` for one without its zone."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise RequestInvalid(f"{name}: wants a time with its zone, such as 2026-01-31T12:00:00Z.")
    return moment.timestamp()


def checked_cursor(cursor: str | None) -> str | None:
    """Return a cursor of a list of commands; raises ``RequestInvalid`` for what can't be one."""
    if cursor is not None and ID.fullmatch(cursor) is None:
        raise RequestInvalid(f"cursor: wants `next` of the part before as it stands, found {cursor!r}.")
    return cursor
