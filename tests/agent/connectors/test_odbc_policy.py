"""What an operator's file says of results and procedures, on real databases: columns, masks, rows, pins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyodbc
import pytest

from agent import errors
from agent.connectors import CONNECTORS
from agent.connectors.base import Call, DriverSetup, Rows
from agent.connectors.odbc import pins
from agent.connectors.sessions import DriverConnector
from agent.settings import OdbcConnection, Operation
from agent.settings_reader import read
from config.dev.databases import MariaDB, Postgres
from tests.agent.connectors.odbc_session import Session, session

OUT = {
    "no": {"type": "integer"},
    "iban": {"type": "string", "direction": "out"},
    "rating": {"type": "integer", "direction": "out"},
}

POSTGRES_SCHEMA = """
CREATE TABLE account (no int PRIMARY KEY, "Iban" text, rating int);
INSERT INTO account VALUES (1, 'DE01', 7), (2, NULL, 8);
CREATE TABLE written (no int);
CREATE PROCEDURE rate(no int, OUT iban text, OUT rating int) LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO written VALUES (no); iban := 'DE01'; rating := 7; END $$;
CREATE FUNCTION two_sets() RETURNS SETOF refcursor LANGUAGE plpgsql AS $$
DECLARE a refcursor := 'a'; b refcursor := 'b';
BEGIN OPEN a FOR SELECT 'DE01' AS iban, 1 AS no; RETURN NEXT a; OPEN b FOR SELECT 'x' AS other; RETURN NEXT b; END $$;
CREATE FUNCTION as_table(n int) RETURNS TABLE (no int, iban text) LANGUAGE sql AS $$ SELECT n, 'DE01' $$;
"""
MARIADB_SCHEMA = """
CREATE TABLE account (no int PRIMARY KEY, Iban varchar(30), rating int);
INSERT INTO account VALUES (1, 'DE01', 7), (2, NULL, 8);
CREATE TABLE written (no int);
DELIMITER //
CREATE PROCEDURE rate(IN no int, OUT iban varchar(30), OUT rating int)
BEGIN INSERT INTO written VALUES (no); SET iban = 'DE01', rating = 7; END //
CREATE PROCEDURE two_sets() BEGIN SELECT 'DE01' AS iban, 1 AS no; SELECT 'x' AS other; END //
DELIMITER ;
"""
CHANGES = {  # of the procedure; each is drift
    "postgresql": {
        "a type": "DROP PROCEDURE rate; CREATE PROCEDURE rate(no bigint, OUT iban text, OUT rating int) {body}",
        "a name": "DROP PROCEDURE rate; CREATE PROCEDURE rate(number int, OUT iban text, OUT rating int) {other}",
        "a direction": "DROP PROCEDURE rate; CREATE PROCEDURE rate(no int, INOUT iban text, OUT rating int) {body}",
        "the order": "DROP PROCEDURE rate; CREATE PROCEDURE rate(no int, OUT rating int, OUT iban text) {body}",
        "one more": "DROP PROCEDURE rate; "
        "CREATE PROCEDURE rate(no int, OUT iban text, OUT rating int, extra int DEFAULT 1) {body}",
        "gone": "DROP PROCEDURE rate",
    },
    "mariadb": {
        "a type": "CREATE OR REPLACE PROCEDURE rate(IN no bigint, OUT iban varchar(30), OUT rating int) {body}",
        "a length": "CREATE OR REPLACE PROCEDURE rate(IN no int, OUT iban varchar(31), OUT rating int) {body}",
        "a name": "CREATE OR REPLACE PROCEDURE rate(IN number int, OUT iban varchar(30), OUT rating int) {other}",
        "a direction": "CREATE OR REPLACE PROCEDURE rate(IN no int, INOUT iban varchar(30), OUT rating int) {body}",
        "the order": "CREATE OR REPLACE PROCEDURE rate(IN no int, OUT rating int, OUT iban varchar(30)) {body}",
        "gone": "DROP PROCEDURE rate",
    },
}
BODIES = {
    "postgresql": "LANGUAGE plpgsql AS $$ BEGIN INSERT INTO written VALUES ({name}); "
    "iban := 'DE02'; rating := 8; END $$",
    "mariadb": "BEGIN INSERT INTO written VALUES ({name}); SET iban = 'DE02', rating = 8; END",
}


@pytest.fixture(scope="module")
def pg_string(postgres: Postgres) -> str:
    postgres.execute_script("CREATE DATABASE policy")
    postgres.execute_script(POSTGRES_SCHEMA, "policy")
    return postgres.odbc("policy")


@pytest.fixture(scope="module")
def maria_string(mariadb: MariaDB) -> str:
    mariadb.execute_script("CREATE DATABASE policy CHARACTER SET utf8mb4")
    mariadb.execute_script(MARIADB_SCHEMA, "policy")
    return mariadb.odbc("policy")


@pytest.fixture(params=["postgresql", "mariadb"])
def which(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def string(which: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("pg_string" if which == "postgresql" else "maria_string"))


@pytest.fixture
def erp(string: str) -> Iterator[Session]:
    with session(string) as opened:
        yield opened


@pytest.fixture
def other(string: str) -> Iterator[pyodbc.Connection]:
    """Another session, which sees what was committed."""
    connection = pyodbc.connect(string, autocommit=True)
    connection.execute("DELETE FROM written")
    yield connection
    connection.close()


def written(other: pyodbc.Connection) -> int:
    return int(other.execute("SELECT count(*) FROM written").fetchval())


# --- columns and masks ------------------------------------------------------------------------------------

SELECT = 'SELECT no, "Iban", rating FROM account ORDER BY no'


def select(which: str) -> str:
    return SELECT if which == "postgresql" else SELECT.replace('"', "")


def test_only_listed_columns_leave_and_masks_hold_whatever_the_case(erp: Session, which: str) -> None:
    result = erp.run(sql=select(which), effect="read", columns=["IBAN ", "No"], mask=["iban"])
    assert [column.name for column in result.columns[0]] == ["no", "Iban"]
    assert result.rows[0] == [{"no": 1, "Iban": "***"}, {"no": 2, "Iban": None}]


def test_a_column_that_is_there_twice_is_masked_twice(erp: Session) -> None:
    result = erp.run(
        sql="SELECT 'a' AS iban, 'b' AS \"IBAN\", 'c' AS iban".replace('"', ""), effect="read", mask=["Iban"]
    )
    assert set(result.rows[0][0].values()) == {"***"}
    assert len(result.columns[0]) == 3


def test_what_does_not_leave_may_be_what_can_not_be_read(erp: Session, which: str) -> None:
    bad = "'infinity'::timestamptz" if which == "postgresql" else "CAST('0000-00-00' AS date)"
    with pytest.raises(errors.ValueUnreadable):
        erp.run(sql=f"SELECT 1 AS no, {bad} AS bad", effect="read")
    assert erp.run(sql=f"SELECT 1 AS no, {bad} AS bad", effect="read", columns=["no"]).rows == [[{"no": 1}]]


def test_a_row_set_of_which_nothing_may_leave_is_left_out_whole(erp: Session) -> None:
    result = erp.run(procedure="two_sets", effect="read", columns=["iban"], mask=["IBAN"])
    assert result.rows == [[{"iban": "***"}]]


def test_outputs_leave_only_where_they_are_listed(erp: Session) -> None:
    result = erp.run({"no": 1}, procedure="rate", params=OUT, columns=["Rating"])
    assert result.outputs == {"rating": 7}
    assert erp.run({"no": 1}, procedure="rate", params=OUT, mask=["IBAN"]).outputs == {"iban": "***", "rating": 7}


def test_a_listed_column_that_is_not_there_is_an_error_without_effect(erp: Session, other: pyodbc.Connection) -> None:
    with pytest.raises(errors.SourceFailed, match=r"has no 'iba'.*operations\.op\.columns"):
        erp.run({"no": 1}, procedure="rate", params=OUT, columns=["rating", "iba"], effect="at-most-once")
    assert written(other) == 0


@pytest.mark.parametrize(
    ("keys", "ok"),
    [
        ({"sql": "SELECT no, rating FROM account", "columns": ["NO"]}, True),
        ({"sql": "SELECT no, rating FROM account", "columns": ["no", "iban"]}, False),
        ({"procedure": "rate", "params": OUT, "columns": ["iban"]}, True),
        ({"procedure": "rate", "params": OUT, "columns": ["iban", "date"]}, None),
        ({"sql": "INSERT INTO written VALUES (1)", "columns": ["no"]}, None),
    ],
)
def test_check_tells_of_columns_that_are_not_there(
    erp: Session, other: pyodbc.Connection, keys: dict[str, Any], ok: bool | None
) -> None:
    erp.define(**keys)
    (found,) = (one for one in erp.driver.check("op") if one.subject == "operation op: columns")
    assert found.ok is ok, found
    assert written(other) == 0


def test_check_knows_the_columns_of_a_function_that_returns_a_table(pg_string: str) -> None:
    with session(pg_string) as pg:
        pg.define(procedure="as_table", params={"n": {"type": "integer"}}, columns=["iban", "bic"])
        (found,) = (one for one in pg.driver.check("op") if one.subject == "operation op: columns")
        assert found.ok is False
        assert "'bic'" in found.detail
        assert "'iban'" not in found.detail


# --- rows -------------------------------------------------------------------------------------------------


async def counted(string: str, keys: dict[str, Any]) -> int:
    """Run an operation in a driver's process and return how many rows came, or raise what it raised."""
    operation = read({"connection": "erp", **keys}, Operation)
    connection = OdbcConnection(type="odbc", connection_string=string)
    connector = DriverConnector(DriverSetup("erp", connection, {"op": operation}), CONNECTORS["odbc"])
    rows = 0
    try:
        async for piece in connector.run(Call("c", "op", b"{}", 30.0)):
            rows += piece.count if isinstance(piece, Rows) else 0
    finally:
        await connector.close()
    return rows


