"""SQLite by Ch. Werner's driver."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import pyodbc

from agent.connectors.base import Column, ColumnType
from agent.connectors.odbc import types
from agent.connectors.odbc.dialects import UNLIMITED, Dialect, Routine, plain_time
from agent.connectors.odbc.metadata import Described, describe
from agent.connectors.odbc.statements import Syntax, first_word
from agent.connectors.odbc.types import Field

LOCK_WAIT_MS: Final = 2000  # for another's lock; the driver's default is 100 s, in which it hears no cancel


class SQLite(Dialect):
    """SQLite; its driver knows 32-bit integers only: all but text and blobs is read as text."""

    name = "sqlite"
    encoding = "PRAGMA encoding"
    syntax = Syntax(backtick=True, bracket=True)
    tried = True
    refuses_writes = True
    ends_late_statements = False
    # And on Linux it throws the cursor's own rows away meanwhile, which the session may be reading: never that one.
    stops_by_any = True
    work_can_commit = False  # it has no procedures
    arrow = True
    buffering = "the driver holds a whole result in memory before its first row"
    spoils = (
        "REAL, and NUMERIC or DECIMAL that SQLite keeps as REAL: 15 significant digits",
        "text after a U+0000: lost",
        "a column without a declared type: takes the type of its first value",
    )
    _AS_TEXT: Final = (2, 3, 4, 5, 6, 7, 8, -5, -6, -7, -25, 91, 92, 93)

    def options(self) -> Mapping[str, str]:
        return {"Timeout": str(LOCK_WAIT_MS)}

    def configure(self, connection: pyodbc.Connection) -> None:
        super().configure(connection)
        connection.maxwrite = UNLIMITED
        for code in self._AS_TEXT:
            connection.add_output_converter(code, operator.methodcaller("decode"))
        self._read_only: bool | None = None

    def begin(self, *, read_only: bool, timeout_s: float) -> None:
        if read_only is not self._read_only:
            super().begin(read_only=read_only, timeout_s=timeout_s)
            self._read_only = read_only

    def beginning(self, *, read_only: bool, timeout_s: float) -> list[str]:
        return [f"PRAGMA query_only = {int(read_only)}"]

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

    def result_columns(self, sql: str, values: Sequence[Any]) -> list[Described] | None:
        if first_word(sql, self.syntax) not in ("SELECT", "WITH", "VALUES"):
            return None
        described = f"SELECT * FROM ({sql}\n) LIMIT 0"  # noqa: S608 # the operator's own statement
        return describe(self.connection.execute(described, *values))

    def around(self, sql: str, names: Sequence[str], selected: str) -> str:
        return f"WITH q({', '.join(names)}) AS (\n{sql}\n) SELECT {selected} FROM q"  # noqa: S608 # the operator's own statement

    def look_up(self, procedure: str) -> list[Routine] | None:
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
