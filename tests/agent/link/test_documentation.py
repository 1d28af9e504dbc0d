"""The manual's table of link failures holds the words that the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = [
    *(ROOT / "agent/link").glob("*.py"),
    ROOT / "agent/identity/held.py",
    ROOT / "cloud_broker/identity/enrolment.py",
    ROOT / "cloud_broker/link/admission.py",
]


def phrases(document: str, section: str, column: int) -> list[str]:
    """The words between backticks in one column of a section's table."""
    table = (ROOT / document).read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][2:]
    return [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row[column])]


@pytest.fixture(scope="module")
def said() -> str:
    """All texts of the code, as they come out: joined over lines, braces of format strings undone."""
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    return re.sub(r'"\s*\n\s*f?"', "", text).replace("{{", "{").replace("}}", "}")


@pytest.mark.parametrize(
    ("document", "section", "column"),
    [("docs/reference/link.md", "What went wrong", 2), ("docs/reference/enrolment.md", "Refusals", 1)],
)
def test_every_sentence_of_the_manual_is_one_that_the_agent_says(
    document: str, section: str, column: int, said: str
) -> None:
    found = phrases(document, section, column)
    assert len(found) >= 5
    assert [phrase for phrase in found if phrase.rstrip(" …") not in said] == []
