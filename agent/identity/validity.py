"""When a certificate is renewed and when somebody is warned: pure functions of its life, of chance and of now."""

from __future__ import annotations

from typing import Final

import msgspec

DAY_S: Final = 86_400.0
PARTS: Final = 20  # after a failed renewal the next try comes after this part of the life
JITTER: Final = 0.1  # of the last third, before and after: thousands of agents that enrolled in one night come apart
REST_S: Final = 60.0  # seconds from one certificate to asking for the next, however soon a broker says that it ends
WARN_DAYS: Final = (14, 7, 1)


class Life(msgspec.Struct, frozen=True):
    """
    The time for which a certificate is good, on this machine's clock.

    Attributes:
        begin: when it came, seconds since 1970.
        end: when it runs out, seconds since 1970.
    """

    begin: float
    end: float

    @property
    def whole_s(self) -> float:
        """Its length, seconds; 0 if the clock was past the end when it came."""
        return max(0.0, self.end - self.begin)

    @property
    def pause_s(self) -> float:
        """Seconds between two tries to renew it."""
        return self.whole_s / PARTS

    def due(self, chance: float) -> float:
        """
        Return when to renew it, seconds since 1970: when two thirds are over, give or take some.

        Args:
            chance: a number in [0, 1), drawn once for a certificate.
        """
        third = self.whole_s / 3
        return self.end - third + third * JITTER * (2 * chance - 1)

    def rest_s(self, now: float) -> float:
        """Return the seconds until another may be asked for; 0 also where the clock was set back since it came."""
        return max(0.0, REST_S - (now - self.begin)) if now >= self.begin else 0.0

    def over(self, now: float) -> bool:
        """
        Whether it has run out.

        One that had so when it came tells of a clock that is wrong, not of its end.
        """
        return now >= self.end > self.begin

    def warning(self, now: float) -> float | None:
        """
        Return which limit of the time that is left was passed last, in seconds; ``None`` while all is well.

        The first is a third of the life, when a renewal should have been over; then 14, 7 and 1 days.
        """
        first = self.whole_s / 3 * (1 - JITTER)
        limits = (first, *(days * DAY_S for days in WARN_DAYS if days * DAY_S < first))
        left = self.end - now
        return min((limit for limit in limits if left <= limit), default=None)


def left_text(end: float, now: float) -> str:
    """Return how long a certificate is good, for people."""
    left = end - now
    if left <= 0:
        return "has run out"
    if left < 120:
        return f"is good for {left:.0f} seconds more"
    if left < 2 * 3_600:
        return f"is good for {left / 60:.0f} minutes more"
    if left < 2 * DAY_S:
        return f"is good for {left / 3_600:.0f} hours more"
    return f"is good for {left / DAY_S:.0f} days more"
