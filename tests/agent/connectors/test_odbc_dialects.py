"""
What is written for each database, and what its errors mean.

SQL Server, Oracle and Db2 have not been tried on a server: their texts are kept as they are here, so that
a change is a decision.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from agent.connectors.base import Column
from agent.connectors.odbc import types
from agent.connectors.odbc.dialects import Dialect
from agent.connectors.odbc.driver import DIALECTS
from agent.connectors.odbc.metadata import Described
from agent.connectors.odbc.sqlstates import TIMED_OUT, UNAVAILABLE, diagnose
from agent.connectors.odbc.untried import DB2, Oracle, SQLServer
from agent.errors import SourceFailed, ValueUnreadable
from agent.settings import OdbcConnection, Operation, ProcedureOperation
from agent.settings_reader import read

PARAMS: dict[str, dict[str, Any]] = {
    "customer": {"type": "string", "max_length": 20},
    "total": {"type": "decimal", "precision": 12, "scale": 2, "direction": "inout"},
    "order_no": {"type": "string", "max_length": 30, "direction": "out"},
    "at": {"type": "datetime", "direction": "out"},
}
VALUES = {"customer": "C042", "total": "1.50"}

SQL_SERVER = """\
SET NOCOUNT ON;
DECLARE @o1 decimal(12, 2) = ?;
DECLARE @o2 nvarchar(30);
DECLARE @o3 datetimeoffset(7);
EXEC dbo.create_order ?, @o1 OUTPUT, @o2 OUTPUT, @o3 OUTPUT;
SELECT @o1 AS [total], @o2 AS [order_no], @o3 AS [at];"""

ORACLE = """\
DECLARE
  o1 NUMBER := ?;
  o2 VARCHAR2(32767);
  o3 TIMESTAMP(9) WITH TIME ZONE;
  answer SYS_REFCURSOR;
BEGIN
  dbo.create_order(?, o1, o2, o3);
  OPEN answer FOR SELECT o1 AS "total", o2 AS "order_no", o3 AS "at" FROM dual;
  DBMS_SQL.RETURN_RESULT(answer);
