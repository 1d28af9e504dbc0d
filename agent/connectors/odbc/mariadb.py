"""MariaDB and MySQL by MariaDB's driver."""

from __future__ import annotations

import contextlib
import operator
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, Literal

import pyodbc

from agent.connectors.base import Column, ColumnType
from agent.connectors.odbc import types
from agent.connectors.odbc.clock import Clock
from agent.connectors.odbc.dialects import (
    UNLIMITED,
    Argument,
    Dialect,
    Invocation,
    Query,
    Routine,
    given,
    mismatch,
    out_names,
    plain_time,
)
from agent.connectors.odbc.metadata import Described, describe
from agent.connectors.odbc.self_commits import IMPLICIT_COMMITS
from agent.connectors.odbc.sqlstates import diagnose
from agent.connectors.odbc.statements import Statement, Syntax, bare, first_word, split_name, words
from agent.connectors.odbc.types import Field
from agent.errors import SourceFailed
from agent.settings import ProcedureOperation, SqlOperation

SQL_INTEGER: Final = 4
_AS_TEXT: Final = (
    SQL_INTEGER,  # read as a signed one, INT UNSIGNED would turn negative
    7,  # FLOAT: the driver widens it to digits the database never had
    91,  # dates and times lose fractions, and become null where they are zero
    92,
    93,
)
_TEXTS: Final = (1, 12, -1, -8, -9, -10)  # as text of the driver they would end at U+0000

_EPOCH: Final = date(1970, 1, 1)
_INSTANTS: Final = (2**31, 2**32 - 1)  # where TIMESTAMP ends: before the first, since MariaDB 11.5 with the second
_YEAR_S: Final = 31_556_952  # seconds, on average
_ALL_ROWS: Final = 2**64 - 1
_SECONDS: Final = len("2024-02-29T12:34:56")

_EXPLAINED: Final = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "REPLACE", "VALUES")

_NO_SAVEPOINT: Final = "1305"
_LASTING_TABLES: Final = """
SELECT t.TABLE_NAME, t.ENGINE
FROM information_schema.TABLES t JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE
WHERE t.TABLE_SCHEMA = COALESCE(?, DATABASE()) AND t.TABLE_TYPE = 'BASE TABLE' AND e.TRANSACTIONS <> 'YES'
"""
_ENGINE: Final = """
SELECT t.ENGINE, e.TRANSACTIONS
FROM information_schema.TABLES t LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE
WHERE t.TABLE_SCHEMA = COALESCE(?, DATABASE()) AND t.TABLE_NAME = ?
"""

_READERS: Final[dict[str, tuple[ColumnType, types.Reader]]] = {
    "date": ("date", types.read_date),
    "datetime": ("datetime", types.read_datetime),
    "time": ("time", types.read_time),
    "float": ("number", types.read_number),
}


