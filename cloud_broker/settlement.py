"""
What becomes of a command that was on its way when a link, an agent or the broker was lost.

One pure decision per command, taken when the agent is back and has told what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from cloud_broker.store.commands import Command, CommandError, Effect, Finish
from protocol import limits
from protocol.messages import Completed, Held
from protocol.states import CommandState

# Seconds beyond its timeout, without a word about it, after which an attempt is given up although its agent is there:
# finding out what came of an effect (`verify`, the ledger) may take that long after the work itself was lost.
SILENT_S: Final = 600.0
STOP_S: Final = 30.0  # seconds from the Cancel that is tried before that

REPEATABLE: Final[frozenset[Effect]] = frozenset({"read", "idempotent"})


class Decision(StrEnum):
    """What to do about one command."""

    RESUME = "resume"  # the agent goes on telling, from the byte we have
    AGAIN = "again"  # back into the queue: it did not run, or may run any number of times
    IN_DOUBT = "in_doubt"  # it may have run, and nobody can tell any more


def settle(command: Command, held: Held | None, *, journal: str, have: int) -> Decision:
    """
    Decide about a command that was sent and has no final state.

    Args:
        command: as the store has it, dispatched or running.
        held: what the agent says about it; ``None`` if it holds nothing of it.
        journal: of the agent now; "" if it can't be relied on.
        have: bytes of the result that we still have.
    """
    if held is not None and held.epoch == command.epoch and resume_at(held, have) is not None:
        return Decision.RESUME
    if command.effect in REPEATABLE:
        return Decision.AGAIN
    if journal and journal == command.journal and (held is None or held.epoch < command.epoch):
        # The same journal would know of this attempt if it had begun.
        return Decision.AGAIN
    return Decision.IN_DOUBT


def resume_at(held: Held, have: int) -> int | None:
    """
    Return the byte at which an agent is to go on, 0 included; ``None`` if that can't be had any more.

    An agent that died and came back may have fewer bytes so far than we have: then all is told again.
    """
    if held.first <= have <= held.sent:
        return have
    return 0 if held.first == 0 else None


def lost(command: Command) -> Decision:
    """Decide about a command whose agent has not come back before the command's time was up."""
    return Decision.AGAIN if command.effect in REPEATABLE else Decision.IN_DOUBT


def ended(state: CommandState, now: float, last: CommandError | None = None) -> Finish:
    """
    Return the end of a command that certainly had no effect: expired or cancelled.

    Args:
        last: why its last attempt failed.
    """
    error = None
    if state is CommandState.EXPIRED:
        after = f" again; its last attempt failed with {last.code}: {last.message}" if last is not None else ""
        error = CommandError("deadline", "expired", f"its time was up before it could start{after}")
    return Finish(state=state, finished_at=now, error=error)


def unheard(now: float) -> Finish:
    """Return the end of a command that may be repeated, and whose agent was away until its time was up."""
    message = "its time was up while its agent was away; it may have begun there"
    return Finish(CommandState.EXPIRED, now, error=CommandError("deadline", "expired", message))


def doubt(now: float, held: bool, lost: str = "", others: Mapping[str, str] | None = None) -> Finish:
    """
    Return the end of a command that may have had an effect.

    Args:
        held: whether its agent still knows of it, so that only its rows are lost.
        lost: the agent of a group that had it, and that did not come back.
        others: what other agents of the group said who were asked and could not tell, by name.
    """
    if held:
        message = "it ran, but the part of its rows that was on its way is lost"
    elif not lost:
        message = "the agent was lost while it was under way: it may have happened, look in the ERP"
    else:
        told = "; ".join(f"{name} said: {said}" for name, said in (others or {}).items())
        message = (
            f"{lost} was lost while it was under way and did not come back, and no other agent of the group could tell"
            f"{f' ({told})' if told else ''}: it may have happened, look in the ERP"
        )[: limits.MAX_ERROR_CHARS]
    return Finish(state=CommandState.IN_DOUBT, finished_at=now, error=CommandError("unknown", "agent_lost", message))


def silent(command: Command, timeout_s: float, quiet_s: float, now: float) -> bool:
    """
    Whether an attempt is lost though its agent is there.

    Args:
        timeout_s: of the operation.
        quiet_s: seconds since the agent last said something about it.
    """
    if command.state is CommandState.RUNNING:
        return quiet_s > timeout_s + SILENT_S
    # It may wait at the agent until its time is up.
    return quiet_s > SILENT_S and now > command.expires_at + SILENT_S


def gave_up(command: Command, now: float) -> Finish:
    """Return the end of a command that ``silent`` is true of, and that a Cancel did not end."""
    if command.effect in REPEATABLE:
        error = CommandError("technical", "agent_silent", "its agent is there, but never told what came of it")
        return Finish(state=CommandState.FAILED, finished_at=now, error=error)
    message = "its agent is there, but never told what came of it: it may have happened, look in the ERP"
    return Finish(state=CommandState.IN_DOUBT, finished_at=now, error=CommandError("unknown", "agent_silent", message))


def error_of(completed: Completed) -> CommandError | None:
    """Return why an attempt did not succeed, no longer than it may be."""
    if not completed.error_code:
        return None
    return CommandError(
        completed.error_kind or "technical",
        completed.error_code[: limits.MAX_ERROR_CHARS],
        completed.error_message[: limits.MAX_ERROR_CHARS],
        completed.source_code[: limits.MAX_ERROR_CHARS],
    )
