"""The time zone of a session stays the database's own, and instants are exact nevertheless."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agent.connectors.odbc.clock import Clock
from agent.connectors.odbc.types import Spoiled
from agent.errors import ParametersInvalid, ValueUnreadable
from config.dev.databases import MariaDB, Postgres
from tests.agent.connectors.odbc_session import Session, session

# In Berlin clocks went from 02:00 to 03:00 on 31 March 2024, and from 03:00 back to 02:00 on 27 October.
TOLD_APART = (
    "2024-01-01T00:00:00Z",
    "2024-03-31T00:59:59Z",
    "2024-03-31T01:00:00Z",
    "2024-07-01T12:00:00.5Z",
    "2024-10-26T23:59:59.999999Z",
    "2024-10-27T02:00:00Z",
    "2024-12-31T23:30:00Z",
)
TWICE = ("2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z")

AT = {"at": {"type": "datetime"}}
AT_OUT = {"at": {"type": "datetime"}, "out_at": {"type": "datetime", "direction": "out"}}

POSTGRES = """
CREATE TABLE moments (at timestamptz);
CREATE FUNCTION moments_of(at timestamptz) RETURNS TABLE (at timestamptz) LANGUAGE sql AS 'SELECT $1';
CREATE PROCEDURE moment_out(at timestamptz, OUT out_at timestamptz) LANGUAGE plpgsql AS 'BEGIN out_at := at; END';
CREATE PROCEDURE moment_cursor(at timestamptz, INOUT r refcursor) LANGUAGE plpgsql AS
    'BEGIN OPEN r FOR SELECT at AS at, 1 AS one; END';
CREATE PROCEDURE today(OUT zone text, OUT day date, OUT clock text) LANGUAGE plpgsql AS
    $$ BEGIN zone := current_setting('TimeZone'); day := CURRENT_DATE; clock := now()::text; END $$;
CREATE PROCEDURE elsewhere(at timestamptz, OUT out_at timestamptz) LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('TimeZone', 'Asia/Kolkata', false); out_at := at; END $$;
"""

MARIADB = """
CREATE TABLE moments (at timestamp(6));
DELIMITER //
CREATE PROCEDURE moments_of(IN at timestamp(6)) BEGIN
    CREATE OR REPLACE TEMPORARY TABLE found (at timestamp(6)); INSERT INTO found VALUES (at);
    SELECT * FROM found; SELECT 1 AS one; END //
