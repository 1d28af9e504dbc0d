"""Rows given as JSON objects, written as CSV (RFC 4180), the same by broker and client."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

_text = msgspec.json.Decoder(str)
_row = msgspec.json.Decoder(dict[str, msgspec.Raw])


def header_line(names: Sequence[str]) -> bytes:
    """Return the first line."""
    return (",".join(_quoted(name) for name in names) + "\r\n").encode()


def row_writer(columns: Sequence[dict[str, str]]) -> Callable[[bytes], str]:
    """
    Return the function that turns one JSON object into one line.

    NULL is an empty field; an empty text is ``""``, so that readers who care can tell them apart.
    Columns of type json are JSON text; numbers are written as they came, digit for digit.

    Args:
        columns: dicts with ``name`` and ``type``, in order.
    """
    names = [column["name"] for column in columns]
    as_json = [column["type"] == "json" for column in columns]
    # A lone empty field would be an empty line, which readers pass over: the row would be lost.
    lone_null = '""' if len(names) == 1 else ""

    def line_of(line: bytes) -> str:
        row = _row.decode(line)
        return ",".join([_field(row.get(name), raw) or lone_null for name, raw in zip(names, as_json, strict=True)]) + (
            "\r\n"
        )

    return line_of


def _field(value: msgspec.Raw | None, as_json: bool) -> str:
    if value is None:
        return ""
    raw = bytes(value)
    if raw == b"null":
        return ""
    if raw[:1] == b'"' and not as_json:
        return _quoted(_text.decode(raw))
    return _quoted(raw.decode())


def _quoted(text: str) -> str:
    if not text or '"' in text or "," in text or "\n" in text or "\r" in text:
        return '"' + text.replace('"', '""') + '"'
    return text
