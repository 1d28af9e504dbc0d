"""What a statement or a procedure returns, read off its cursor: row sets, OUT parameters, cursors left open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyodbc

from agent.connectors.base import Piece, Remark
from agent.connectors.odbc import types
from agent.connectors.odbc.dialects import Dialect, Invocation, Query
from agent.connectors.odbc.metadata import describe
from agent.connectors.odbc.results import Fetch, Shape, ahead, outputs, row_set, written_rows
from agent.connectors.odbc.types import Field
from agent.errors import SourceFailed, ValueUnreadable
from agent.leaving import Leaving
from agent.settings import ProcedureOperation


class Reader:
    """
    Reads what comes on one session.

    Args:
        execute: runs a statement; raises ``pyodbc.Error``.
        leaving: what of it may leave.
    """

    def __init__(self, dialect: Dialect, execute: Callable[[Query], pyodbc.Cursor], leaving: Leaving) -> None:
        self._dialect = dialect
        self._execute = execute
        self._leaving = leaving

    def statement(self, query: Query) -> Iterator[Piece]:
        """Run a statement and yield every row set."""
        shape = Shape(query.fields, self._leaving) if query.fields is not None else None
        sql = query.written(shape.leaves) if shape is not None and shape.leaves else None
        if shape is None or sql is None:
            yield from self._row_sets(self._execute(query), query.fields)
            return
        cursor = self._execute(Query(sql, query.values))
        fields = [field for field in shape.fields if field.column.type == "string"]
        yield from written_rows(partial(self._fetch, cursor, fields=fields), shape, self._dialect.remarks(shape.fields))

    def _row_sets(self, cursor: pyodbc.Cursor, fields: Sequence[Field] | None) -> Iterator[Piece]:
        """Yield every row set; ``fields`` where those of the first are known better than the driver tells."""
        while True:
            if cursor.description is not None:
                here = fields if fields is not None else self._fields(cursor)
                yield from self._row_set(partial(self._fetch, cursor, fields=here), here)
            # Always to the end: some databases tell errors only there.
            if not cursor.nextset():
                return
            fields = None

    def _fields(self, cursor: pyodbc.Cursor) -> list[Field]:
        return [self._dialect.field(column) for column in describe(cursor)]

    def _remarks(self, fields: Sequence[Field]) -> Iterator[Piece]:
        yield from (Remark(remark) for remark in self._dialect.remarks(fields))

    def _row_set(self, fetch: Fetch, fields: Sequence[Field]) -> Iterator[Piece]:
        yield from row_set(fetch, Shape(fields, self._leaving), self._dialect.remarks(fields))

    def _fetch(self, cursor: pyodbc.Cursor, count: int, fields: Sequence[Field]) -> list[Any]:
        try:
            rows: list[Any] = cursor.fetchmany(count)
            return rows
        except (ValueError, UnicodeDecodeError) as exc:
            # pyodbc makes dates and times and found parts that are none; it does not say where.
            doubtful = [f.column.name for f in fields if f.column.type in ("date", "datetime", "time", "string")]
            raise ValueUnreadable(
                f"column {' or '.join(doubtful) or '?'}: holds a value that can't be read; "
                "cast the column to text in the statement, or leave it out"
            ) from exc

    def procedure(self, operation: ProcedureOperation, call: Invocation) -> Iterator[Piece]:
        """Run a procedure and yield what it returns."""
        if call.answer == "rows":
            yield from self.statement(call.query)
            return
        cursor = self._execute(call.query)
        if call.answer == "last":
            yield from self._until_outputs(cursor, operation, call)
        elif call.answer == "cursors":
            names = [row[0] for row in cursor.fetchall() if row[0] is not None]
            for name in names:
                yield from self._opened(str(name))
        else:
            fields = call.query.fields if call.query.fields is not None else self._fields(cursor)
            row = cursor.fetchone()
            while cursor.nextset():
                pass
            yield from self._remarks([f for i, f in enumerate(fields) if i not in call.cursors])
            values = types.convert(fields, [row])[0] if row is not None else [None] * len(call.outputs)
            for i in call.cursors:
                if values[i] is not None:
                    yield from self._opened(str(values[i]))
            told = {name: values[i] for i, name in enumerate(call.outputs) if i not in call.cursors}
            yield outputs(operation, told, self._leaving)

    def _opened(self, name: str) -> Iterator[Piece]:
        """Yield the rows of a cursor that a procedure opened and left to us."""

        def fetch(count: int) -> list[Any]:
            return self._fetch(self._execute(Query(self._dialect.fetch(name, count), ())), count, fields)

        fields: list[Field] = []
        first = self._execute(Query(self._dialect.fetch(name, 0), ()))
        fields = self._fields(first)
        yield from self._row_set(fetch, fields)

    def _until_outputs(self, cursor: pyodbc.Cursor, operation: ProcedureOperation, call: Invocation) -> Iterator[Piece]:
        """Yield the row sets; the last set is the outputs, which shows only once nothing follows it."""
        held: tuple[list[Field], list[Any]] | None = None
        while True:
            if cursor.description is not None:
                if held is not None:
                    yield from self._row_set(ahead(held[1]), held[0])
                    held = None
                fields = self._fields(cursor)
                fetch = partial(self._fetch, cursor, fields=fields)
                start = fetch(2) if len(fields) == len(call.outputs) else []
                if len(start) == 1:
                    held = fields, start
                else:
                    yield from self._row_set(ahead(start, fetch), fields)
            if not cursor.nextset():
                break
        if held is None:
            raise SourceFailed(
                f"{operation.procedure}: returned no OUT parameters; declare those that it has, and no more"
            )
        fields, rows = held
        yield from self._remarks(fields)
        told = dict(zip(call.outputs, types.convert(fields, rows)[0], strict=True))
        yield outputs(operation, told, self._leaving)
