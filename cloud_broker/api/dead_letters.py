"""What needs a person: look at it, resolve it, do it again, one or many."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from cloud_broker.api import headers
from cloud_broker.api.approvals import ApprovalView, asked
from cloud_broker.api.auth import caller
from cloud_broker.api.bodies import Body, answer, read
from cloud_broker.api.commands import IDEMPOTENCY_KEY, MAX_PAGE, CommandId, checked_cursor, seconds, view
from cloud_broker.api.dead_letter_views import (
    DeadLetterView,
    ReplayPlanView,
    ReplayRunView,
    TimelineStepView,
    dead_letter_view,
    run_view,
    step_view,
)
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import services
from cloud_broker.api.submissions import MAX_TEXT_CHARS, checked_signature, checked_ttl
from cloud_broker.api.views import CommandView, ListView
from cloud_broker.errors import (
    AgentNotFound,
    CommandNotFound,
    Conflict,
    ContentTypeUnsupported,
    IdempotencyKeyReused,
    NotFinished,
    OperationNotFound,
    ParametersInvalid,
    ReplayRunNotFound,
    RequestInvalid,
    ResolveFirst,
    SecondPersonNeeded,
    SignatureWanted,
    StoreUnavailable,
    TenantSuspended,
    Unavailable,
)
from cloud_broker.store.commands import CommandFilter
from protocol.states import CommandState

MAX_NOTE_CHARS: Final = 4_000
MAX_RUN: Final = 5_000  # dead letters of one replay
DEFAULT_RUN: Final = 100
MAX_RATE: Final = 1_000.0  # a second
DEFAULT_RATE: Final = 10.0  # a second: what made them fail may still be weak
RUN_ID: Final = re.compile(r"rpl_[0-9a-hjkmnp-tv-z]{26}")

router = APIRouter(tags=["dead letters"])

DeadState = Literal["failed", "in_doubt", "expired"]
RunId = Annotated[str, Path(description="Of the replay.", max_length=MAX_TEXT_CHARS)]


class Finding(Body, frozen=True):
    """
    What a person found out of a command in doubt.

    Attributes:
        found: whether it had happened.
        who: the person, for those who ask later.
        note: how it was found out, such as the document's number.
    """

    found: Literal["happened", "not_happened"]
    who: str = ""
    note: str = ""


class Again(Body, frozen=True):
    """
    How a command is done again.

    Attributes:
        ttl: seconds until it may not start any more; as long as the original had, if not given.
        signature: a new one, where the original had one; an Idempotency-Key is wanted with it.
    """

    ttl: float | None = None
    signature: str | None = None


class Wanted(Body, frozen=True):
    """
    Which dead letters; what is not given means any.

    Attributes:
        since: created at this time or later, RFC 3339 with its zone.
        before: created earlier than this.
        code: of their error.
    """

    state: DeadState | None = None
    operation: str | None = None
    agent: str | None = None
    correlation_id: str | None = None
    since: datetime | None = None
    before: datetime | None = None
    code: str | None = None


class NewReplay(Body, frozen=True):
    """
    Many dead letters to be done again, oldest first.

    Attributes:
        filter: which.
        max: how many at most.
        rate: how many a second.
        dry_run: only count them.
    """

    filter: Wanted = Wanted()
    max: int = DEFAULT_RUN
    rate: float = DEFAULT_RATE
    dry_run: bool = False


FINDING: Final = {"found": "not_happened", "who": "Ada", "note": "no order 4711 in the ERP"}
NEW_REPLAY: Final = {"filter": {"operation": "create-sales-order", "code": "source_unavailable"}, "max": 500, "rate": 5}


@router.get(
    "/v1/commands/{command_id}/timeline",
    **describe(
        "Look at what happened to a command",
        scope="commands:read",
        answers={200: ("Oldest first; also of one under way. It is one part.", ListView)},
        items=TimelineStepView,
        problems=[CommandNotFound, StoreUnavailable],
    ),
)
async def timeline(request: Request, command_id: CommandId) -> Response:
    """Tell every step of a command's life."""
    who = await caller(request, "commands:read")
    command, steps = await services(request).dead_letters.timeline(who.scope, command_id)
    digest = hashlib.sha256(command.params).hexdigest()
    return answer(ListView([step_view(step, digest) for step in steps]))