END;"""


def procedure(params: dict[str, Any]) -> ProcedureOperation:
    found = read({"connection": "erp", "procedure": "dbo.create_order", "params": params}, Operation)
    assert isinstance(found, ProcedureOperation)
    return found


@pytest.mark.parametrize(
    ("dialect", "text", "bound"),
    [(SQLServer(), SQL_SERVER, ["1.50", "C042"]), (Oracle(), ORACLE, ["1.50", "C042"])],
    ids=["sqlserver", "oracle"],
)
def test_a_call_with_out_parameters(dialect: Dialect, text: str, bound: list[str]) -> None:
    call = dialect.invoke(procedure(PARAMS), VALUES)
    assert call.query.sql == text
    assert list(call.query.values) == bound
    assert call.outputs == ("total", "order_no", "at")
    assert call.answer == "last"


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (SQLServer(), "SET NOCOUNT ON;\nEXEC dbo.create_order ?;"),
        (Oracle(), "BEGIN\n  dbo.create_order(?);\nEND;"),
        (DB2(), "{CALL dbo.create_order(?)}"),
        (Dialect(), "{CALL dbo.create_order(?)}"),
    ],
    ids=["sqlserver", "oracle", "db2", "generic"],
)
def test_a_call_without_out_parameters(dialect: Dialect, text: str) -> None:
    call = dialect.invoke(procedure({"customer": PARAMS["customer"]}), VALUES)
    assert (call.query.sql, list(call.query.values), call.answer) == (text, ["C042"], "rows")


@pytest.mark.parametrize("dialect", [DB2(), Dialect()], ids=["db2", "generic"])
def test_out_parameters_are_refused_where_they_would_be_lost(dialect: Dialect) -> None:
    with pytest.raises(SourceFailed, match="can't return OUT parameters") as caught:
        dialect.invoke(procedure(PARAMS), VALUES)
    assert not caught.value.touched


def test_every_dialect_of_the_settings_is_there_and_says_whether_it_was_tried() -> None:
    named = set(get_args(get_type_hints(OdbcConnection)["dialect"]))
    assert named == {"auto", *DIALECTS}
    assert {name for name, dialect in DIALECTS.items() if dialect.tried} == {"postgresql", "mariadb", "sqlite"}
    assert all(dialect.name == name for name, dialect in DIALECTS.items())


@pytest.mark.parametrize(
    ("billionths", "hours", "minutes", "text"),
    [
        (123_456_700, 5, 30, "2024-02-29T12:34:56.1234567+05:30"),
        (0, 0, 0, "2024-02-29T12:34:56Z"),
        (0, -3, -30, "2024-02-29T12:34:56-03:30"),
    ],
)
def test_sql_servers_datetimeoffset_keeps_its_seven_digits(
    billionths: int, hours: int, minutes: int, text: str
) -> None:
    raw = struct.pack("<hHHHHHIhh", 2024, 2, 29, 12, 34, 56, billionths, hours, minutes)
    assert types.read_datetimeoffset(raw) == text
    field = SQLServer().field(Described("at", str, "datetimeoffset", -155))
    assert field.column == Column("at", "datetime", "datetimeoffset")


def test_a_moment_with_a_zone_goes_to_sql_server_as_text() -> None:
    assert SQLServer().bind(datetime(2024, 2, 29, 12, tzinfo=UTC)) == "2024-02-29 12:00:00+00:00"


@pytest.mark.parametrize(
    ("declared", "value", "told"),
    [
        ("string", b"abc", "abc"),
        ("string", 5, "5"),
        ("integer", "5", 5),
        ("integer", 5.0, 5),
        ("decimal", 1.5, "1.5"),
        ("decimal", 7, "7"),
        ("number", "1.5", 1.5),
        ("number", float("nan"), "NaN"),
        ("number", float("-inf"), "-Infinity"),
        ("boolean", 1, True),
        ("boolean", "f", False),
        ("datetime", datetime(2024, 2, 29, 12, tzinfo=UTC), "2024-02-29T12:00:00Z"),
        ("binary", b"\x00\xff", "AP8="),
        ("json", '{"a": 1.5}', msgspec.Raw(b'{"a": 1.5}')),
        (
            "json",
            '{"a":\n0.1000000000000000055511151231257827}',
            msgspec.Raw(b'{"a": 0.1000000000000000055511151231257827}'),
        ),
        ("uuid", "6F1F1A2C-8F6B-4A6B-9C1D-0123456789AB", "6f1f1a2c-8f6b-4a6b-9c1d-0123456789ab"),
        ("integer", None, None),
    ],
)
def test_an_output_has_its_declared_type(declared: str, value: Any, told: Any) -> None:
    assert types.output("x", declared, value) == told


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("integer", 1.5),
        ("integer", "five"),
        ("decimal", "five"),
        ("boolean", 2),
        ("json", "{"),
        ("uuid", "x"),
        ("number", "five"),
    ],
)
def test_an_output_of_another_type_is_refused_by_name(declared: str, value: Any) -> None:
    with pytest.raises(ValueUnreadable, match="output x: "):
        types.output("x", declared, value)


ERRORS = [
    # what pyodbc raised; SQLSTATE, native code, kind, message
    (
        ("57014", "[57014] ERROR: canceling statement due to statement timeout;\nError while executing the query (1) (SQLExecDirectW)"),  # noqa: E501 # a driver's own text
        ("57014", "1", TIMED_OUT, "canceling statement due to statement timeout"),
    ),
    (
        ("P0001", "[P0001] ERROR: Customer blocked;\nError while executing the query (1) (SQLExecDirectW)"),
        ("P0001", "1", "", "Customer blocked"),
    ),
    (
        ("45000", "[45000] [ma-3.1.15][10.11.19-MariaDB]Customer [C042] blocked (31001) (SQLExecDirectW)"),
        ("45000", "31001", "", "Customer [C042] blocked"),
    ),
    (
        ("HY018", "[HY018] [ma-3.1.15][10.11.19-MariaDB]Query execution was interrupted (max_statement_time exceeded) (1969) (SQLExecDirectW)"),  # noqa: E501 # a driver's own text
        ("HY018", "1969", TIMED_OUT, "Query execution was interrupted (max_statement_time exceeded)"),
    ),
    (
        ("HY000", "[HY000] [ma-3.1.15][10.11.19-MariaDB]Write error: Broken pipe (32) (5014) (SQLExecDirectW)"),
        ("HY000", "5014", UNAVAILABLE, "Write error: Broken pipe (32)"),
    ),
    (("08S01", "[08S01] [ma-3.1.15]Server has gone away (2006) (SQLEndTran)"), ("08S01", "2006", UNAVAILABLE, "Server has gone away")),  # noqa: E501 # a driver's own text
    (
        ("HY000", "[HY000] [SQLite]NOT NULL constraint failed: big.t (19) (19) (SQLExecDirectW)"),
        ("HY000", "19", "", "NOT NULL constraint failed: big.t"),
    ),
    (
        ("01000", "[01000] [unixODBC][Driver Manager]Can't open lib 'nope' : file not found (0) (SQLDriverConnect)"),
        ("01000", "0", "", "Can't open lib 'nope' : file not found"),
    ),
    (
        ("28000", "[28000] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]Login failed for user 'x'. (18456) (SQLDriverConnect)"),  # noqa: E501 # a driver's own text
        ("28000", "18456", UNAVAILABLE, "Login failed for user 'x'."),
    ),
    (
        ("The SQL contains 0 parameter markers, but 1 parameters were supplied", "HY000"),
        ("HY000", "", "", "The SQL contains 0 parameter markers, but 1 parameters were supplied"),
    ),
    (("HYT00", "[HYT00] [Microsoft]Query timeout expired (0) (SQLExecDirectW)"), ("HYT00", "0", TIMED_OUT, "Query timeout expired")),  # noqa: E501 # a driver's own text
    ((), ("", "", "", "no message")),
]  # fmt: skip


@pytest.mark.parametrize(("args", "wanted"), ERRORS)
def test_an_error_is_read(args: tuple[str, ...], wanted: tuple[str, str, str, str]) -> None:
    found = diagnose(args)
    assert (found.sqlstate, found.native, found.kind, found.message) == wanted


def test_a_password_never_stands_in_a_message() -> None:
    found = diagnose(("08001", "[08001] can't read Pwd=hidden; (1) (SQLDriverConnect)"), ["hidden"])
    assert "hidden" not in found.message
