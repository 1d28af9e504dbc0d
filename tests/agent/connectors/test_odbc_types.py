"""
The type tables: every SQL type to JSON and back, with the extremes, on real databases.

What a driver itself spoils is named here, refused by name where it can be told, and warned of where it can't.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.connectors.base import Rows
from agent.errors import ValueUnreadable
from config.dev.databases import MariaDB, Postgres
from tests.agent.connectors.odbc_session import Session, session

MEBIBYTE = 1_048_576
BINARY = base64.b64encode(bytes(range(256))).decode()
TEXT = "Zürich €, Łódź, 東京, 😀, 'quoted', \"double\", back\\slash, \t tab,\nline\r\n, :a, ?, {x}"
UUID = "6f1f1a2c-8f6b-4a6b-9c1d-0123456789ab"

# Type in the database, type of the parameter, value in JSON: what goes in comes out again.
BOTH_WAYS: dict[str, list[tuple[str, str, Any]]] = {
    "postgresql": [
        ("smallint", "integer", -32768),
        ("integer", "integer", 2147483647),
        ("bigint", "integer", 9223372036854775807),
        ("bigint", "integer", -9223372036854775808),
        ("numeric", "decimal", "12345678901234567890123456789012345678901234567890.12345678901234567890"),
        ("numeric(20,4)", "decimal", "-1234567890123456.7800"),
        ("real", "number", 1.1),
        ("double precision", "number", 1.7976931348623157e308),
        ("double precision", "number", 5e-324),
        ("double precision", "number", 0.1),
        ("boolean", "boolean", True),
        ("boolean", "boolean", False),
        ("date", "date", "0001-01-01"),
        ("date", "date", "9999-12-31"),
        ("timestamp", "datetime", "2024-02-29T12:34:56.123456"),
        ("timestamp", "datetime", "0001-01-01T00:00:00"),
        ("timestamptz", "datetime", "9999-12-31T23:59:59.999999Z"),
        ("timestamptz", "datetime", "1970-01-01T00:00:00Z"),
        ("time", "time", "23:59:59.999999"),
        ("uuid", "uuid", UUID),
        ("json", "json", {"a": [1, None, True, "é😀"], "b": 1.5}),
        ("jsonb", "json", [1, {"b": "x\ny"}]),
        ("bytea", "binary", BINARY),
        ("bytea", "binary", ""),
        ("text", "string", TEXT),
        ("text", "string", ""),
        ("varchar(400)", "string", TEXT),
        ("char(3)", "string", "ab "),
        ("text", "string", None),
        ("bytea", "binary", None),
        ("timestamptz", "datetime", None),
        ("jsonb", "json", None),
    ],
    "mariadb": [
        ("tinyint", "integer", -128),
        ("smallint", "integer", 32767),
        ("mediumint", "integer", -8388608),
        ("tinyint unsigned", "integer", 255),
        ("smallint unsigned", "integer", 65535),
        ("mediumint unsigned", "integer", 16777215),
        ("int", "integer", -2147483648),
        ("int unsigned", "integer", 4294967295),
        ("bigint", "integer", -9223372036854775808),
        ("bigint unsigned", "integer", 18446744073709551615),
        ("decimal(65,30)", "decimal", "-99999999999999999999999999999999999.123456789012345678901234567890"),
        ("decimal(20,4)", "decimal", "0.0100"),
        ("float", "number", 1.1),
        ("double", "number", 1.7976931348623157e308),
        ("double", "number", 0.1),
        ("bit(1)", "boolean", True),
        ("date", "date", "9999-12-31"),
        ("datetime(6)", "datetime", "2024-02-29T12:34:56.123456"),
        ("datetime", "datetime", "1000-01-01T00:00:00"),
        ("timestamp(6)", "datetime", "2038-01-19T03:14:07.999999Z"),
        ("timestamp", "datetime", "1970-01-02T00:00:00Z"),
        ("time(6)", "time", "23:59:59.999999"),
        ("year", "integer", 2155),
        ("char(10)", "string", "é😀"),
        ("varchar(400)", "string", TEXT),
        ("longtext", "string", TEXT),
        ("text", "string", ""),
        ("enum('a','é')", "string", "é"),
        ("set('x','y')", "string", "x,y"),
        ("varbinary(300)", "binary", BINARY),
        ("longblob", "binary", BINARY),
        ("longblob", "binary", ""),
        ("uuid", "string", UUID),
        ("inet6", "string", "::1"),
        ("longtext", "string", None),
        ("datetime", "datetime", None),
        ("decimal(5,2)", "decimal", None),
    ],
    "sqlite": [
        ("integer", "integer", 9223372036854775807),
        ("integer", "integer", -9223372036854775808),
        ("bigint", "integer", 9007199254740993),
        ("real", "number", 1.5),
        ("double", "number", 0.1),
        ("decimal(12,2)", "decimal", "1234567890.25"),
        ("boolean", "boolean", True),
        ("date", "date", "9999-12-31"),
        ("timestamp", "datetime", "2024-02-29T12:34:56.123456"),
        ("datetime", "datetime", "2024-02-29T12:34:56.123456Z"),
        ("time", "time", "12:34:56.123456"),
        ("text", "string", TEXT),
        ("varchar(10)", "string", ""),
        ("blob", "binary", BINARY),
        ("json", "json", {"a": [1, "é😀"]}),
        ("text", "string", UUID),
        ("text", "string", None),
        ("integer", "integer", None),
        ("blob", "binary", None),
    ],
}

# An expression, the type of its column, its value in JSON: what only the database can make.
OUT_ONLY: dict[str, list[tuple[str, str, Any]]] = {
    "postgresql": [
        ("'NaN'::numeric", "decimal", "NaN"),
        ("'Infinity'::numeric", "decimal", "Infinity"),
        ("'NaN'::float8", "number", "NaN"),
        ("'-Infinity'::float8", "number", "-Infinity"),
        ("'NaN'::real", "number", "NaN"),
        ("'92233720368547758.07'::money", "decimal", "92233720368547758.07"),
        ("'2024-02-29 12:00:00.5+05'::timestamptz", "datetime", "2024-02-29T07:00:00.5Z"),
        ("'12:34:56.5+02'::timetz", "string", "12:34:56.5+02"),
        ("'1 year 2 days 03:04:05.6'::interval", "string", "1 year 2 days 03:04:05.6"),
        ("ARRAY[1,2]", "string", "{1,2}"),
        ("'10.0.0.1'::inet", "string", "10.0.0.1"),
        ("B'1010'", "string", "1010"),
        ("'<a/>'::xml", "string", "<a/>"),
        ("int4range(1, 5)", "string", "[1,5)"),
        ("E'{\"a\":\\n 1.10}'::json", "json", {"a": 1.10}),
        ("NULL", "string", None),
    ],
    "mariadb": [
        ("b'10101010'", "binary", "qg=="),
        ("TRUE", "integer", 1),
        ("10 / 4", "decimal", "2.5000"),
        ("JSON_OBJECT('a', 1)", "string", '{"a": 1}'),
        ("CAST('12:34:56.123456' AS TIME(6))", "time", "12:34:56.123456"),
        ("UNHEX('00FF')", "binary", "AP8="),
        ("(SELECT v FROM nul_in_text)", "string", "a\0é"),
        ("NULL", "string", None),
    ],
    "sqlite": [
        ("1", "integer", 1),
        ("9007199254740993 + 0", "integer", 9007199254740993),
        ("x'00ff'", "binary", "AP8="),
        ("1.0 / 3", "number", 0.333333333333333),  # the driver's: 15 digits
        ("NULL", "string", None),
    ],
}

# What can't be carried, and is refused with the column's name.
REFUSED: dict[str, list[str]] = {
    "postgresql": [
        "'infinity'::date",
        "'-infinity'::timestamp",
        "'infinity'::timestamptz",
        "'0044-03-15 BC'::date",
        "'0044-03-15 BC'::timestamp",
        "'12044-03-15'::date",
        "'12044-03-15'::timestamptz",
        "'24:00:00'::time",
    ],
    "mariadb": [
        "(SELECT d FROM odd_dates)",
        "(SELECT dt FROM odd_dates)",
        "(SELECT ts FROM odd_dates)",
        "(SELECT day0 FROM odd_dates)",
        "CAST('838:59:59' AS TIME)",
        "CAST('-01:00:00' AS TIME)",
    ],
    "sqlite": [
        "(SELECT i FROM odd_values)",
        "(SELECT d FROM odd_values)",
        "(SELECT ts FROM odd_values)",
        "(SELECT b FROM odd_values)",
        "(SELECT j FROM odd_values)",
        "(SELECT n FROM odd_values)",
    ],
}


@pytest.fixture(scope="module")
def pg(postgres: Postgres) -> Iterator[Session]:
    with session(postgres.odbc()) as opened:
        yield opened


@pytest.fixture(scope="module")
def maria(mariadb: MariaDB) -> Iterator[Session]:
    mariadb.execute_script("""
        CREATE TABLE odd_dates (d date, dt datetime(6), ts timestamp NULL, day0 date);
        CREATE TABLE nul_in_text (v varchar(10)) CHARACTER SET utf8mb4;
        INSERT INTO nul_in_text VALUES (CONCAT('a', CHAR(0 USING utf8mb4), 'é'));
        SET sql_mode = '';
        INSERT INTO odd_dates VALUES ('0000-00-00', '0000-00-00', '0000-00-00', '2024-00-10');
    """)
    with session(mariadb.odbc()) as opened:
        yield opened


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    path: Path = tmp_path_factory.mktemp("sqlite") / "erp.db"
    with session(f"Driver={{SQLite3}};Database={path}") as opened:
        opened.run(sql="CREATE TABLE odd_values (i integer, d date, ts timestamp, b boolean, j json, n numeric)")
        opened.run(sql="INSERT INTO odd_values VALUES ('text', '2024-02-30x', 1709210096, 5, '{', 'text')")
        yield opened


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(database, *(case if isinstance(case, tuple) else (case,)), id=f"{database}-{i}-{str(case)[:25]}")
        for database, found in table.items()
        for i, case in enumerate(found)
    ]


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Session:
    names = {"postgresql": "pg", "mariadb": "maria", "sqlite": "lite"}
    found: Session = request.getfixturevalue(names[request.param])
    return found


@pytest.mark.parametrize(("database", "sql_type", "declared", "value"), cases(BOTH_WAYS), indirect=["database"])
def test_what_goes_in_comes_out_again(database: Session, sql_type: str, declared: str, value: Any) -> None:
    params = {"v": {"type": declared, "nullable": True}}
    database.run(sql="DROP TABLE IF EXISTS both_ways")
    database.run(sql=f"CREATE TABLE both_ways (v {sql_type} NULL)")
    database.run({"v": value}, sql="INSERT INTO both_ways (v) VALUES (:v)", params=params)
    result = database.run(sql="SELECT v FROM both_ways", effect="read")
    assert result.rows == [[{"v": value}]]
    if value is not None:
        assert result.types == [declared]


@pytest.mark.parametrize(("database", "expression", "kind", "value"), cases(OUT_ONLY), indirect=["database"])
def test_an_expression_comes_out_as_it_is(database: Session, expression: str, kind: str, value: Any) -> None:
    result = database.run(sql=f"SELECT {expression} AS v", effect="read")
    assert (result.types, result.rows) == ([kind], [[{"v": value}]])


@pytest.mark.parametrize(("database", "expression"), cases(REFUSED), indirect=["database"])
def test_what_cannot_be_carried_is_refused_by_name(database: Session, expression: str) -> None:
    with pytest.raises(ValueUnreadable, match=r"column odd: .* text"):
        database.run(sql=f"SELECT 1 AS fine, {expression} AS odd", effect="read")


@pytest.mark.parametrize("database", ["postgresql", "mariadb", "sqlite"], indirect=True)
def test_long_texts_and_blobs_arrive_whole(database: Session) -> None:
    text = "é😀'\\" * (MEBIBYTE // 8)
    blob = base64.b64encode(bytes(range(256)) * 5_000).decode()
    params = {"t": {"type": "string"}, "b": {"type": "binary"}}
    kinds = {"postgresql": "t text, b bytea", "mariadb": "t longtext, b longblob", "sqlite": "t text, b blob"}
    database.run(sql="DROP TABLE IF EXISTS long_values")
    database.run(sql=f"CREATE TABLE long_values ({kinds[database.driver.dialect_name]})")
    database.run({"t": text, "b": blob}, sql="INSERT INTO long_values VALUES (:t, :b)", params=params)
    assert database.run(sql="SELECT t FROM long_values", effect="read").rows == [[{"t": text}]]
    assert database.run(sql="SELECT b FROM long_values", effect="read").rows == [[{"b": blob}]]


def test_whole_numbers_beyond_64_bits_are_bound_exactly(pg: Session) -> None:
    big = 123456789012345678901234567890
    params = {"v": {"type": "integer"}}
    assert pg.value("SELECT CAST(:v AS numeric) + 1 AS v", {"v": big}, params=params) == str(big + 1)


def test_casts_around_a_statement_keep_its_order(pg: Session) -> None:
    sql = "SELECT current_date + n AS d, n FROM generate_series(1, 20000) n ORDER BY md5(n::text) LIMIT 15000"
    plain = pg.run(sql=sql.replace("current_date + n AS d, ", ""), effect="read").rows[0]
    assert [row["n"] for row in pg.run(sql=sql, effect="read").rows[0]] == [row["n"] for row in plain]


def test_a_column_added_between_two_calls_is_not_missed(pg: Session) -> None:
    pg.run(sql="CREATE TABLE grows (d date)")
    pg.run(sql="INSERT INTO grows VALUES ('2024-01-01')")
    select: dict[str, Any] = {"sql": "SELECT * FROM grows", "effect": "read"}
    assert pg.run(**select).rows == [[{"d": "2024-01-01"}]]
    pg.run(sql="ALTER TABLE grows ADD COLUMN e date DEFAULT '2024-01-02'")
    assert pg.run(**select).rows == [[{"d": "2024-01-01", "e": "2024-01-02"}]]


def test_what_psqlodbc_spoils_without_a_sign_is_warned_of(pg: Session) -> None:
    # RETURNING can't be cast by us: the driver makes today of an infinite date, and gives no sign.
    pg.run(sql="CREATE TABLE IF NOT EXISTS warned (d date)")
    result = pg.run(sql="INSERT INTO warned VALUES ('infinity') RETURNING d")
    assert "infinite" in result.remarks[0]
    assert "d;" in result.remarks[0]


def test_what_psqlodbc_spoils_with_a_sign_is_refused(pg: Session) -> None:
    pg.run(sql="CREATE TABLE IF NOT EXISTS spotted (ts timestamp)")
    for odd in ("infinity", "-infinity", "0044-03-15 BC"):
        with pytest.raises(ValueUnreadable, match="column ts"):
            pg.run(
                {"ts": odd},
                sql="INSERT INTO spotted VALUES (CAST(:ts AS timestamp)) RETURNING ts",
                params={"ts": {"type": "string"}},
            )


def test_what_sqlites_driver_spoils_is_warned_of(lite: Session) -> None:
    result = lite.run(sql="SELECT 1.0 / 3 AS third, 'x' AS x", effect="read")
    assert result.remarks == ["SQLite's ODBC driver hands over at most 15 significant digits: third"]
    # A text ends at U+0000, and nothing tells.
    assert lite.value("SELECT 'a' || char(0) || 'b'") == "a"


@pytest.mark.parametrize("database", ["postgresql", "mariadb", "sqlite"], indirect=True)
def test_the_check_names_what_the_driver_spoils(database: Session) -> None:
    findings = [finding.detail for finding in database.driver.check() if finding.ok is None]
    assert any("changes or loses" in detail for detail in findings)


@pytest.mark.parametrize("database", ["postgresql", "mariadb", "sqlite"], indirect=True)
def test_columns_of_the_same_name_are_told_apart_and_masked_alike(database: Session) -> None:
    result = database.run(sql="SELECT 1 AS a, 'x' AS iban, 2 AS a, 'y' AS iban", mask=["iban"], effect="read")
    assert result.rows == [[{"a": 1, "iban": "***", "a_2": 2, "iban_2": "***"}]]


def test_json_with_newlines_stays_on_one_line(pg: Session) -> None:
    result = pg.run(sql="SELECT g, E'{\"a\":\\n\\r\\n [1]}'::json AS j FROM generate_series(1, 3) g", effect="read")
    assert [row["j"] for row in result.rows[0]] == [{"a": [1]}] * 3


def test_numbers_in_json_keep_their_digits(pg: Session) -> None:
    [line] = [
        piece.data
        for piece in pg.run(sql="SELECT '1.10000000000000000001'::json AS j", effect="read").pieces
        if hasattr(piece, "data")
    ]
    assert line == b'{"j":1.10000000000000000001}\n'
    assert json.loads(line)


@pytest.mark.parametrize(
    "expression",
    [
        "37.0::float8",
        "'-0'::float8",
        "1e14::float8",
        "0.1::float8",
        "'NaN'::float8",
        "'-Infinity'::float8",
        "37::real",
        "1.1::real",
        "NULL::real",
        "1.50::numeric(10,2)",
        "'NaN'::numeric",
        "12.5::money",
        "true",
        "32767::int2",
        "'2024-02-29 12:34:56.120'::timestamp",
        "'2024-02-29 12:34:56+05'::timestamptz",
        "'23:59:59.5'::time",
        "'2024-02-29'::date",
        "'6F1F1A2C-8F6B-4A6B-9C1D-0123456789AB'::uuid",
        "E'\\b\\f\\n\\r\\t\\x01\\x1f\\x7f\"\\\\/é😀'::text",
        "'ab'::char(5)",
        "NULL::text",
        "decode(repeat('00ff', 100), 'hex')",
        "E'{\"a\":\\r\\n [1.10]}'::json",
        "'{\"a\": [1.10, null]}'::jsonb",
    ],
)
def test_rows_that_postgresql_writes_are_as_ours(pg: Session, expression: str) -> None:
    def line(sql: str) -> bytes:
        pieces = pg.run(sql=sql, effect="read").pieces
        return b"".join(piece.data for piece in pieces if isinstance(piece, Rows))

    # A range is no type that it writes as we do: then all of the row is read by the driver.
    assert line(f"SELECT {expression} AS v, 1 AS n") == line(
        f"SELECT {expression} AS v, 1 AS n, int4range(1, 2) AS r"
    ).replace(b',"r":"[1,2)"', b"")


@pytest.mark.parametrize("name", ["t", "q", "c0", "a b", "größe", "a''b", "x{y}", "really?", "b\\c", 'd""e', "n" * 63])
def test_columns_of_any_name_keep_it(pg: Session, name: str) -> None:
    rows = pg.run(sql=f'SELECT 1 AS "{name}", 2 AS "{name}"', effect="read").rows
    told = name.replace('""', '"')
    assert rows == [[{told: 1, f"{told}_2": 2}]]


def test_a_hidden_value_of_rows_that_postgresql_writes_stays_there(pg: Session) -> None:
    sql = (
        "SELECT n, CASE WHEN n = 1 THEN 'DE02' END AS iban, 'infinity'::date AS day, n AS extra "
        "FROM generate_series(1, 2) n"
    )
    result = pg.run(sql=sql, effect="read", mask=["iban", "day"], columns=["n", "iban", "day"])
    assert result.rows == [[{"n": 1, "iban": "***", "day": "***"}, {"n": 2, "iban": None, "day": "***"}]]