@pytest.mark.parametrize(("most", "comes"), [(3, True), (2, False), (1, False)])
@pytest.mark.parametrize("effect", ["read", "idempotent", "at-most-once"])
async def test_a_result_with_too_many_rows_is_refused_and_undone(
    which: str, string: str, other: pyodbc.Connection, effect: str, most: int, comes: bool
) -> None:
    returning = "INSERT INTO written SELECT no FROM account UNION ALL SELECT 3 RETURNING no"
    if which == "mariadb":
        returning = "INSERT INTO written SELECT no FROM account UNION ALL SELECT 3; SELECT no FROM written"
    sql = "SELECT no FROM account UNION ALL SELECT 3" if effect == "read" else returning
    keys = {"sql": sql, "effect": effect, "max_rows": most}
    if comes:
        assert await counted(string, keys) == 3
        return
    with pytest.raises(errors.TooManyRows, match=rf"more than {most} rows.*operations\.op\.max_rows"):
        await counted(string, keys)
    assert written(other) == 0


async def test_rows_are_counted_over_all_row_sets_that_leave(string: str) -> None:
    keys: dict[str, Any] = {"procedure": "two_sets", "effect": "read"}
    with pytest.raises(errors.TooManyRows):
        await counted(string, {**keys, "max_rows": 1})
    assert await counted(string, {**keys, "max_rows": 1, "columns": ["iban"]}) == 1


