"""The table of ``docs/reference/link.md``: what goes wrong on the way to the broker, from the agent's own table."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.link.failures import TROUBLES, in_general
from config.dev.markdown import filled, table

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reference" / "link.md"


def page() -> str:
    """Return the page with its table made anew."""
    rows = [
        (f"`{name}`", found.stage, f"{in_general(found.says)}. {found.means}", in_general(found.fix))
        for name, found in TROUBLES.items()
    ]
    made = table(("code", "stage", "what is said, and what it is", "what to do"), rows)
    return filled(PAGE.read_text(encoding="utf-8"), {"troubles": made})
