"""What happened to one command, told from its own row and its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cloud_broker.store.commands import Command, CommandError, Step
from protocol.states import FINAL, CommandState

Phase = Literal["queued", "dispatched", "running"]

_ENDS_AN_ATTEMPT: Final = frozenset({"attempt_failed", "requeued", "lost"})
# Of two things at the same time this one was first.
_ORDER: Final = ("submitted", "dispatched", "started", "late_answer", "attempt_failed", "requeued", "lost", "finished")


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One try at a command.

    Attributes:
        phase: how far it came: ``dispatched`` or ``running``.
        ended_at: ``None`` while it is under way.
        outcome: what came of it, or "" while it is under way.
    """

    number: int
    agent: str
    sent_at: float
    phase: Phase
    ended_at: float | None = None
    outcome: str = ""
    error: CommandError | None = None


def attempts(command: Command, steps: Sequence[Step]) -> list[Attempt]:
    """Return every attempt that is known, oldest first."""
    earlier = [
        Attempt(
            number=step.attempt,
            agent=step.agent,
            sent_at=step.started_at,
            phase="running" if step.phase == "running" else "dispatched",
            ended_at=step.at,
            outcome=step.outcome or step.step,
            error=step.error,
        )
        for step in steps
        if step.step in _ENDS_AN_ATTEMPT and step.started_at is not None
    ]
    if command.dispatched_at is None or any(attempt.number == command.epoch for attempt in earlier):
        return earlier
    outcome, error = _end(command, steps)
    last = Attempt(
        number=command.epoch,
        agent=command.agent or "",
        sent_at=command.dispatched_at,
        phase=_last_phase(command),
        ended_at=command.finished_at,
        outcome=outcome,
        error=error,
    )
    return [*earlier, last]


def phase(command: Command, steps: Sequence[Step]) -> Phase:
    """Return how far a command had come when it ended, or has come."""
    told = {step.attempt for step in steps if step.step in _ENDS_AN_ATTEMPT}
    # One that expired died while it waited, unless nobody ever told the end of its last attempt.
    waited = command.state is CommandState.EXPIRED and command.epoch in told
    if command.state is CommandState.QUEUED or waited:
        return "queued"
    known = attempts(command, steps)
    return known[-1].phase if known else "queued"


def timeline(command: Command, steps: Sequence[Step]) -> list[Step]:
    """Return all that happened to a command, oldest first; its own row speaks in steps too."""
    told = [Step(command.id, command.created_at, "submitted", detail=_origin(command))]
    known = attempts(command, steps)
    told += [Step(command.id, one.sent_at, "dispatched", one.number, one.agent) for one in known]
    if command.started_at is not None:
        first = next((one for one in reversed(known) if one.sent_at <= command.started_at), None)
        about = (first.number, first.agent) if first else (command.epoch, command.agent or "")
        told.append(Step(command.id, command.started_at, "started", *about))
    told += [_with_finding(command, step) if step.step == "resolved" else step for step in steps]
    if command.finished_at is not None:
        outcome, error = _end(command, steps)
        agent = command.agent or ""
        told.append(
            Step(command.id, command.finished_at, "finished", command.epoch, agent, outcome=outcome, error=error)
        )
    return sorted(told, key=lambda step: (step.at, _ORDER.index(step.step) if step.step in _ORDER else len(_ORDER)))


def _end(command: Command, steps: Sequence[Step]) -> tuple[str, CommandError | None]:
    """Return how the last attempt ended by itself, before anybody resolved it."""
    if command.state is CommandState.QUEUED:
        return "requeued", command.error
    resolved = next((step for step in steps if step.step == "resolved"), None)
    if resolved is not None:
        return resolved.outcome, resolved.error
    return (str(command.state), command.error) if command.state in FINAL else ("", None)


def _last_phase(command: Command) -> Phase:
    if command.state in (CommandState.QUEUED, CommandState.DISPATCHED) or command.started_at is None:
        return "dispatched"
    # Only the first start is kept. Of a later attempt it is better to say too much: it may have begun.
    return "running"


def _origin(command: Command) -> str:
    return f"replay of {command.replay_of}" if command.replay_of else ""


def _with_finding(command: Command, step: Step) -> Step:
    found = command.resolution
    if found is None:
        return step
    who = f"{found.who} (key {found.by})" if found.who else f"key {found.by}"
    note = f": {found.note}" if found.note else ""
    return Step(
        step.command_id, step.at, "resolved", outcome=str(command.state), detail=f"{found.found} by {who}{note}"
    )
