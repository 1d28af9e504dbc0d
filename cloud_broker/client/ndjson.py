"""Rows that come as bytes in arbitrary pieces, taken apart into lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cloud_broker.client.errors import ResultCut


def whole_lines(pieces: Iterable[bytes], what: str) -> Iterator[bytes]:
    """
    Yield each line without its end.

    Args:
        what: they are, for people.

    Raises:
        ResultCut: the last one has no end.
    """
    rest, count = b"", 0
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        count += len(lines)
        yield from lines
    if rest:
        raise ResultCut(f"{what} end in the middle of row {count + 1}")
