"""
Rows as Arrow: one SELECT, read a batch at a time by arrow-odbc, in a session of its own beside the driver's.

The driver's session tells what columns there are; this one hands them over in whole buffers, which is two to five times
as fast as one value after the other. It lives only as long as its statement.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import arrow_odbc
import pyarrow as pa
import pyodbc

from agent.connectors.base import Piece, Remark, Rows, RowSet
from agent.connectors.odbc.arrow_columns import Bound, Columns, Unbindable, bind, widened
from agent.connectors.odbc.dialects import Dialect
from agent.connectors.odbc.results import Shape
from agent.connectors.odbc.statements import Statement, marked, parse
from agent.errors import NotAllowed, ParametersInvalid, ValueUnreadable
from agent.leaving import Leaving
from agent.settings import SqlOperation

BATCH_ROWS: Final = 5_000  # rows in one batch at most
VALUE_BYTES: Final = 32_766  # bytes of a text or binary at most; each row in the buffers has room for so many
BUFFER_BYTES: Final = 16_777_216  # bytes of all columns' buffers; fewer rows go into a batch where they are wide
END: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of a stream, as Arrow has it

_STATE: Final = re.compile(r"State: (\w{5}), Native error: (-?\d+), Message: (.*)", re.DOTALL)
_TOO_LARGE: Final = "too large to be written into the allocated buffer"


class ArrowSelect:
    """
    One statement's rows on their way out.

    Args:
        dialect: of the driver's session, which is asked what there is to read.
        connection_string: secrets in their places.
        login_timeout_s: seconds to connect.
    """

    def __init__(self, dialect: Dialect, connection_string: str, login_timeout_s: float) -> None:
        self._dialect = dialect
        self._connection_string = connection_string
        self._login_timeout_s = login_timeout_s
        self._number = ""  # of the session, once it is known

    @property
    def stop(self) -> str:
        """What another session says to have this one's statement stopped; "" where nothing does."""
        return self._dialect.stop.format(self._number) if self._number else ""

    def pieces(
        self, operation: SqlOperation, values: Mapping[str, Any], leaving: Leaving, timeout_s: float
    ) -> Iterator[Piece]:
        """
        Yield one row set as a stream of Arrow's IPC format; nothing where no column may leave.

        Args:
            values: of the parameters, as the dialect binds them.
            timeout_s: after which the database ends the statement, where it can.

        Raises:
            NotAllowed: it is not one SELECT.
            ParametersInvalid: a value that can't be bound as a text.
            ValueUnreadable: a value that can't be carried.
            pyodbc.Error: as the driver's session would raise it.
        """
        statement = self._statement(operation)
        described = self._dialect.result_columns(statement.sql, [values.get(name) for name in statement.names])
        if described is None:
            raise _only_select(operation)
        shape = Shape([self._dialect.field(column) for column in described], leaving)
        # An open transaction that does nothing would be ended by some databases while the rows are read.
        self._dialect.connection.rollback()
        if not shape.leaves:
            return
        columns = Columns(self._dialect.name, described, shape.leaves, shape.begins.columns)
        bound = [_bound(self._dialect.name, name, values.get(name)) for name in statement.names]
        inner = marked(statement, self._dialect.syntax, [one.marker for one in bound])
        names = [f"c{i}" for i in range(len(described))]
        sql = self._dialect.around(inner, names, columns.selected(names))
        with self._session(timeout_s) as connection:
            reader = _read(connection, sql, [one.text for one in bound])
            schema = columns.schema(reader.schema)
            yield RowSet(shape.begins.columns, "arrow")
            for remark in self._dialect.remarks(shape.fields):
                yield Remark(remark)
            yield Rows(schema.serialize().to_pybytes(), 0)
            for batch in _batches(reader, columns):
                yield Rows(memoryview(columns.read(batch, schema).serialize()), batch.num_rows)
            yield Rows(END, 0)

    def _statement(self, operation: SqlOperation) -> Statement:
        statements = parse(operation.sql, self._dialect.syntax)
        if len(statements) != 1 or not self._dialect.around:
            raise _only_select(operation)
        return statements[0]
