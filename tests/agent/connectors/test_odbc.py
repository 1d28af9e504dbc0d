"""The ODBC driver on real PostgreSQL, MariaDB and SQLite: procedures, errors, deadlines, rows."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyodbc
import pytest

from agent.connectors.base import Finding, Outputs, Rows, RowSet
from agent.connectors.odbc.connection_string import parts_of
from agent.connectors.odbc.driver import OdbcDriver
from agent.connectors.odbc.results import PIECE_BYTES
from agent.errors import (
    Cancelled,
    CommandError,
    OperationUnknown,
    OutcomeUnknown,
    SourceFailed,
    SourceRejected,
    SourceUnavailable,
    TimedOut,
    ValueUnreadable,
)
from config.dev.databases import MariaDB, Postgres, Server
from protocol.limits import CHUNK_BYTES
from tests.agent.connectors.odbc_session import Session, session

IN_INT = {"type": "integer"}
OUT_INT = {"type": "integer", "direction": "out"}

POSTGRES_SCHEMA = r"""
CREATE TABLE orders (no int PRIMARY KEY, customer text NOT NULL CHECK (customer <> 'BLOCKED'));
CREATE PROCEDURE in_out(a int, OUT b int, INOUT c numeric, OUT j jsonb, OUT s text, OUT t timestamptz, OUT x bytea)
LANGUAGE plpgsql AS $$ BEGIN b := a + 1; c := c * 2; j := '{"x": [1]}'; s := 'é😀'; x := '\x00ff';
    t := '2024-02-29 12:00:00.5+05'; END $$;
CREATE PROCEDURE two_sets(a int, OUT n int, INOUT r1 refcursor, INOUT r2 refcursor) LANGUAGE plpgsql AS $$
BEGIN OPEN r1 FOR SELECT g AS one FROM generate_series(1, a) g;
      OPEN r2 FOR SELECT 'x'::text AS t, 2.50::numeric AS two; n := 5; END $$;
CREATE FUNCTION set_of_cursors() RETURNS SETOF refcursor LANGUAGE plpgsql AS $$ DECLARE r refcursor; BEGIN
    OPEN r FOR SELECT 1 AS one; RETURN NEXT r; r := NULL; OPEN r FOR SELECT 2 AS two; RETURN NEXT r; END $$;
CREATE FUNCTION with_outs(a int, OUT b int, INOUT c numeric) LANGUAGE sql AS 'SELECT a + 1, c * 2';
CREATE FUNCTION as_table(n int) RETURNS TABLE (x int, at timestamptz) LANGUAGE sql AS
    $$ SELECT g, timestamptz '2024-02-29 12:00+00' FROM generate_series(1, n) g $$;
