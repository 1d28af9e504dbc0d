"""How this program runs itself."""

from __future__ import annotations

import sys


def own_program() -> list[str]:
    """Return the words that start it, before those of a command."""
    if getattr(sys, "frozen", False):
        return [sys.executable]
    # -P: no module is looked for in the folder it runs in.
    return [sys.executable, "-P", "-m", "agent"]
