"""
What differs from database to database, one class each.

PostgreSQL, MariaDB and SQLite are tried against real servers. SQL Server, Oracle, DB2 and ``generic`` are
written after their manuals: their texts are tested, but no server has seen them yet.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
import pyodbc

from agent.connectors.base import Column, ColumnType
from agent.connectors.odbc import types
from agent.connectors.odbc.metadata import Described
from agent.connectors.odbc.statements import Statement, Syntax
from agent.connectors.odbc.types import Field
from agent.errors import SourceFailed
from agent.settings import Param, ProcedureOperation

INTEGER_MAX: Final = 2**63 - 1
UNLIMITED: Final = 2**31 - 1  # bytes bound at once: a driver's own pieces may spoil long texts (MariaDB)

_JSON: Final = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class Query:
    """A statement ready to run; ``fields`` where they are known better than the driver tells."""

    sql: str
    values: Sequence[Any]
    fields: tuple[Field, ...] | None = None


@dataclass(frozen=True, slots=True)
class Invocation:
    """
    A procedure's call ready to run.

    Attributes:
        query: what is executed.
        outputs: names of the OUT parameters, in the order in which they come back.
        answer: ``rows``: every row set is a row set; ``row``: the one row of the only set has the outputs;
            ``last``: the last set has them in its one row; ``cursors``: each row names a cursor to be read.
        cursors: positions in the row of outputs that name cursors to be read.
    """

    query: Query
    outputs: tuple[str, ...] = ()
    answer: Literal["rows", "row", "last", "cursors"] = "rows"
    cursors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter as the database's catalogue has it."""

    name: str
    direction: Literal["in", "out", "inout"]
    type: str


@dataclass(frozen=True, slots=True)
class Routine:
    """A procedure or function as the database's catalogue has it; ``returns`` is "" for procedures."""

    kind: Literal["procedure", "function"]
    arguments: tuple[Argument, ...]
    returns: str = ""
    returns_set: bool = False


class Dialect:
    """
    Any database: calls by ODBC's own escape, nothing assumed.

    One object for each session; ``connection`` is there after ``configure``.
    """

    name = "generic"
    syntax = Syntax(split=False)
    tried = False
    ends_late_statements = True  # whether begin(timeout_s=…) does; else the driver cancels them itself
    refuses_writes = False  # whether begin(read_only=True) makes the database refuse writes
    buffering = "whether the driver holds a whole result in memory is not known"
    ping = "SELECT 1"
    spoils: tuple[str, ...] = ()  # what the driver changes without a sign; told by `check`

    connection: pyodbc.Connection

    def options(self) -> Mapping[str, str]:
        """Return what is added to the connection string where the operator says nothing else."""
        return {}

    def configure(self, connection: pyodbc.Connection) -> None:
        """Set up a new session."""
        self.connection = connection

    def begin(self, *, read_only: bool, timeout_s: float) -> None:
        """Begin a transaction; the database itself ends a statement after ``timeout_s`` where it can."""

    def bind(self, value: Any) -> Any:
        """Return a parameter as the driver wants it."""
        if isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if -INTEGER_MAX <= value <= INTEGER_MAX else Decimal(value)
        if isinstance(value, uuid.UUID):
            return str(value)
        return value

    def bind_json(self, value: Any) -> str:
        """Return a ``json`` parameter as text."""
        return _JSON.encode(value).decode("utf-8")

    def field(self, column: Described) -> Field:
        """Return how a column is read."""
        return types.plain_field(column)

    def remarks(self, fields: Sequence[Field]) -> list[str]:
        """Return what the caller should know of a row set with these columns."""
        return []

    def query(self, statement: Statement, values: Sequence[Any]) -> Query:
        """Return how a statement of the operator is run."""
        return Query(statement.sql, values)

    def explain(self, sql: str) -> str | None:
        """Return a statement that has the database read ``sql`` without running it; ``None`` where there is none."""
        return None

    def find(self, procedure: str) -> list[Routine] | None:
        """Look a procedure up in the catalogue: all of that name; ``None`` where this can't be told."""
        return None

    def invoke(self, operation: ProcedureOperation, values: Mapping[str, Any]) -> Invocation:
        """
        Return how a procedure is called.

        Raises:
            SourceFailed: there is no such procedure, or its parameters differ from the operator's.
        """
        if any(param.direction != "in" for param in operation.params.values()):
            raise SourceFailed(
                f"{operation.procedure}: the dialect {self.name} can't return OUT parameters; have the procedure "
                "return them as a row set, or set the connection's dialect",
                touched=False,
            )
        marks = ", ".join("?" * len(operation.params))
        return Invocation(Query(f"{{CALL {operation.procedure}({marks})}}", given(operation, values)))

    def fetch(self, cursor_name: str, count: int) -> str:
        """Return the statement that fetches from a cursor that a procedure left open."""
        raise SourceFailed(f"the dialect {self.name} has no cursors to fetch from", touched=True)


