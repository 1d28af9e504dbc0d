"""The threat model is true: each of its lines names a test, and each of these tests exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent
PAGE: Final = TESTS.parent / "docs" / "explanation" / "threat-model.md"
ATTACKERS: Final = {
    "Who has stolen an API key",
    "Another tenant",
    "Who has broken into the broker",
    "A man in the middle, a proxy included",
    "A malicious ERP: its database, its SOAP service, its files",
    "A user of the agent's machine, without the agent's account",
    "Who finds a backup, a disk or a copied machine",
    "A caller with a good key who means harm",
    "A supplier: somebody in the chain of packages",
}
ROW: Final = re.compile(r"^\| (can|can't) \| (.+) \| (.+) \|$", re.MULTILINE)
NAMED: Final = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> list[tuple[str, str, str]]:
    """Each line of the model: can or can't, what, and what shows it."""
    return ROW.findall(PAGE.read_text("utf-8"))


@cache
def names_in(name: str) -> frozenset[str]:
    """The tests of a file below ``tests/``."""
    path = TESTS / name
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    functions = (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(found for found in functions if found.startswith("test_"))


def test_every_attacker_has_his_lines() -> None:
    parts = re.split(r"^## (.+)$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert sections.keys() == ATTACKERS
    for name, section in sections.items():
        assert {word for word, _, _ in ROW.findall(section)} == {"can", "can't"}, name
        lines = [line for line in section.splitlines() if line.startswith("|")][2:]
        assert len(lines) == len(ROW.findall(section)), f"{name}: a line that can't be read"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[1][:60])
def test_every_line_names_a_test_that_exists(row: tuple[str, str, str]) -> None:
    named = NAMED.findall(row[2])
    assert named, f"{row[1]}: no test shows it"
    assert [f"{file}::{name}" for file, name in named if name not in names_in(file)] == []
