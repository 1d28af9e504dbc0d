"""PostgreSQL by psqlodbc."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from functools import partial
from typing import Any, Final

import pyodbc

from agent.connectors.base import Column, ColumnType
from agent.connectors.odbc import types
from agent.connectors.odbc.clock import Clock
from agent.connectors.odbc.dialects import Dialect, Invocation, Query, Routine, mismatch, plain_time
from agent.connectors.odbc.metadata import Described, describe
from agent.connectors.odbc.postgresql_lines import written
from agent.connectors.odbc.postgresql_routines import BODIES, FIND, invocation, pairs_of, routine_of
from agent.connectors.odbc.statements import Statement, Syntax, bare, first_word, split_name
from agent.connectors.odbc.types import Field, Spoiled
from agent.errors import SourceFailed
from agent.settings import ProcedureOperation

FETCH_ROWS: Final = 500  # rows the driver asks for at once
MOST_BYTES: Final = 67_108_864  # of a text, as the driver tells them; who reads decides what there is room for

_OPTIONS: Final = {
    "UseDeclareFetch": "1",  # a cursor on the server: else the driver holds the whole result in memory
    "Fetch": str(FETCH_ROWS),
    "BoolsAsChar": "0",
    "TextAsLongVarchar": "1",
    "UnknownsAsLongVarchar": "0",
    "LFConversion": "0",  # else "\n" arrives as "\r\n" on Windows
    "Protocol": "7.4-0",  # after an error the driver leaves the transaction to us
}


@dataclass(frozen=True, slots=True)
class _Reading:
    type: ColumnType
    cast: str = ""
    read: types.Reader | None = None


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")


# Cast to text in the statement itself: the driver turns infinity, years before Christ and years beyond 9999
# into other dates without a sign. Money would come as a float.
_TEXT: Final = "{}::text"
_DATE: Final = _Reading("date", _TEXT, types.read_date)
_TIMESTAMP: Final = _Reading("datetime", _TEXT, types.read_datetime)
_TIMESTAMPTZ: Final = _Reading("datetime", "({} AT TIME ZONE 'UTC')::text", types.read_utc)
_TIME: Final = _Reading("time", _TEXT, types.read_time)
_JSON: Final = _Reading("json", _TEXT, _one_line)
READINGS: Final[dict[str, _Reading]] = {
    "date": _DATE,
    "timestamp": _TIMESTAMP,
    "timestamp without time zone": _TIMESTAMP,
    "timestamptz": _TIMESTAMPTZ,
    "timestamp with time zone": _TIMESTAMPTZ,
    "time": _TIME,
    "time without time zone": _TIME,
    "money": _Reading("decimal", "{}::numeric"),
    "json": _JSON,
    "jsonb": _JSON,
    "uuid": _Reading("uuid", "", types.read_uuid),
}
_UNNAMED: Final = ("", "unknown")  # types that the driver has no name for
_SELECTS: Final = ("SELECT", "WITH", "VALUES", "TABLE")
_EXPLAINED: Final = (*_SELECTS, "INSERT", "UPDATE", "DELETE", "MERGE")

_OFFSETS: Final = """
SELECT string_agg(extract(epoch FROM to_timestamp(n)::timestamp - (to_timestamp(n) AT TIME ZONE 'UTC'))::int::text,
                  ',' ORDER BY i)
