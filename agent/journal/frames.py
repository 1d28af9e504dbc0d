"""
Records in bytes: each can be told from garbage by itself, and found again behind garbage.

    magic 4 | length of the body 4 | sequence 8 | CRC-32 of chain and body 4 | CRC-32 of these 20 bytes 4
    | chain 32 | body | end 1

Numbers are big-endian. The chain is the SHA-256 over the chain of the record before, the sequence and the body: no
record can be changed, removed or moved without all later chains being others. The header has a checksum of its own, so
its length can be believed where the file ends inside the body: that is a write that a power cut stopped, and no damage.
The last byte is never zero, so a whole record can't be taken for one whose end was never written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import Final
from zlib import crc32

import msgspec

MAGIC: Final = b"\xffOJ\xfe"  # no text in UTF-8 has these bytes, so what a caller sends can't look like a record
_FIELDS: Final = struct.Struct(">4sIQI")
_CHECK: Final = struct.Struct(">I")
HEADER_BYTES: Final = _FIELDS.size + _CHECK.size
_END: Final = b"\xa5"
CHAIN_BYTES: Final = 32
BEGINNING: Final = bytes(CHAIN_BYTES)  # the chain before a journal's first record


class Frame(msgspec.Struct, frozen=True):
    """
    A record that fits its checksums.

    Attributes:
        offset: of its first byte in the file.
        end: of the byte after its last.
        sequence: that it was given.
        chain: up to and with it, as it was written.
    """

    offset: int
    end: int
    sequence: int
    chain: bytes
    body: bytes


class Bad(msgspec.Struct, frozen=True):
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


def follow(chain: bytes, sequence: int, body: bytes) -> bytes:
    """Return the chain with one more record."""
    digest = sha256(chain + sequence.to_bytes(8, "big"))
    digest.update(body)
    return digest.digest()


def encode(sequence: int, body: bytes, segment: int, chain: bytes) -> bytes:
    """
    Return a record as bytes.

    Args:
        segment: number of the file it goes to; in another file it is no record, such as where a file system puts
            blocks of a deleted file into a new one.
        chain: up to and with this record.
    """
    fields = _FIELDS.pack(MAGIC, len(body), sequence, crc32(body, crc32(chain, segment)))
    return b"".join((fields, _CHECK.pack(crc32(fields, segment)), chain, body, _END))


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
    start = offset + HEADER_BYTES
    chain, body = data[start : start + CHAIN_BYTES], data[start + CHAIN_BYTES : start + CHAIN_BYTES + length]
    end = start + CHAIN_BYTES + length
    if data[end : end + 1] != _END or crc32(body, crc32(chain, segment)) != check:
        return None
    return Frame(offset, end + 1, sequence, chain, body)


def size(header: bytes, segment: int) -> int | None:
    """Return how many bytes the record has that begins with ``header``, or ``None`` if none begins so."""
    fields = _header(header, 0, segment)
    return None if fields is None else HEADER_BYTES + CHAIN_BYTES + fields[0] + len(_END)


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
    return written < HEADER_BYTES + CHAIN_BYTES + header[0] + len(_END)
