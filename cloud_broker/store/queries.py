"""The store's SQL, kept in ``sql/`` under names: no SQL text stands in Python."""

from __future__ import annotations

import re
import sqlite3
from importlib import resources
from typing import Final

_NAME: Final = re.compile(r"^-- ([a-z_]+) --$", re.MULTILINE)
_FRAGMENT: Final = re.compile(r"\{([a-z_]+)\}")


def named(text: str) -> dict[str, str]:
    """
    Return the ``-- name --`` blocks of a text; what stands before the first is left out.

    ``{name}`` in a block stands for an earlier block.
    """
    parts = _NAME.split(text)[1:]
    names = parts[::2]
    if len(set(names)) != len(names):
        raise ValueError("two queries have the same name")
    blocks: dict[str, str] = {}
    for name, block in zip(names, parts[1::2], strict=True):
        blocks[name] = _FRAGMENT.sub(lambda found: blocks[found[1]], block.strip())
    return blocks


def _text(name: str) -> str:
    return (resources.files(__package__) / "sql" / name).read_text("utf-8")


SCHEMA: Final = _text("schema.sql")
SCHEMA_VERSION: Final = 2
RELEASES: Final = {1: "0.1.0", 2: "0.2.0"}  # the first with each version of the schema
MIGRATIONS: Final = dict(enumerate(named(_text("migrations.sql")).values(), start=2))  # to each version from the last
QUERIES: Final = named(_text("queries.sql")) | named(_text("blobs.sql")) | named(_text("arrivals.sql"))


def statements(script: str) -> list[str]:
    """Return the statements of a script one by one: sqlite3's ``executescript`` would end a transaction first."""
    found, lines = [], ""
    for line in script.splitlines(keepends=True):
        lines += line
        if sqlite3.complete_statement(lines):
            found.append(lines)
            lines = ""
    return found