# --- pins -------------------------------------------------------------------------------------------------


def pin(erp: Session) -> str:
    erp.define(procedure="rate", params=OUT)
    (found,) = (one for one in erp.driver.check("op") if one.subject == "operation op: parameters")
    assert found.ok is None
    assert "iban out" in found.detail
    return found.detail.split('"')[1]


def change(other: pyodbc.Connection, which: str, sql: str) -> None:
    body = BODIES[which]
    for statement in sql.split("; "):
        other.execute(statement.format(body=body.format(name="no"), other=body.format(name="number")))


@pytest.fixture
def restored(which: str, other: pyodbc.Connection) -> Iterator[None]:
    yield
    other.execute("DROP PROCEDURE IF EXISTS rate")
    schema = POSTGRES_SCHEMA if which == "postgresql" else MARIADB_SCHEMA
    made = schema[schema.index("CREATE PROCEDURE rate") :]
    other.execute(made[: made.index("$$;" if which == "postgresql" else " //") + (2 if which == "postgresql" else 0)])


def test_a_procedure_that_is_as_it_was_pinned_runs(erp: Session, other: pyodbc.Connection) -> None:
    held = pin(erp)
    assert erp.run({"no": 1}, procedure="rate", params=OUT, pin=held).outputs == {"iban": "DE01", "rating": 7}
    assert written(other) == 1
    (found,) = (one for one in erp.driver.check("op") if one.subject == "operation op: parameters")
    assert (found.ok, found.detail) == (True, "is as it was pinned")


