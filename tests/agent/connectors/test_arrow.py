"""Rows as Arrow: what each type of each database becomes, what is refused by name, and what a parameter stays."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agent.connectors.base import Call, Outputs, Rows, RowSet
from agent.connectors.odbc.arrow import BATCH_ROWS
from agent.connectors.odbc.dialects import VALUE_BYTES
from agent.errors import Cancelled, CommandError, NotAllowed, ParametersInvalid, SourceFailed, TimedOut, ValueUnreadable
from config.dev.databases import MariaDB, Postgres
from tests.agent.connectors.odbc_session import Session, session

UUID = "6f1f1a2c-8f6b-4a6b-9c1d-0123456789ab"
TEXT = "Zürich €, 東京, 😀, \t tab,\nline"
MOMENT = datetime(2024, 2, 29, 12, 34, 56, 123456)
INSTANT = MOMENT.replace(tzinfo=UTC)


MARIADB_TABLE = """
CREATE TABLE arrows (tiny TINYINT, big_u BIGINT UNSIGNED, int_u INT UNSIGNED, dec_ DECIMAL(12,2),
    dec_wide DECIMAL(50,5), dbl DOUBLE, flt FLOAT, chars VARCHAR(90), long_text LONGTEXT, dt DATETIME(6),
    ts TIMESTAMP(6) NULL, d DATE, t TIME(6), bits BIT(1), yes BOOLEAN, en ENUM('a', 'bcd'), y YEAR, js JSON,
    bin BLOB)"""
MARIADB_ROW = """
INSERT INTO arrows VALUES (-1, 9223372036854775807, 4294967295, 1.25, 1.5, 0.1, 1.1, :t, 'x',
    '2024-02-29 12:34:56.123456', FROM_UNIXTIME(1709210096.123456), '2024-02-29', '23:59:59.999999', b'1', 1, 'bcd',
    2024, '[1]', x'00ff27')"""
SQLITE_TABLE = """
CREATE TABLE arrows (i INTEGER, big BIGINT, n DECIMAL(12,2), r REAL, t TEXT, v VARCHAR(20), ts TIMESTAMP, d DATE,
    tm TIME, b BOOLEAN, bl BLOB)"""
SQLITE_ROW = """
INSERT INTO arrows VALUES (9007199254740993, -9223372036854775808, 1.5, 0.1, :t, :v,
    '2024-02-29 12:34:56.123456', '2024-02-29', '12:34:56.5', 1, x'00ff27')"""


@pytest.fixture(scope="module")
def sessions(
    postgres: Postgres, mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Session]]:
    file: Path = tmp_path_factory.mktemp("sqlite") / "erp.sqlite"
    with (
        session(postgres.odbc()) as pg,
        session(mariadb.odbc()) as maria,
        session(f"Driver=SQLite3;Database={file}") as lite,
    ):
        maria.run(sql=MARIADB_TABLE)
        maria.run({"t": TEXT}, sql=MARIADB_ROW, params={"t": {"type": "string"}})
        lite.run(sql=SQLITE_TABLE)
        lite.run(sql="CREATE TABLE odd (a DATE)")
        lite.run(sql="INSERT INTO odd VALUES ('2024-02-30')")
        lite.run({"t": TEXT, "v": "ü"}, sql=SQLITE_ROW, params={"t": {"type": "string"}, "v": {"type": "string"}})
        yield {"postgresql": pg, "mariadb": maria, "sqlite": lite}


def arrow(of: Session, sql: str, given: dict[str, Any] | None = None, timeout_s: float = 30.0, **keys: Any) -> pa.Table:
    """Run a SELECT and return its rows; each piece counts those that it has."""
    name = of.define(sql=sql, **{"effect": "read", **keys})
    pieces = list(of.driver.run(Call("c1", name, json.dumps(given or {}).encode(), timeout_s, rows_as="arrow")))
    [begins] = [piece for piece in pieces if isinstance(piece, RowSet)]
    assert begins.rows_as == "arrow"
    assert isinstance(pieces[-1], Outputs)
    some = [piece for piece in pieces if isinstance(piece, Rows)]
    table = pa.ipc.open_stream(b"".join(piece.data for piece in some)).read_all()
    assert table.num_rows == sum(piece.count for piece in some)
    assert table.column_names == [column.name for column in begins.columns]
    table.validate(full=True)
    return table


# A value in the database's own words, its type in Arrow, and the value there.
VALUES: dict[str, list[tuple[str, pa.DataType, Any]]] = {
    "postgresql": [
        ("(-32768)::smallint", pa.int16(), -32768),
        ("2147483647::integer", pa.int32(), 2147483647),
        ("9223372036854775807::bigint", pa.int64(), 9223372036854775807),
        ("4294967295::oid", pa.int64(), 4294967295),
        ("(-1234567890123456.7800)::numeric(20,4)", pa.decimal128(20, 4), Decimal("-1234567890123456.7800")),
        ("12.5::numeric", pa.utf8(), "12.5"),
        ("1.12345678901234567890123456789::numeric", pa.utf8(), "1.12345678901234567890123456789"),
        ("12.5::numeric(50,5)", pa.utf8(), "12.50000"),
        ("'12345678901.99'::money", pa.utf8(), "12345678901.99"),
        ("1.7976931348623157e308::float8", pa.float64(), 1.7976931348623157e308),
        ("0.1::float8", pa.float64(), 0.1),
        ("1.1::real", pa.float64(), 1.1),
        ("true", pa.bool_(), True),
        ("false", pa.bool_(), False),
        ("date '9999-12-31'", pa.date32(), date(9999, 12, 31)),
        ("timestamp '2024-02-29 12:34:56.123456'", pa.timestamp("us"), MOMENT),
        ("timestamp '0001-01-01 00:00:00'", pa.timestamp("us"), datetime(1, 1, 1)),
        ("timestamptz '2024-02-29 14:34:56.123456+02'", pa.timestamp("us", "UTC"), INSTANT),
        ("time '23:59:59.999999'", pa.time64("us"), time(23, 59, 59, 999999)),
        (f"'{UUID}'::uuid", pa.utf8(), UUID),
        ("""'{"a": [1, null]}'::jsonb""", pa.utf8(), '{"a": [1, null]}'),
        ("'\\x00ff27'::bytea", pa.binary(), b"\x00\xff'"),
        ("''::bytea", pa.binary(), b""),
        ("'{1,2}'::int[]", pa.utf8(), "{1,2}"),
        ("interval '1 day'", pa.utf8(), "1 day"),
        ("'ab'::char(3)", pa.utf8(), "ab "),
        ("''::text", pa.utf8(), ""),
        (r"""$$ "a" \\ \n (b,c) 'x'$$::text""", pa.utf8(), r""" "a" \\ \n (b,c) 'x'"""),
        (r"""E'"\r\n,\t\\'::text""", pa.utf8(), '"\r\n,\t\\'),
        (r"'\N'::text", pa.utf8(), r"\N"),
        ("'NULL'::text", pa.utf8(), "NULL"),
        ("'t'::text", pa.utf8(), "t"),
        ("'Infinity'::float8", pa.float64(), float("inf")),
        ("'-Infinity'::real", pa.float64(), float("-inf")),
        ("5e-324::float8", pa.float64(), 5e-324),
        (r"""repeat('\"', 16000)""", pa.utf8(), '\\"' * 16000),
        ("null::bytea", pa.binary(), None),
        ("repeat('é', 15000)", pa.utf8(), "é" * 15000),
        ("repeat('x', 30000)::varchar", pa.utf8(), "x" * 30000),
        *(
            (f"null::{name}", kind, None)
            for name, kind in [
                ("integer", pa.int32()),
                ("text", pa.utf8()),
                ("timestamptz", pa.timestamp("us", "UTC")),
                ("time", pa.time64("us")),
                ("numeric(10,2)", pa.decimal128(10, 2)),
                ("boolean", pa.bool_()),
            ]
        ),
    ],
    "mariadb": [
        ("CAST(-9223372036854775808 AS SIGNED)", pa.int64(), -9223372036854775808),
        ("CAST(4294967295 AS UNSIGNED)", pa.int64(), 4294967295),
        ("CAST(12.50 AS DECIMAL(12,2))", pa.decimal128(12, 2), Decimal("12.50")),
        ("0.1e0", pa.float64(), 0.1),
        ("CAST('2024-02-29 12:34:56.123456' AS DATETIME(6))", pa.timestamp("us"), MOMENT),
        ("CAST('2024-02-29' AS DATE)", pa.date32(), date(2024, 2, 29)),
        ("CAST('12:34:56.5' AS TIME(6))", pa.time64("us"), time(12, 34, 56, 500000)),
        ("_binary x'00ff27'", pa.binary(), b"\x00\xff'"),
        ("REPEAT('é', 15000)", pa.utf8(), "é" * 15000),
        ("CAST(NULL AS CHAR)", pa.utf8(), None),
        ("CAST(NULL AS DATETIME)", pa.timestamp("us"), None),
    ],
    "sqlite": [
        ("'e'", pa.utf8(), "e"),
        ("5", pa.utf8(), "5"),
    ],
}
# The same of columns of the tables above.
COLUMNS: dict[str, dict[str, tuple[pa.DataType, Any]]] = {
    "mariadb": {
        "tiny": (pa.int64(), -1),
        "big_u": (pa.int64(), 9223372036854775807),
        "int_u": (pa.int64(), 4294967295),
        "dec_": (pa.decimal128(12, 2), Decimal("1.25")),
        "dec_wide": (pa.utf8(), "1.50000"),
        "dbl": (pa.float64(), 0.1),
        "flt": (pa.float64(), 1.1),
        "chars": (pa.utf8(), TEXT),
        "long_text": (pa.utf8(), "x"),
        "dt": (pa.timestamp("us"), MOMENT),
        "ts": (pa.timestamp("us", "UTC"), INSTANT),
        "d": (pa.date32(), date(2024, 2, 29)),
        "t": (pa.time64("us"), time(23, 59, 59, 999999)),
        "bits": (pa.bool_(), True),
        "yes": (pa.int64(), 1),
        "en": (pa.utf8(), "bcd"),
        "y": (pa.int64(), 2024),
        "js": (pa.utf8(), "[1]"),
        "bin": (pa.binary(), b"\x00\xff'"),
    },
    "sqlite": {
        "i": (pa.int64(), 9007199254740993),
        "big": (pa.int64(), -9223372036854775808),
        "n": (pa.utf8(), "1.5"),
        "r": (pa.float64(), 0.1),
        "t": (pa.utf8(), TEXT),
        "v": (pa.utf8(), "ü"),
        "ts": (pa.timestamp("us"), MOMENT),
        "d": (pa.date32(), date(2024, 2, 29)),
        "tm": (pa.time64("us"), time(12, 34, 56, 500000)),
        "b": (pa.bool_(), True),
        "bl": (pa.binary(), b"\x00\xff'"),
    },
}


@pytest.mark.parametrize(
    ("database", "sql", "kind", "value"),
    [(database, *case) for database, cases in VALUES.items() for case in cases],
)
def test_a_value_keeps_what_it_is(sessions: dict[str, Session], database: str, sql: str, kind: Any, value: Any) -> None:
    found = arrow(sessions[database], f"SELECT {sql} AS a")
    assert found.schema.field("a").type == kind
    assert found["a"].to_pylist() == [value]


@pytest.mark.parametrize("database", COLUMNS)
def test_a_table_keeps_what_it_is(sessions: dict[str, Session], database: str) -> None:
    found = arrow(sessions[database], "SELECT * FROM arrows")
    assert {name: found.schema.field(name).type for name in found.column_names} == {
        name: kind for name, (kind, _) in COLUMNS[database].items()
    }
    assert found.to_pylist() == [{name: value for name, (_, value) in COLUMNS[database].items()}]


@pytest.mark.parametrize(
    ("database", "sql"),
    [
        ("postgresql", "SELECT 1 AS b, 'infinity'::timestamp AS a"),
        ("postgresql", "SELECT 1 AS b, '-infinity'::timestamptz AS a"),
        ("postgresql", "SELECT 1 AS b, '0044-03-15 BC'::date AS a"),
        ("postgresql", "SELECT 1 AS b, '10000-01-01'::date AS a"),
        ("postgresql", "SELECT 1 AS b, '24:00:00'::time AS a"),
        ("postgresql", "SELECT 1 AS b, 'NaN'::numeric(10,2) AS a"),
        ("mariadb", "SELECT 1 AS b, CAST('-12:34:56' AS TIME) AS a"),
        ("mariadb", "SELECT 1 AS b, CAST('100:00:00' AS TIME) AS a"),
        ("mariadb", "SELECT 1 AS b, CAST(18446744073709551615 AS UNSIGNED) AS a"),
        ("sqlite", "SELECT 1 AS b, a FROM odd"),
        ("postgresql", f"SELECT 1 AS b, repeat('x', {VALUE_BYTES + 1}) AS a"),
        ("mariadb", f"SELECT 1 AS b, REPEAT('x', {2 * VALUE_BYTES}) AS a"),
    ],
)
def test_what_has_no_such_value_in_arrow_is_refused_by_name(
    sessions: dict[str, Session], database: str, sql: str
) -> None:
    with pytest.raises(ValueUnreadable, match=r"column a: .*NDJSON"):
        arrow(sessions[database], sql)
    assert arrow(sessions[database], "SELECT 1 AS n").num_rows == 1


# A parameter's type, its value, and a condition that only a value of that type meets.
@pytest.mark.parametrize(
    ("database", "kind", "value", "condition"),
    [
        ("postgresql", "integer", 41, ":v + 1 = 42"),
        ("postgresql", "integer", 9007199254740993, ":v - 1::bigint = 9007199254740992"),
        ("postgresql", "decimal", "1.10", ":v * 10.0 = 11 AND (:v)::numeric::text = '1.10'"),
        ("postgresql", "number", 0.1, ":v = 0.1::float8"),
        ("postgresql", "boolean", True, ":v AND NOT false"),
        ("postgresql", "string", "é'; DROP TABLE x; --", "length(:v) = 20 AND :v LIKE 'é%'"),
        ("postgresql", "date", "2024-02-29", ":v = date '2024-02-29'"),
        ("postgresql", "datetime", "2024-02-29T14:34:56+02:00", ":v = timestamptz '2024-02-29 12:34:56+00'"),
        ("postgresql", "binary", "AP8n", "encode(:v, 'hex') = '00ff27'"),
        ("postgresql", "json", {"a": [1]}, "(:v)::jsonb -> 'a' = '[1]'"),
        ("postgresql", "string", None, ":v IS NULL"),
        ("mariadb", "integer", 9007199254740993, ":v - 1 = 9007199254740992"),
        ("mariadb", "decimal", "-0.05", ":v * 100 = -5"),
        ("mariadb", "number", 0.5, ":v * 2 = 1"),
        ("mariadb", "boolean", True, ":v = 1"),
        ("mariadb", "string", "é\\'", "CHAR_LENGTH(:v) = 3"),
        ("mariadb", "binary", "AP8n", "HEX(:v) = '00FF27'"),
        ("sqlite", "integer", 9007199254740993, "typeof(:v) = 'integer' AND :v - 1 = 9007199254740992"),
        ("sqlite", "integer", 5, "length('12345') >= :v AND :v <> '05'"),
        ("sqlite", "number", 0.5, "typeof(:v) = 'real' AND :v * 2 = 1"),
        ("sqlite", "string", "é", "length(:v) = 1"),
    ],
)
def test_a_parameter_stays_what_it_is(
    sessions: dict[str, Session], database: str, kind: str, value: Any, condition: str
) -> None:
    params = {"v": {"type": kind, "nullable": True}}
    sql = f"SELECT 7 AS found WHERE {condition} AND '?' = '?'"
    if database == "mariadb":
        sql = sql.replace(" WHERE", " FROM DUAL WHERE")
    assert arrow(sessions[database], sql, {"v": value}, params=params)["found"].cast(pa.int64()).to_pylist() == [7]


def test_bytes_in_a_column_of_no_type_are_an_error(sessions: dict[str, Session]) -> None:
    with pytest.raises(SourceFailed, match="overflow"):
        arrow(sessions["sqlite"], "SELECT x'00ff' AS a")


def test_a_parameter_that_would_change_is_refused(sessions: dict[str, Session]) -> None:
    with pytest.raises(ParametersInvalid, match=r"v: .*NDJSON"):
        arrow(sessions["sqlite"], "SELECT :v AS a", {"v": "AA=="}, params={"v": {"type": "binary"}})


@pytest.mark.parametrize("database", ["postgresql", "mariadb", "sqlite"])
def test_all_rows_come_in_order(sessions: dict[str, Session], database: str) -> None:
    count = 2 * BATCH_ROWS + 1
    numbers = f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s"  # noqa: S608 # a number of ours
    if database == "mariadb":
        numbers = f"SELECT seq AS n FROM seq_1_to_{count}"  # noqa: S608 # the same
    found = arrow(sessions[database], f"SELECT n AS a, 'x' AS b FROM ({numbers}) AS t ORDER BY n DESC")  # noqa: S608 # the same
    assert found["a"].cast(pa.int64()).to_pylist() == list(range(count, 0, -1))


@pytest.mark.parametrize("columns", [1, 40, 41, 1_000])
def test_rows_of_one_column_and_of_very_many(sessions: dict[str, Session], columns: int) -> None:
    names = [f"c{i}" for i in range(columns)]
    values = [f"CASE WHEN n % 2 = 0 THEN '\"' || n || ',{name}' END AS {name}" for name in names]
    sql = f"SELECT {', '.join(values)} FROM generate_series(1, 21) AS n ORDER BY n"  # noqa: S608 # names of ours
    table = arrow(sessions["postgresql"], sql)
    assert table.num_rows == 21
    for name in names:
        assert table[name].to_pylist() == [f'"{n},{name}' if n % 2 == 0 else None for n in range(1, 22)]


def test_functions_of_the_same_names_are_not_taken(sessions: dict[str, Session], postgres: Postgres) -> None:
    postgres.execute_script("""
        CREATE FUNCTION concat(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'another' $$;
        CREATE FUNCTION concat(int, text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'another' $$;
        CREATE FUNCTION concat(character) RETURNS text LANGUAGE sql AS $$ SELECT 'another' $$;
    """)
    try:
        found = arrow(sessions["postgresql"], "SELECT 1 AS a, 'x' || 'y' AS b, 'z'::char(2) AS c")
        assert found.to_pylist() == [{"a": 1, "b": "xy", "c": "z "}]
        assert arrow(sessions["postgresql"], "SELECT 'x' || 'y' AS b").to_pylist() == [{"b": "xy"}]
    finally:
        postgres.execute_script("DROP FUNCTION concat(text, text), concat(int, text, text), concat(character);")


def test_only_what_may_leaves(sessions: dict[str, Session]) -> None:
    sql = "SELECT * FROM (VALUES (1, 'DE1', 'x'), (2, NULL, 'y')) AS t(a, iban, c)"
    found = arrow(sessions["postgresql"], sql, columns=["a", "IBAN"], mask=["iban"])
    assert found.to_pylist() == [{"a": 1, "iban": "***"}, {"a": 2, "iban": None}]


def test_repeated_names_get_a_suffix(sessions: dict[str, Session]) -> None:
    assert arrow(sessions["postgresql"], "SELECT 1 AS a, 2 AS a").to_pylist() == [{"a": 1, "a_2": 2}]


def test_a_result_without_rows_has_its_columns(sessions: dict[str, Session]) -> None:
    found = arrow(sessions["postgresql"], "SELECT 1 AS a, date '2024-01-01' AS b WHERE false")
    assert (found.num_rows, found.schema.field("b").type) == (0, pa.date32())


@pytest.mark.parametrize(
    "keys",
    [
        {"sql": "SELECT 1; SELECT 2"},
        {"sql": "SHOW server_version"},
        {"sql": "SELECT 1", "effect": "idempotent"},
        {"sql": None, "procedure": "now"},
    ],
)
def test_what_is_not_one_select_is_refused(sessions: dict[str, Session], keys: dict[str, Any]) -> None:
    name = sessions["postgresql"].define(**{"effect": "read", **{key: value for key, value in keys.items() if value}})
    with pytest.raises(NotAllowed, match="Arrow") as refused:
        list(sessions["postgresql"].driver.run(Call("c1", name, b"{}", 5.0, rows_as="arrow")))
    assert not refused.value.touched


def test_it_can_only_read(sessions: dict[str, Session]) -> None:
    sessions["postgresql"].run(sql="CREATE SEQUENCE IF NOT EXISTS arrow_counter")
    with pytest.raises(SourceFailed, match="read-only") as failed:
        arrow(sessions["postgresql"], "SELECT nextval('arrow_counter') AS n")
    assert failed.value.source_code == "25006"


def test_an_error_in_the_midst_has_its_code(sessions: dict[str, Session]) -> None:
    with pytest.raises(CommandError, match="division by zero") as failed:
        arrow(sessions["postgresql"], "SELECT 1 / (9000 - n) AS a FROM generate_series(1, 9999) AS n")
    assert failed.value.source_code == "22012"
    assert arrow(sessions["postgresql"], "SELECT 1 AS a").num_rows == 1


SLEEPS = {"postgresql": "SELECT pg_sleep(30)::text AS a", "mariadb": "SELECT SLEEP(30) AS a FROM DUAL"}


@pytest.mark.parametrize("database", SLEEPS)
def test_the_database_ends_it_in_time(sessions: dict[str, Session], database: str) -> None:
    with pytest.raises(TimedOut):
        arrow(
            sessions[database], SLEEPS[database].replace("SLEEP(30)", "BENCHMARK(1000000000, SHA1('x'))"), timeout_s=1.0
        )


@pytest.mark.parametrize("database", SLEEPS)
def test_a_cancel_stops_the_statement(sessions: dict[str, Session], database: str) -> None:
    of = sessions[database]
    failed: list[BaseException] = []
    sql = SLEEPS[database].replace("SLEEP(30)", "BENCHMARK(1000000000, SHA1('x'))")

    def run() -> None:
        try:
            arrow(of, sql)
        except CommandError as exc:
            failed.append(exc)

    working = threading.Thread(target=run)
    working.start()
    while working.is_alive():
        # Again, because one that comes before the statement has begun stops nothing.
        of.driver.cancel()
        working.join(0.05)
    assert [type(error) for error in failed] == [Cancelled]


def test_the_session_is_kept_for_the_next_command_and_replaced_when_it_died(sessions: dict[str, Session]) -> None:
    of = sessions["postgresql"]
    [number] = arrow(of, "SELECT pg_backend_pid() AS n")["n"].to_pylist()
    assert arrow(of, "SELECT pg_backend_pid() AS n")["n"].to_pylist() == [number]
    of.run(sql=f"SELECT pg_terminate_backend({number}, 10000)")
    [another] = arrow(of, "SELECT pg_backend_pid() AS n")["n"].to_pylist()
    assert another != number
    with pytest.raises(SourceFailed):
        arrow(of, "SELECT 1 / (5 - n) AS n FROM generate_series(1, 9) AS s(n)")
    assert arrow(of, "SELECT 1 AS n").num_rows == 1
