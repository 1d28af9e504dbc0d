"""
Rows and facts as tables for people.

Imported only where a table is printed: rich takes longer to load than everything else here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloud_broker.client.records import Column
from protocol.plain_text import plain

PIPE_WIDTH: Final = 1_000_000  # characters: in a file nothing is shortened
NARROW: Final = 8  # characters a column needs to be of use on a terminal
GAP: Final = 2  # characters between two columns
NUMBERS: Final = frozenset({"integer", "decimal", "number"})


class Number(str):
    """A JSON number as it was written, so that none is rounded on its way to the screen."""

    __slots__ = ()


class Tables:
    """Where tables go: a terminal, with colour unless NO_COLOR is set, or a file."""

    def __init__(self, file: TextIO | None = None) -> None:
        out = file or sys.stdout
        self._terminal = out.isatty()
        self._begun = False
        self._console = Console(
            file=out,
            force_terminal=self._terminal,
            width=None if self._terminal else PIPE_WIDTH,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def rows(self, columns: Sequence[Column], lines: Iterable[bytes]) -> int:
        """Print rows given as JSON texts; return how many there were."""
        cells = [
            [cell(row.get(column.name)) for column in columns]
            for row in (json.loads(line, parse_float=Number, parse_int=Number) for line in lines)
        ]
        self._print([column.name for column in columns], cells, [column.type in NUMBERS for column in columns])
        return len(cells)

    def output(self, raw: bytes) -> None:
        """Print outputs, given as the JSON text of an object."""
        outputs = json.loads(raw, parse_float=Number, parse_int=Number)
        self._print(["output", "value"], [[cell(name), cell(value)] for name, value in outputs.items()], [False, False])

    def facts(self, headers: Sequence[str], entries: Iterable[Sequence[Any]], *, whole: int = 0) -> None:
        """Print a table of short facts; the first ``whole`` columns are never shortened, because they are copied."""
        cells = [[cell(value, nothing="") for value in entry] for entry in entries]
        self._print(headers, cells, [False] * len(headers), whole)

    def pairs(self, entries: Iterable[tuple[str, Any]]) -> None:
        """Print names and values, one pair a line."""
        self._apart()
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in entries:
            table.add_row(Text(plain(name)), cell(value))
        self._console.print(table)

    def heading(self, text: str) -> None:
        """Print a line above a table."""
        self._apart()
        self._console.print(Text(text, style="bold"))
        self._begun = False

    def _print(
        self, headers: Sequence[str], cells: Sequence[Sequence[Text]], right: Sequence[bool], whole: int = 0
    ) -> None:
        names = [Text(plain(header)) for header in headers]
        widths = [max([name.cell_len, *(row[i].cell_len for row in cells)], default=0) for i, name in enumerate(names)]
        if self._terminal:
            room = self._console.width - GAP * (len(names) - 1) - sum(widths[:whole])
            if sum(widths[whole:]) > room and room < NARROW * (len(names) - whole):
                self._print_records(headers, cells)
                return
            widths = [*widths[:whole], *fitted(widths[whole:], room)]
        self._apart()
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
        for name, width, is_number in zip(names, widths, right, strict=True):
            table.add_column(
                name, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis", width=width
            )
        for row in cells:
            table.add_row(*row)
        self._console.print(table)

    def _apart(self) -> None:
        """An empty line between two tables; none below a heading."""
        if self._begun:
            self._console.print()
        self._begun = True

    def _print_records(self, headers: Sequence[str], cells: Sequence[Sequence[Text]]) -> None:
        """Print each row as lines of name and value: on this terminal the columns would be too narrow to read."""
        for number, row in enumerate(cells, 1):
            self.heading(f"row {number}")
            self.pairs(zip(headers, row, strict=True))


def fitted(widths: Sequence[int], room: int) -> list[int]:
    """Return widths that fit into ``room`` together: the narrow ones whole, the wide ones cut to the same."""
    left, most = room, max(widths, default=0)
    for number, width in enumerate(sorted(widths)):
        share = left // (len(widths) - number)
        if width > share:
            most = max(share, 1)
            break
        left -= width
    return [min(width, most) for width in widths]


def cell(value: Any, nothing: str = "NULL") -> Text:
    """Return one value as it stands in a table."""
    if isinstance(value, Text):
        return value
    if value is None:
        return Text(nothing, style="dim")
    return Text(plain(value if isinstance(value, str) else compact(value)))


def compact(value: Any) -> str:
    """Return a value as JSON in one line, numbers as they were written."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {compact(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(compact, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
