"""The named parameters in a statement: ``:name`` outside of quotes, comments and casts."""

from __future__ import annotations

import re
from typing import Final

TOKEN: Final = re.compile(
    r"'(?:[^']|'')*'"
    r'|"(?:[^"]|"")*"'
    r"|`[^`]*`"
    r"|--[^\n]*"
    r"|/\*.*?\*/"
    r"|(?P<dollar>\$(?:[A-Za-z_]\w*)?\$).*?(?P=dollar)"
    r"|::"
    r"|:(?P<name>[A-Za-z_]\w*)",
    re.DOTALL,
)


def parameter_names(sql: str) -> list[str]:
    """Return the names after a colon, each once, in the order of their first use."""
    return list(dict.fromkeys(match["name"] for match in TOKEN.finditer(sql) if match["name"] is not None))
