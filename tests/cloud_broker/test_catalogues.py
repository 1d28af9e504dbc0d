"""What an agent's catalogue tells about parameters, in words that a caller can act on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.parameters import schema
from agent.settings import DropOperation, Param, SqlOperation
from cloud_broker.catalogues import Operation, Problem, read

PARAMS = {
    "customer": Param(type="string", max_length=20),
    "total": Param(type="decimal", min=0, scale=2, required=False),
    "since": Param(type="date", required=False, description="Booked on it or later."),
    "when": Param(type="datetime", required=False),
    "kind": Param(type="string", enum=["a", "b"], required=False),
}


def operation(entry: SqlOperation | DropOperation) -> Operation:
    catalogue = {
        "operations": [{"name": "order", "connection": "erp", "effect": "read", "params": schema(entry)}],
        "connections": [],
    }
    return read(json.dumps(catalogue).encode()).operations["order"]


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
    assert ORDER.problems(params) == [Problem(name, reason)]


def test_no_reason_shows_a_regular_expression_of_ours() -> None:
    (problem,) = ORDER.problems({"customer": "C", "when": "tomorrow"})

    assert problem.reason.startswith('"tomorrow" does not fit. Wants a time such as')


def test_a_huge_value_is_not_told_back_whole() -> None:
    (problem,) = ORDER.problems({"customer": "x" * 100_000})

    assert problem.name == "customer"
    assert problem.reason.endswith("is longer than 20 characters")
    assert len(problem.reason) < 300


def test_what_a_row_lacks_is_told_by_its_place() -> None:
    drop = operation(
        DropOperation.model_validate(
            {"connection": "edi", "drop": "a.csv", "format": {"type": "csv", "columns": ["sku", "qty"]}}
        )
    )

    assert drop.problems({"rows": [{"sku": "A", "qty": 1}, {"sku": "B"}]}) == [Problem("rows.1.qty", "is required")]
