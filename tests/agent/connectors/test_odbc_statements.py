"""SQL taken apart: named parameters, ends of statements, names of procedures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.connectors.odbc.mariadb import MariaDB
from agent.connectors.odbc.postgresql import PostgreSQL
from agent.connectors.odbc.sqlite import SQLite
from agent.connectors.odbc.statements import Statement, StatementError, Syntax, bare, first_word, parse, split_name
from agent.connectors.odbc.untried import Oracle, SQLServer

PG, MARIA, LITE, MS, ORA = PostgreSQL.syntax, MariaDB.syntax, SQLite.syntax, SQLServer.syntax, Oracle.syntax

ONE = [
    (PG, "SELECT :a", "SELECT ?", ["a"]),
    (PG, "SELECT :a, :b, :a", "SELECT ?, ?, ?", ["a", "b", "a"]),
    (PG, "SELECT :größe", "SELECT ?", ["größe"]),
    (PG, "SELECT ':a', :b", "SELECT ':a', ?", ["b"]),
    (PG, "SELECT 'it''s :a', :b", "SELECT 'it''s :a', ?", ["b"]),
    (PG, r"SELECT '\', :b", r"SELECT '\', ?", ["b"]),
    (PG, r"SELECT E'\':a', :b", r"SELECT E'\':a', ?", ["b"]),
    (PG, r"SELECT name'\', :b", r"SELECT name'\', ?", ["b"]),
    (MARIA, r"SELECT '\':a', :b", r"SELECT '\':a', ?", ["b"]),
    (MARIA, r'SELECT "\":a", :b', r'SELECT "\":a", ?', ["b"]),
    (MARIA, "SELECT `:a`, :b # :c\n, :d", "SELECT `:a`, ? \n, ?", ["b", "d"]),
    (MARIA, "SELECT @n := 1, @x:=:a", "SELECT @n := 1, @x:=?", ["a"]),
    (PG, 'SELECT ":a" FROM t WHERE x = :b', 'SELECT ":a" FROM t WHERE x = ?', ["b"]),
    (PG, "SELECT :a::int, x::text", "SELECT ?::int, x::text", ["a"]),
    (PG, "SELECT $$ :a ; ? $$, :b", "SELECT $$ :a ; ? $$, ?", ["b"]),
    (PG, "SELECT $x$ $$ :a $$ $x$, :b", "SELECT $x$ $$ :a $$ $x$, ?", ["b"]),
    (PG, "SELECT a$b$ FROM t WHERE c = :b -- $b$", "SELECT a$b$ FROM t WHERE c = ?", ["b"]),
    (PG, "SELECT 1 -- :a ; ?\n, :b", "SELECT 1 \n, ?", ["b"]),
    (PG, "SELECT /* :a /* ; */ ? */ :b", "SELECT /* :a /* ; */ ? */ ?", ["b"]),
    (MARIA, "SELECT /* :a /* */ :b", "SELECT /* :a /* */ ?", ["b"]),
    (ORA, "SELECT --+ FULL(t)\n * FROM t", "SELECT --+ FULL(t)\n * FROM t", []),
    (LITE, "SELECT [:a], :b", "SELECT [:a], ?", ["b"]),
    (MS, "SELECT [:a], :b", "SELECT [:a], ?", ["b"]),
    (PG, "SELECT a[1:2], a[:i]", "SELECT a[1:2], a[?]", ["i"]),
    (PG, "SELECT 'x;y';", "SELECT 'x;y'", []),
    (MS, "DECLARE @x int = :a; SELECT @x", "DECLARE @x int = ?; SELECT @x", ["a"]),
    (PG, "SELECT '12:30:15', :a", "SELECT '12:30:15', ?", ["a"]),
]


@pytest.mark.parametrize(("syntax", "sql", "wanted", "names"), ONE, ids=[case[1][:30] for case in ONE])
def test_a_parameter_becomes_a_mark_and_nothing_else_does(
    syntax: Syntax, sql: str, wanted: str, names: list[str]
) -> None:
    assert parse(sql, syntax) == (Statement(wanted, tuple(names)),)


def test_statements_end_at_semicolons_and_empty_ones_are_left_out() -> None:
    found = parse("; SELECT :a ;; -- nothing\n ; /* nothing */; INSERT INTO t VALUES (:b, ';')", PG)
    assert found == (Statement("SELECT ?", ("a",)), Statement("INSERT INTO t VALUES (?, ';')", ("b",)))


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("SELECT 'abc", "line 1: a string begins with ' and never ends"),
        ('SELECT 1,\n "abc', "line 2: a quoted name"),
        ("SELECT /* /* */ 1", "a comment begins with /\\*"),
        ("SELECT $x$ abc $$", "a string begins with \\$x\\$"),
        ("SELECT\n\n ?", "line 3: a bare \\?"),
        ("", "no statement"),
        (" -- only a comment", "no statement"),
        (" ; ", "no statement"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused_with_its_line(sql: str, problem: str) -> None:
    with pytest.raises(StatementError, match=problem):
        parse(sql, PG)


@given(st.text(alphabet="'\"`$:;?-/*\\[]#abE \n1", max_size=40))
def test_any_text_is_taken_apart_or_refused_and_never_hangs(sql: str) -> None:
    for syntax in (PG, MARIA, LITE, MS):
        try:
            statements = parse(sql, syntax)
        except StatementError:
            continue
        assert all(statement.sql for statement in statements)


@given(st.text(max_size=40))
def test_a_quoted_text_is_one_token_whatever_is_in_it(text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    assert parse(f"SELECT {quoted}, :b", PG) == (Statement(f"SELECT {quoted}, ?", ("b",)),)


@pytest.mark.parametrize(
    ("sql", "word"),
    [("SELECT 1", "SELECT"), ("  -- x\n /* y */ with a as (select 1) select 2", "WITH"), ("(SELECT 1)", "")],
)
def test_the_first_word_tells_what_a_statement_is(sql: str, word: str) -> None:
    assert first_word(sql, PG) == word


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("post_order", ["post_order"]),
        ("erp.post_order", ["erp", "post_order"]),
        ('erp."Post order"', ["erp", "Post order"]),
        ('"a""b".c', ['a"b', "c"]),
        ("`erp`.`p`", ["erp", "p"]),
        ("[dbo].[p]", ["dbo", "p"]),
    ],
)
def test_a_name_has_parts(name: str, parts: list[str]) -> None:
    assert [bare(part) for part in split_name(name)] == parts


@pytest.mark.parametrize("name", ["", "a b", "a..b", "p()", "p;drop", '"open'])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(StatementError):
        split_name(name)


def test_a_name_without_quotes_is_folded_as_the_database_does() -> None:
    assert bare("Post_Order", fold="lower") == "post_order"
    assert bare('"Post_Order"', fold="lower") == "Post_Order"