CREATE PROCEDURE today(OUT zone text, OUT day date, OUT clock text)
BEGIN SET zone = @@SESSION.time_zone; SET day = CURRENT_DATE; SET clock = NOW(); END //
CREATE PROCEDURE elsewhere() BEGIN SET time_zone = '+05:30'; END //
DELIMITER ;
"""


# --- the clock itself -------------------------------------------------------------------------------------


def asked(zone: ZoneInfo) -> Callable[[Sequence[int]], list[int]]:
    def ask(instants: Sequence[int]) -> list[int]:
        return [int((datetime.fromtimestamp(n, zone).utcoffset() or timedelta()).total_seconds()) for n in instants]

    return ask


@pytest.mark.parametrize(
    ("name", "year", "ambiguous_quarters"),
    [
        ("UTC", 2024, 0),
        ("Asia/Kolkata", 2024, 0),
        ("Europe/Berlin", 2024, 8),
        ("America/St_Johns", 2024, 8),
        ("Africa/Casablanca", 2024, 8),
        ("Australia/Lord_Howe", 2024, 4),  # goes back by half an hour
        ("Pacific/Apia", 2011, 8),  # left out a whole day
        ("Europe/Amsterdam", 1950, 0),
    ],
)
def test_every_quarter_of_a_year_is_the_instant_that_it_was(name: str, year: int, ambiguous_quarters: int) -> None:
    zone, twice = ZoneInfo(name), 0
    clock = Clock(asked(zone))
    instant = datetime(year, 1, 1, 0, 7, 30, 250_000, tzinfo=UTC)
    while instant.year == year:
        shown = instant.astimezone(zone)
        if shown.replace(fold=0).utcoffset() != shown.replace(fold=1).utcoffset():
            twice += 1
            with pytest.raises(Spoiled, match="twice"):
                clock.utc(shown.replace(tzinfo=None, fold=0))
            with pytest.raises(Spoiled, match="twice"):
                clock.wall(instant)
        else:
            assert clock.utc(shown.replace(tzinfo=None)) == instant
            assert clock.wall(instant) == shown.replace(tzinfo=None)
        instant += timedelta(minutes=15)
    assert twice == ambiguous_quarters


def test_a_time_that_the_clock_left_out_is_refused() -> None:
    with pytest.raises(Spoiled, match="no time that"):
        Clock(asked(ZoneInfo("Europe/Berlin"))).utc(datetime(2024, 3, 31, 2, 30))


def test_where_the_database_can_not_be_asked_only_a_clock_that_was_never_put_goes_on() -> None:
    later = datetime(2999, 12, 31, tzinfo=UTC)
    fixed, changing = (Clock(asked(ZoneInfo(name)), 0, 2**31 - 1) for name in ("Asia/Kolkata", "Europe/Berlin"))
    for clock in (fixed, changing):
        clock.learn(range(2000, 2039))
    assert fixed.wall(later) == datetime(2999, 12, 31, 5, 30)
    with pytest.raises(Spoiled, match="without an offset"):
        changing.wall(later)


# --- PostgreSQL -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pg_server(postgres: Postgres) -> Postgres:
    postgres.execute_script("CREATE DATABASE zones")
    postgres.execute_script(POSTGRES, "zones")
    return postgres


@contextmanager
def in_postgres(server: Postgres, zone: str) -> Iterator[Session]:
    server.execute_script(f"ALTER DATABASE zones SET timezone = '{zone}'")
    with session(server.odbc("zones")) as opened:
        yield opened


@pytest.fixture
def pg(pg_server: Postgres) -> Iterator[Session]:
    with in_postgres(pg_server, "Europe/Berlin") as opened:
        yield opened


TODAY = {
    name: {"type": kind, "direction": "out"}
    for name, kind in (("zone", "string"), ("day", "date"), ("clock", "string"))
}


def today(erp: Session) -> dict[str, Any]:
    return erp.run(procedure="today", params=TODAY).outputs


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])  # one of them has another date than UTC
def test_todays_date_is_that_of_postgresqls_own_zone(pg_server: Postgres, zone: str) -> None:
    with in_postgres(pg_server, zone) as erp:
        before = datetime.now(ZoneInfo(zone))
        found = today(erp)
        after = datetime.now(ZoneInfo(zone))
        assert found["zone"] == zone
        assert found["day"] in {before.date().isoformat(), after.date().isoformat()}
        assert found["clock"].endswith("+14" if zone == "Pacific/Kiritimati" else "-12")
        assert erp.value("SELECT CURRENT_DATE::text AS d") in {before.date().isoformat(), after.date().isoformat()}


@pytest.mark.parametrize("at", [*TOLD_APART, *TWICE, "0001-06-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_what_postgresql_selects_is_always_exact(pg: Session, at: str) -> None:
    pg.run(sql="DELETE FROM moments")
    pg.run({"at": at}, sql="INSERT INTO moments VALUES (:at)", params=AT)
    assert pg.value("SELECT at FROM moments") == at
    assert pg.run({"at": at}, procedure="moments_of", params=AT).rows == [[{"at": at}]]


@pytest.mark.parametrize("at", [*TOLD_APART, "1950-07-01T00:00:00Z", "0101-06-01T00:00:00Z", "9999-06-30T22:00:00Z"])
def test_what_postgresqls_driver_gives_without_a_zone_is_exact_too(pg: Session, at: str) -> None:
    returned = pg.run({"at": at}, sql="INSERT INTO moments VALUES (:at) RETURNING at", params=AT)
    assert same(returned.rows[0][0]["at"], at)
    opened = pg.run({"at": at}, procedure="moment_cursor", params=AT)
    assert [same(row["at"], at) for row in opened.rows[0]] == [True]
    assert same(pg.run({"at": at}, procedure="moment_out", params=AT_OUT).outputs["out_at"], at)


def same(found: str, wanted: str) -> bool:
    assert found.endswith("Z")
    return datetime.fromisoformat(found) == datetime.fromisoformat(wanted)


@pytest.mark.parametrize("at", TWICE)
def test_the_hour_that_comes_twice_is_refused_where_postgresqls_driver_hides_which(pg: Session, at: str) -> None:
    ways: list[dict[str, Any]] = [
        {"sql": "INSERT INTO moments VALUES (:at) RETURNING at", "params": AT},
        {"procedure": "moment_cursor", "params": AT},
        {"procedure": "moment_out", "params": AT_OUT},
    ]
    for keys in ways:
        with pytest.raises(ValueUnreadable, match=r"column (out_)?at: .*twice"):
            pg.run({"at": at}, **keys)


def test_a_procedure_that_leaves_another_zone_behind_spoils_nothing(pg: Session) -> None:
    at = "2024-07-01T12:00:00Z"
    for procedure in ("elsewhere", "moment_out", "elsewhere"):
        assert same(pg.run({"at": at}, procedure=procedure, params=AT_OUT).outputs["out_at"], at)


def test_out_parameters_that_the_driver_may_spoil_are_warned_of(pg: Session) -> None:
    [remark] = pg.run({"at": TOLD_APART[0]}, procedure="moment_out", params=AT_OUT).remarks
    assert "in out_at;" in remark
    [remark] = pg.run(procedure="today", params=TODAY).remarks
    assert "in day;" in remark


# --- MariaDB ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maria_server(mariadb: MariaDB) -> Iterator[MariaDB]:
    rules = subprocess.run(
        ["mariadb-tzinfo-to-sql", "/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"],
        capture_output=True,
        text=True,
        check=True,
    )
    mariadb.execute_script(rules.stdout, "mysql")
    mariadb.execute_script("CREATE DATABASE zones CHARACTER SET utf8mb4")
    mariadb.execute_script(MARIADB, "zones")
    yield mariadb
    mariadb.execute_script("SET GLOBAL time_zone = 'SYSTEM'")


@contextmanager
def in_mariadb(server: MariaDB, zone: str) -> Iterator[Session]:
    server.execute_script(f"SET GLOBAL time_zone = '{zone}'")
    with session(server.odbc("zones")) as opened:
        yield opened


@pytest.fixture
def maria(maria_server: MariaDB) -> Iterator[Session]:
    with in_mariadb(maria_server, "Europe/Berlin") as opened:
        yield opened


@pytest.mark.parametrize(("zone", "hours"), [("+13:00", 13), ("-12:00", -12)])
def test_todays_date_is_that_of_mariadbs_own_zone(maria_server: MariaDB, zone: str, hours: int) -> None:
    with in_mariadb(maria_server, zone) as erp:
        before = datetime.now(UTC) + timedelta(hours=hours)
        found = today(erp)
        after = datetime.now(UTC) + timedelta(hours=hours)
        assert found["zone"] == zone
        assert found["day"] in {before.date().isoformat(), after.date().isoformat()}
        assert found["clock"][:10] == found["day"]


@pytest.mark.parametrize("at", [*TOLD_APART, "1970-01-01T00:00:01Z", "2038-01-19T03:14:07Z"])
def test_mariadbs_timestamps_are_exact(maria: Session, at: str) -> None:
    maria.run(sql="DELETE FROM moments")
    maria.run({"at": at}, sql="INSERT INTO moments VALUES (:at)", params=AT)
    instant = datetime.fromisoformat(at)
    assert maria.value("SELECT UNIX_TIMESTAMP(at) AS at FROM moments") == f"{instant.timestamp():.6f}"
    assert same(maria.value("SELECT at FROM moments"), at)
    called = maria.run({"at": at}, procedure="moments_of", params=AT)
    assert [same(row["at"], at) for row in called.rows[0]] == [True]
    assert called.rows[1] == [{"one": 1}]


def write_in_utc(server: MariaDB, at: str) -> None:
    in_utc = "SET time_zone = '+00:00'; DELETE FROM moments; INSERT INTO moments VALUES"
    server.execute_script(f"{in_utc} ('{at.rstrip('Z')}')", "zones")


@pytest.mark.parametrize("at", TWICE)
def test_the_hour_that_comes_twice_is_exact_where_mariadb_only_reads(
    maria: Session, maria_server: MariaDB, at: str
) -> None:
    write_in_utc(maria_server, at)
    assert maria.value("SELECT at FROM moments") == at.replace("Z", ".000000Z")
    # As any other statement, and as a procedure, it has local time only.
    with pytest.raises(ValueUnreadable, match=r"column at: .*twice"):
        maria.run(sql="SELECT at FROM moments")
    # What the reference advises.
    with session(f"{maria_server.odbc('zones')};InitStmt={{SET time_zone = '+00:00'}}") as erp:
        assert same(erp.run(sql="SELECT at FROM moments").rows[0][0]["at"], at)


@pytest.mark.parametrize("at", TWICE)
def test_the_hour_that_comes_twice_can_not_be_said_to_mariadb(maria: Session, at: str) -> None:
    with pytest.raises(ParametersInvalid, match=r"at: .*twice"):
        maria.run({"at": at}, sql="INSERT INTO moments VALUES (:at)", params=AT)


def test_a_select_of_mariadb_keeps_its_order_names_and_types_around_instants(
    maria: Session, maria_server: MariaDB
) -> None:
    write_in_utc(maria_server, TOLD_APART[3])
    columns = """seq AS n, at, at AS at, 1.50 AS price, 'é' AS t, x'00ff' AS b, CAST(seq AS UNSIGNED) AS u,
        CAST(NULL AS DATE) AS d, CURRENT_DATE AS today"""
    sql = f"SELECT {columns} FROM seq_1_to_5000, moments ORDER BY MD5(seq) -- so\n"  # noqa: S608 # the test's own text
    reads, writes = maria.run(sql=sql, effect="read"), maria.run(sql=sql)
    assert reads.columns == writes.columns
    assert reads.rows == writes.rows
    assert list(reads.rows[0][0]) == ["n", "at", "at_2", "price", "t", "b", "u", "d", "today"]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH m AS (SELECT at FROM moments) SELECT at FROM m",
        "SELECT at FROM moments UNION SELECT NULL ORDER BY at DESC LIMIT :n",
        "SELECT at FROM moments WHERE :n = 1",
        "(SELECT at FROM moments)",
    ],
)
def test_any_select_of_mariadb_can_be_asked_for_its_columns(maria: Session, maria_server: MariaDB, sql: str) -> None:
    write_in_utc(maria_server, TOLD_APART[3])
    params = {"n": {"type": "integer", "default": 1}} if ":n" in sql else {}
    assert same(maria.value(sql, params=params), TOLD_APART[3])


def test_a_zero_date_of_mariadb_is_refused_in_any_zone(maria: Session, maria_server: MariaDB) -> None:
    maria_server.execute_script(
        "SET sql_mode = ''; DELETE FROM moments; INSERT INTO moments VALUES ('0000-00-00')", "zones"
    )
    for effect in ("read", "idempotent"):
        with pytest.raises(ValueUnreadable, match="column at: "):
            maria.run(sql="SELECT at FROM moments", effect=effect)


def test_a_zone_that_a_procedure_of_mariadb_left_behind_is_put_back(maria: Session) -> None:
    maria.run(procedure="elsewhere")
    assert today(maria)["zone"] == "Europe/Berlin"
    maria.run({"at": TOLD_APART[3]}, sql="DELETE FROM moments; INSERT INTO moments VALUES (:at)", params=AT)
    assert same(maria.value("SELECT at FROM moments"), TOLD_APART[3])


def test_a_time_without_an_offset_is_the_databases_own(maria: Session, pg: Session) -> None:
    for erp in (maria, pg):
        erp.run(sql="DELETE FROM moments")
        erp.run({"at": "2024-07-01T14:00:00"}, sql="INSERT INTO moments VALUES (:at)", params=AT)
        assert same(erp.value("SELECT at FROM moments"), "2024-07-01T12:00:00Z")
        assert erp.run(sql="SELECT at FROM moments").types == ["datetime"]