@pytest.mark.parametrize("drift", sorted({*CHANGES["postgresql"], *CHANGES["mariadb"]}))
def test_a_procedure_that_drifted_is_refused_before_any_effect(
    which: str, string: str, other: pyodbc.Connection, restored: None, drift: str
) -> None:
    if drift not in CHANGES[which]:
        return  # that database can't say it
    with session(string) as before:
        held = pin(before)
    change(other, which, CHANGES[which][drift])
    with session(string) as erp:
        with pytest.raises(errors.ProcedureChanged, match=r"operations\.op\.pin.*an operator allows it by") as caught:
            erp.run({"no": 1}, procedure="rate", params=OUT, pin=held, effect="at-most-once")
        assert not caught.value.touched
        assert written(other) == 0
        found = {one.subject: one for one in erp.driver.check("op")}
        assert any(one.ok is False for one in found.values())


def test_a_body_may_change_and_drift_during_a_session_is_found(
    which: str, string: str, other: pyodbc.Connection, restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "LOOK_AGAIN_S", 0.0)
    with session(string) as erp:
        held = pin(erp)
        same: dict[str, Any] = {"procedure": "rate", "params": OUT, "pin": held}
        assert erp.run({"no": 1}, **same).outputs["rating"] == 7
        create = "CREATE OR REPLACE PROCEDURE rate(no int, OUT iban text, OUT rating int) {body}"
        if which == "mariadb":
            create = "CREATE OR REPLACE PROCEDURE rate(IN no int, OUT iban varchar(30), OUT rating int) {body}"
        change(other, which, create)
        assert erp.run({"no": 1}, **same).outputs["rating"] == 8
        change(other, which, CHANGES[which]["a type"])
        with pytest.raises(errors.ProcedureChanged):
            erp.run({"no": 1}, **same)


def test_where_the_dialect_has_no_catalogue_the_driver_is_asked(pg_string: str) -> None:
    with session(pg_string, dialect="generic") as erp:
        erp.define(procedure="as_table", params={"n": {"type": "integer"}})
        (found,) = (one for one in erp.driver.check("op") if one.subject == "operation op: parameters")
        assert "(n in int4(" in found.detail
        held = found.detail.split('"')[1]
        erp.define("op", procedure="as_table", params={"n": {"type": "integer"}}, pin=held)
        (found,) = (one for one in erp.driver.check("op") if one.subject == "operation op: parameters")
        assert found.ok
        erp.define("op", procedure="as_table", params={"n": {"type": "integer"}}, pin="sha256:" + "0" * 64)
        with pytest.raises(errors.ProcedureChanged):
            list(erp.pieces("op", json.loads('{"n": 1}')))
