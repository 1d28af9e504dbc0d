"""Rows and outputs on their way out: in chunks, under unique names, and only what may leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from agent.connectors.base import Outputs, Piece, Remark, Rows, RowSet
from agent.connectors.odbc import types
from agent.connectors.odbc.types import Field
from agent.connectors.rows import RowEncoder, unique_names
from agent.errors import ValueUnreadable
from agent.leaving import Leaving
from agent.settings import ProcedureOperation
from protocol import limits

FIRST_ROWS: Final = 20  # rows fetched at first: the first chunk leaves early, and tells how wide the rows are
MOST_ROWS: Final = 5_000  # rows fetched at once at most
FULL: Final = 0.9  # of a chunk is aimed at, because rows differ in width
MOST_ROW_BYTES: Final = 16_777_216  # bytes; whoever turns rows into CSV holds one whole, several times

Fetch = Callable[[int], list[Any]]  # the next rows, at most so many; none at the end


def row_set(fetch: Fetch, fields: Sequence[Field], leaving: Leaving, remarks: Sequence[str]) -> Iterator[Piece]:
    """
    Yield a row set with its rows, each chunk fetched only when it is asked for; nothing where no column may leave.

    Raises:
        ValueUnreadable: a value, or a row, that can't be carried.
    """
    kept = [i for i, field in enumerate(fields) if leaving.lets(field.column.name)]
    if not kept:
        return
    some = len(kept) < len(fields)
    fields = [fields[i] for i in kept]
    # By the names before a suffix: a second `iban` is as private as the first.
    masked = [leaving.hides(field.column.name) for field in fields]
    fields = _uniquely_named(fields)
    yield RowSet(tuple(field.column for field in fields))
    for remark in remarks:
        yield Remark(remark)
    names = [field.column.name for field, hide in zip(fields, masked, strict=True) if hide]
    encoder = RowEncoder([field.column for field in fields], names)
    count = FIRST_ROWS
    while rows := fetch(count):
        if some:
            rows = [[row[i] for i in kept] for row in rows]
        done = 0
        for piece in _chunks(encoder, types.convert(fields, rows)):
            done += len(piece.data)
            yield piece
        count = max(1, min(MOST_ROWS, int(limits.CHUNK_BYTES * FULL * len(rows) / done)))


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


def _uniquely_named(fields: Sequence[Field]) -> list[Field]:
    names = unique_names(field.column.name for field in fields)
    return [
        field if field.column.name == name else Field(replace(field.column, name=name), field.read)
        for field, name in zip(fields, names, strict=True)
    ]


def _chunks(encoder: RowEncoder, rows: Sequence[Sequence[Any]]) -> Iterator[Rows]:
    """Yield ``rows`` encoded, in halves where they are more than a chunk."""
    piece = encoder.encode(rows)
    if len(piece.data) <= limits.CHUNK_BYTES or len(rows) == 1:
        if len(piece.data) > MOST_ROW_BYTES:
            raise ValueUnreadable(
                f"one row has {len(piece.data)} bytes, more than the {MOST_ROW_BYTES} that a row may have; "
                "select fewer columns, or the large one in parts"
            )
        yield piece
        return
    half = len(rows) // 2
    yield from _chunks(encoder, rows[:half])
    yield from _chunks(encoder, rows[half:])
