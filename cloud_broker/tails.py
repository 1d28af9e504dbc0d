"""The newest bytes of a result that still arrives: who reads as fast as they come needs no look into its file."""

from __future__ import annotations

from collections import deque
from typing import Final

from protocol.framing import Buffer

TAIL_BYTES: Final = 524_288  # kept at most of one result; a reader who is further behind reads the file


class Tail:
    """
    Some bytes at the end, in memory.

    Attributes:
        start: offset of the first of them.
        end: offset after the last.
    """

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._parts: deque[Buffer] = deque()

    def add(self, data: Buffer, offset: int) -> None:
        """Put ``data`` at the end; what came before it is let go beyond ``TAIL_BYTES``, or where it is not adjacent."""
        if offset != self.end:
            self._parts.clear()
            self.start = offset
        self._parts.append(data)
        self.end = offset + len(data)
        while self.end - self.start > TAIL_BYTES:
            self.start += len(self._parts.popleft())

    def drop(self) -> None:
        """Let go of all."""
        self._parts.clear()
        self.start = self.end

    def read(self, position: int, end: int) -> bytes:
        """Return the bytes from ``position`` to ``end``, or to the last there is; none if the first is not here."""
        if not self.start <= position < self.end:
            return b""
        found, offset = [], self.start
        for part in self._parts:
            following = offset + len(part)
            if following > position and offset < end:
                found.append(memoryview(part)[max(0, position - offset) : end - offset])
            offset = following
        return b"".join(found)
