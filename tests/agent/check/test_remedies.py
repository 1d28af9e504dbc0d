"""Everything that can be found wrong has a remedy: in the code, under the finding, and on its page of the manual."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from agent.check.remedies import NOT_TRIED, REMEDIES, not_tried, with_remedy
from agent.connectors.base import Finding

ROOT: Final = Path(__file__).parents[3]
CODE: Final = re.compile(r"([a-z]+)\.[a-z-]+")
PAGE: Final = ROOT / "docs" / "reference" / "check.md"
# Asked by the installer of a program that it has just frozen, not by an operator of a site.
NOT_OF_CHECK: Final = ("agent/selfcheck.py",)


def failures() -> Iterator[tuple[str, ast.Call]]:
    """Every place in the agent that makes a finding of what failed."""
    for path in sorted((ROOT / "agent").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name in NOT_OF_CHECK:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                ok = node.args[1] if len(node.args) > 1 else None
                if isinstance(ok, ast.Constant) and ok.value is False:
                    yield f"{name}:{node.lineno}", node


def words(node: ast.AST) -> Iterator[str]:
    """All literal texts of an expression."""
    yield from (one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))


def test_whatever_is_told_to_have_failed_has_a_code() -> None:
    without = [place for place, call in failures() if "code" not in {word.arg for word in call.keywords}]
    assert without == []


def test_every_code_that_is_written_somewhere_has_a_remedy() -> None:
    kinds = {code.split(".")[0] for code in REMEDIES}
    found = set()
    for path in (ROOT / "agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg in ("code", "remedy"):
                found |= {word for word in words(node.value) if (one := CODE.fullmatch(word)) and one[1] in kinds}
    assert found - REMEDIES.keys() == set()


def test_every_remedy_can_be_met() -> None:
    text = "".join(path.read_text("utf-8") for path in (ROOT / "agent").rglob("*.py") if path.name != "remedies.py")
    # Put together from their parts; those of the network from its own table of troubles.
    made = {"connection.crash", "connection.open"}
    assert [
        code for code in REMEDIES if f'"{code}"' not in text and code not in made and not code.startswith("network.")
    ] == []


@pytest.mark.parametrize("code", REMEDIES)
def test_every_failure_stands_in_the_manual_with_its_remedy(code: str) -> None:
    page = PAGE.read_text("utf-8")
    assert f"`{code}`" in page
    assert REMEDIES[code].fix in page.replace("\\|", "|")
    assert REMEDIES[code].means in page.replace("\\|", "|")


def test_the_remedy_stands_under_what_failed_unless_it_knows_better() -> None:
    failed = Finding("secret x", False, "is missing", code="secrets.missing")
    assert with_remedy(failed).fix == REMEDIES["secrets.missing"].fix
    assert with_remedy(Finding("secret x", False, "is missing", "do this", code="secrets.missing")).fix == "do this"
    assert with_remedy(Finding("secret x", True, "is kept")).fix == ""
    assert with_remedy(not_tried("a", "b")) == Finding("a", None, "not tried: b failed first", code=NOT_TRIED)