def given(operation: ProcedureOperation, values: Mapping[str, Any]) -> list[Any]:
    """Return a value for each declared parameter in order, null for those that only come out."""
    return [values.get(name) for name in operation.params]


def out_names(operation: ProcedureOperation) -> tuple[str, ...]:
    """Return the names of the parameters that come out."""
    return tuple(name for name, param in operation.params.items() if param.direction != "in")


def mismatch(operation: ProcedureOperation, routines: list[Routine]) -> str:
    """Return the message for parameters that differ from those in the database."""
    ours = ", ".join(f"{name} {param.direction}" for name, param in operation.params.items()) or "none"
    theirs = " or ".join(
        "(" + ", ".join(f"{a.name or '?'} {a.direction} {a.type}" for a in routine.arguments) + ")"
        for routine in routines
    )
    return (
        f"{operation.procedure}: its parameters in the database are {theirs}, in the agent's file ({ours}); "
        "declare the same ones in the same order, with the same directions"
    )


def plain_time(value: Any) -> Any:
    """Return dates and times as text with all their digits: some drivers cut fractions of a second."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, date | time) else value


# --- SQLite -------------------------------------------------------------------------------------------


class SQLite(Dialect):
    """SQLite by Ch. Werner's driver, which knows 32-bit integers only: all but text and blobs is read as text."""

    name = "sqlite"
    syntax = Syntax(backtick=True, bracket=True)
    tried = True
    refuses_writes = True
    ends_late_statements = False
    buffering = "the driver holds a whole result in memory before its first row"
    spoils = (
        "REAL, and NUMERIC or DECIMAL that SQLite keeps as REAL: 15 significant digits",
        "text after a U+0000: lost",
        "a column without a declared type: takes the type of its first value",
    )
    _AS_TEXT: Final = (2, 3, 4, 5, 6, 7, 8, -5, -6, -7, -25, 91, 92, 93)

    def configure(self, connection: pyodbc.Connection) -> None:
        super().configure(connection)
        connection.maxwrite = UNLIMITED
        for code in self._AS_TEXT:
            connection.add_output_converter(code, operator.methodcaller("decode"))
        self._read_only: bool | None = None

    def begin(self, *, read_only: bool, timeout_s: float) -> None:
        if read_only is not self._read_only:
            self.connection.execute(f"PRAGMA query_only = {int(read_only)}")
            self._read_only = read_only

    def bind(self, value: Any) -> Any:
        bound = super().bind(value)
        return str(bound) if isinstance(bound, Decimal) else plain_time(bound)

    def field(self, column: Described) -> Field:
        word = column.source_type.lower().split("(")[0]
        kind, read = _SQLITE_WORDS.get(word) or _SQLITE_CODES.get(column.code) or (None, None)
        if kind is None:
            return types.plain_field(column)
        return Field(Column(column.name, kind, column.source_type), read)

    def remarks(self, fields: Sequence[Field]) -> list[str]:
        rounded = [field.column.name for field in fields if field.column.type in ("number", "decimal")]
        if not rounded:
            return []
        return [f"SQLite's ODBC driver hands over at most 15 significant digits: {', '.join(rounded)}"]

    def explain(self, sql: str) -> str | None:
        return f"EXPLAIN {sql}"

    def find(self, procedure: str) -> list[Routine] | None:
        return []


_Kind = tuple[ColumnType, types.Reader]
_SQLITE_WORDS: Final[dict[str, _Kind]] = {
    "decimal": ("decimal", types.read_decimal),
    "numeric": ("decimal", types.read_decimal),
    "json": ("json", types.read_json),
}
_SQLITE_INTEGER: Final[_Kind] = ("integer", types.read_integer)
_SQLITE_NUMBER: Final[_Kind] = ("number", types.read_number)
_SQLITE_CODES: Final[dict[int, _Kind]] = {
    4: _SQLITE_INTEGER,
    5: _SQLITE_INTEGER,
    -5: _SQLITE_INTEGER,
    -6: _SQLITE_INTEGER,
    -25: _SQLITE_INTEGER,
    6: _SQLITE_NUMBER,
    7: _SQLITE_NUMBER,
    8: _SQLITE_NUMBER,
    -7: ("boolean", types.read_boolean),
    91: ("date", types.read_date),
    92: ("time", types.read_time),
    93: ("datetime", types.read_datetime),
}


# --- not tried on a server ------------------------------------------------------------------------------


