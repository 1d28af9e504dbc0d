"""
What becomes of a command that was on its way when a link, an agent or the broker was lost.

One pure decision per command, taken when the agent is back and has told what it holds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from cloud_broker.store.base import Command, CommandError, Effect, Finish
from protocol.messages import Held
from protocol.states import CommandState

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
    if journal == command.journal and (held is None or held.epoch < command.epoch):
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


def doubt(now: float, held: bool) -> Finish:
    """
    Return the end of a command that may have had an effect.

    Args:
        held: whether its agent still knows of it, so that only its rows are lost.
    """
    message = (
        "it ran, but the part of its rows that was on its way is lost"
        if held
        else "the agent was lost while it was under way: it may have happened, look in the ERP"
    )
    return Finish(state=CommandState.IN_DOUBT, finished_at=now, error=CommandError("unknown", "agent_lost", message))
