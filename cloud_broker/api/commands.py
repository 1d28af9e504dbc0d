"""Commands: submit, look, wait, list, cancel."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from cloud_broker.api import headers
from cloud_broker.api.auth import caller
from cloud_broker.api.bodies import ENVELOPE_BYTES, Body, answer, read
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import Services, services
from cloud_broker.api.turnstile import visit
from cloud_broker.api.views import CommandView, ListView, command_view
from cloud_broker.commands import Submission
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
from cloud_broker.store.base import Command, CommandFilter
from cloud_broker.tenants import Scope
from protocol import sealing
from protocol.signing import SignatureMalformed, check_shape
from protocol.states import FINAL, CommandState

MAX_WAIT_S: Final = 300  # seconds of one request; who wants to wait longer asks again
DEFAULT_TTL_S: Final = 3_600.0  # seconds
MAX_TTL_S: Final = 30 * 86_400.0  # seconds
MAX_TEXT_CHARS: Final = 200  # of a name, a correlation id, an ordering key
MAX_PRIORITY: Final = 100
MAX_PAGE: Final = 200  # commands in one part of a list

NOT_GIVEN: Final = msgspec.Raw(b"")
ID: Final = re.compile(r"cmd_[0-9a-hjkmnp-tv-z]{26}")

router = APIRouter(prefix="/v1/commands", tags=["commands"])

CommandId = Annotated[str, Path(description="Of the command.", max_length=MAX_TEXT_CHARS)]


class NewCommand(Body, frozen=True):
    """
    What to run, and where.

    Attributes:
        operation: its name in the operator's file.
        agent: by name; this or group.
        group: any live agent of it; this or agent.
        params: of the operation; they reach the agent as they are written here, digit for digit.
        sealed: the parameters as text that only the agent can read, in place of params; ``seal_to`` is wanted then.
        seal_to: the caller's public key, ``x25519:BASE64``: the result is sealed to it, nobody else can read it.
        correlation_id: the caller's own word for what this belongs to; in every log.
        ttl: seconds until it may not start any more.
        ordering_key: commands with the same one run one after another.
        priority: -100 to 100; higher ones go first.
        signature: of the caller, a compact JWS over what is asked for, which the agent checks; an Idempotency-Key is
            wanted with it.
    """

    operation: str
    agent: str | None = None
    group: str | None = None
    params: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})] = msgspec.field(
        default_factory=lambda: NOT_GIVEN
    )
    sealed: str | None = None
    seal_to: str | None = None
    correlation_id: str | None = None
    ttl: float | None = None
    ordering_key: str | None = None
    priority: int = 0
    signature: str | None = None


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
    who = await caller(request, "commands:write", new_work=True)
    there = services(request)
    limit = there.settings.limits.command_bytes
    wanted = await read(request, NewCommand, limit + ENVELOPE_BYTES)
    submission = _submission(wanted, request, limit, who.key.id)
    command, _created = await there.commands.submit(who.scope, submission)
    told: dict[str, str] = {"Location": f"/v1/commands/{command.id}"}
    wait_s = headers.wait_s(request.headers.getlist("prefer"))
    if wait_s is not None:
        wait_s = min(wait_s, MAX_WAIT_S)
        told["Preference-Applied"] = f"wait={wait_s}"
        if command.state not in FINAL:
            command = await visit(request).wait(request, there.commands.wait(who.scope, command.id, wait_s))
    status = 200 if command.state in FINAL else 202
    return answer(await view(there, who.scope, command), status, told)


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


def checked_ttl(ttl_s: float) -> float:
    """Return seconds that a command may live; raises ``RequestInvalid`` for what is out of bounds."""
    if not (math.isfinite(ttl_s) and 0 < ttl_s <= MAX_TTL_S):
        raise RequestInvalid(f"ttl: wants more than 0 and at most {MAX_TTL_S:.0f} seconds, found {ttl_s:g}.")
    return ttl_s


def checked_signature(text: str | None, key: str | None) -> str:
    """Return a caller's signature or ""; raises ``RequestInvalid`` for what can't be one, and for one without a key."""
    if text is None:
        return ""
    try:
        check_shape(text)
    except SignatureMalformed as exc:
        raise RequestInvalid(f"signature: {exc}.") from exc
    if key is None:
        raise RequestInvalid("signature: wants the header Idempotency-Key as well, which is part of what was signed.")
    return text


def _submission(wanted: NewCommand, request: Request, limit: int, key_id: str) -> Submission:
    """Check what needs no knowledge of agents."""
    params = _params(wanted, limit)
    if (wanted.agent is None) == (wanted.group is None):
        found = "neither" if wanted.agent is None else "both"
        raise RequestInvalid(f"wants exactly one of agent and group, found {found}.")
    key = headers.idempotency_key(request.headers.getlist("idempotency-key"))
    signature = checked_signature(wanted.signature, key)
    _check_sealing(wanted)
    for name in ("operation", "agent", "group", "correlation_id", "ordering_key"):
        text = getattr(wanted, name)
        if text is not None and not 1 <= len(text) <= MAX_TEXT_CHARS:
            raise RequestInvalid(f"{name}: wants 1 to {MAX_TEXT_CHARS} characters, found {len(text)}.")
    ttl_s = DEFAULT_TTL_S if wanted.ttl is None else checked_ttl(wanted.ttl)
    if abs(wanted.priority) > MAX_PRIORITY:
        raise RequestInvalid(f"priority: wants -{MAX_PRIORITY} to {MAX_PRIORITY}, found {wanted.priority}.")
    return Submission(
        operation=wanted.operation,
        params=params,
        agent=wanted.agent,
        group=wanted.group,
        ttl_s=ttl_s,
        correlation_id=wanted.correlation_id or "",
        idempotency_key=key,
        ordering_key=wanted.ordering_key,
        priority=wanted.priority,
        traceparent=headers.traceparent(request.headers.get("traceparent")),
        key_id=key_id,
        sealed=wanted.sealed is not None,
        seal_to=wanted.seal_to or "",
        signature=signature,
    )


def _params(wanted: NewCommand, limit: int) -> bytes:
    """Return the parameters, sealed or not."""
    given = bytes(wanted.params)
    if given and wanted.sealed is not None:
        raise RequestInvalid("wants exactly one of params and sealed, found both.")
    name, params = ("params", given or b"{}") if wanted.sealed is None else ("sealed", wanted.sealed.encode())
    if len(params) > limit:
        raise RequestTooLarge(f"{name}: {len(params)} bytes; at most {limit} are taken here.", limit=limit)
    if wanted.sealed is None and not params.startswith(b"{"):
        raise RequestInvalid(f"params: wants an object, found {params[:20].decode(errors='replace')}.")
    return params


def _check_sealing(wanted: NewCommand) -> None:
    if wanted.sealed is None and wanted.seal_to is None:
        return
    if wanted.agent is None:
        raise RequestInvalid("group: what is sealed is sealed to one agent's key, so wants agent in its place.")
    if wanted.seal_to is None:
        raise RequestInvalid("sealed: wants seal_to as well, the key that the answer is sealed to.")
    for name, text, bytes_of in (
        ("seal_to", wanted.seal_to, sealing.key_bytes),
        ("sealed", wanted.sealed, sealing.params_bytes),
    ):
        try:
            if text is not None:
                bytes_of(text)
        except ValueError as exc:
            raise RequestInvalid(f"{name}: {exc}.") from exc
