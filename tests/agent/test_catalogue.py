from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from msgspec.structs import replace

from agent.catalogue import build, digest, encode
from agent.config_file import load
from agent.errors import ConfigError
from agent.settings import CallOperation, Param, Settings

REFERENCE = load(Path(__file__).parent / "data" / "reference.toml").settings


def entries(described: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in build(REFERENCE, described)["operations"]}


def test_every_operation_is_told_with_what_a_caller_needs() -> None:
    found = entries({})
    assert list(found) == list(REFERENCE.operations)
    order = dict(found["create-sales-order"])
    assert list(order.pop("params")["properties"]) == ["customer", "total", "lines"]
    assert order == {
        "name": "create-sales-order",
        "description": "",
        "kind": "procedure",
        "connection": "erp",
        "effect": "once",
        "timeout_s": 30.0,
        "version": "1",
        "signature_required": True,
        "allow": [],
        "verify": None,
        "settled_by": "ledger",
    }
    assert found["open-invoices"]["signature_required"] is False


def test_connections_are_told_by_their_limits_only() -> None:
    found = build(REFERENCE, {})["connections"]
    assert found[0] == {
        "name": "erp",
        "type": "odbc",
        "max_concurrent": 4,
        "rate_per_s": 10.0,
        "windows": ["mon-fri 06:00-22:00"],
        "breaker": {"failures": 5, "cool_down_s": 30.0},
    }
    assert all(set(entry) == set(found[0]) for entry in found)


@pytest.mark.parametrize("inside", ["127.0.0.1", "Driver", "secret", "SELECT", "/srv", "wsdl", "8088", "svc"])
def test_nothing_of_the_inside_goes_up(inside: str) -> None:
    assert inside.encode() not in encode(build(REFERENCE, {}))


def test_every_schema_is_one() -> None:
    for entry in build(REFERENCE, {})["operations"]:
        jsonschema_rs.validator_for(entry["params"])
        jsonschema_rs.meta.validate(entry["params"])


def test_a_wsdl_describes_what_the_file_does_not_declare() -> None:
    described = {"type": "object", "properties": {"Invoice": {"type": "string"}}}
    assert entries({"post-invoice": described})["post-invoice"]["params"] == described
    assert entries({"open-invoices": described})["open-invoices"]["params"] != described
    declared = CallOperation(connection="finance", call="X", params={"a": Param()})
    settings = replace(REFERENCE, operations={"x": declared})
    assert list(build(settings, {"x": described})["operations"][0]["params"]["properties"]) == ["a"]


def test_the_digest_is_that_of_the_bytes_and_changes_with_them() -> None:
    catalogue = build(REFERENCE, {})
    data = encode(catalogue)
    assert json.loads(data) == catalogue
    assert digest(catalogue) == hashlib.sha256(data).hexdigest()
    assert digest(catalogue) == digest(json.loads(json.dumps(catalogue)))
    catalogue["operations"][0]["description"] = "another"
    assert digest(catalogue) != hashlib.sha256(data).hexdigest()


def test_a_catalogue_too_large_for_the_link_names_its_largest_operation() -> None:
    settings = Settings(
        agent="a",
        state_dir="s",
        operations={"small": CallOperation(connection="c", call="X"), "large": CallOperation(connection="c", call="Y")},
    )
    with pytest.raises(ConfigError, match="the largest is large: declare its params"):
        encode(build(settings, {"large": {"description": "x" * 1_100_000}}))
