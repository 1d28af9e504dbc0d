"""
Sparing a system that does not answer: a dead ERP costs waiting, not retries.

Pure data; the time, in seconds on any clock that only goes forward, is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

# Codes that say that nobody answered, or not to the end.
UNANSWERED: Final = frozenset({"source_unavailable", "timed_out", "driver_crashed", "outcome_unknown"})
# Codes with which the system itself answered; so does a success.
ANSWERED: Final = frozenset({"source_rejected", "source_failed"})


@dataclass(frozen=True, slots=True)
class Guard:
    """
    When a connection is spared, and for how long.

    Attributes:
        failures: so many in a row, and nothing more is sent.
        cool_down_s: seconds until one command may try it.
    """

    failures: int = 5
    cool_down_s: float = 30.0


class Breaker:
    """
    One connection of one agent.

    Closed, it lets everything through. Open, nothing; after the cool-down one command, the probe, whose end
    closes it or keeps it open for another cool-down.

    Source:
        Nygard, "Release It!", 2007: circuit breaker.
    """

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self._failures = 0
        self._opens_at: float | None = None  # when a probe may go; None while closed
        self._probe: str | None = None

    def __repr__(self) -> str:
        state = "closed" if self._opens_at is None else "probing" if self._probe else "open"
        return f"<Breaker {state}, {self._failures} failures>"

    @property
    def closed(self) -> bool:
        """Whether everything goes through."""
        return self._opens_at is None

    def wait(self, now: float) -> float:
        """Return seconds until a command may be sent: 0.0 now, infinity while a probe is under way."""
        if self._opens_at is None:
            return 0.0
        if self._probe is not None:
            return inf
        return max(0.0, self._opens_at - now)

    def sent(self, command_id: str) -> None:
        """A command was sent; while open, it is the probe."""
        if self._opens_at is not None:
            self._probe = command_id

    def ended(self, command_id: str, code: str | None, now: float) -> None:
        """
        An attempt ended.

        Args:
            code: of its error, "" for a success; ``None`` if it never came to an answer, such as with a lost link.
        """
        probe = self._probe == command_id
        if probe:
            self._probe = None
        if code == "" or code in ANSWERED:
            self._failures = 0
            self._opens_at = self._probe = None
        elif code in UNANSWERED:
            self._failures += 1
            # What was sent before it opened says nothing new.
            if probe or (self._opens_at is None and self._failures >= self.guard.failures):
                self._opens_at = now + self.guard.cool_down_s
