"""The content of one file, out of the rows in which it travels: base64 in NDJSON, of any size."""

from __future__ import annotations

import binascii
import json
from typing import Final

BEGIN: Final = b'"content":"'  # inside of a text every quote is escaped, so this can't stand in a name
MAX_HEAD_BYTES: Final = 16_384  # of a row before its content; the longest name is far shorter


class NotContent(ValueError):
    """The rows hold no content of a file, or the file ends too early."""


class RawContent:
    """
    Takes one file's bytes out of rows as they come, in constant memory.

    Attributes:
        found: whether the file's row has begun.
        whole: whether all of the file was returned.
    """

    def __init__(self, name: str | None = None) -> None:
        """
        Args:
            name: of the file; ``None`` takes the first.
        """
        self.found = False
        self.whole = False
        self._name = name
        self._head = b""  # of a row whose content has not begun
        self._skipping = False  # whether the rest of a row is of no use
        self._rest = b""  # digits that make no whole bytes yet

    def feed(self, piece: bytes) -> bytes:
        """
        Return the file's bytes in the next piece of the rows.

        Raises:
            NotContent: these rows have no content in base64.
        """
        while piece and not self.whole:
            if self.found:
                return self._decoded(piece)
            if self._skipping:
                _, end, piece = piece.partition(b"\n")
                self._skipping = not end
                continue
            self._head += piece
            at = self._head.find(BEGIN)
            if at < 0 or at > MAX_HEAD_BYTES:
                if at > MAX_HEAD_BYTES or len(self._head) > MAX_HEAD_BYTES or b"\n" in self._head:
                    raise NotContent("the rows have no column `content` with the bytes of files")
                return b""
            piece, head, self._head = self._head[at + len(BEGIN) :], self._head[:at], b""
            self.found = self._name is None or _name(head) == self._name
            self._skipping = not self.found
        return b""

    def _decoded(self, piece: bytes) -> bytes:
        end = piece.find(b'"')
        if end >= 0:
            self.whole, piece = True, piece[:end]
        digits = self._rest + piece
        size = len(digits) if self.whole else len(digits) // 4 * 4
        self._rest = digits[size:]
        try:
            return binascii.a2b_base64(digits[:size], strict_mode=True)
        except binascii.Error as exc:
            raise NotContent(f"the content is no base64: {exc}") from exc


def _name(head: bytes) -> str | None:
    """Return the file that a row is of, from what stands before its content."""
    try:
        row = json.loads(head.rstrip(b",") + b"}")
    except ValueError as exc:
        raise NotContent(f"a row can't be read: {exc}") from exc
    name = row.get("file")
    return name if isinstance(name, str) else None
