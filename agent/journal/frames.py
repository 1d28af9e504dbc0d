"""
Records in bytes: each can be told from garbage by itself, and found again behind garbage.

    magic 4 | length of the body 4 | sequence 8 | CRC-32 of the body 4 | CRC-32 of these 20 bytes 4 | body | end 1

Numbers are big-endian. The header has a checksum of its own, so its length can be believed where the file ends inside
the body: that is a write that a power cut stopped, and no damage. The last byte is never zero, so a whole
record can't be taken for one whose end was never written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

MAGIC: Final = b"\xffOJ\xfe"  # no text in UTF-8 has these bytes, so what a caller sends can't look like a record
_FIELDS: Final = struct.Struct(">4sIQI")
_CHECK: Final = struct.Struct(">I")
HEADER_BYTES: Final = _FIELDS.size + _CHECK.size
_END: Final = b"\xa5"


@dataclass(frozen=True, slots=True)
class Frame:
    """
    A record that fits its checksums.

    Attributes:
        offset: of its first byte in the file.
        end: of the byte after its last.
        sequence: that it was given.
    """

    offset: int
    end: int
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Bad:
    """
    Bytes that are no record.

    Attributes:
        offset: of the first in the file.
        end: of the byte after the last.
        torn: whether they are what a write leaves that was stopped on its way; nothing follows them.
    """

    offset: int
    end: int
    torn: bool


def encode(sequence: int, body: bytes, segment: int) -> bytes:
    """
    Return a record as bytes.

    Args:
        segment: number of the file it goes to; in another file it is no record, such as where a file system puts
            blocks of a deleted file into a new one.
    """
    fields = _FIELDS.pack(MAGIC, len(body), sequence, crc32(body, segment))
    return b"".join((fields, _CHECK.pack(crc32(fields, segment)), body, _END))


def scan(data: bytes, segment: int) -> Iterator[Frame | Bad]:
    """Yield all of ``data`` in order, records and what is none."""
    offset = 0
    while offset < len(data):
        frame = at(data, offset, segment)
        if frame is None:
            behind = _next(data, offset + 1, segment)
            end = len(data) if behind is None else behind.offset
            yield Bad(offset, end, behind is None and _torn(data, offset, segment))
            offset = end
        else:
            yield frame
            offset = frame.end


def at(data: bytes, offset: int, segment: int) -> Frame | None:
    """Return the record that begins at ``offset``, or ``None`` if none does."""
    header = _header(data, offset, segment)
    if header is None:
        return None
    length, sequence, check = header
    start, end = offset + HEADER_BYTES, offset + HEADER_BYTES + length
    body = data[start:end]
    if data[end : end + 1] != _END or crc32(body, segment) != check:
        return None
    return Frame(offset, end + 1, sequence, body)


def size(header: bytes, segment: int) -> int | None:
    """Return how many bytes the record has that begins with ``header``, or ``None`` if none begins so."""
    fields = _header(header, 0, segment)
    return None if fields is None else HEADER_BYTES + fields[0] + len(_END)


def _header(data: bytes, offset: int, segment: int) -> tuple[int, int, int] | None:
    if len(data) < offset + HEADER_BYTES or data[offset : offset + len(MAGIC)] != MAGIC:
        return None
    fields = data[offset : offset + _FIELDS.size]
    if _CHECK.unpack_from(data, offset + _FIELDS.size)[0] != crc32(fields, segment):
        return None
    _, length, sequence, check = _FIELDS.unpack(fields)
    return length, sequence, check


def _next(data: bytes, offset: int, segment: int) -> Frame | None:
    while (offset := data.find(MAGIC, offset)) >= 0:
        if (frame := at(data, offset, segment)) is not None:
            return frame
        offset += 1
    return None


def _torn(data: bytes, offset: int, segment: int) -> bool:
    """Whether the file ends inside the record at ``offset``, or has only zeros from some byte of it on."""
    written = len(data[offset:].rstrip(b"\0"))
    header = _header(data, offset, segment)
    if header is None:
        # A whole record has at least one byte, which is not zero, after its header.
        return written <= HEADER_BYTES
    return written < HEADER_BYTES + header[0] + len(_END)
