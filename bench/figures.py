"""What was measured, and how it is shown: one table, one JSON document."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """
    One thing measured with Outhaul and bare, in turns.

    Attributes:
        unit: of all values, such as ``rows/s``.
        ours: a value for each round.
        bare: the same, without Outhaul.
    """

    name: str
    unit: str
    ours: Sequence[float]
    bare: Sequence[float]

    @property
    def ratio(self) -> float:
        """The median of ours beside the median of bare; only ratios of one run may be compared."""
        return statistics.median(self.ours) / statistics.median(self.bare)

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": list(self.ours),
            "bare": list(self.bare),
            "median_ours": statistics.median(self.ours),
            "median_bare": statistics.median(self.bare),
            "ratio": self.ratio,
        }


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    return {"python": platform.python_version(), "system": platform.platform(), "processors": os.cpu_count()}


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a table for people."""
    lines = [("", "unit", "outhaul", "bare", "ratio", "range of outhaul")]
    for figure in figures:
        ours, bare = statistics.median(figure.ours), statistics.median(figure.bare)
        span = f"{_number(min(figure.ours))} to {_number(max(figure.ours))}"
        lines.append((figure.name, figure.unit, _number(ours), _number(bare), f"{figure.ratio:.2f}", span))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) if column > 1 else cell.ljust(width) for column, (cell, width) in enumerate(row))
        for row in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
