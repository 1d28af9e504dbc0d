"""What an agent's catalogue tells about parameters, in words that a caller can act on."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from agent.parameters import schema
from agent.settings import DropOperation, FileFormat, Param, SqlOperation
from cloud_broker.catalogues import CatalogueInvalid, Operation, Problem, read

PARAMS = {
    "customer": Param(type="string", max_length=20),
    "total": Param(type="decimal", min=0, scale=2, required=False),
    "since": Param(type="date", required=False, description="Booked on it or later."),
    "when": Param(type="datetime", required=False),
    "kind": Param(type="string", enum=("a", "b"), required=False),
}


def operation(entry: SqlOperation | DropOperation) -> Operation:
    catalogue = {
        "operations": [{"name": "order", "connection": "erp", "effect": "read", "params": schema(entry)}],
        "connections": [],
    }
    return read(json.dumps(catalogue).encode()).operations["order"]


def problems(operation: Operation, params: Any) -> list[Problem]:
    return operation.problems(params, len(json.dumps(params)))


ORDER = operation(SqlOperation(connection="erp", sql="SELECT :customer, :total, :since, :when, :kind", params=PARAMS))


@pytest.mark.parametrize(
    ("params", "name", "reason"),
    [
        ({}, "customer", "is required"),
        ({"customer": "C", "foo": 1}, "foo", "is not known; known are customer, total, since, when, kind"),
        (
            {"customer": "C", "total": "1.234"},
            "total",
            "\"1.234\" does not fit. Wants a decimal such as '12.50' from 0 with at most 2 digits after the point.",
        ),
        (
            {"customer": "C", "since": "31.1.2026"},
            "since",
            "\"31.1.2026\" does not fit. Booked on it or later. Wants a date such as '2026-01-31'.",
        ),
        ({"customer": "C", "kind": "z"}, "kind", '"z" is not one of "a" or "b"'),
    ],
)
def test_a_bad_parameter_is_told_by_name_and_reason(params: dict[str, Any], name: str, reason: str) -> None:
    assert problems(ORDER, params) == [Problem(name, reason)]


def test_no_reason_shows_a_regular_expression_of_ours() -> None:
    (problem,) = problems(ORDER, {"customer": "C", "when": "tomorrow"})

    assert problem.reason.startswith('"tomorrow" does not fit. Wants a time such as')


def test_a_huge_value_is_not_told_back_whole() -> None:
    (problem,) = problems(ORDER, {"customer": "x" * 100_000})

    assert problem.name == "customer"
    assert problem.reason.endswith("is longer than 20 characters")
    assert len(problem.reason) < 300


def test_what_a_row_lacks_is_told_by_its_place() -> None:
    drop = operation(
        DropOperation(connection="edi", drop="a.csv", format=FileFormat(type="csv", columns=("sku", "qty")))
    )

    assert problems(drop, {"rows": [{"sku": "A", "qty": 1}, {"sku": "B"}]}) == [Problem("rows.1.qty", "is required")]


# --- schemas that are not meant well --------------------------------------------------------------


def doubled(levels: int, keyword: str) -> dict[str, Any]:
    """Return a schema that asks twice the same at each level."""
    parts: dict[str, Any] = {
        f"p{n}": {keyword: [{"$ref": f"#/$defs/p{n + 1}"}, {"$ref": f"#/$defs/p{n + 1}"}]} for n in range(levels)
    }
    return {"$defs": {**parts, f"p{levels}": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/p0"}}}


def hostile(params: Any) -> bytes:
    entry = {"name": "order", "connection": "erp", "effect": "read", "params": params}
    return json.dumps({"operations": [entry], "connections": []}).encode()


TWICE_BELOW = [{"properties": {"a": {"$ref": "#/$defs/n"}}}, {"properties": {"a": {"$ref": "#/$defs/n"}}}]


@pytest.mark.parametrize(
    "params",
    [
        *(doubled(30, keyword) for keyword in ("allOf", "anyOf", "oneOf")),
        {"$defs": {"n": {"allOf": TWICE_BELOW}}, "$ref": "#/$defs/n"},
        {"$defs": {"n": {"not": {"not": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"patternProperties": {f"^{n}": {"$ref": "#"} for n in range(3)}},
        {"items": {"$ref": "#"}, "contains": {"$ref": "#"}},
        {"$dynamicRef": "#a"},
        {"allOf": [{"unevaluatedProperties": False}]},
        {"$id": "https://example.com/a", "$ref": "b"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/nothing"},
        {"properties": {"a": {"pattern": "(a{1000}){1000}"}}},
        {"properties": {"a": {"pattern": "(a{1000}){200}"}}},
        {"properties": {f"p{n}": {} for n in range(30_000)}},
    ],
)
def test_a_schema_that_could_make_endless_work_is_refused_when_it_is_read(params: Any) -> None:
    started = time.process_time()
    with pytest.raises(CatalogueInvalid, match="order"):
        read(hostile(params))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_what_is_just_allowed_is_soon_checked(keyword: str) -> None:
    operation = read(hostile(doubled(5, keyword))).operations["order"]
    started = time.process_time()
    for value in (1, "x"):
        problems(operation, {"a": value})
    assert time.process_time() - started < 1


def test_a_schema_may_hold_itself_as_types_of_a_wsdl_do() -> None:
    node = {
        "type": "object",
        "properties": {"parts": {"type": "array", "items": {"$ref": "#/$defs/n"}}, "no": {"type": "integer"}},
        "additionalProperties": False,
    }
    optional = {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}
    tree = read(hostile({"$defs": {"n": node}, "type": "object", "properties": {"root": optional}})).operations["order"]

    assert problems(tree, {"root": {"parts": [{"no": 1}, {"parts": [{"parts": []}]}]}}) == []
    assert problems(tree, {"root": {"parts": [{"no": "x"}]}}) != []


def test_of_much_that_is_wrong_the_first_is_told_and_soon() -> None:
    many = read(hostile({"properties": {"a": {"type": "array", "items": {"type": "integer"}}}})).operations["order"]
    assert len(problems(many, {"a": ["x"] * 20})) == 20
    started = time.process_time()
    assert problems(many, {"a": [1] * 1_000 + ["x"] * 100_000}) == [Problem("a.1000", '"x" is not of type "integer"')]
    assert time.process_time() - started < 2


def test_what_is_nested_beyond_reading_is_told() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    free = read(hostile({"properties": {"a": {"type": "array"}}})).operations["order"]
    assert problems(free, {"a": deep, "b": 1}) in ([], [Problem("", "is nested too deeply to be checked")])
    assert problems(ORDER, {"customer": deep}) == [Problem("", "is nested too deeply to be checked")]


SLOW = "^[ab]*a[ab]{2000}[cd]{0,5}e$"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": SLOW}, "n": {"type": "integer"}}},
        {"patternProperties": {SLOW: {}}, "properties": {"a": {"pattern": SLOW}}},
        {"properties": {"const": {"pattern": SLOW}, "a": {"not": {"pattern": SLOW}}}},
    ],
)
def test_patterns_that_might_take_long_are_left_to_the_agent(schema: Any) -> None:
    operation = read(hostile(schema)).operations["order"]
    text = ("ab" * 3 + "ba" * 5) * 20_000 + "e"
    started = time.process_time()
    assert problems(operation, {"a": text, "const": text, text: 1}) == []
    assert time.process_time() - started < 1


def test_without_its_patterns_the_rest_of_a_schema_is_checked() -> None:
    schema = {"properties": {"a": {"pattern": SLOW}, "n": {"const": {"pattern": "x"}}, "m": {"type": "integer"}}}
    operation = read(hostile(schema)).operations["order"]
    assert problems(operation, {"a": "f"}) != []
    assert problems(operation, {"a": "ab" * 50_000, "n": {"pattern": "x"}}) == []
    assert problems(operation, {"a": "ab" * 50_000, "m": "x"}) == [Problem("m", '"x" is not of type "integer"')]


def test_a_value_too_large_for_its_schema_is_not_checked() -> None:
    costly = read(hostile(doubled(5, "allOf"))).operations["order"]
    (problem,) = costly.problems({"a": 1}, 1_048_576)
    assert "too many to be checked" in problem.reason


RAW_OF_0_1 = {
    "type": "object",
    "properties": {"content": {"type": "string", "contentEncoding": "base64"}},
    "required": ["content"],
    "additionalProperties": False,
}


def drop(params: dict[str, Any]) -> Operation:
    entry = {"name": "drop", "connection": "edi", "kind": "drop", "effect": "once", "params": params}
    return read(json.dumps({"operations": [entry], "connections": []}).encode()).operations["drop"]


def test_a_raw_drop_takes_its_content_or_a_blob_and_nothing_between() -> None:
    taker = drop(schema(DropOperation(connection="edi", drop="x", format=FileFormat(type="raw"))))
    blob = {"blob": "blob_1", "sha256": "0" * 64}
    assert [problems(taker, {"content": content}) for content in ("AAAA", blob, {"blob": "blob_1"})] == [[], [], []]
    assert taker.blob_in({"content": blob}) == blob
    assert taker.blob_in({"content": "AAAA"}) is None
    assert taker.no_blobs({"content": blob}) == ""
    for wrong in ({}, {"blob": 1}, {"blob": "x", "size": 1}, None, 5, ["AAAA"]):
        assert problems(taker, {"content": wrong}) != [], wrong


def test_an_agent_of_an_earlier_release_takes_no_blob_and_that_is_said() -> None:
    assert "update it" in drop(RAW_OF_0_1).no_blobs({"content": {"blob": "blob_1"}})
    assert drop(RAW_OF_0_1).no_blobs({"content": "AAAA"}) == ""
    rows = drop(schema(DropOperation(connection="edi", drop="x", format=FileFormat(type="csv", columns=("a",)))))
    assert "raw" in rows.no_blobs({"rows": {"blob": "blob_1"}})
    document = drop(schema(DropOperation(connection="edi", drop="x", format=FileFormat(type="json"))))
    assert document.no_blobs({"document": {"blob": "a word of the document itself"}}) == ""
