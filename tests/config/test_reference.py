from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agent import settings
from agent.config_errors import model_of
from agent.config_file import load
from config.dev.agent_example import TABLES
from config.dev.example_file import Table, render, toml
from config.dev.markdown import table
from config.dev.reference import AGENT_FILE, PAGES, ROOT

EXAMPLE = ROOT / "config" / "agent.example.toml"


def models_of(module: Any) -> set[type[BaseModel]]:
    """The models that stand for tables of a file: all but those that others are made from."""
    found = {value for value in vars(module).values() if isinstance(value, type) and issubclass(value, settings.Model)}
    return {model_of(kind) for kind in found if kind is not settings.Model and not kind.__name__.endswith("Base")}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_made_from_the_code_is_not_stale(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](), "run: python -m config.dev.reference"


def test_the_reference_has_every_table_and_every_key() -> None:
    assert {model for _, models in AGENT_FILE for model in models} == models_of(settings)
    page = PAGES["docs/reference/agent-file.md"]()
    keys = {key for model in models_of(settings) for key in model.model_fields}
    assert {key for key in keys if f"| `{key}` |" not in page} == set()


def test_every_key_has_a_meaning() -> None:
    fields = [(model, key, field) for model in models_of(settings) for key, field in model.model_fields.items()]
    assert [f"{model.__name__}.{key}" for model, key, field in fields if not field.description] == []


def test_the_example_loads_as_it_stands() -> None:
    loaded = load(EXAMPLE)
    assert set(loaded.settings.connections) == {"erp", "edi", "finance", "probe"}


def test_the_example_shows_every_key_of_every_table() -> None:
    shown = {table.model for table in TABLES if isinstance(table, Table)}
    assert shown == models_of(settings)
    keys = set(re.findall(r"^(?:# )?([a-z_]+) = ", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE))
    tables = {"link", "policy", "secrets", "log", "connections", "operations", "triggers", "params", "auth", "breaker"}
    tables |= {"trusted_signers", "upgrade"}
    assert {key for model in shown for key in model.model_fields} - keys - tables == set()


def test_the_example_has_no_key_that_the_settings_do_not_know(tmp_path: Path) -> None:
    # With every "#" before a key taken away, an unknown key or a default of the wrong type can't hide.
    text = re.sub(r"^# ([a-z_]+ = )", r"\1", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    known = {key for model in models_of(settings) for key in model.model_fields}
    found = {key for entry in _tables(tomllib.loads(text)) for key in entry}
    names = {*_names(tomllib.loads(text)), "column", "start", "web-shop"}
    assert found - known - names == set()


def test_what_stands_behind_a_hash_is_the_default() -> None:
    for entry in TABLES:
        if not isinstance(entry, Table):
            continue
        for key, sample in entry.samples.items():
            field = entry.model.model_fields[key]
            default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
            assert not default, f"{entry.model.__name__}.{key} has a default, so {sample!r} would say something else"


def test_a_key_without_anything_to_show_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"OdbcConnection\.rate wants a value or a sample"):
        render([Table("x", model_of(settings.OdbcConnection), {"type": "odbc", "connection_string": "x"})])


@pytest.mark.parametrize("value", [True, 1, -1.5, "a\"\\\n'é", [1, [2]], {"a": 1, "b-c": {"d": "e"}}, [], {}])
def test_toml_is_read_back_as_it_was(value: Any) -> None:
    assert tomllib.loads(f"key = {toml(value)}")["key"] == value


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert table(("a",), [("x|y",)]) == ["| a |", "| --- |", "| x\\|y |"]


def _tables(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(found for child in value.values() for found in _tables(child))]
    return [found for child in value for found in _tables(child)] if isinstance(value, list) else []


def _names(raw: dict[str, Any]) -> set[str]:
    operations = raw["operations"].values()
    sections = [
        raw["connections"],
        raw["operations"],
        raw["triggers"],
        *(entry.get("params", {}) for entry in operations),
    ]
    return {name for section in sections for name in section}
