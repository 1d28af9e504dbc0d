"""Which operations can give their rows as Arrow, and what an agent says that is asked for more."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from agent import row_formats
from agent.errors import NotAllowed
from agent.settings import OdbcConnection, ProcedureOperation, SqlOperation
from protocol.messages import Run

SELECT = SqlOperation(connection="erp", sql="SELECT 1", effect="read")
WRITES = SqlOperation(connection="erp", sql="SELECT 1", effect="idempotent")
CALLS = ProcedureOperation(connection="erp", procedure="p", effect="read")


def erp(connection_string: str, dialect: Any = "auto") -> OdbcConnection:
    return OdbcConnection(type="odbc", connection_string=connection_string, dialect=dialect)


POSTGRES = erp("Driver={PostgreSQL Unicode};Server=db")


def run(**more: Any) -> Run:
    return Run("cmd_1", 1, "op", 60.0, 0, **more)


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it had not been installed."""
    monkeypatch.setitem(sys.modules, "arrow_odbc", None)
    monkeypatch.setattr(row_formats, "_installed", row_formats._installed.__wrapped__)


@pytest.mark.parametrize(
    ("operation", "connection", "can"),
    [
        (SELECT, POSTGRES, True),
        (SELECT, erp("Driver={MariaDB Unicode}"), True),
        (SELECT, erp("Driver=SQLite3"), True),
        (SELECT, erp("DSN=erp"), True),
        (SELECT, erp("DSN=erp", "sqlserver"), False),
        (SELECT, erp("Driver={ODBC Driver 18 for SQL Server}"), False),
        (WRITES, POSTGRES, False),
        (CALLS, POSTGRES, False),
        (SELECT, None, False),
    ],
)
def test_one_select_of_a_known_database_can(operation: Any, connection: OdbcConnection | None, can: bool) -> None:
    assert row_formats.offered(operation, connection) == ({"rows_as": ["arrow"]} if can else {})


@pytest.mark.usefixtures("without_the_extra")
def test_without_the_extra_nothing_can() -> None:
    assert row_formats.offered(SELECT, POSTGRES) == {}
    with pytest.raises(NotAllowed, match="without the extra `arrow`"):
        row_formats.asked_for(run(rows_as="arrow"), SELECT, POSTGRES)


@pytest.mark.parametrize(
    ("wanted", "operation", "told"),
    [
        ({"rows_as": "parquet"}, SELECT, "'parquet'"),
        ({"rows_as": "arrow"}, WRITES, "effect"),
        ({"rows_as": "arrow", "seal_to": "x25519:AAAA"}, SELECT, "sealed"),
    ],
)
def test_what_it_cant_give_is_refused_before_anything_runs(wanted: dict[str, str], operation: Any, told: str) -> None:
    with pytest.raises(NotAllowed, match=told) as refused:
        row_formats.asked_for(run(**wanted), operation, POSTGRES)
    assert not refused.value.touched


@pytest.mark.parametrize(("asked", "given"), [(run(), "ndjson"), (run(rows_as="arrow"), "arrow"), (None, "ndjson")])
def test_the_rest_is_given_as_it_is_asked_for(asked: Run | None, given: str) -> None:
    assert row_formats.asked_for(asked, SELECT, POSTGRES) == given
