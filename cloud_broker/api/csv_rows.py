"""NDJSON in arbitrary pieces turned into CSV (RFC 4180), row by row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from cloud_broker.errors import ResultGone
from protocol.csv_text import header_line, row_writer

MEDIA_TYPE: Final = "text/csv; charset=utf-8; header=present"
PART_BYTES: Final = 65_536  # bytes of NDJSON between two looks at the rest of the program


async def csv_of(columns: Sequence[dict[str, str]], pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """
    Yield a header line and a line for each row.

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
