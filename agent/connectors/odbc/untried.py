"""
SQL Server, Oracle and Db2, after their manuals.

The texts are tested, but no server has seen them yet; ``check`` and the reference say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import pyodbc

from agent.connectors.base import Column
from agent.connectors.odbc import types
from agent.connectors.odbc.dialects import Dialect, Invocation, Query, out_names
from agent.connectors.odbc.metadata import Described
from agent.connectors.odbc.statements import Syntax
from agent.connectors.odbc.types import Field
from agent.settings import Param, ProcedureOperation


class SQLServer(Dialect):
    """Microsoft SQL Server: one batch declares a variable for each OUT parameter and selects them last."""

    name = "sqlserver"
    transaction_id = "SELECT CURRENT_TRANSACTION_ID()"
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
    transaction_id = "SELECT DBMS_TRANSACTION.LOCAL_TRANSACTION_ID FROM dual"
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
