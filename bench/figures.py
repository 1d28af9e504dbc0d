"""What was measured, with what it is held against and what was wanted: one table, one JSON document, one page."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from bench.peers import PeerMissing
from config.dev.databases import Postgres
from config.dev.demo.pair import Pair

T = TypeVar("T")

LONG_S: Final = 15.0  # seconds of a round of both: what is cold at the beginning of a longer one weighs nothing


@dataclass(frozen=True, slots=True)
class Goal:
    """
    What was wanted: of the ratio of ours to the peer's, or of ours where there is no peer.

    Attributes:
        of_ours: it is of ours also where a peer is shown, which then judges nothing.
    """

    way: Literal["at least", "at most"]
    value: float
    of_ours: bool = False

    def met(self, found: float) -> bool:
        """Whether a figure is as wanted."""
        return found >= self.value if self.way == "at least" else found <= self.value


@dataclass(frozen=True, slots=True)
class Figure:
    """
    One thing measured.

    Attributes:
        unit: of all values, such as ``rows/s``.
        ours: a value for each round.
        peer: the same of what it is held against, in turns in the same run; empty where there is none.
        beside: what that is, with its version; where ``peer`` is empty, it could not be had.
        goal: ``None`` where nothing was promised.
    """

    name: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    beside: str = ""
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """The median of ours beside the peer's; only ratios of one run may be compared."""
        if not self.peer or not (peer := statistics.median(self.peer)):
            return None
        return statistics.median(self.ours) / peer

    @property
    def met(self) -> bool | None:
        """Whether it is as wanted; ``None`` where nothing was, or the peer is missing."""
        if self.goal is None:
            return None
        if self.goal.of_ours or not self.beside:
            return self.goal.met(statistics.median(self.ours))
        return None if self.ratio is None else self.goal.met(self.ratio)

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": list(self.ours),
            "median_ours": statistics.median(self.ours),
            "beside": self.beside,
            "peer": list(self.peer),
            "median_peer": statistics.median(self.peer) if self.peer else None,
            "ratio": self.ratio,
            "goal": None if self.goal is None else asdict(self.goal),
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Lab:
    """
    What every subject is measured with.

    Attributes:
        running: broker and agent, with the operations of `bench.__main__`.
        database: the agent's, for who reads it without an agent.
        folder: for files of the run; wiped after it.
        short: whether only to show that it works, in some seconds.
        missing: a line for each program that ours are held against and that is not to be had here, with the reason.
    """

    running: Pair
    database: Postgres
    folder: Path
    short: bool
    missing: list[str] = field(default_factory=list)


def alternated(rounds: int, ours: Callable[[], T], peer: Callable[[], T]) -> tuple[list[T], list[T]]:
    """
    Run both in turns, so that what the machine does besides meets both alike.

    The first of each is not counted, unless it took long. A missing peer has no values.
    """
    found: tuple[list[T], list[T]] = ([], [])
    began = time.monotonic()
    first = ours(), _values(peer)
    if time.monotonic() - began > LONG_S:
        found[0].append(first[0])
        found[1].extend(first[1])
    while len(found[0]) < rounds:
        found[0].append(ours())
        found[1].extend(_values(peer))
    return found


def _values(peer: Callable[[], T]) -> list[T]:
    try:
        return [peer()]
    except PeerMissing:
        return []


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    return {"python": platform.python_version(), "system": platform.platform(), "processors": os.cpu_count()}


HEAD = ("", "unit", "outhaul", "peer", "", "ratio", "goal", "met", "range of outhaul")


def cells(figure: Figure) -> tuple[str, ...]:
    """Return a figure as a row under `HEAD`."""
    peer = number(statistics.median(figure.peer)) if figure.peer else ""
    goal = "" if figure.goal is None else f"{figure.goal.way} {figure.goal.value:g}"
    if figure.goal is not None and figure.goal.of_ours:
        goal += f" {figure.unit}".rstrip()
    met = "" if figure.met is None else "yes" if figure.met else "NO"
    span = f"{number(min(figure.ours))} to {number(max(figure.ours))}" if len(figure.ours) > 1 else ""
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    ours = number(statistics.median(figure.ours))
    return (figure.name, figure.unit, ours, peer, figure.beside, ratio, goal, met, span)


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a table for people."""
    lines = [HEAD, *map(cells, figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    right = {2, 3, 5}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float) -> str:
    """Return a value as people read it."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