@router.post(
    "/v1/commands/{command_id}/resolve",
    **describe(
        "Resolve a command in doubt",
        scope="dead-letters:write",
        answers={
            200: ("It has its new state: succeeded, or failed and to be replayed.", CommandView),
            202: ("Where two people are wanted for it: it waits for the second one.", ApprovalView),
        },
        problems=[
            CommandNotFound,
            Conflict,
            NotFinished,
            SecondPersonNeeded,
            IdempotencyKeyReused,
            ContentTypeUnsupported,
            StoreUnavailable,
        ],
        body=Finding,
        example=FINDING,
    ),
)
async def resolve(request: Request, command_id: CommandId) -> Response:
    """Keep what a person found out, once. The same finding again is answered with the command as it is."""
    who = await caller(request, "dead-letters:write")
    finding = await read(request, Finding)
    _short("who", finding.who, MAX_TEXT_CHARS)
    _short("note", finding.note, MAX_NOTE_CHARS)
    there = services(request)
    if there.approvals.wanted("resolve"):
        doubtful = await there.commands.get(who.scope, command_id)
        # Others are answered as they are without a second person: there is nothing to do.
        if doubtful.state is CommandState.IN_DOUBT:
            return asked(
                await there.approvals.ask(
                    who.scope,
                    who.key,
                    "resolve",
                    f"command:{command_id}",
                    f"resolve as {finding.found}",
                    {"command": command_id, "found": finding.found, "who": finding.who, "note": finding.note},
                    headers.idempotency_key(request.headers.getlist("idempotency-key")),
                )
            )
    command = await there.dead_letters.resolve(
        who.scope, command_id, finding.found, by=who.key.id, who=finding.who, note=finding.note
    )
    return answer(await view(there, who.scope, command))


@router.post(
    "/v1/commands/{command_id}/replay",
    **describe(
        "Do a command again",
        scope="dead-letters:write",
        answers={
            202: ("The new command; its `replay_of` names the one it does again.", CommandView),
            200: ("It was replayed before: the command that did it.", CommandView),
        },
        problems=[
            CommandNotFound,
            Conflict,
            NotFinished,
            ResolveFirst,
            SignatureWanted,
            IdempotencyKeyReused,
            AgentNotFound,
            OperationNotFound,
            ParametersInvalid,
            ContentTypeUnsupported,
            TenantSuspended,
            StoreUnavailable,
            Unavailable,
        ],
        body=Again,
        example={"ttl": 600},
        parameters=[IDEMPOTENCY_KEY],
    ),
)
async def replay(request: Request, command_id: CommandId) -> Response:
    """Submit what has ended without success again, with the same parameters, once."""
    who = await caller(request, "dead-letters:write", new_work=True)
    wanted = await read(request, Again)
    there = services(request)
    key = headers.idempotency_key(request.headers.getlist("idempotency-key"))
    command, new = await there.dead_letters.replay(
        who.scope,
        command_id,
        by=who.key.id,
        ttl_s=None if wanted.ttl is None else checked_ttl(wanted.ttl),
        traceparent=headers.traceparent(headers.first(request.scope, "traceparent", "")),
        signature=checked_signature(wanted.signature, key),
        idempotency_key=key,
    )
    place = {"Location": f"/v1/commands/{command.id}"}
    return answer(await view(there, who.scope, command), 202 if new else 200, place)


