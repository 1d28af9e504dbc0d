"""NDJSON in arbitrary pieces turned into CSV (RFC 4180), row by row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec

from cloud_broker.errors import ResultGone

MEDIA_TYPE: Final = "text/csv; charset=utf-8; header=present"
PART_BYTES: Final = 65_536  # bytes of NDJSON between two looks at the rest of the program

_text = msgspec.json.Decoder(str)
_row = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def csv_of(columns: Sequence[dict[str, str]], pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """
    Yield a header line and a line for each row.

    NULL is an empty field; an empty text is ``""``, so that readers who care can tell them apart.
    Columns of type json are JSON text; numbers are written as they came, digit for digit.

    Raises:
        ResultGone: the rows end inside a row.
    """
    yield header_line([column["name"] for column in columns])
    line_of = row_writer(columns)
    begun: list[bytes] = []  # parts of a row that has not ended; joined once, however long it is
    async for piece in pieces:
        for start in range(0, len(piece), PART_BYTES):
            part = piece[start : start + PART_BYTES]
            ended, newline, rest = part.rpartition(b"\n")
            if newline:
                lines = b"".join((*begun, ended)).split(b"\n")
                begun.clear()
                yield "".join([line_of(line) for line in lines if line]).encode()
            begun.append(rest)
    if any(begun):
        raise ResultGone("the rows end in the middle of one")


def header_line(names: Sequence[str]) -> bytes:
    """Return the first line."""
    return (",".join(_quoted(name) for name in names) + "\r\n").encode()


def row_writer(columns: Sequence[dict[str, str]]) -> Callable[[bytes], str]:
    """Return the function that turns one JSON object into one line."""
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
