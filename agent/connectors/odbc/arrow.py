"""
Rows as Arrow: one SELECT, read a batch at a time by arrow-odbc, in a session of its own beside the driver's.

The driver's session tells what columns there are; this one hands them over in whole buffers, which is two to five times
as fast as one value after the other. It is opened for the first such statement, and kept for the next.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import arrow_odbc
import pyarrow as pa
import pyodbc

from agent.connectors.base import Piece, Remark, Rows, RowSet
from agent.connectors.odbc.arrow_columns import Bound, Columns, Unbindable, bind, too_long, widened
from agent.connectors.odbc.arrow_lines import lines_of
from agent.connectors.odbc.dialects import VALUE_BYTES, Dialect
from agent.connectors.odbc.results import FAST_S, PIECE_BYTES, Shape
from agent.connectors.odbc.statements import Statement, marked, parse
from agent.errors import NotAllowed, ParametersInvalid
from agent.leaving import Leaving
from agent.settings import SqlOperation

BATCH_ROWS: Final = 5_000  # rows in one batch at most
# Of all columns' buffers together; only what values need of them is touched. Wide rows make smaller batches.
BUFFER_BYTES: Final = 67_108_864
END: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of a stream, as Arrow has it

_STATE: Final = re.compile(r"State: (\w{5}), Native error: (-?\d+), Message: (.*)", re.DOTALL)
_TOO_LARGE: Final = "too large to be written into the allocated buffer"


class ArrowSelect:
    """
    Statements' rows on their way out, one after the other.

    Args:
        dialect: of the driver's session, which is asked what there is to read.
        connection_string: secrets in their places.
        login_timeout_s: seconds to connect.
    """

    def __init__(self, dialect: Dialect, connection_string: str, login_timeout_s: float) -> None:
        self._dialect = dialect
        self._connection_string = connection_string
        self._login_timeout_s = login_timeout_s
        self._connection: arrow_odbc.Connection | None = None  # that waits for the next statement
        self._number = ""  # of the session, once it is known
        self._running = False

    @property
    def stop(self) -> str:
        """What another session says to have this one's statement stopped; "" where nothing does."""
        return self._dialect.stop.format(self._number) if self._running and self._number else ""

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
            raise _only_select()
        shape = Shape([self._dialect.field(column) for column in described], leaving)
        # An open transaction that does nothing would be ended by some databases while the rows are read.
        self._dialect.connection.rollback()
        if not shape.leaves:
            return
        bound = [_bound(self._dialect.name, name, values.get(name)) for name in statement.names]
        inner = marked(statement, self._dialect.syntax, [one.marker for one in bound])
        names = [f"c{i}" for i in range(len(described))]
        told = shape.begins.columns
        lines = lines_of(self._dialect.name, described, shape.leaves, told)
        if lines is not None:
            sql, most = self._dialect.around(inner, names, lines.row), lines.bytes
        else:
            columns = Columns(self._dialect.name, described, shape.leaves, told)
            sql, most = self._dialect.around(inner, names, columns.selected(names)), VALUE_BYTES
        with self._session(timeout_s) as connection:
            reader = _read(connection, sql, [one.text for one in bound], most)
            yield RowSet(told, "arrow")
            for remark in self._dialect.remarks(shape.fields):
                yield Remark(remark)
            if lines is not None:
                found = _batches(reader, lines.wide)
                yield from _stream(lines.schema, map(lines.read, _gathered(found)))
            else:
                schema = columns.schema(reader.schema)
                found = _batches(reader, columns.wide(reader.schema))
                yield from _stream(schema, (columns.read(batch, schema) for batch in found))

    def _statement(self, operation: SqlOperation) -> Statement:
        if not self._dialect.arrow:
            raise NotAllowed(
                f"rows do not come as Arrow from the dialect {self._dialect.name}; {_INSTEAD}", touched=False
            )
        statements = parse(operation.sql, self._dialect.syntax)
        if len(statements) != 1:
            raise _only_select()
        return statements[0]

    @contextlib.contextmanager
    def _session(self, timeout_s: float) -> Iterator[arrow_odbc.Connection]:
        """Lend the session for one statement; only after one that came to its end it is kept for the next."""
        connection, self._connection = self._begun(timeout_s), None
        self._running = True
        try:
            yield connection
            # A late cancel may end this instead; then the session is given up.
            with contextlib.suppress(arrow_odbc.Error):
                connection.rollback()
                self._connection = connection
        except BaseException:  # who reads no further as well: no transaction stays open until the session is collected
            with contextlib.suppress(arrow_odbc.Error):
                connection.rollback()
            raise
        finally:
            self._running = False

    def _begun(self, timeout_s: float) -> arrow_odbc.Connection:
        if self._connection is not None:
            # It may have died since.
            with contextlib.suppress(arrow_odbc.Error):
                self._begin(self._connection, timeout_s)
                return self._connection
        with _foreign_errors():
            connection = arrow_odbc.connect(
                self._connection_string,
                login_timeout_sec=max(1, round(self._login_timeout_s)),
                autocommit=False,
            )
            self._begin(connection, timeout_s)
            if self._dialect.number:
                found = next(_read(connection, self._dialect.number, [], VALUE_BYTES)).column(0)
                self._number = str(found[0].as_py())
        return connection

    def _begin(self, connection: arrow_odbc.Connection, timeout_s: float) -> None:
        for statement in self._dialect.beginning(read_only=True, timeout_s=timeout_s):
            connection.execute(statement)


