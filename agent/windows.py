"""Posting windows: when a connection takes commands, in the agent's local time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import msgspec

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(
    r"^(?P<days>[a-z]{3}(?:-[a-z]{3})?(?:,[a-z]{3}(?:-[a-z]{3})?)*)\s+"
    r"(?P<from>\d{2}:\d{2})-(?P<to>\d{2}:\d{2})$"
)
DAY_MINUTES = 24 * 60


class Window(msgspec.Struct, frozen=True):
    """
    Some days of the week and a span of minutes on each.

    Attributes:
        days: 0 is Monday; the day on which the window opens.
        start: minute of the day at which it opens.
        end: minute at which it closes, counted from the same midnight; beyond 1440 it ends the next day.
    """

    days: frozenset[int]
    start: int
    end: int

    def is_open(self, now: datetime) -> bool:
        """Whether local time ``now`` is inside, the closing minute excluded."""
        minute = now.hour * 60 + now.minute
        if now.weekday() in self.days and self.start <= minute < self.end:
            return True
        return (now.weekday() - 1) % 7 in self.days and minute + DAY_MINUTES < self.end


def parse_window(text: str) -> Window:
    """
    Read ``mon-fri 06:00-22:00`` or ``sat,sun 22:00-04:00``.

    Raises:
        ValueError: it is not of this form; the text says what was wanted.
    """
    match = _WINDOW.match(text.strip().lower())
    if match is None:
        raise ValueError(f"wants a window such as 'mon-fri 06:00-22:00', found {text!r}")
    days: set[int] = set()
    for part in match["days"].split(","):
        first, _, last = part.partition("-")
        for name in (first, last or first):
            if name not in DAYS:
                raise ValueError(f"{name!r} is no day; the days are {', '.join(DAYS)}")
        day, stop = DAYS.index(first), DAYS.index(last or first)
        days.add(day)
        while day != stop:
            day = (day + 1) % 7
            days.add(day)
    start, end = _minutes(match["from"], text), _minutes(match["to"], text)
    if start == DAY_MINUTES:
        raise ValueError(f"a window can't open at 24:00, found {text!r}")
    if end == start:
        raise ValueError(f"a window that never opens: {text!r}")
    return Window(frozenset(days), start, end if end > start else end + DAY_MINUTES)


def opens_in(windows: tuple[Window, ...], now: datetime) -> float:
    """Return seconds until one of ``windows`` is open; 0.0 if one is, or if there are none."""
    if not windows or any(window.is_open(now) for window in windows):
        return 0.0
    minute = now.replace(second=0, microsecond=0)
    for _ in range(8 * DAY_MINUTES):
        minute += timedelta(minutes=1)
        if any(window.is_open(minute) for window in windows):
            return (minute - now).total_seconds()
    raise AssertionError("every window opens at least once a week")


def _minutes(text: str, whole: str) -> int:
    hours, minutes = int(text[:2]), int(text[3:])
    if hours > 24 or minutes > 59 or (hours == 24 and minutes):
        raise ValueError(f"{text!r} is no time of day, found {whole!r}")
    return hours * 60 + minutes
