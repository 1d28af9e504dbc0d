"""Chance for names that nobody is to guess, drawn from the system many bytes at a time."""

from __future__ import annotations

import os
from typing import Final

DRAWN_BYTES: Final = 4_096


class Chance:
    """
    Gives random bytes, each once.

    To ask the system lets go of the interpreter, and the store's thread, which waits for it, keeps it for a while: for
    each of a thousand commands a second that costs more than all else that is done for its name.
    """

    def __init__(self) -> None:
        self._drawn = b""
        self._given = 0

    def __call__(self, count: int) -> bytes:
        """Return so many bytes, at most ``DRAWN_BYTES``, as ``os.urandom`` does."""
        if self._given + count > len(self._drawn):
            self._drawn, self._given = os.urandom(DRAWN_BYTES), 0
        found = self._drawn[self._given : self._given + count]
        self._given += count
        return found
