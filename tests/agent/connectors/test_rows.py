"""Rows as NDJSON: one object a line, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.connectors.base import Column, ColumnType
from agent.connectors.rows import RowEncoder, unique_names
from agent.leaving import MASKED

VALUES: list[tuple[ColumnType, Any, Any]] = [
    ("json", '{"a":\n 1.10}', {"a": 1.1}),
    ("json", b'["x",\r\n2]', ["x", 2]),
    ("json", None, None),
    ("number", float("nan"), "NaN"),
    ("number", float("-inf"), "-Infinity"),
    ("string", "two\nlines", "two\nlines"),
]


@pytest.mark.parametrize(("kind", "value", "told"), VALUES)
def test_a_row_is_one_line(kind: ColumnType, value: Any, told: Any) -> None:
    rows = RowEncoder([Column("a", kind), Column("b", "string")]).encode([(value, "x")] * 2)
    assert rows.data.count(b"\n") == rows.count == 2
    assert [json.loads(line) for line in rows.data.splitlines()] == [{"a": told, "b": "x"}] * 2


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "two\nlines", "é", ""])
@pytest.mark.parametrize("mask", [(), ("b",)])
def test_a_column_may_have_any_name(name: str, mask: tuple[str, ...]) -> None:
    rows = RowEncoder([Column(name, "string"), Column("b", "string")], mask).encode([("x", "y")])
    assert rows.data.count(b"\n") == 1
    assert list(json.loads(rows.data).items()) == [(name, "x"), ("b", MASKED if mask else "y")]


def test_names_are_made_unique() -> None:
    assert unique_names(["a", "a", "", "a_2"]) == ["a", "a_2", "column_3", "a_2_2"]
