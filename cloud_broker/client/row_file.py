"""Rows that arrive in pieces, as a file that other libraries read."""

from __future__ import annotations

import io
from collections.abc import Generator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class RowFile(io.RawIOBase):
    """
    A file to be read once, from its beginning to its end; closing it stops the reading.

    Raises:
        ResultCut: by a read, where the rows end too early.
    """

    def __init__(self, pieces: Generator[bytes, None, None]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill ``buffer`` with what is there; 0 at the end."""
        wanted = memoryview(buffer).cast("B")
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(wanted), len(self._left))
        wanted[:count], self._left = self._left[:count], self._left[count:]
        return count

    def close(self) -> None:
        """Stop reading."""
        self._pieces.close()
        super().close()
