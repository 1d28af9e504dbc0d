"""
The clock on the wall of a database's session: which instant it meant, by the database's own word.

A session keeps the time zone that its server or account has, because procedures ask it for today's date. What
a driver hands over without a zone is turned into an instant here. The rules come from the database itself, because
its zone may have no name that means anything elsewhere (``SYSTEM``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

from agent.connectors.odbc.types import Spoiled

Ask = Callable[[Sequence[int]], Sequence[int]]  # instants in; by how many seconds the clock is ahead of UTC out

_DAY_S: Final = 86_400
_STEP_S: Final = 16 * _DAY_S  # no zone put its clock twice within such a time (Morocco's Ramadan is the shortest)
_MARGIN_S: Final = 2 * _DAY_S  # no clock is further from UTC
_SECOND: Final = timedelta(seconds=1)
_EPOCH: Final = datetime(1970, 1, 1)  # of the wall's seconds as of the instants'
_TWICE: Final = "falls into the hour that the database's clock showed twice, and which one is meant is not told"


@dataclass(frozen=True, slots=True)
class _Span:
    """Instants from ``start`` until ``end``, seconds since 1970, with one offset, in seconds east of UTC."""

    start: int
    end: int
    offset: int


class Clock:
    """
    One time zone.

    Args:
        ask: asks the database.
        first: the earliest instant it may be asked for, seconds since 1970.
        last: the latest one.
    """

    def __init__(self, ask: Ask, first: int | None = None, last: int | None = None) -> None:
        self._ask = ask
        self._first = first
        self._last = last
        self._years: dict[int, tuple[_Span, ...]] = {}

    def learn(self, years: Iterable[int]) -> None:
        """Ask for these years now; others are asked for when they occur."""
        bounds = {year: self._bounds(year) for year in years}
        points = sorted({point for start, end in bounds.values() for point in (*range(start, end, _STEP_S), end)})
        offsets = dict(zip(points, self._ask(points), strict=True)) if points else {}
        changes = self._changes(offsets)
        after = offsets | changes
        for year, (start, end) in bounds.items():
            edges = [start, *(instant for instant in changes if start < instant < end), end + 1]
            self._years[year] = tuple(
                _Span(edge, until, after[edge]) for edge, until in pairwise(edges) if edge < until
            )

    @property
    def steady(self) -> bool:
        """Whether the clock was never put in the years that were learned."""
        return len(self._offsets()) == 1

    def _offsets(self) -> set[int]:
        return {span.offset for spans in self._years.values() for span in spans}

    def utc(self, wall: datetime) -> datetime:
        """
        Return the instant at which the clock showed ``wall``.

        Raises:
            Spoiled: it showed that twice, or never.
        """
        seconds = (wall - _EPOCH) // _SECOND
        instants = self._instants(seconds, wall.year)
        if len(instants) != 1:
            raise Spoiled(_TWICE if instants else "is no time that the database's clock showed")
        return (_EPOCH + timedelta(seconds=instants.pop(), microseconds=wall.microsecond)).replace(tzinfo=UTC)

    def wall(self, instant: datetime) -> datetime:
        """
        Return what the clock showed at ``instant``.

        Where the database can't be asked, a clock that was never put is taken to go on so.

        Raises:
            Spoiled: it showed that twice, or can't be asked.
        """
        plain = instant.astimezone(UTC).replace(tzinfo=None)
        seconds = (plain - _EPOCH) // _SECOND
        offsets = [span.offset for span in self._spans(plain.year) if span.start <= seconds < span.end]
        if not offsets:
            offsets = list(self._offsets())
        if len(offsets) != 1:
            raise Spoiled("lies where the database's time zone is not known; give it without an offset")
        shown = plain + timedelta(seconds=offsets[0])
        if len(self._instants(seconds + offsets[0], shown.year)) > 1:
            raise Spoiled(_TWICE)
        return shown

    def _instants(self, wall: int, year: int) -> set[int]:
        return {wall - s.offset for s in self._spans(year) if s.start <= wall - s.offset < s.end}

    def _spans(self, year: int) -> tuple[_Span, ...]:
        if year not in self._years:
            self.learn([year])
        return self._years[year]

    def _bounds(self, year: int) -> tuple[int, int]:
        start = (datetime(year, 1, 1) - _EPOCH) // _SECOND - _MARGIN_S
        end = start + 366 * _DAY_S + 2 * _MARGIN_S
        if self._first is not None and self._last is not None:
            start, end = (min(max(point, self._first), self._last) for point in (start, end))
        return start, end

    def _changes(self, offsets: dict[int, int]) -> dict[int, int]:
        """Return the instants between those of ``offsets`` at which the clock was put, with the offset from then on."""
        open_ = [(a, b) for a, b in pairwise(offsets) if offsets[a] != offsets[b]]
        known = dict(offsets)
        found: dict[int, int] = {}
        while open_:
            found |= {b: known[b] for a, b in open_ if b - a == 1}
            middles = {(a, b): (a + b) // 2 for a, b in open_ if b - a > 1}
            if not middles:
                break
            known |= dict(zip(middles.values(), self._ask(list(middles.values())), strict=True))
            halves = [half for (a, b), middle in middles.items() for half in ((a, middle), (middle, b))]
            open_ = [(a, b) for a, b in halves if known[a] != known[b]]
        return dict(sorted(found.items()))
