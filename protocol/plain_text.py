"""Text of others made safe to show: on a line of a log, on a terminal."""

from __future__ import annotations

from typing import Final

# What ends a line, moves a cursor or turns the direction of writing.
_CONTROLS: Final = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
} | {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}


def plain(text: str) -> str:
    """Return a text on one line, without anything that a terminal would obey."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text  # as nearly all are
    return text.translate(_CONTROLS).encode("utf-8", "backslashreplace").decode("utf-8")