FROM unnest(?::bigint[]) WITH ORDINALITY AS u(n, i)
"""


class PostgreSQL(Dialect):
    """
    PostgreSQL.

    Sessions keep the time zone of the server or the account. A SELECT is described once and then run with casts
    around it where the driver would spoil a column; its rows stream from a cursor on the server.
    """

    name = "postgresql"
    encoding = "SHOW server_encoding"
    syntax = Syntax(dollar=True, nested=True)
    tried = True
    refuses_writes = True
    nul_in_text = False
    work_can_commit = False  # it refuses COMMIT within a transaction that a client began (2D000)
    arrow = True
    number = "SELECT pg_backend_pid()"
    stop = "SELECT pg_cancel_backend({})"
    buffering = f"rows stream from a cursor on the server, {FETCH_ROWS} at a time"
    spoils = (
        "in OUT parameters of procedures, in refcursors and in RETURNING: dates and timestamps that are infinite, "
        "before Christ or after the year 9999, and cents of large money; everywhere else these are refused by name",
    )

    def options(self) -> Mapping[str, str]:
        return _OPTIONS

    def options_for_arrow(self) -> Mapping[str, str]:
        # Room for texts without a bound: the driver gives them less, and cuts none.
        return {**_OPTIONS, "MaxLongVarcharSize": str(MOST_BYTES), "MaxVarcharSize": str(MOST_BYTES)}

    def configure(self, connection: pyodbc.Connection) -> None:
        super().configure(connection)
        connection.execute("SET DateStyle = 'ISO'")
        connection.commit()
        self._wrappable: set[str] = set()
        self._raw: set[str] = set()
        self._clocks: dict[str, Clock] = {}

    def beginning(self, *, read_only: bool, timeout_s: float) -> list[str]:
        mode = "SET TRANSACTION READ ONLY; " if read_only else ""
        return [f"{mode}SET LOCAL statement_timeout = {max(1, int(timeout_s * 1000))}"]

    def bind(self, value: Any) -> Any:
        return plain_time(super().bind(value))

    def field(self, column: Described) -> Field:
        reading = READINGS.get(column.source_type)
        if reading is None or column.source_type == "money":
            return types.plain_field(column)
        told = Column(column.name, reading.type, column.source_type)
        if reading is _TIMESTAMPTZ:
            return Field(told, _Instant(self._clock()))
        return Field(told, _spotted if reading.cast else reading.read)

    def _clock(self) -> Clock:
        # Asked each time, as whatever has just run may have set another zone.
        name = str(self.connection.execute("SELECT current_setting('TimeZone')").fetchval())
        if name not in self._clocks:
            self._clocks[name] = Clock(self._offsets)
        return self._clocks[name]

    def _offsets(self, instants: Sequence[int]) -> list[int]:
        found = self.connection.execute(_OFFSETS, f"{{{','.join(map(str, instants))}}}").fetchval()
        return [int(offset) for offset in found.split(",")]

    def remarks(self, fields: Sequence[Field]) -> list[str]:
        dates = [
            f.column.name
            for f in fields
            if f.column.type in ("date", "datetime") and (f.read is _spotted or isinstance(f.read, _Instant))
        ]
        money = [f.column.name for f in fields if f.column.source_type == "money" and f.column.type != "decimal"]
        told = []
        if dates:
            told.append(
                "PostgreSQL's ODBC driver changes dates that are infinite, before Christ or after 9999 in "
                f"{', '.join(dates)}; read them with a SELECT where they occur"
            )
        if money:
            told.append(f"PostgreSQL's ODBC driver rounds large money in {', '.join(money)}; read it with a SELECT")
        return told

    def query(self, statement: Statement, values: Sequence[Any]) -> Query:
        return self._query(statement.sql, values)

    def _query(self, sql: str, values: Sequence[Any]) -> Query:
        columns = self._plan(sql, values)
        if columns is None:
            return Query(sql, values)
        fields = tuple(_wrapped_field(column) for column in columns)
        return Query(_wrapped(sql, fields), values, fields, partial(written, sql, fields))

    def _plan(self, sql: str, values: Sequence[Any]) -> list[Described] | None:
        """
        Return the columns of a SELECT if it can be wrapped.

        Asked of the server each time: between two calls a table may have got another column.
        """
        if sql in self._raw or first_word(sql, self.syntax) not in _SELECTS:
            return None
        if sql not in self._wrappable:
            self.connection.execute("SAVEPOINT outhaul")
        try:
            columns = self._columns(sql, values)
        except pyodbc.Error:
            if sql in self._wrappable:
                raise
            # No query that can stand in brackets, or one that fails anyway: then with its own words.
            self.connection.execute("ROLLBACK TO SAVEPOINT outhaul")
            self._raw.add(sql)
            return None
        self._wrappable.add(sql)
        return columns or None

    def _columns(self, sql: str, values: Sequence[Any]) -> list[Described]:
        columns = describe(self.connection.execute(f"SELECT * FROM (\n{sql}\n) AS q LIMIT 0", *values))  # noqa: S608 # the operator's own statement
        if all(column.source_type not in _UNNAMED for column in columns):
            return columns
        # Joined on false nothing is run, and one row of types comes back.
        types_of = ", ".join(f"pg_typeof(q.c{i})::text" for i in range(len(columns)))
        names = ", ".join(f"c{i}" for i in range(len(columns)))
        row = self.connection.execute(
            f"SELECT {types_of} FROM (VALUES (1)) AS one(x) LEFT JOIN (\n{sql}\n) AS q({names}) ON false",  # noqa: S608 # the operator's own statement
            *values,
        ).fetchone()
        return [
            replace(column, source_type=found) if column.source_type in _UNNAMED else column
            for column, found in zip(columns, row, strict=True)
        ]

    def explain(self, sql: str) -> str | None:
        return f"EXPLAIN {sql}" if first_word(sql, self.syntax) in _EXPLAINED else None

    def look_up(self, procedure: str) -> list[Routine]:
        parts = [bare(part, fold="lower") for part in split_name(procedure)]
        schema = parts[-2] if len(parts) > 1 else ""
        rows = self.connection.execute(FIND, parts[-1], schema, schema).fetchall()
        return [routine_of(*row) for row in rows]

    def body(self, procedure: str) -> str:
        parts = [bare(part, fold="lower") for part in split_name(procedure)]
        schema = parts[-2] if len(parts) > 1 else ""
        rows = self.connection.execute(BODIES, parts[-1], schema, schema).fetchall()
        return "\n;".join(str(row[0]) for row in rows)

    def fitting(self, operation: ProcedureOperation, routines: Sequence[Routine]) -> Routine | None:
        return next((routine for routine in routines if pairs_of(routine, operation) is not None), None)

    def result_columns(self, sql: str, values: Sequence[Any]) -> list[Described] | None:
        return self._columns(sql, values) if first_word(sql, self.syntax) in _SELECTS else None

    def invoke(self, operation: ProcedureOperation, values: Mapping[str, Any]) -> Invocation:
        routines = self.find(operation.procedure)
        if not routines:
            raise SourceFailed(
                f"there is no procedure or function {operation.procedure} that this account may run; check the name, "
                "its schema and the account's rights",
                touched=False,
                remedy="operation.procedure-missing",
            )
        routine = self.fitting(operation, routines)
        pairs = pairs_of(routine, operation) if routine is not None else None
        if routine is None or pairs is None:
            raise SourceFailed(mismatch(operation, routines), touched=False, remedy="operation.parameters")
        return invocation(operation, routine, pairs, values, self._query)

    def fetch(self, cursor_name: str, count: int) -> str:
        quoted = cursor_name.replace('"', '""')
        return f'FETCH FORWARD {count} FROM "{quoted}"'


def _wrapped_field(column: Described) -> Field:
    reading = READINGS.get(column.source_type)
    if reading is None:
        return types.plain_field(column)
    return Field(Column(column.name, reading.type, column.source_type), reading.read)


def _wrapped(sql: str, fields: Sequence[Field]) -> str:
    names = [f"c{i}" for i in range(len(fields))]
    casts = [READINGS[f.column.source_type].cast if f.column.source_type in READINGS else "" for f in fields]
    selected = ", ".join((cast or "{}").format(f"q.{name}") for name, cast in zip(names, casts, strict=True))
    # A subquery with an ORDER BY keeps its order: it is not flattened, and nothing above it sorts or joins.
    return f"SELECT {selected} FROM (\n{sql}\n) AS q({', '.join(names)})"  # noqa: S608 # the operator's own statement


def _spotted(value: Any) -> Any:
    """Refuse what can be recognised of the driver's substitutes for dates it can't hold."""
    if isinstance(value, datetime) and (value.year == 1 or value.replace(microsecond=0) == _INFINITE):
        raise Spoiled("is infinite or before Christ")
    return value if isinstance(value, date | datetime | time) else _one_line(value)


@dataclass(frozen=True, slots=True)
class _Instant:
    """Reads what the driver made of a timestamptz: the time on the session's clock."""

    clock: Clock

    def __call__(self, value: Any) -> Any:
        return self.clock.utc(_spotted(value))


_INFINITE: Final = datetime(9999, 12, 31, 23, 59, 59)  # as the driver returns it
