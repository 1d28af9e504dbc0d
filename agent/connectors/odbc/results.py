"""Rows and outputs on their way out: in chunks, under unique names, and only what may leave."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from agent.connectors.base import Outputs, Piece, Remark, Rows, RowSet
from agent.connectors.odbc import types
from agent.connectors.odbc.dialects import Leaves
from agent.connectors.odbc.types import Field, Spoiled
from agent.connectors.rows import RowEncoder, unique_names
from agent.errors import ValueUnreadable
from agent.leaving import Leaving
from agent.settings import ProcedureOperation
from protocol import limits

FIRST_ROWS: Final = 20  # rows fetched at first: the first chunk leaves early, and tells how wide the rows are
MOST_ROWS: Final = 5_000  # rows fetched at once at most
PIECE_BYTES: Final = 4 * limits.CHUNK_BYTES  # of rows that come fast; each piece wakes agent and broker once
FAST_S: Final = 0.05  # seconds; a source that takes longer for a piece gives smaller ones, which its reader has sooner
FULL: Final = 0.9  # of a piece is aimed at, because rows differ in width
MOST_ROW_BYTES: Final = 16_777_216  # bytes; whoever turns rows into CSV holds one whole, several times

_FIRST: Final = operator.itemgetter(0)  # column of a row; character of a line
Fetch = Callable[[int], list[Any]]  # the next rows, at most so many; none at the end


class Shape:
    """
    What of a row set leaves.

    Attributes:
        leaves: its columns, under unique names.
        fields: the same, as they are read.
    """

    def __init__(self, fields: Sequence[Field], leaving: Leaving) -> None:
        kept = [i for i, field in enumerate(fields) if leaving.lets(field.column.name)]
        self._all = len(kept) == len(fields)
        names = unique_names(fields[i].column.name for i in kept)
        # By the names before a suffix: a second `iban` is as private as the first.
        self.leaves = [
            Leaves(i, name, leaving.hides(fields[i].column.name)) for i, name in zip(kept, names, strict=True)
        ]
        self.fields = [
            Field(replace(fields[one.position].column, name=one.name), fields[one.position].read) for one in self.leaves
        ]

    @property
    def begins(self) -> RowSet:
        """The beginning of the row set."""
        return RowSet(tuple(field.column for field in self.fields))

    def encoder(self) -> RowEncoder:
        """Return what writes its rows."""
        return RowEncoder(self.begins.columns, [one.name for one in self.leaves if one.hidden])

    def read(self, rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
        """Return what leaves of ``rows``, read; raises ``ValueUnreadable``."""
        if not self._all:
            rows = [[row[one.position] for one in self.leaves] for row in rows]
        return types.convert(self.fields, rows)


def row_set(fetch: Fetch, shape: Shape, remarks: Sequence[str]) -> Iterator[Piece]:
    """
    Yield a row set with its rows, each chunk fetched only when it is asked for; nothing where no column may leave.

    Raises:
        ValueUnreadable: a value, or a row, that can't be carried.
    """
    if shape.leaves:
        encoder = shape.encoder()
        yield from _pieces(fetch, shape, remarks, lambda rows: encoder.encode(shape.read(rows)))


def written_rows(fetch: Fetch, shape: Shape, remarks: Sequence[str]) -> Iterator[Piece]:
    """As ``row_set``, of rows that the database has written as ``Query.written`` says."""
    yield from _pieces(fetch, shape, remarks, partial(_lines, shape))


def _pieces(
    fetch: Fetch, shape: Shape, remarks: Sequence[str], encode: Callable[[Sequence[Any]], Rows]
) -> Iterator[Piece]:
    yield shape.begins
    for remark in remarks:
        yield Remark(remark)
    count, began = FIRST_ROWS, time.monotonic()
    while rows := fetch(count):
        most = PIECE_BYTES if time.monotonic() - began < FAST_S else limits.CHUNK_BYTES
        done = 0
        for piece in _cut(encode, rows):
            done += len(piece.data)
            yield piece
        count, began = max(1, min(MOST_ROWS, int(most * FULL * len(rows) / done))), time.monotonic()


def _lines(shape: Shape, rows: Sequence[Any]) -> Rows:
    lines = list(map(_FIRST, rows))
    # By their first characters: to look for them in the whole text was a twelfth of all that the process did.
    if set(map(_FIRST, lines)) != {"{"}:
        raise _refused(shape, next(line for line in lines if not line.startswith("{")))
    return Rows("\n".join(lines).encode() + b"\n", len(rows))


def _refused(shape: Shape, line: str) -> ValueUnreadable:
    number, _, value = line.partition(" ")
    field = shape.fields[int(number)]
    try:
        types.convert([field], [[value]])
    except ValueUnreadable as exc:
        return exc
    return types.unreadable(field.column, Spoiled("can't be carried"))


def ahead(rows: list[Any], then: Fetch | None = None) -> Fetch:
    """Return a fetch that gives ``rows``, which were taken to look at, before those that ``then`` gives."""

    def fetch(count: int) -> list[Any]:
        if rows:
            taken = rows[:count]
            del rows[:count]
            return taken
        return then(count) if then is not None else []

    return fetch


def outputs(operation: ProcedureOperation, values: Mapping[str, Any], leaving: Leaving) -> Outputs:
    """Return those OUT parameters that may leave, as JSON values of their declared types."""
    return Outputs(
        leaving.outputs(
            {name: types.output(name, operation.params[name].type, value) for name, value in values.items()}
        )
    )


def _cut(encode: Callable[[Sequence[Any]], Rows], rows: Sequence[Any]) -> Iterator[Rows]:
    """Yield ``rows`` encoded, in halves where they are more than a piece."""
    piece = encode(rows)
    if len(piece.data) <= PIECE_BYTES or len(rows) == 1:
        if len(piece.data) > MOST_ROW_BYTES:
            raise ValueUnreadable(
                f"one row has {len(piece.data)} bytes, more than the {MOST_ROW_BYTES} that a row may have; "
                "select fewer columns, or the large one in parts"
            )
        yield piece
        return
    half = len(rows) // 2
    yield from _cut(encode, rows[:half])
    yield from _cut(encode, rows[half:])
