"""The bill of materials of each program: valid, complete, the same twice, and nobody's work without a licence."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cyclonedx.schema
import jsonschema_rs
import pytest

from config.dev.bill import bill
from config.dev.locked import PROGRAMS, ROOT, licence, pins

MADE_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def read(program: str) -> Any:
    return json.loads(bill(program, MADE_AT))


def validator() -> jsonschema_rs.Draft7Validator:
    """CycloneDX's own schemas, which its library carries with it."""
    folder = Path(cyclonedx.schema.__file__).parent / "_res"
    schemas = {
        name: json.loads((folder / f"{name}.SNAPSHOT.schema.json").read_text("utf-8"))
        for name in ("bom-1.6", "spdx", "jsf-0.82", "cryptography-defs")
    }
    registry = jsonschema_rs.Registry(
        [(f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", schema) for name, schema in schemas.items()]
    )
    return jsonschema_rs.Draft7Validator(schemas["bom-1.6"], registry=registry, validate_formats=True)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_bill_is_valid_cyclonedx(program: str) -> None:
    assert [error.message for error in validator().iter_errors(read(program))] == []


def test_a_bill_that_is_not_valid_is_noticed() -> None:
    wrong = read("agent")
    wrong["components"][0]["type"] = "thing"
    assert not validator().is_valid(wrong)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_bill_names_all_that_is_locked_with_hashes_licence_and_no_address(program: str) -> None:
    found = read(program)
    parts = {entry["name"]: entry for entry in found["components"]}
    assert {(name, entry["version"]) for name, entry in parts.items()} == {
        (pin.name, pin.version) for pin in pins(program)
    }
    for pin in pins(program):
        (files,) = parts[pin.name]["externalReferences"]
        assert {entry["content"] for entry in files["hashes"]} == set(pin.hashes) != set()
        assert parts[pin.name]["licenses"]
    own = {reference["url"] for reference in found["metadata"].get("tools", {}).get("externalReferences", [])}
    assert own == set()
    text = json.dumps([found["components"], found["dependencies"]])
    assert "://" not in text


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_bill_tells_who_needs_what_down_from_the_program(program: str) -> None:
    found = read(program)
    graph = {entry["ref"]: entry.get("dependsOn", []) for entry in found["dependencies"]}
    reached, ahead = set(), [found["metadata"]["component"]["bom-ref"]]
    while ahead:
        if (name := ahead.pop()) not in reached:
            reached.add(name)
            ahead += graph[name]
    assert reached == graph.keys()


def test_the_same_source_gives_the_same_bill() -> None:
    assert bill("agent", MADE_AT) == bill("agent", MADE_AT)


def test_no_licence_asks_for_more_than_to_be_named() -> None:
    # Those that reach into a program that uses the package would stand in NOTICE and in the decisions first.
    allowed = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"}
    found = {pin.name: licence(pin.name) for program in PROGRAMS for pin in pins(program)}
    assert {name: said for name, said in found.items() if not set(said.split(" OR ")) & allowed} == {}
    notice = (ROOT / "NOTICE").read_text("utf-8")
    assert [name for name, said in found.items() if f"{name:<24} {said:<28}" not in notice] == []
