"""
What follows a failed attempt: the command's end, or another try after a while.

A pure decision; chance and time are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloud_broker.store.commands import Command
from protocol.messages import Completed

MOST_DOUBLINGS: Final = 32  # beyond it any first delay has reached any longest one


@dataclass(frozen=True, slots=True)
class Schedule:
    """
    How often, and how soon.

    Attributes:
        attempts: tries of one command that may fail; 1 means that none is tried again.
        first_s: seconds that the first wait has at most; each next one may be twice as long.
        most_s: seconds that any wait has at most.
    """

    attempts: int = 5
    first_s: float = 1.0
    most_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Again:
    """
    Another try.

    Attributes:
        failures: as in ``Command``, this one counted.
        not_before: as in ``Command``.
    """

    failures: int
    not_before: float


def after(
    command: Command, completed: Completed, schedule: Schedule, now: float, chance: Callable[[], float]
) -> Again | None:
    """
    Decide what follows the end of an attempt; ``None`` says that it ends the command too.

    A wait is drawn from all of (0, ceiling], and the ceiling doubles: many commands that failed together do not
    come back together.

    Args:
        chance: returns a number in [0, 1).

    Source:
        Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    # The agent calls `failed` only what certainly had no effect, or may be repeated: for other ends it has other words.
    if completed.outcome != "failed" or completed.error_kind != "technical" or not completed.retryable:
        return None
    if counts(completed):
        failures = command.failures + 1
        if failures >= schedule.attempts:
            return None
        tries = failures
    else:
        failures = command.failures
        tries = max(1, command.epoch)
    ceiling_s = min(schedule.most_s, schedule.first_s * 2 ** min(tries - 1, MOST_DOUBLINGS))
    not_before = now + ceiling_s * (1.0 - chance())
    return Again(failures, not_before) if not_before < command.expires_at else None


def counts(completed: Completed) -> bool:
    """Whether a failure uses up a try: a system that could not even be reached is the breaker's to spare."""
    return completed.touched or completed.error_code != "source_unavailable"
