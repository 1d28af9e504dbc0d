"""What can't be ``once``, and ledgers that are none: found before anything runs, or after it at the latest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import errors
from agent.check.remedies import with_remedy
from agent.connectors.base import Call, Outputs
from agent.connectors.odbc.driver import OdbcDriver
from agent.connectors.odbc.ledger_tables import LEDGER_TABLES, script
from agent.connectors.odbc.self_commits import IMPLICIT_COMMITS, called, ending_statement
from agent.connectors.odbc.statements import Syntax
from config.dev.databases import MariaDB, Postgres
from tests.agent.connectors.ledger_cases import (
    INSERT,
    LEDGER,
    NUMBER,
    ORDERS,
    Erp,
    MariaErp,
    PostgresErp,
    SqliteErp,
    call,
)

Open = Callable[..., OdbcDriver]


@pytest.fixture
def session() -> Iterator[Open]:
    made: list[OdbcDriver] = []

    def make(erp: Erp, **connection: Any) -> OdbcDriver:
        driver = OdbcDriver(erp.setup(**connection))
        driver.open()
        made.append(driver)
        return driver

    yield make
    for driver in made:
        driver.close()


@pytest.fixture
def pg(postgres: Postgres) -> PostgresErp:
    return PostgresErp(postgres)


@pytest.fixture
def maria(mariadb: MariaDB) -> MariaErp:
    return MariaErp(mariadb)


def run(driver: OdbcDriver, wanted: Call) -> None:
    assert isinstance(list(driver.run(wanted))[-1], Outputs)


def problems(driver: OdbcDriver) -> list[str]:
    found = [*driver.check(), *(finding for name in driver.setup.operations for finding in driver.check(name))]
    return [f"{one.subject}: {one.detail}; {one.fix}" for one in map(with_remedy, found) if one.ok is False]


# --- work that ends its transaction ---------------------------------------------------------------------


def posting(erp: Erp, body: str, name: str = "test_posting") -> None:
    """Make a procedure, and the operation ``post`` that calls ``test_posting``."""
    if isinstance(erp, PostgresErp):
        erp.script(f"CREATE OR REPLACE PROCEDURE {name}(n int) LANGUAGE plpgsql AS $$ BEGIN {body} END $$;")
    else:
        erp.script(f"DELIMITER //\nCREATE OR REPLACE PROCEDURE {name}(n int) BEGIN {body} END //\n")
    erp.operations["post"] = {"procedure": "test_posting", "params": NUMBER}


@pytest.mark.parametrize("body", [f"{INSERT} COMMIT;", f"{INSERT} commit and chain; {INSERT}", f"ROLLBACK; {INSERT}"])
def test_postgresql_a_procedure_that_commits_is_refused(pg: PostgresErp, session: Open, body: str) -> None:
    posting(pg, body)
    driver = session(pg)
    with pytest.raises(
        errors.NotAllowed, match=r"test_posting ends the transaction by itself \((COMMIT|ROLLBACK)\)"
    ) as e:
        run(driver, call("post"))
    assert not e.value.touched
    assert "at-most-once" in e.value.message
    (problem,) = problems(driver)
    assert problem.startswith('operation post: can\'t be effect = "once": test_posting ends')
    assert pg.orders() == []
    assert pg.ledger() == {}


def test_postgresql_a_commit_that_only_shows_at_run_time_is_refused_too(pg: PostgresErp, session: Open) -> None:
    pg.script("CREATE OR REPLACE PROCEDURE test_inner() LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'COMMIT'; END $$;")
    posting(pg, f"{INSERT} EXECUTE 'CALL test_inner()';")
    pg.script("CREATE OR REPLACE PROCEDURE test_inner() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;")
    with pytest.raises(errors.NotAllowed, match="invalid transaction termination") as caught:
        run(session(pg), call("post"))
    assert not caught.value.touched
    assert pg.orders() == []
    assert pg.ledger() == {}


def test_what_is_called_within_is_looked_into(pg: PostgresErp, maria: MariaErp, session: Open) -> None:
    for erp in (pg, maria):
        posting(erp, f"{INSERT} COMMIT;", "test_deepest")
        posting(erp, "CALL test_deepest(n);", "test_deeper")
        posting(erp, "CALL test_deeper(n);")
        with pytest.raises(errors.NotAllowed, match="test_deepest ends the transaction"):
            run(session(erp), call("post"))
        assert erp.orders() == []


MARIA_ENDS = {
    "COMMIT": f"{INSERT} COMMIT;",
    "ROLLBACK": f"DECLARE EXIT HANDLER FOR SQLEXCEPTION ROLLBACK; {INSERT}",
    "START TRANSACTION": f"START TRANSACTION; {INSERT}",
    "SET AUTOCOMMIT": f"{INSERT} SET autocommit = 1;",
    "CREATE": f"{INSERT} CREATE TABLE test_ddl (a int);",
    "DROP": f"{INSERT} DROP TABLE IF EXISTS test_ddl;",
    "TRUNCATE": f"IF n > 0 THEN TRUNCATE TABLE {ORDERS}; END IF;",
}


@pytest.mark.parametrize("word", MARIA_ENDS)
def test_mariadb_a_procedure_that_ends_the_transaction_is_refused(maria: MariaErp, session: Open, word: str) -> None:
    posting(maria, MARIA_ENDS[word])
    driver = session(maria)
    with pytest.raises(errors.NotAllowed, match=rf"test_posting ends the transaction by itself \({word}\)") as caught:
        run(driver, call("post"))
    assert not caught.value.touched
    assert "test_posting ends" in problems(driver)[0]
    assert maria.orders() == []
    assert maria.ledger() == {}


@pytest.mark.parametrize(
    ("body", "orders"),
    [
        (f"{INSERT} EXECUTE IMMEDIATE 'COMMIT';", [1]),
        (f"EXECUTE IMMEDIATE 'COMMIT'; {INSERT}", []),
        (f"{INSERT} EXECUTE IMMEDIATE 'ROLLBACK'; {INSERT} EXECUTE IMMEDIATE 'COMMIT';", [1]),
        (f"{INSERT} EXECUTE IMMEDIATE 'COMMIT'; SIGNAL SQLSTATE '45000';", [1]),
    ],
)
def test_mariadb_an_end_that_only_shows_at_run_time_is_in_doubt_and_never_repeated(
    maria: MariaErp, session: Open, body: str, orders: list[int]
) -> None:
    posting(maria, body)
    driver = session(maria)
    with pytest.raises(errors.OutcomeUnknown, match="ended the transaction by itself") as caught:
        run(driver, call("post"))
    assert caught.value.touched
    assert maria.orders() == orders
    with pytest.raises(errors.OutcomeUnknown, match="ended the transaction by itself"):
        run(driver, call("post", epoch=2))
    with pytest.raises(errors.OutcomeUnknown, match="ended the transaction by itself"):
        driver.find(call("post"))
    assert maria.orders() == orders


def test_mariadb_a_deadlock_is_rolled_back_and_may_work_later(maria: MariaErp, session: Open) -> None:
    posting(maria, f"{INSERT} SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock';")
    with pytest.raises(errors.SourceFailed) as caught:
        run(session(maria), call("post"))
    assert caught.value.may_work_later
    assert maria.orders() == []
    assert maria.ledger() == {}


def test_savepoints_and_temporary_tables_of_a_procedure_do_no_harm(maria: MariaErp, session: Open) -> None:
    posting(
        maria,
        f"SAVEPOINT before_it; {INSERT} ROLLBACK TO SAVEPOINT before_it; {INSERT} "
        "CREATE TEMPORARY TABLE test_tmp (a int); DROP TEMPORARY TABLE test_tmp;",
    )
    run(session(maria), call("post"))
    assert maria.orders() == [1]
    assert maria.ledger() == {"cmd_1": "done"}


def test_a_statement_of_the_operators_that_ends_it_is_refused(maria: MariaErp, session: Open) -> None:
    maria.operations["post"] = {
        "sql": f"INSERT INTO {ORDERS} VALUES (:n); CREATE TABLE test_ddl (a int)",  # noqa: S608 # names of ours
        "params": NUMBER,
    }
    with pytest.raises(errors.NotAllowed, match="its CREATE ends the transaction"):
        run(session(maria), call("post"))


AT_MOST_ONCE_ENDS = {
    "that its text shows": f"{INSERT} COMMIT; SIGNAL SQLSTATE '45000';",
    "that only shows at run time": f"{INSERT} EXECUTE IMMEDIATE 'COMMIT'; SIGNAL SQLSTATE '45000';",
    "after which it took too long": f"{INSERT} EXECUTE IMMEDIATE 'COMMIT'; SELECT SLEEP(60) INTO n;",
    "after a result": f"SELECT n; {INSERT} EXECUTE IMMEDIATE 'COMMIT'; SIGNAL SQLSTATE '45000';",
}


@pytest.mark.parametrize("end", AT_MOST_ONCE_ENDS)
def test_mariadb_at_most_once_that_fails_after_an_end_of_its_own_is_in_doubt(
    maria: MariaErp, session: Open, end: str
) -> None:
    posting(maria, AT_MOST_ONCE_ENDS[end])
    maria.operations["post"] |= {"effect": "at-most-once"}
    with pytest.raises(errors.OutcomeUnknown, match="a part of it may have been kept") as caught:
        run(session(maria), call("post", timeout_s=1.0))
    assert caught.value.touched
    assert maria.orders() == [1]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (f"{INSERT} SIGNAL SQLSTATE '45000';", errors.SourceFailed),
        (f"SELECT n; {INSERT} SIGNAL SQLSTATE '45000';", errors.SourceFailed),
        (f"{INSERT} SELECT SLEEP(60) INTO n;", errors.TimedOut),
        (f"{INSERT} SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock';", errors.SourceFailed),
    ],
)
def test_mariadb_at_most_once_that_fails_in_its_transaction_certainly_left_nothing(
    maria: MariaErp, session: Open, body: str, error: type[errors.CommandError]
) -> None:
    posting(maria, body)
    maria.operations["post"] |= {"effect": "at-most-once"}
    with pytest.raises(error):
        run(session(maria), call("post", timeout_s=1.0))
    assert maria.orders() == []


@pytest.mark.parametrize("body", [INSERT, f"{INSERT} COMMIT;", f"{INSERT} SELECT n;", f"{INSERT} COMMIT; SELECT n;"])
def test_mariadb_at_most_once_that_ends_well_is_told_so(maria: MariaErp, session: Open, body: str) -> None:
    posting(maria, body)
    maria.operations["post"] |= {"effect": "at-most-once"}
    run(session(maria), call("post"))
    assert maria.orders() == [1]


# --- tables that can't be rolled back -------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["MyISAM", "Aria"])
def test_mariadb_work_on_a_table_that_keeps_what_was_rolled_back_is_refused(
    maria: MariaErp, session: Open, engine: str
) -> None:
    maria.script(f"ALTER TABLE {ORDERS} ENGINE = {engine}")
    driver = session(maria)
    with pytest.raises(errors.NotAllowed, match=f"uses the table {ORDERS}, whose engine {engine}"):
        run(driver, call())
    assert any(ORDERS in problem for problem in problems(driver))
    assert maria.orders() == []


def test_mariadb_a_ledger_without_transactions_is_refused(maria: MariaErp, session: Open) -> None:
    maria.script(f"ALTER TABLE {LEDGER} ENGINE = MyISAM")
    driver = session(maria)
    with pytest.raises(
        errors.SourceFailed, match=f"MyISAM has no transactions; ALTER TABLE {LEDGER} ENGINE = InnoDB"
    ) as e:
        run(driver, call())
    assert not e.value.touched
    with pytest.raises(errors.SourceUnavailable, match="MyISAM"):
        driver.find(call())
    assert any("MyISAM" in problem for problem in problems(driver))
    assert maria.orders() == []
    assert maria.ledger() == {}


# --- ledgers that are none ------------------------------------------------------------------------------


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def erp(request: pytest.FixtureRequest, tmp_path: Path) -> Erp:
    if request.param == "sqlite":
        return SqliteErp(tmp_path)
    found: Erp = request.getfixturevalue({"postgresql": "pg", "mariadb": "maria"}[request.param])
    return found


def test_a_missing_ledger_is_told_with_the_way_out(erp: Erp, session: Open) -> None:
    erp.script(f"DROP TABLE {LEDGER}")
    driver = session(erp)
    with pytest.raises(
        errors.SourceFailed, match=f"ledger {LEDGER} can't be used.*`outhaul-agent ledger sql`"
    ) as caught:
        run(driver, call())
    assert not caught.value.touched
    with pytest.raises(errors.SourceUnavailable):
        driver.find(call())
    (problem,) = problems(driver)
    assert problem.startswith(f"connection erp: ledger {LEDGER}: ")
    assert "`outhaul-agent ledger sql`" in problem
    assert erp.orders() == []
    erp.script(script(erp.dialect, LEDGER))
    run(driver, call())
    assert problems(driver) == []


def test_a_ledger_without_its_key_or_a_column_is_told(erp: Erp, session: Open) -> None:
    erp.script(f"DROP TABLE {LEDGER}")
    whole = LEDGER_TABLES[erp.dialect].text("create", LEDGER)
    for wrong in (whole.replace("PRIMARY KEY", ""), whole.replace("outcome ", "outcom ")):
        erp.script(f"{wrong};")
        driver = session(erp)
        with pytest.raises(errors.SourceFailed, match=f"ledger {LEDGER}"):
            run(driver, call())
        assert len(problems(driver)) == 1
        driver.close()
        erp.script(f"DROP TABLE {LEDGER}")
    assert erp.orders() == []


def test_the_rights_that_are_printed_are_enough_and_needed(pg: PostgresErp, session: Open) -> None:
    pg.script(
        "DO $$ BEGIN CREATE ROLE agents_account LOGIN PASSWORD 'x'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        f"GRANT USAGE ON SCHEMA public TO agents_account; GRANT SELECT, INSERT ON {ORDERS} TO agents_account;"
        f"GRANT SELECT ON {LEDGER} TO agents_account;"
    )
    odbc = pg.server.odbc(user="agents_account", password="x")  # of a role of this test
    driver = session(pg, connection_string=odbc)
    with pytest.raises(errors.SourceFailed, match=r"permission denied.*grant the rights"):
        run(driver, call())
    pg.script(LEDGER_TABLES["postgresql"].text("rights", LEDGER))
    run(driver, call())
    assert driver.find(call()) is not None
    assert driver.find(call(command="cmd_2")) is None
    assert problems(driver) == []


# --- texts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("BEGIN INSERT INTO t VALUES (1); COMMIT; END", "COMMIT"),
        ("BEGIN IF a THEN ROLLBACK WORK; END IF; END", "ROLLBACK"),
        ("BEGIN INSERT INTO t VALUES ('COMMIT;'); -- COMMIT;\n /* ROLLBACK; */ END", ""),
        ('BEGIN INSERT INTO t (commit, "ROLLBACK") VALUES (1, 2); SELECT t.commit; END', ""),
        ("BEGIN ROLLBACK TO SAVEPOINT a; ROLLBACK WORK TO a; END", ""),
        ("BEGIN CREATE TEMPORARY TABLE x (a int); END", ""),
        ("BEGIN CREATE TABLE x (a int); END", "CREATE"),
        ("BEGIN SELECT 'x' INTO created; UPDATE t SET alter_no = 1; END", ""),
        ("BEGIN lock tables x write; END", "LOCK TABLES"),
        ("BEGIN SET @a = 1; SET autocommit = 0; END", "SET AUTOCOMMIT"),
        ("BEGIN 'never ends", ""),
        ("", ""),
    ],
)
def test_the_statement_that_ends_a_transaction_is_found(text: str, found: str) -> None:
    syntax = Syntax(backslash=True, hash=True, backtick=True)
    assert ending_statement(text, syntax, IMPLICIT_COMMITS) == found


def test_procedures_that_are_called_are_found() -> None:
    text = "BEGIN CALL a(1); call `b c`(); IF x THEN CALL erp.d; END IF; -- CALL e()\n END"
    assert called(text, Syntax(backtick=True)) == ["a", "`b c`", "erp.d"]


@pytest.mark.parametrize("dialect", LEDGER_TABLES)
def test_the_script_of_each_database_is_whole(dialect: str) -> None:
    text = script(dialect, "erp.outhaul_ledger")
    assert "CREATE TABLE erp.outhaul_ledger (" in text
    assert "DELETE FROM erp.outhaul_ledger WHERE written_at <" in text
    assert "{" not in text
    for name in ("command_id", "fingerprint", "operation", "attempt", "state", "outcome", "written_at"):
        assert f"    {name}" in text


UNTRIED = {
    "sqlserver": (
        "INSERT INTO t (command_id, fingerprint, operation, attempt, state, written_at) SELECT v.*, SYSUTCDATETIME() "
        "FROM (VALUES (CAST(? AS varchar(64)), CAST(? AS varchar(64)), CAST(? AS varchar(64)), CAST(? AS int), "
        "CAST(? AS varchar(8)))) AS v (command_id, fingerprint, operation, attempt, state) WHERE NOT EXISTS "
        "(SELECT 1 FROM t AS t WITH (UPDLOCK, HOLDLOCK) WHERE t.command_id = v.command_id)",
        "SELECT fingerprint, operation, attempt, state, outcome FROM t WITH (UPDLOCK, HOLDLOCK) WHERE command_id = ?",
    ),
    "oracle": (
        "INSERT INTO t (command_id, fingerprint, operation, attempt, state, written_at) "
        "VALUES (?, ?, ?, ?, ?, SYS_EXTRACT_UTC(SYSTIMESTAMP))",
        "SELECT fingerprint, operation, attempt, state, outcome FROM t WHERE command_id = ? FOR UPDATE",
    ),
    "db2": (
        "INSERT INTO t (command_id, fingerprint, operation, attempt, state, written_at) "
        "VALUES (?, ?, ?, ?, ?, CURRENT TIMESTAMP - CURRENT TIMEZONE)",
        "SELECT fingerprint, operation, attempt, state, outcome FROM t WHERE command_id = ? "
        "WITH RS USE AND KEEP UPDATE LOCKS",
    ),
}


@pytest.mark.parametrize("dialect", UNTRIED)
def test_statements_for_databases_that_were_not_there(dialect: str) -> None:
    texts = LEDGER_TABLES[dialect]
    assert (texts.text("insert", "t"), texts.text("read", "t")) == UNTRIED[dialect]
    assert texts.text("finish", "t").startswith("UPDATE t SET state = 'done', outcome = ?, written_at = ")
    assert texts.text("finish", "t").endswith(" WHERE command_id = ? AND attempt = ? AND state = 'begun'")


def test_a_database_of_unknown_kind_has_no_ledger(pg: PostgresErp, session: Open) -> None:
    driver = session(pg, dialect="generic")
    with pytest.raises(errors.NotAllowed, match="not for the dialect generic"):
        run(driver, call())
    assert any("not for the dialect generic" in problem for problem in problems(driver))
