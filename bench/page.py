"""The figures as a page of the documentation: what was measured, beside what, and every round of it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Final

from bench.figures import HEAD, Figure, cells, machine, number

INTRODUCTION: Final = """\
# Performance

Written by `make bench` on {date}: {system}, Python {python}, {processors} processors, which load generators and
peers share. Absolute figures are of that machine; a **ratio** is of medians measured in turns in one run, and is what
travels. Where a goal is not met, it says NO; how each is measured and what is known about those stands in
[how it is measured](../explanation/performance.md).
"""


SHORT: Final = """
**This is a short form**: one round of small numbers. It shows that all of it works, and judges nothing.
"""


def page(figures: Sequence[Figure], *, short: bool) -> str:
    """Return the page as Markdown."""
    found = machine()
    lines = [INTRODUCTION.format(date=datetime.datetime.now(datetime.UTC).date(), **found)]
    if short:
        lines.append(SHORT)
    head = ("what", *HEAD[1:-1])
    lines.append(_row(head) + "\n" + _row(("---",) * len(head)))
    lines += [_row(cells(figure)[:-1]) for figure in figures]
    lines.append("\n## Every round\n")
    lines.append(_row(("what", "unit", "outhaul", "peer")) + "\n" + _row(("---",) * 4))
    for figure in figures:
        rounds = (" ".join(map(number, values)) for values in (figure.ours, figure.peer))
        lines.append(_row((figure.name, figure.unit, *rounds)))
    return "\n".join(lines) + "\n"


def _row(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
