"""The environment for programs that this one starts."""

from __future__ import annotations

import os


def clean_environment() -> dict[str, str]:
    """Return our environment without what a frozen program needs for itself and no other one may have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("_PYI_", "LD_LIBRARY_PATH"))}
    if before := os.environ.get("LD_LIBRARY_PATH_ORIG"):
        kept["LD_LIBRARY_PATH"] = before
    return kept