class MariaDB(Dialect):
    """
    MariaDB and MySQL.

    Sessions keep the server's time zone. TIMESTAMP arrives without it, and is turned into the instant that it is;
    a SELECT that only reads hands over the instant itself.
    OUT parameters come back as the last row set.
    """

    name = "mariadb"
    encoding = "SELECT @@character_set_database"
    syntax = Syntax(backslash=True, hash=True, backtick=True)
    tried = True
    refuses_writes = True
    buffering = "the driver holds a whole result in memory before its first row"
    implicit_commits = IMPLICIT_COMMITS
    arrow = True
    number = "SELECT CONNECTION_ID()"
    stop = "KILL QUERY {}"
    spoils = ("JSON is a text to MariaDB and arrives as a string",)

    def configure(self, connection: pyodbc.Connection) -> None:
        super().configure(connection)
        connection.maxwrite = UNLIMITED
        for code in (*_AS_TEXT, *_TEXTS):
            connection.add_output_converter(code, operator.methodcaller("decode"))
        row = connection.execute(f"SELECT @@SESSION.time_zone, FROM_UNIXTIME({_INSTANTS[0]}) IS NULL").fetchone()
        assert row is not None  # noqa: S101 # a SELECT without FROM has one row
        self._zone = str(row[0])
        self._read_only = False
        self._untouched: set[str] = set()  # statements that are run in their own words
        last = _INSTANTS[0] - 1 if int(row[1]) else _INSTANTS[1]
        self._clock = Clock(self._offsets, first=0, last=last)
        # All of them now: while the row sets of a procedure come, nothing else can be asked.
        self._clock.learn(range(_EPOCH.year, _EPOCH.year + last // _YEAR_S + 1))

    def begin(self, *, read_only: bool, timeout_s: float) -> None:
        self._read_only = read_only
        super().begin(read_only=read_only, timeout_s=timeout_s)

    def beginning(self, *, read_only: bool, timeout_s: float) -> list[str]:
        # The zone again, as a procedure may have left another.
        zone = self._zone.replace("'", "''")
        return [
            f"SET SESSION max_statement_time = {timeout_s:.3f}, SESSION time_zone = '{zone}'",
            "START TRANSACTION READ ONLY" if read_only else "START TRANSACTION",
        ]

    def bind(self, value: Any) -> Any:
        if isinstance(value, datetime) and value.tzinfo is not None:
            value = self._clock.wall(value)
        return plain_time(super().bind(value))

    def field(self, column: Described) -> Field:
        if column.code == SQL_INTEGER:
            return Field(Column(column.name, "integer", column.source_type), types.read_integer)
        if column.source_type == "timestamp":
            return Field(Column(column.name, "datetime", column.source_type), self._instant)
        if column.source_type not in _READERS:
            return types.plain_field(column)
        kind, read = _READERS[column.source_type]
        return Field(Column(column.name, kind, column.source_type), read)

    def query(self, statement: Statement, values: Sequence[Any]) -> Query:
        columns = self._with_instants(statement.sql, values)
        if not columns:
            return super().query(statement, values)
        names = [f"c{i}" for i in range(len(columns))]
        selected = [
            f"UNIX_TIMESTAMP({name})" if column.source_type == "timestamp" else name
            for name, column in zip(names, columns, strict=True)
        ]
        sql = self.around(statement.sql, names, ", ".join(selected))
        fields = [
            Field(Column(column.name, "datetime", "timestamp"), _read_epoch)
            if column.source_type == "timestamp"
            else self.field(column)
            for column in columns
        ]
        return Query(sql, values, tuple(fields))

    def around(self, sql: str, names: Sequence[str], selected: str) -> str:
        # A subquery keeps its order only if it has a LIMIT.
        return f"WITH q({', '.join(names)}) AS (({sql}\n) LIMIT {_ALL_ROWS}) SELECT {selected} FROM q"  # noqa: S608 # the operator's own statement

    def _with_instants(self, sql: str, values: Sequence[Any]) -> list[Described]:
        """
        Return the columns of a SELECT with timestamps in it, which local time might not tell; else nothing.

        Only where nothing can be written: asked for its columns, a statement may run the functions in it.
        """
        if not self._read_only or self._clock.steady or sql in self._untouched:
            return []
        if first_word(sql, self.syntax) == "SELECT":
            with contextlib.suppress(pyodbc.Error):  # not to be put in brackets, or wrong: then in its own words
                columns = describe(self.connection.execute(f"({sql}\n) LIMIT 0", *values))
                if any(column.source_type == "timestamp" for column in columns):
                    return columns
        self._untouched.add(sql)
        return []

    def _instant(self, text: str) -> str:
        plain = types.read_datetime(text)
        instant = self._clock.utc(datetime.fromisoformat(plain[:_SECONDS]))
        return f"{instant.isoformat()[:_SECONDS]}{plain[_SECONDS:]}Z"

    def _offsets(self, instants: Sequence[int]) -> list[int]:
        ahead = ", ".join(f"TIMESTAMPDIFF(SECOND, '{_EPOCH}', FROM_UNIXTIME({n})) - {n}" for n in instants)
        row = self.connection.execute(f"SELECT CONCAT_WS(',', {ahead})").fetchone()  # numbers of ours
        assert row is not None  # noqa: S101 # a SELECT without FROM has one row
        return [int(offset) for offset in row[0].split(",")]

    def explain(self, sql: str) -> str | None:
        return f"EXPLAIN {sql}" if first_word(sql, self.syntax) in _EXPLAINED else None

    def look_up(self, procedure: str) -> list[Routine]:
        schema, own_name = self._parts(procedure)
        where = "= ?" if schema else "= COALESCE(?, DATABASE())"
        cursor = self.connection.execute(
            "SELECT ROUTINE_SCHEMA, ROUTINE_NAME, ROUTINE_TYPE FROM information_schema.ROUTINES "  # noqa: S608 # no value in it
            f"WHERE ROUTINE_SCHEMA {where} AND ROUTINE_NAME = ?",
            schema,
            own_name,
        )
        routines = []
        for row_schema, name, kind in cursor.fetchall():
            cursor = self.connection.execute(
                "SELECT PARAMETER_NAME, LOWER(PARAMETER_MODE), DTD_IDENTIFIER, ORDINAL_POSITION "
                "FROM information_schema.PARAMETERS WHERE SPECIFIC_SCHEMA = ? AND SPECIFIC_NAME = ? "
                "AND ROUTINE_TYPE = ? ORDER BY ORDINAL_POSITION",
                row_schema,
                name,
                kind,
            )
            rows = cursor.fetchall()
            arguments = tuple(Argument(r[0], r[1], r[2]) for r in rows if int(r[3]) > 0)
            returns = next((r[2] for r in rows if int(r[3]) == 0), "")
            routines.append(Routine("function" if kind == "FUNCTION" else "procedure", arguments, returns))
        return routines

    def body(self, procedure: str) -> str:
        schema, name = self._parts(procedure)
        rows = self.connection.execute(
            "SELECT ROUTINE_DEFINITION FROM information_schema.ROUTINES "
            "WHERE ROUTINE_SCHEMA = COALESCE(?, DATABASE()) AND ROUTINE_NAME = ? AND ROUTINE_TYPE = 'PROCEDURE'",
            schema,
            name,
        ).fetchall()
        return str(rows[0][0]) if rows and rows[0][0] is not None else ""

    def never_once(self, operation: SqlOperation | ProcedureOperation) -> str:
        found = super().never_once(operation)
        if found:
            return found
        if isinstance(operation, SqlOperation):
            schema, text = None, operation.sql
        else:
            (schema, _), text = self._parts(operation.procedure), self.body(operation.procedure)
        rows = self.connection.execute(_LASTING_TABLES, schema).fetchall()
        used = {bare(word).lower() for word in words(text, self.syntax, fold=False) if word[0] not in "'\""}
        for table, engine in rows:
            if table.lower() in used:
                return f"it uses the table {table}, whose engine {engine} can't undo what was written"
        return ""

    def ledger_flaw(self, table: str) -> str:
        schema, name = self._parts(table)
        row = self.connection.execute(_ENGINE, schema, name).fetchone()
        if row is None or str(row[1]).upper() == "YES":
            return ""
        return f"its engine {row[0]} has no transactions; ALTER TABLE {table} ENGINE = InnoDB"

    def mark(self) -> None:
        # Any end of the transaction takes its savepoints away.
        self._savepoint = f"outhaul_{uuid.uuid4().hex}"
        self.connection.execute(f"SAVEPOINT {self._savepoint}")

    def unbroken(self) -> bool:
        try:
            self.connection.execute(f"RELEASE SAVEPOINT {self._savepoint}")
        except pyodbc.Error as exc:
            if diagnose(exc.args).native == _NO_SAVEPOINT:
                return False
            raise
        return True

    @staticmethod
    def _parts(name: str) -> tuple[str | None, str]:
        parts = [bare(part) for part in split_name(name)]
        return (parts[-2] if len(parts) > 1 else None), parts[-1]

    def fitting(self, operation: ProcedureOperation, routines: Sequence[Routine]) -> Routine | None:
        return next((routine for routine in routines if _fits(routine, operation)), None)

    def result_columns(self, sql: str, values: Sequence[Any]) -> list[Described] | None:
        if first_word(sql, self.syntax) != "SELECT":
            return None
        return describe(self.connection.execute(f"({sql}\n) LIMIT 0", *values))

    def invoke(self, operation: ProcedureOperation, values: Mapping[str, Any]) -> Invocation:
        routines = self.find(operation.procedure)
        if not routines:
            raise SourceFailed(
                f"there is no procedure or function {operation.procedure} that this account may run",
                touched=False,
                remedy="operation.procedure-missing",
            )
        routine = self.fitting(operation, routines)
        if routine is None:
            raise SourceFailed(mismatch(operation, routines), touched=False, remedy="operation.parameters")
        outputs = out_names(operation)
        if routine.kind == "function":
            ins = [values.get(name) for name, param in operation.params.items() if param.direction == "in"]
            name = bare(split_name(operation.procedure)[-1]).replace("`", "``")
            sql = f"SELECT {operation.procedure}({', '.join('?' * len(ins))}) AS `{name}`"
            return Invocation(Query(sql, ins), outputs, "row" if outputs else "rows")
        answer: Literal["rows", "last"] = "last" if outputs else "rows"
        sql = f"CALL {operation.procedure}({', '.join('?' * len(operation.params))})"
        return Invocation(Query(sql, given(operation, values)), outputs, answer)


def _read_epoch(value: Any) -> str:
    """Turn seconds since 1970 into RFC 3339, with the digits that they have."""
    seconds, _, fraction = str(value).partition(".")
    if not float(value):
        raise types.Spoiled("is a zero date")  # which is how TIMESTAMP keeps them
    shown = datetime.fromtimestamp(int(seconds), UTC).isoformat()[:_SECONDS]
    return f"{shown}.{fraction}Z" if fraction else f"{shown}Z"


def _fits(routine: Routine, operation: ProcedureOperation) -> bool:
    wanted = [param.direction for param in operation.params.values()]
    if routine.kind == "function":
        ins = [direction for direction in wanted if direction == "in"]
        return len(ins) == len(routine.arguments) and len(wanted) - len(ins) <= 1
    return wanted == [argument.direction for argument in routine.arguments]
