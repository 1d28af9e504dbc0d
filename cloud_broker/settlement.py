"""
What becomes of a command that was on its way when a link, an agent or the broker was lost.

One pure decision per command, taken when the agent is back and has told what it holds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from cloud_broker.store.base import Command, Effect
from protocol.messages import Held

REPEATABLE: Final[frozenset[Effect]] = frozenset({"read", "idempotent"})


class Decision(StrEnum):
    """What to do about one command."""

    RESUME = "resume"  # the agent goes on telling, from the byte we have
    AGAIN = "again"  # back into the queue: it did not run, or may run any number of times
    IN_DOUBT = "in_doubt"  # it may have run, and nobody can tell any more


def settle(command: Command, held: Held | None, *, boot: str, have: int) -> Decision:
    """
    Decide about a command that was sent and has no final state.

    Args:
        command: as the store has it, dispatched or running.
        held: what the agent says about it; ``None`` if it holds nothing of it.
        boot: of the agent's process now.
        have: bytes of the result that we still have.
    """
    if held is not None and held.epoch == command.epoch and held.first <= have <= held.sent:
        return Decision.RESUME
    if command.effect in REPEATABLE:
        return Decision.AGAIN
    if held is None and boot == command.boot:
        # The same process would remember it: so it never arrived.
        return Decision.AGAIN
    return Decision.IN_DOUBT


def lost(command: Command) -> Decision:
    """Decide about a command whose agent has not come back before the command's time was up."""
    return Decision.AGAIN if command.effect in REPEATABLE else Decision.IN_DOUBT