class SQLServer(Dialect):
    """Microsoft SQL Server: one batch declares a variable for each OUT parameter and selects them last."""

    name = "sqlserver"
    syntax = Syntax(nested=True, bracket=True, split=False)
    buffering = "the driver streams rows"

    def configure(self, connection: pyodbc.Connection) -> None:
        super().configure(connection)
        connection.add_output_converter(-155, types.read_datetimeoffset)

    def bind(self, value: Any) -> Any:
        bound = super().bind(value)
        # Its datetime parameters have no zone; text with one becomes a datetimeoffset.
        return bound.isoformat(sep=" ") if isinstance(bound, datetime) and bound.tzinfo is not None else bound

    def field(self, column: Described) -> Field:
        if column.source_type.lower() == "datetimeoffset":
            return Field(Column(column.name, "datetime", column.source_type))
        return super().field(column)

    def invoke(self, operation: ProcedureOperation, values: Mapping[str, Any]) -> Invocation:
        lines, arguments, selected, bound = ["SET NOCOUNT ON;"], [], [], []
        for number, (name, param) in enumerate(operation.params.items()):
            if param.direction == "in":
                arguments.append("?")
                continue
            start = " = ?" if param.direction == "inout" else ""
            lines.append(f"DECLARE @o{number} {_sql_server_type(param)}{start};")
            bound += [values.get(name)] if param.direction == "inout" else []
            arguments.append(f"@o{number} OUTPUT")
            selected.append(f"@o{number} AS [{name}]")
        bound += [values.get(name) for name, param in operation.params.items() if param.direction == "in"]
        lines.append(f"EXEC {operation.procedure} {', '.join(arguments)}".rstrip() + ";")
        if selected:
            lines.append(f"SELECT {', '.join(selected)};")
        query = Query("\n".join(lines), bound)
        return Invocation(query, out_names(operation), "last" if selected else "rows")


def _sql_server_type(param: Param) -> str:
    if param.type == "decimal":
        return f"decimal({param.precision or 38}, {param.scale if param.scale is not None else 10})"
    if param.type == "string" and param.max_length:
        return f"nvarchar({param.max_length})" if param.max_length <= 4000 else "nvarchar(max)"
    return _SQL_SERVER_TYPES[param.type]


_SQL_SERVER_TYPES: Final = {
    "string": "nvarchar(max)",
    "integer": "bigint",
    "number": "float",
    "boolean": "bit",
    "date": "date",
    "datetime": "datetimeoffset(7)",
    "time": "time(7)",
    "binary": "varbinary(max)",
    "json": "nvarchar(max)",
    "uuid": "uniqueidentifier",
}


class Oracle(Dialect):
    """Oracle 12c and later: a block that returns its OUT parameters as an implicit result, last."""

    name = "oracle"
    ping = "SELECT 1 FROM dual"
    refuses_writes = True
    syntax = Syntax(split=False)
    buffering = "the driver streams rows"

    def begin(self, *, read_only: bool, timeout_s: float) -> None:
        if read_only:
            self.connection.execute("SET TRANSACTION READ ONLY")

    def invoke(self, operation: ProcedureOperation, values: Mapping[str, Any]) -> Invocation:
        declared, arguments, selected, bound = [], [], [], []
        for number, (name, param) in enumerate(operation.params.items()):
            if param.direction == "in":
                arguments.append("?")
                continue
            start = " := ?" if param.direction == "inout" else ""
            declared.append(f"  o{number} {_ORACLE_TYPES[param.type]}{start};")
            bound += [values.get(name)] if param.direction == "inout" else []
            arguments.append(f"o{number}")
            selected.append(f'o{number} AS "{name}"')
        bound += [values.get(name) for name, param in operation.params.items() if param.direction == "in"]
        call = f"{operation.procedure}({', '.join(arguments)});" if arguments else f"{operation.procedure};"
        lines = [*(["DECLARE", *declared, "  answer SYS_REFCURSOR;"] if declared else []), "BEGIN", f"  {call}"]
        if selected:
            lines.append(f"  OPEN answer FOR SELECT {', '.join(selected)} FROM dual;")  # noqa: S608 # names of ours
            lines.append("  DBMS_SQL.RETURN_RESULT(answer);")
        query = Query("\n".join([*lines, "END;"]), bound)
        return Invocation(query, out_names(operation), "last" if selected else "rows")


_ORACLE_TYPES: Final = {
    "string": "VARCHAR2(32767)",
    "integer": "NUMBER(38)",
    "decimal": "NUMBER",
    "number": "BINARY_DOUBLE",
    "boolean": "NUMBER(1)",
    "date": "DATE",
    "datetime": "TIMESTAMP(9) WITH TIME ZONE",
    "time": "VARCHAR2(30)",
    "binary": "RAW(32767)",
    "json": "CLOB",
    "uuid": "VARCHAR2(36)",
}


class DB2(Dialect):
    """IBM Db2: calls without OUT parameters; row sets come back as they are."""

    name = "db2"
    ping = "VALUES 1"
    syntax = Syntax(nested=True, split=False)
    buffering = "the driver streams rows"
