"""What callers see of dead letters, of a command's timeline, and of replays in bulk."""

from __future__ import annotations

from typing import Literal

import msgspec

from cloud_broker.api.views import CommandView, ErrorView, error_view, time_or_none, time_text
from cloud_broker.dead_letters import DeadLetter
from cloud_broker.store.commands import CommandFilter, Step
from cloud_broker.store.dead_letters import ReplayRun
from cloud_broker.timeline import Attempt


class AttemptView(msgspec.Struct, frozen=True):
    """
    One try at a command.

    Attributes:
        phase: how far it came: dispatched or running.
        outcome: what came of it.
    """

    attempt: int
    agent: str
    sent_at: str
    ended_at: str | None
    phase: str
    outcome: str | None
    error: ErrorView | None


class DeadLetterInfo(msgspec.Struct, frozen=True):
    """
    What a person needs to know of a dead letter.

    Attributes:
        why: it died.
        phase: how far it had come then.
        safe: whether it may be replayed, or somebody must find out first whether it happened.
        advice: what to do, in words.
        approval: id of the approval that waits for a second person, or null.
    """

    why: str
    phase: Literal["queued", "dispatched", "running"]
    attempts: list[AttemptView]
    safe: Literal["replay", "resolve_first"]
    advice: str
    approval: str | None


class DeadLetterView(CommandView, frozen=True):
    """A command that needs a person, and what the person needs to know."""

    dead_letter: DeadLetterInfo


class TimelineStepView(msgspec.Struct, frozen=True):
    """
    Something that happened to a command.

    Attributes:
        step: submitted, dispatched, started, attempt_failed, requeued, late_answer, cancel_requested, finished,
            resolved, replayed, approval_asked, approval_given, approval_refused or approval_withdrawn.
        attempt: which, or null where it is about none.
        phase: how far the attempt had come, where that is known.
        payload_digest: SHA-256 of the parameters as they are sent, hex.
        mapping_version: null; comes with a later release.
        outcome: what came of it.
        detail: more, in words; of a replay the other command's id.
        outputs: what a late answer brought; it is evidence, and not the command's.
    """

    at: str
    step: str
    attempt: int | None
    agent: str | None
    phase: str | None
    payload_digest: str
    mapping_version: str | None
    outcome: str | None
    error: ErrorView | None
    detail: str | None
    outputs: msgspec.Raw | None


class ReplayFilterView(msgspec.Struct, frozen=True):
    """Which dead letters a replay is about; null means any."""

    state: str | None
    operation: str | None
    agent: str | None
    correlation_id: str | None
    since: str | None
    before: str | None
    code: str | None


class SkippedView(msgspec.Struct, frozen=True):
    """A dead letter that was left as it is, and why."""

    id: str
    why: str


class ReplayLinks(msgspec.Struct, frozen=True, rename={"self_": "self"}):
    """Where more is to be had."""

    self_: str
    cancel: str


class ReplayRunView(msgspec.Struct, frozen=True):
    """
    Many dead letters, replayed one after another.

    Attributes:
        state: running, done or cancelled.
        total: how many there were when it began.
        skipped: the first hundred of those left out; ``skipped_count`` is how many there are.
        rate: how many a second.
        by: id of the key that asked for it.
    """

    id: str
    state: Literal["running", "done", "cancelled"]
    total: int
    replayed: int
    skipped_count: int
    skipped: list[SkippedView]
    filter: ReplayFilterView
    rate: float
    by: str
    created_at: str
    finished_at: str | None
    links: ReplayLinks


class ReplayPlanView(msgspec.Struct, frozen=True):
    """What a replay would be about: how many dead letters, and how many of them are in doubt and would be left out."""

    total: int
    in_doubt: int


def dead_letter_view(letter: DeadLetter, command: CommandView) -> DeadLetterView:
    """Return what a caller sees of a dead letter."""
    info = DeadLetterInfo(
        why=letter.why,
        phase=letter.phase,
        attempts=[_attempt(attempt) for attempt in letter.attempts],
        safe=letter.safe,
        advice=letter.advice,
        approval=letter.approval,
    )
    return DeadLetterView(**msgspec.structs.asdict(command), dead_letter=info)


def _attempt(attempt: Attempt) -> AttemptView:
    return AttemptView(
        attempt=attempt.number,
        agent=attempt.agent,
        sent_at=time_text(attempt.sent_at),
        ended_at=time_or_none(attempt.ended_at),
        phase=attempt.phase,
        outcome=attempt.outcome or None,
        error=error_view(attempt.error),
    )


def step_view(step: Step, payload_digest: str) -> TimelineStepView:
    """Return what a caller sees of a step."""
    return TimelineStepView(
        at=time_text(step.at),
        step=step.step,
        attempt=step.attempt or None,
        agent=step.agent or None,
        phase=step.phase or None,
        payload_digest=payload_digest,
        mapping_version=None,
        outcome=step.outcome or None,
        error=error_view(step.error),
        detail=step.detail or None,
        outputs=msgspec.Raw(step.outputs) if step.outputs else None,
    )


def run_view(run: ReplayRun) -> ReplayRunView:
    """Return what a caller sees of a replay in bulk."""
    here = f"/v1/dead-letters/replays/{run.id}"
    return ReplayRunView(
        id=run.id,
        state=run.state,
        total=run.total,
        replayed=run.replayed,
        skipped_count=run.skipped_count,
        skipped=[SkippedView(skipped.id, skipped.why) for skipped in run.skipped],
        filter=_filter(run.wanted),
        rate=run.rate,
        by=run.by,
        created_at=time_text(run.created_at),
        finished_at=time_or_none(run.finished_at),
        links=ReplayLinks(here, f"{here}/cancel"),
    )


def _filter(wanted: CommandFilter) -> ReplayFilterView:
    return ReplayFilterView(
        state=wanted.state,
        operation=wanted.operation,
        agent=wanted.agent,
        correlation_id=wanted.correlation_id,
        since=time_or_none(wanted.since),
        before=time_or_none(wanted.before),
        code=wanted.code,
    )
