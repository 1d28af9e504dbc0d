"""The figures as a page of the documentation: what was measured, beside what, and every round of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bench.figures import HEAD, cells, machine, number
from bench.record import Measured

INTRODUCTION: Final = """\
# Performance

Written by `make bench`: {system}, Python {python}, {processors} processors, which load generators and
peers share. Absolute figures are of that machine; a **ratio** is of medians measured in turns in one run, and is what
travels. Where a goal is not met, it says NO; how each is measured and what is known about those stands in
[how it is measured](../explanation/performance.md).
"""


SHORT: Final = """
**This is a short form**: one round of small numbers. It shows that all of it works, and judges nothing.
"""


def page(found: Mapping[str, Measured], *, short: bool) -> str:
    """Return the page as Markdown."""
    figures = [figure for measured in found.values() for figure in measured.figures]
    lines = [INTRODUCTION.format(**machine())]
    if short:
        lines.append(SHORT)
    lines += _table(("what", *HEAD[1:-1]), [cells(figure)[:-1] for figure in figures])
    missing = sorted({line for measured in found.values() for line in measured.missing})
    lines += ["", *(f"- Not measured beside: {line}" for line in missing)] if missing else []
    lines.append("\n## Every round\n")
    rounds = [(" ".join(map(number, one.ours)), " ".join(map(number, one.peer))) for one in figures]
    rows = [(one.name, one.unit, *values) for one, values in zip(figures, rounds, strict=True)]
    lines += _table(("what", "unit", "outhaul", "peer"), rows)
    lines.append("\n## What it took\n")
    taken = [(subject, one.date, f"{one.took_s:.0f}") for subject, one in found.items()]
    lines += _table(("subject", "measured on", "seconds"), taken)
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