def _read(
    connection: arrow_odbc.Connection, sql: str, parameters: Sequence[str | None], most: int
) -> arrow_odbc.BatchReader:
    with _foreign_errors():
        return connection.read_arrow_batches(
            sql,
            batch_size=BATCH_ROWS,
            parameters=list(parameters),
            max_bytes_per_batch=BUFFER_BYTES,
            max_text_size=most,
            max_binary_size=most,
            map_schema=widened,
            fetch_concurrently=False,  # the processors have other work: the database's, and the agent's
        )


def _stream(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[Rows]:
    """Yield a stream with its first batch as soon as that is there, then in pieces of many batches."""
    parts, size, rows, most = [schema.serialize()], 0, 0, 1
    for batch in batches:
        parts.append(batch.serialize())
        size, rows = size + len(parts[-1]), rows + batch.num_rows
        if size >= most:
            yield Rows(b"".join(parts), rows)
            parts, size, rows, most = [], 0, 0, PIECE_BYTES
    yield Rows(b"".join([*parts, END]), rows)


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield the first alone, because somebody waits for it, and then some at a time, as each read costs by itself."""
    some, rows, most, began = list[pa.RecordBatch](), 0, 1, 0.0
    for batch in batches:
        some.append(batch)
        rows += batch.num_rows
        now = time.monotonic()
        if rows >= most or now - began > FAST_S:
            yield some
            some, rows, most, began = [], 0, BATCH_ROWS, now
    if some:
        yield some


def _batches(reader: arrow_odbc.BatchReader, wide: Iterable[str]) -> Iterator[pa.RecordBatch]:
    """Yield what comes; ``wide`` are the columns whose values may be longer than there is room for."""
    while True:
        try:
            with _foreign_errors():
                batch = next(reader, None)
        except _TooLarge as exc:
            raise too_long(" or ".join(wide)) from exc
        if batch is None:
            return
        yield batch


class _TooLarge(Exception):
    """A value does not fit in its buffer."""


@contextlib.contextmanager
def _foreign_errors() -> Iterator[None]:
    """Turn what arrow-odbc raises into what pyodbc would raise, which is understood already."""
    try:
        yield
    except arrow_odbc.Error as exc:
        text = exc.message()
        if _TOO_LARGE in text:
            raise _TooLarge from exc
        found = _STATE.search(text)
        if found is None:
            raise pyodbc.Error("HY000", text) from exc
        state, native, message = found.groups()
        raise pyodbc.Error(state, f"{message} ({native}) (SQLExecute)") from exc


_INSTEAD: Final = "ask for them as NDJSON"


def _only_select() -> NotAllowed:
    return NotAllowed(
        f"rows come as Arrow from one SELECT and nothing beside it, which this operation is not; {_INSTEAD}",
        touched=False,
    )


def _bound(dialect: str, name: str, value: Any) -> Bound:
    try:
        return bind(dialect, name, value)
    except Unbindable as exc:
        raise ParametersInvalid(str(exc), touched=False) from exc