@router.get(
    "/v1/dead-letters",
    **describe(
        "List dead letters",
        scope="commands:read",
        answers={200: ("All that needs a person, newest first; what was replayed does not.", ListView)},
        items=DeadLetterView,
        problems=[StoreUnavailable],
    ),
)
async def search(
    request: Request,
    state: Annotated[DeadState | None, Query(description="Only those in this state.")] = None,
    operation: Annotated[str | None, Query(description="Only those of this operation.")] = None,
    agent: Annotated[str | None, Query(description="Only those of this agent.")] = None,
    correlation_id: Annotated[str | None, Query(description="Only those with this correlation id.")] = None,
    since: Annotated[datetime | None, Query(description="Only those created at this time or later, RFC 3339.")] = None,
    before: Annotated[datetime | None, Query(description="Only those created earlier, RFC 3339.")] = None,
    code: Annotated[str | None, Query(description="Only those with an error of this code.")] = None,
    cursor: Annotated[str | None, Query(description="`next` of the part before.", max_length=MAX_TEXT_CHARS)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Dead letters in this part.")] = 50,
) -> Response:
    """List what failed, is in doubt or expired, with why, what was tried, and what is safe."""
    who = await caller(request, "commands:read")
    there = services(request)
    which = Wanted(
        state=state,
        operation=operation,
        agent=agent,
        correlation_id=correlation_id,
        since=since,
        before=before,
        code=code,
    )
    page = await there.store.commands(who.scope, _filter(which), checked_cursor(cursor), limit)
    items = [
        dead_letter_view(await there.dead_letters.letter(who.scope, command), await view(there, who.scope, command))
        for command in page.items
    ]
    return answer(ListView(items, page.next))


@router.post(
    "/v1/dead-letters/replay",
    **describe(
        "Do many dead letters again",
        scope="dead-letters:write",
        answers={
            202: (
                "The broker does it, oldest first, also after a restart; look at it for how far it is. "
                "Where two people are wanted for it: the approval that waits for the second one.",
                (ReplayRunView, ApprovalView),
            ),
            200: ("With `dry_run`: how many there are.", ReplayPlanView),
        },
        problems=[
            Conflict,
            IdempotencyKeyReused,
            SecondPersonNeeded,
            ContentTypeUnsupported,
            TenantSuspended,
            StoreUnavailable,
        ],
        body=NewReplay,
        example=NEW_REPLAY,
        parameters=[IDEMPOTENCY_KEY],
    ),
)
async def replay_many(request: Request) -> Response:
    """Replay what a filter finds, some a second. Those in doubt are left out; they are resolved one by one."""
    who = await caller(request, "dead-letters:write", new_work=True)
    asked_for = await read(request, NewReplay)
    if not 1 <= asked_for.max <= MAX_RUN:
        raise RequestInvalid(f"max: wants 1 to {MAX_RUN}, found {asked_for.max}.")
    if not 0 < asked_for.rate <= MAX_RATE:
        raise RequestInvalid(f"rate: wants more than 0 and at most {MAX_RATE:.0f} a second, found {asked_for.rate:g}.")
    runs, wanted = services(request).replay_runs, _filter(asked_for.filter)
    if asked_for.dry_run:
        return answer(ReplayPlanView(*await runs.plan(who.scope, wanted, asked_for.max)))
    key = headers.idempotency_key(request.headers.getlist("idempotency-key"))
    approvals = services(request).approvals
    if approvals.wanted("bulk_replay"):
        total, _ = await runs.plan(who.scope, wanted, asked_for.max)
        words = {"wanted": wanted, "max": asked_for.max, "rate": asked_for.rate}
        summary = f"replay {total} dead letters, {asked_for.rate:g} a second"
        return asked(await approvals.ask(who.scope, who.key, "bulk_replay", "", summary, words, key))
    run = await runs.begin(who.scope, wanted, asked_for.max, asked_for.rate, by=who.key.id, idempotency_key=key)
    return answer(run_view(run), 202, {"Location": f"/v1/dead-letters/replays/{run.id}"})


@router.get(
    "/v1/dead-letters/replays",
    **describe(
        "List replays of dead letters",
        scope="commands:read",
        answers={200: ("Newest first.", ListView)},
        items=ReplayRunView,
        problems=[StoreUnavailable],
    ),
)
async def list_runs(
    request: Request,
    cursor: Annotated[str | None, Query(description="`next` of the part before.", max_length=MAX_TEXT_CHARS)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Replays in this part.")] = 50,
) -> Response:
    """List the replays in bulk that were asked for."""
    who = await caller(request, "commands:read")
    if cursor is not None and RUN_ID.fullmatch(cursor) is None:
        raise RequestInvalid(f"cursor: wants `next` of the part before as it stands, found {cursor!r}.")
    page = await services(request).store.replay_runs(who.scope, cursor, limit)
    return answer(ListView([run_view(run) for run in page.items], page.next))


@router.get(
    "/v1/dead-letters/replays/{run_id}",
    **describe(
        "Look at a replay of dead letters",
        scope="commands:read",
        answers={200: ("As it is now.", ReplayRunView)},
        problems=[ReplayRunNotFound, StoreUnavailable],
    ),
)
async def look_at_run(request: Request, run_id: RunId) -> Response:
    """Tell how far a replay in bulk is."""
    who = await caller(request, "commands:read")
    return answer(run_view(await services(request).replay_runs.get(who.scope, run_id)))


@router.post(
    "/v1/dead-letters/replays/{run_id}/cancel",
    **describe(
        "Stop a replay of dead letters",
        scope="dead-letters:write",
        answers={200: ("It stops after the one it is at; what it has replayed stays replayed.", ReplayRunView)},
        problems=[ReplayRunNotFound, StoreUnavailable],
    ),
)
async def cancel_run(request: Request, run_id: RunId) -> Response:
    """Stop a replay in bulk; one that has ended stays as it is. Nothing is removed."""
    who = await caller(request, "dead-letters:write")
    return answer(run_view(await services(request).replay_runs.cancel(who.scope, run_id, who.key.actor)))


def _filter(wanted: Wanted) -> CommandFilter:
    return CommandFilter(
        state=CommandState(wanted.state) if wanted.state else None,
        operation=wanted.operation,
        agent=wanted.agent,
        correlation_id=wanted.correlation_id,
        since=seconds("since", wanted.since),
        before=seconds("before", wanted.before),
        code=wanted.code,
        dead_letters=True,
    )


def _short(name: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise RequestInvalid(f"{name}: wants at most {limit} characters, found {len(text)}.")