CREATE FUNCTION scalar(n int) RETURNS numeric LANGUAGE sql AS 'SELECT n + 0.50';
CREATE FUNCTION no_answer(n int) RETURNS void LANGUAGE sql AS $$ INSERT INTO orders VALUES (n, 'void') $$;
CREATE FUNCTION overloaded(n int) RETURNS text LANGUAGE sql AS $$ SELECT 'one' $$;
CREATE FUNCTION overloaded(n int, m int) RETURNS text LANGUAGE sql AS $$ SELECT 'two' $$;
CREATE SCHEMA "Odd";
CREATE PROCEDURE "Odd"."PostOrder"(INOUT n int) LANGUAGE plpgsql AS 'BEGIN n := n + 1; END';
CREATE PROCEDURE refuses(n int) LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO orders VALUES (n, 'refused'); RAISE EXCEPTION 'customer % is blocked', n; END $$;
CREATE PROCEDURE hangs() LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO orders VALUES (-1, 'hangs'); PERFORM pg_sleep(30); END $$;
CREATE PROCEDURE quiet(n int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO orders VALUES (n, 'quiet'); END $$;
"""

MARIADB_SCHEMA = r"""
CREATE TABLE orders (no int PRIMARY KEY, customer longtext NOT NULL CHECK (customer <> 'BLOCKED'));
DELIMITER //
CREATE PROCEDURE in_out(IN a int, OUT b int, INOUT c decimal(20,2), OUT j json, OUT s text, OUT t datetime(6),
    OUT x blob)
BEGIN SET b = a + 1; SET c = c * 2; SET j = '{"x": [1]}'; SET s = 'é😀'; SET x = x'00ff';
      SET t = '2024-02-29 07:00:00.5'; END //
CREATE PROCEDURE two_sets(IN a int, OUT n int)
BEGIN SELECT seq AS one FROM seq_1_to_1000 WHERE seq <= a; SELECT 'x' AS t, 2.50 AS two; SET n = 5; END //
CREATE PROCEDURE looks_like_outputs(OUT n int)
BEGIN SELECT 1 AS n; SELECT 2 AS n; SELECT 3 AS n LIMIT 0; SET n = 9; END //
CREATE PROCEDURE as_table(IN n int) BEGIN SELECT seq AS x FROM seq_1_to_1000 WHERE seq <= n; END //
CREATE FUNCTION scalar(n int) RETURNS decimal(10,2) DETERMINISTIC RETURN n + 0.50 //
CREATE PROCEDURE refuses(IN n int) BEGIN INSERT INTO orders VALUES (n, 'refused');
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'customer is blocked', MYSQL_ERRNO = 31001; END //
CREATE PROCEDURE refuses_late(IN n int) BEGIN INSERT INTO orders VALUES (n, 'refused'); SELECT 1 AS first;
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'customer is blocked'; END //
CREATE PROCEDURE hangs() BEGIN INSERT INTO orders VALUES (-1, 'hangs'); DO SLEEP(30); END //
CREATE PROCEDURE quiet(IN n int) BEGIN INSERT INTO orders VALUES (n, 'quiet'); END //
DELIMITER ;
"""


@pytest.fixture(scope="module")
def pg_server(postgres: Postgres) -> Postgres:
    postgres.execute_script("CREATE DATABASE odbc")
    postgres.execute_script(POSTGRES_SCHEMA, "odbc")
    return postgres


@pytest.fixture(scope="module")
def maria_server(mariadb: MariaDB) -> MariaDB:
    mariadb.execute_script("CREATE DATABASE odbc CHARACTER SET utf8mb4")
    mariadb.execute_script(MARIADB_SCHEMA, "odbc")
    return mariadb


@pytest.fixture
def pg(pg_server: Postgres) -> Iterator[Session]:
    with session(pg_server.odbc("odbc")) as opened:
        yield opened


@pytest.fixture
def maria(maria_server: MariaDB) -> Iterator[Session]:
    with session(maria_server.odbc("odbc")) as opened:
        yield opened


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Session]:
    with session(f"Driver={{SQLite3}};Database={tmp_path / 'erp.db'}") as opened:
        opened.run(sql="CREATE TABLE orders (no integer PRIMARY KEY, customer text CHECK (customer <> 'BLOCKED'))")
        yield opened


@pytest.fixture
def erp(request: pytest.FixtureRequest) -> Session:
    found: Session = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


BOTH = pytest.mark.parametrize("erp", ["pg", "maria"], indirect=True)
ALL = pytest.mark.parametrize("erp", ["pg", "maria", "lite"], indirect=True)
SERVERS = pytest.mark.parametrize("server", ["pg", "maria"], indirect=True)


def orders(erp: Session, customer: str) -> int:
    found: int = erp.value(
        "SELECT count(*) AS n FROM orders WHERE customer = :c", {"c": customer}, params={"c": {"type": "string"}}
    )
    return found


# --- procedures -------------------------------------------------------------------------------------------


@BOTH
def test_out_parameters_come_back_by_their_declared_types(erp: Session) -> None:
    params: dict[str, Any] = {
        "a": IN_INT,
        "b": OUT_INT,
        "c": {"type": "decimal", "direction": "inout"},
        "j": {"type": "json", "direction": "out"},
        "s": {"type": "string", "direction": "out"},
        "t": {"type": "datetime", "direction": "out"},
        "x": {"type": "binary", "direction": "out"},
    }
    result = erp.run({"a": 5, "c": "1.25"}, procedure="in_out", params=params, mask=["s"])
    at = result.outputs.pop("t")
    assert result.outputs == {"b": 6, "c": "2.50", "j": {"x": [1]}, "s": "***", "x": "AP8="}
    assert at.startswith("2024-02-29T07:00:00.5")
    assert result.rows == []


@BOTH
def test_two_row_sets_and_an_out_parameter_come_from_one_procedure(erp: Session) -> None:
    result = erp.run({"a": 50}, procedure="two_sets", params={"a": IN_INT, "n": OUT_INT})
    assert [row["one"] for row in result.rows[0]] == list(range(1, 51))
    assert result.rows[1] == [{"t": "x", "two": "2.50"}]
    assert result.outputs == {"n": 5}


def test_a_row_set_that_looks_like_the_outputs_stays_a_row_set(maria: Session) -> None:
    result = maria.run(procedure="looks_like_outputs", params={"n": OUT_INT})
    assert result.rows == [[{"n": 1}], [{"n": 2}], []]
    assert result.outputs == {"n": 9}


@BOTH
def test_a_procedure_that_returns_a_table_gives_rows(erp: Session) -> None:
    result = erp.run({"n": 3}, procedure="as_table", params={"n": IN_INT})
    assert [row["x"] for row in result.rows[0]] == [1, 2, 3]
    assert result.outputs == {}


@BOTH
def test_what_a_function_returns_is_an_output_where_one_is_declared_else_a_row(erp: Session) -> None:
    params = {"n": IN_INT, "answer": {"type": "decimal", "direction": "out"}}
    assert erp.run({"n": 2}, procedure="scalar", params=params).outputs == {"answer": "2.50"}
    assert erp.run({"n": 2}, procedure="scalar", params={"n": IN_INT}).rows == [[{"scalar": "2.50"}]]


def test_postgresqls_functions_with_out_parameters_are_called_like_procedures(pg: Session) -> None:
    params = {"a": IN_INT, "b": OUT_INT, "c": {"type": "decimal", "direction": "inout"}}
    assert pg.run({"a": 1, "c": "1.5"}, procedure="with_outs", params=params).outputs == {"b": 2, "c": "3.0"}


def test_cursors_that_a_function_returns_become_row_sets(pg: Session) -> None:
    assert pg.run(procedure="set_of_cursors").rows == [[{"one": 1}], [{"two": 2}]]


def test_rows_of_a_function_keep_zone_and_type(pg: Session) -> None:
    result = pg.run({"n": 1}, procedure="public.as_table", params={"n": IN_INT})
    assert result.rows == [[{"x": 1, "at": "2024-02-29T12:00:00Z"}]]


def test_a_function_without_an_answer_is_run_for_its_effect(pg: Session) -> None:
    result = pg.run({"n": 501}, procedure="no_answer", params={"n": IN_INT})
    assert (result.rows, result.outputs) == ([], {})
    assert orders(pg, "void") == 1


def test_an_overloaded_name_is_chosen_by_its_parameters(pg: Session) -> None:
    one = pg.run({"n": 1}, procedure="overloaded", params={"n": IN_INT})
    two = pg.run({"n": 1, "m": 2}, procedure="overloaded", params={"n": IN_INT, "m": IN_INT})
    assert [r.rows[0][0]["overloaded"] for r in (one, two)] == ["one", "two"]


def test_a_name_may_be_quoted_and_have_a_schema(pg: Session) -> None:
    result = pg.run({"n": 1}, procedure='"Odd"."PostOrder"', params={"n": {"type": "integer", "direction": "inout"}})
    assert result.outputs == {"n": 2}


@BOTH
@pytest.mark.parametrize(
    ("procedure", "params", "problem"),
    [
        ("nowhere", {}, "there is no procedure or function nowhere"),
        ("in_out", {"a": IN_INT}, "in_out: its parameters in the database are .*a in int.*, in the agent's file .a in"),
        ("quiet", {"n": OUT_INT}, "declare the same ones in the same order"),
    ],
)
def test_a_procedure_that_is_not_as_declared_is_refused_before_anything_runs(
    erp: Session, procedure: str, params: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SourceFailed, match=problem) as caught:
        erp.run({name: 1 for name, p in params.items() if p is IN_INT}, procedure=procedure, params=params)
    assert not caught.value.touched


# --- statements -------------------------------------------------------------------------------------------


@ALL
def test_several_statements_are_one_transaction_and_give_several_row_sets(erp: Session) -> None:
    result = erp.run(
        {"no": 100, "c": "several"},
        sql="INSERT INTO orders (no, customer) VALUES (:no, :c); SELECT :no + 1 AS a; -- ;\nSELECT ':no;' AS b;",
        params={"no": IN_INT, "c": {"type": "string"}},
    )
    assert [list(rows[0].values()) for rows in result.rows] == [[101], [":no;"]]
    with pytest.raises(CommandError):
        erp.run(sql="INSERT INTO orders (no, customer) VALUES (101, 'several'); SELECT * FROM nowhere")
    assert orders(erp, "several") == 1


HOSTILE = [
    "'; DROP TABLE orders; --",
    "\\'; DROP TABLE orders; --",
    '" OR "1"="1',
    "' OR '1'='1",
    "$$; DROP TABLE orders; $$",
    "/* */; DROP TABLE orders",
    ":c ? %s {x} {ts '2024-01-01'} $1 @c ??",
    "\\",
    "\n\r\t\x01\x7f\u2028\ufeff",
    "é😀" * 1_000,
    "' || pg_sleep(10) || '",
    "x" * 1_048_000,
]


@ALL
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_parameter_is_a_value_whatever_stands_in_it(erp: Session, text: str) -> None:
    params = {"c": {"type": "string"}}
    erp.run({"c": text}, sql="INSERT INTO orders (no, customer) VALUES (900, :c)", params=params)
    assert erp.value("SELECT customer FROM orders WHERE customer = :c", {"c": text}, params=params) == text
    erp.run({"c": text}, sql="DELETE FROM orders WHERE customer = :c", params=params)
    assert erp.value("SELECT count(*) FROM orders WHERE no = 900") == 0


@ALL
def test_a_read_cannot_write(erp: Session) -> None:
    with pytest.raises(SourceFailed) as caught:
        erp.run(sql="INSERT INTO orders (no, customer) VALUES (200, 'read')", effect="read")
    assert caught.value.source_code
    assert orders(erp, "read") == 0
    erp.run(sql="INSERT INTO orders (no, customer) VALUES (200, 'read')")
    assert orders(erp, "read") == 1
    erp.run(sql="DELETE FROM orders WHERE no = 200")


def test_a_statement_that_returns_rows_but_is_no_select_runs_as_it_is(pg: Session) -> None:
    pg.run(sql="CREATE TABLE IF NOT EXISTS moved (at timestamptz)")
    sql = "INSERT INTO moved VALUES ('2024-02-29 12:00+00') RETURNING at"
    assert pg.run(sql=sql).rows == [[{"at": "2024-02-29T12:00:00Z"}]]
    # psqlodbc puts a cursor around everything that begins with WITH.
    with pytest.raises(SourceFailed, match="data-modifying statements in WITH"):
        pg.run(sql=f"WITH m AS ({sql}) SELECT at FROM m")  # noqa: S608 # the test's own text
    assert pg.value("SELECT count(*) FROM moved") == 1


def test_describing_a_statement_does_not_run_it(pg: Session) -> None:
    pg.run(sql="CREATE SEQUENCE counted")
    assert pg.run(sql="SELECT nextval('counted') AS n, now() AS at, '{}'::jsonb AS j").rows[0][0]["n"] == 1


# --- rows -------------------------------------------------------------------------------------------------


@BOTH
def test_rows_come_in_chunks_and_the_first_early(erp: Session) -> None:
    source = {"postgresql": "generate_series(1, 20000) AS g(n)", "mariadb": "(SELECT seq AS n FROM seq_1_to_20000) g"}
    name = erp.define(
        sql=f"SELECT n, 'customer' AS c, REPEAT('x', n % 300) AS x FROM {source[erp.driver.dialect_name]} ORDER BY n",  # noqa: S608 # the test's own text
        effect="read",
    )
    pieces = [piece for piece in erp.pieces(name) if isinstance(piece, Rows)]
    assert sum(piece.count for piece in pieces) == 20_000
    assert max(len(piece.data) for piece in pieces) <= PIECE_BYTES
    assert len(pieces[0].data) < 5_000
    assert sum(len(piece.data) for piece in pieces[1:-1]) / len(pieces[1:-1]) > CHUNK_BYTES / 4


def test_wide_rows_after_narrow_ones_are_cut_into_chunks(pg: Session) -> None:
    sql = "SELECT n, CASE WHEN n > 2000 THEN repeat('x', 30000) END AS x FROM generate_series(1, 2050) n"
    pieces = [piece for piece in pg.pieces(pg.define(sql=sql, effect="read")) if isinstance(piece, Rows)]
    assert sum(piece.count for piece in pieces) == 2_050
    assert max(len(piece.data) for piece in pieces) <= PIECE_BYTES


def test_a_row_that_is_too_large_to_be_held_is_refused(pg: Session) -> None:
    with pytest.raises(ValueUnreadable, match="one row has 1700000"):
        pg.run(sql="SELECT repeat('x', 17000000) AS x", effect="read")


def test_a_consumer_that_goes_away_rolls_back(pg: Session) -> None:
    sql = "INSERT INTO orders SELECT g, 'gone' FROM generate_series(10000, 20000) g; SELECT * FROM orders"
    pieces = pg.pieces(pg.define(sql=sql))
    assert isinstance(next(pieces), RowSet)
    pieces.close()  # type: ignore[attr-defined] # a generator
    assert orders(pg, "gone") == 0


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("erp", "procedure", "listed", "code", "message"),
    [
        ("pg", "refuses", "P0001", "P0001", "customer 1 is blocked"),
        ("maria", "refuses", "45000", "45000", "customer is blocked"),
        ("maria", "refuses", "31001", "45000", "customer is blocked"),
        ("maria", "refuses_late", "45000", "45000", "customer is blocked"),
    ],
    indirect=["erp"],
)
def test_the_erps_no_is_its_own_words_and_nothing_happened(
    erp: Session, procedure: str, listed: str, code: str, message: str
) -> None:
    keys: dict[str, Any] = {"procedure": procedure, "params": {"n": IN_INT}}
    with pytest.raises(SourceRejected) as caught:
        erp.run({"n": 1}, business_errors=[listed], **keys)
    assert caught.value.message.splitlines()[0] == message
    assert caught.value.source_code == code
    with pytest.raises(SourceFailed, match="is blocked"):
        erp.run({"n": 1}, **keys)
    assert orders(erp, "refused") == 0
    assert erp.driver.alive()


@pytest.mark.parametrize(
    ("erp", "sql", "listed"),
    [
        ("pg", "INSERT INTO orders VALUES (1, 'BLOCKED')", "23514"),
        ("maria", "INSERT INTO orders VALUES (1, 'BLOCKED')", "4025"),
        ("lite", "INSERT INTO orders VALUES (1, 'BLOCKED')", "19"),
        ("pg", "INSERT INTO orders VALUES (1, NULL)", "23502"),
    ],
    indirect=["erp"],
)
def test_a_broken_rule_is_a_business_error_if_listed(erp: Session, sql: str, listed: str) -> None:
    with pytest.raises(SourceFailed):
        erp.run(sql=sql)
    with pytest.raises(SourceRejected) as caught:
        erp.run(sql=sql, business_errors=[listed])
    assert not caught.value.message.startswith(("[", "ERROR"))
    assert "SQLExec" not in caught.value.message


@ALL
def test_a_technical_error_tells_the_databases_words_and_the_session_lives(erp: Session) -> None:
    with pytest.raises(SourceFailed, match="nowhere"):
        erp.run(sql="SELECT * FROM nowhere")
    assert erp.value("SELECT 1 AS a") == 1


def test_a_procedure_that_speaks_of_connections_is_not_taken_for_a_lost_session(pg: Session) -> None:
    pg.run(
        sql="CREATE PROCEDURE far() LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no way to the warehouse' USING ERRCODE = '08001'; END $$"
    )
    with pytest.raises(SourceFailed, match="no way to the warehouse"):
        pg.run(procedure="far")


def test_a_rule_checked_at_commit_is_told_with_certainty(pg: Session) -> None:
    pg.run(sql="CREATE TABLE IF NOT EXISTS late (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(SourceRejected, match="duplicate key"):
        pg.run(sql="INSERT INTO late VALUES (1), (1)", business_errors=["23505"])
    assert pg.value("SELECT count(*) FROM late") == 0


def end_session(server: Server, erp: Session) -> None:
    other = pyodbc.connect(server.odbc("odbc"), autocommit=True)
    if isinstance(server, Postgres):
        pid = erp.value("SELECT pg_backend_pid() AS pid")
        other.execute("SELECT pg_terminate_backend(?, 5000)", pid).fetchall()
    else:
        pid = erp.value("SELECT connection_id() AS id")
        other.execute(f"KILL {int(pid)}")
    other.close()


@SERVERS
def test_a_session_lost_between_calls_is_noticed_and_nothing_was_touched(server: Server) -> None:
    with session(server.odbc("odbc")) as erp:
        assert erp.driver.alive()
        end_session(server, erp)
        with pytest.raises(SourceUnavailable) as caught:
            erp.run({"n": 300}, procedure="quiet", params={"n": IN_INT})
        assert not caught.value.touched
        assert not erp.driver.alive()


@SERVERS
@pytest.mark.parametrize(("effect", "wanted"), [("read", SourceUnavailable), ("at-most-once", OutcomeUnknown)])
def test_a_session_lost_while_it_worked_leaves_the_outcome_open_unless_it_only_read(
    server: Server, effect: str, wanted: type[CommandError]
) -> None:
    sleep = "SELECT pg_sleep(30)" if isinstance(server, Postgres) else "SELECT SLEEP(30)"
    with session(server.odbc("odbc")) as erp:
        pid = erp.value("SELECT pg_backend_pid()" if isinstance(server, Postgres) else "SELECT connection_id()")
        killer = threading.Thread(target=kill_when_busy, args=(server, pid))
        killer.start()
        with pytest.raises(wanted) as caught:
            erp.run(sql=sleep, effect=effect)
        killer.join()
    assert caught.value.touched


def kill_when_busy(server: Server, pid: int) -> None:
    other = pyodbc.connect(server.odbc("odbc"), autocommit=True)
    busy = (
        "SELECT count(*) FROM pg_stat_activity WHERE pid = ? AND query ILIKE '%sleep%' AND state = 'active'"
        if isinstance(server, Postgres)
        else "SELECT count(*) FROM information_schema.PROCESSLIST WHERE id = ? AND INFO LIKE '%SLEEP%'"
    )
    deadline = time.monotonic() + 20
    while other.execute(busy, pid).fetchval() == 0:
        assert time.monotonic() < deadline
    if isinstance(server, Postgres):
        other.execute("SELECT pg_terminate_backend(?)", pid).fetchall()
    else:
        other.execute(f"KILL {int(pid)}")
    other.close()


def test_a_server_that_dies_during_commit_leaves_the_outcome_open(pg_server: Postgres) -> None:
    with session(pg_server.odbc("odbc")) as erp:
        # The commit itself waits: a deferred trigger runs in it.
        erp.run(
            sql="CREATE TABLE slow_commit (a int); "
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(30); RETURN NULL; END $$; "
            "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON slow_commit DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION wait()"
        )
        pid = erp.value("SELECT pg_backend_pid() AS pid")
        killer = threading.Thread(target=kill_when_committing, args=(pg_server, pid))
        killer.start()
        with pytest.raises(OutcomeUnknown, match="committed"):
            erp.run(sql="INSERT INTO slow_commit VALUES (1)")
        killer.join()


def kill_when_committing(server: Postgres, pid: int) -> None:
    other = pyodbc.connect(server.odbc("odbc"), autocommit=True)
    busy = "SELECT count(*) FROM pg_stat_activity WHERE pid = ? AND query ILIKE 'commit%' AND state = 'active'"
    deadline = time.monotonic() + 20
    while other.execute(busy, pid).fetchval() == 0:
        assert time.monotonic() < deadline
    other.execute("SELECT pg_terminate_backend(?)", pid).fetchall()
    other.close()


# --- deadlines and cancel -----------------------------------------------------------------------------------


@BOTH
def test_a_procedure_that_hangs_is_stopped_by_the_database_and_undone(erp: Session) -> None:
    start = time.monotonic()
    with pytest.raises(TimedOut, match="timeout of 1 s"):
        erp.run(procedure="hangs", timeout_s=1.0)
    assert time.monotonic() - start < 1.0
    assert orders(erp, "hangs") == 0
    assert erp.driver.alive()


@BOTH
def test_a_clock_that_ticks_seldom_as_that_of_windows_lets_no_interrupted_procedure_through(
    erp: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    with pytest.raises(TimedOut, match="timeout of 1 s"):
        erp.run(procedure="hangs", timeout_s=1.0)
    assert orders(erp, "hangs") == 0


@BOTH
def test_cancel_from_another_thread_stops_the_work_and_undoes_it(erp: Session) -> None:
    name = erp.define(procedure="hangs")
    stop = threading.Event()

    def cancel_until_it_ends() -> None:
        while not stop.wait(0.05):
            erp.driver.cancel()

    canceller = threading.Thread(target=cancel_until_it_ends)
    work = erp.pieces(name)
    canceller.start()
    try:
        with pytest.raises(Cancelled):
            list(work)
    finally:
        stop.set()
        canceller.join()
    assert orders(erp, "hangs") == 0
    assert erp.driver.alive()


@BOTH
def test_a_cancel_that_comes_before_the_first_row_is_asked_for_is_not_lost(erp: Session) -> None:
    work = erp.pieces(erp.define(procedure="hangs"))
    erp.driver.cancel()
    with pytest.raises(Cancelled):
        list(work)
    assert erp.run({"n": 700}, procedure="quiet", params={"n": IN_INT}).rows == []


ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000000000) SELECT max(n) FROM c"


def test_sqlite_which_has_no_timeout_of_its_own_is_stopped_too(lite: Session) -> None:
    with pytest.raises(TimedOut):
        lite.run(sql=ENDLESS, timeout_s=0.5)
    assert lite.driver.alive()


def test_sqlite_can_be_cancelled(lite: Session) -> None:
    timer = threading.Timer(0.2, lite.driver.cancel)
    work = lite.pieces(lite.define(sql=ENDLESS))
    timer.start()
    with pytest.raises(Cancelled):
        list(work)
    timer.join()


def test_rows_that_nobody_takes_in_time_end_with_the_timeout(pg: Session) -> None:
    pieces = pg.pieces(pg.define(sql="SELECT generate_series(1, 1000)", effect="read"), timeout_s=0.2)
    next(pieces)
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        threading.Event().wait(0.05)
    with pytest.raises(TimedOut):
        list(pieces)


# --- connecting, checking -----------------------------------------------------------------------------------


@SERVERS
def test_a_wrong_password_is_told_without_showing_any(server: Server) -> None:
    with pytest.raises(SourceUnavailable, match="check the account and its secret") as caught:
        Session(server.odbc("odbc", password="not-the-right-one"))
    assert "not-the-right-one" not in str(caught.value)
    assert not caught.value.touched


def test_a_missing_driver_is_told_with_those_that_are_there() -> None:
    with pytest.raises(SourceUnavailable, match=r"check Driver=.*SQLite3"):
        Session("Driver={No Such Driver};Server=x;Pwd=hidden-secret")


def test_a_server_that_is_not_there_is_told(pg_server: Postgres) -> None:
    with pytest.raises(SourceUnavailable, match="check the server's address"):
        Session(pg_server.odbc("odbc").replace(str(pg_server.port), "1"))


@ALL
def test_the_dialect_is_found_out(erp: Session) -> None:
    assert erp.driver.dialect_name in ("postgresql", "mariadb", "sqlite")


def test_the_dialect_is_asked_of_the_database_where_the_driver_has_no_name(pg_server: Postgres) -> None:
    text = pg_server.odbc("odbc").replace("{PostgreSQL Unicode}", "/usr/lib/x86_64-linux-gnu/odbc/psqlodbcw.so")
    text = text.replace("psqlodbcw.so", "../odbc/./psqlodbcw.so")
    with session(text) as erp:
        assert erp.driver.dialect_name == "postgresql"


def test_an_unknown_operation_is_refused(pg: Session) -> None:
    with pytest.raises(OperationUnknown):
        list(pg.pieces("no-such-operation"))


def test_braces_in_a_connection_string_are_read() -> None:
    assert parts_of("Driver={A;B};Pwd={x}};y}; Uid = me ;") == [("Driver", "A;B"), ("Pwd", "x};y"), ("Uid", "me")]


@ALL
def test_check_tries_each_operation_without_running_it(erp: Session) -> None:
    erp.define("good", sql="INSERT INTO orders (no, customer) VALUES (:no, 'checked')", params={"no": IN_INT})
    erp.define("bad-table", sql="SELECT * FROM nowhere")
    erp.define("bad-text", sql="SELECT 'open")
    erp.define("undeclared", sql="SELECT :who")
    found: dict[str, Finding] = {
        finding.subject: finding
        for name in ("good", "bad-table", "bad-text", "undeclared")
        for finding in erp.driver.check(name)
    }
    assert found["operation good"].ok
    for name, part in (("bad-table", "nowhere"), ("bad-text", "never ends"), ("undeclared", ":who")):
        finding = found[f"operation {name}"]
        assert finding.ok is False
        assert part in finding.detail
        assert finding.code
    assert orders(erp, "checked") == 0


@BOTH
def test_check_looks_procedures_up(erp: Session) -> None:
    erp.define("good", procedure="quiet", params={"n": IN_INT})
    erp.define("missing", procedure="nowhere")
    erp.define("other", procedure="quiet", params={})
    found = {name: next(iter(erp.driver.check(name))) for name in ("good", "missing", "other")}
    assert {name: (finding.ok, finding.code) for name, finding in found.items()} == {
        "good": (True, ""),
        "missing": (False, "operation.procedure-missing"),
        "other": (False, "operation.parameters"),
    }
    assert [finding.subject for finding in erp.driver.check("good")] == ["operation good", "operation good: parameters"]


def test_check_tells_driver_version_and_buffering(maria: Session) -> None:
    details = [finding.detail for finding in maria.driver.check()]
    assert "MariaDB" in details[0]
    assert "libmaodbc" in details[0]
    assert any("holds a whole result in memory" in detail for detail in details)
    assert any("all of Unicode" in detail and "utf8mb4" in detail for detail in details)


def test_outputs_come_last_and_after_the_commit(pg: Session, pg_server: Postgres) -> None:
    other = pyodbc.connect(pg_server.odbc("odbc"), autocommit=True)
    pieces = pg.pieces(pg.define(sql="INSERT INTO orders VALUES (:no, 'last')", params={"no": IN_INT}), {"no": 400})
    last = list(pieces)[-1]
    assert isinstance(last, Outputs)
    assert other.execute("SELECT count(*) FROM orders WHERE no = 400").fetchval() == 1
    other.close()


def test_a_closed_driver_is_not_alive_and_closing_twice_is_harmless(pg_server: Postgres) -> None:
    opened = Session(pg_server.odbc("odbc"))
    opened.driver.close()
    opened.driver.close()
    assert not opened.driver.alive()
    assert isinstance(opened.driver, OdbcDriver)
    with pytest.raises(SourceUnavailable):
        opened.run(sql="SELECT 1")


def test_binary_parameters_are_bytes(pg: Session) -> None:
    value = base64.b64encode(b"'; \\x00").decode()
    assert pg.value("SELECT CAST(:b AS bytea) AS b", {"b": value}, params={"b": {"type": "binary"}}) == value
