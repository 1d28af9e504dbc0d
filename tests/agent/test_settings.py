from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import ValidationError

from agent.connectors.odbc.statements import split_name
from agent.settings import (
    KINDS_OF_CONNECTION,
    OPERATION_KINDS,
    Operation,
    Param,
    ProcedureOperation,
    Settings,
    SoapAuth,
    per_second,
    seconds,
)
from agent.settings_reader import read


@pytest.mark.parametrize(
    ("written", "found"),
    [("250ms", 0.25), ("30s", 30.0), ("1.5 h", 5400.0), ("5min", 300.0), ("5m", 300.0), ("1d", 86400.0), (2, 2)],
)
def test_durations_become_seconds(written: object, found: float) -> None:
    assert seconds(written) == found


@pytest.mark.parametrize("written", ["soon", "", "s", "-1s", "1 week", "1e3s", "30"])
def test_what_is_no_duration_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="wants a duration such as"):
        seconds(written)


@pytest.mark.parametrize(("written", "found"), [("10/s", 10.0), ("600/min", 10.0), ("36 / h", 0.01), (2.5, 2.5)])
def test_rates_become_commands_per_second(written: object, found: float) -> None:
    assert per_second(written) == pytest.approx(found)


@pytest.mark.parametrize("written", ["0/s", "fast", "10", "1/week", "-1/s"])
def test_what_is_no_rate_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="wants a rate such as"):
        per_second(written)


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({}, True),
        ({"default": "x"}, False),
        ({"required": False}, False),
        ({"required": True, "default": "x"}, True),
        ({"direction": "out"}, False),
        ({"direction": "out", "required": True}, False),
        ({"direction": "inout"}, True),
    ],
)
def test_a_parameter_is_wanted_unless_it_has_a_default_or_only_comes_back(keys: dict[str, Any], wanted: bool) -> None:
    assert Param(**keys).wanted is wanted


@pytest.mark.parametrize("kind", OPERATION_KINDS)
def test_the_key_of_an_operation_tells_its_kind(kind: str) -> None:
    written: dict[str, Any] = {"connection": "c", kind: "echo" if kind == "synthetic" else "x"}
    if kind in ("drop", "pick"):
        written["format"] = {"type": "raw"}
    operation = read(written, Operation)
    assert type(operation) is OPERATION_KINDS[kind]
    assert msgspec.json.decode(msgspec.json.encode(operation), type=Operation) == operation


def test_every_kind_of_operation_belongs_to_one_type_of_connection() -> None:
    kinds = [kind for kinds in KINDS_OF_CONNECTION.values() for kind in kinds]
    assert sorted(kinds) == sorted(OPERATION_KINDS)


def test_nothing_changes_after_loading() -> None:
    settings = Settings(agent="a", state_dir="/tmp/a")  # noqa: S108 - never opened
    with pytest.raises(AttributeError, match="immutable"):
        settings.agent = "b"  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    "written",
    [
        {"scheme": "basic", "username": "u"},
        {"scheme": "digest", "password": "p"},
        {"scheme": "wsse"},
        {"scheme": "certificate"},
    ],
)
def test_a_scheme_wants_all_of_its_parts(written: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"scheme {written['scheme']} wants"):
        read(written, SoapAuth)


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ({"type": "fixed-width"}, "wants columns and widths"),
        ({"type": "fixed-width", "columns": ["a"], "widths": [1, 2]}, "1 columns but 2 widths"),
        ({"type": "fixed-width", "columns": ["a"], "widths": [1], "align": ["left", "left"]}, "2 entries in align"),
        ({"type": "csv", "columns": ["a", "a"]}, "named twice"),
    ],
)
def test_a_format_wants_all_of_its_parts(written: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        read({"connection": "c", "drop": "x", "format": written}, Operation)


@pytest.mark.parametrize(
    "name",
    [
        "post_order",
        "erp.post$order",
        '"My Schema"."My Proc"',
        "[dbo].[My Proc]",
        "`my proc`",
        'erp."Say ""hi"""',
        "Größe",
    ],
)
def test_the_name_of_a_procedure_may_be_quoted_and_have_a_schema(name: str) -> None:
    assert ProcedureOperation(connection="erp", procedure=name).procedure == name
    assert ".".join(split_name(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "my proc",
        " p",
        "p ",
        "p()",
        "p;drop",
        'a."b c',
        'a"b c"',
        "[a b]c",
        "a..b",
        ".a",
        '"a" "b"',
        "'a b'",
        "p\n",
        '"a\nb"',
        '"a;b"',
        '""',
    ],
)
def test_what_is_no_name_of_a_procedure_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="regex"):
        read({"connection": "erp", "procedure": name}, Operation)
