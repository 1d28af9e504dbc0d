"""
Records: a small header beside raw bytes.

    u32  length of the header   (big endian)
    u32  length of the payload  (big endian)
    header                      JSON, UTF-8
    payload                     raw bytes: parameters, rows, a catalogue

A websocket message holds one record or more. The same records travel on the
pipes between the agent and its driver processes. Payloads are never base64 inside JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from protocol import limits
from protocol.errors import RemoteProtocolError

LENGTHS = struct.Struct(">II")

Buffer = bytes | bytearray | memoryview


def pack(header: bytes, payload: Buffer = b"") -> bytes:
    """Return one record."""
    return b"".join((LENGTHS.pack(len(header), len(payload)), header, payload))


def unpack_lengths(prefix: Buffer) -> tuple[int, int]:
    """
    Return the lengths of header and payload in bytes from the first 8 bytes of a record.

    Raises:
        RemoteProtocolError: a length is beyond its limit.
    """
    header_length, payload_length = LENGTHS.unpack(prefix)
    if header_length > limits.MAX_HEADER_BYTES:
        raise RemoteProtocolError(f"a header of {header_length} bytes; at most {limits.MAX_HEADER_BYTES}")
    if payload_length > limits.MAX_MESSAGE_BYTES:
        raise RemoteProtocolError(f"a payload of {payload_length} bytes; at most {limits.MAX_MESSAGE_BYTES}")
    return header_length, payload_length


def unpack(message: Buffer) -> Iterator[tuple[memoryview, memoryview]]:
    """
    Yield header and payload of each record of a whole message, as views on it.

    Raises:
        RemoteProtocolError: the message is empty, cut, or beyond a limit.
    """
    view = memoryview(message)
    if not view:
        raise RemoteProtocolError("not a message: empty")
    at, whole = 0, len(view)
    while at < whole:
        start = at + LENGTHS.size
        if start > whole:
            raise RemoteProtocolError("not a message: cut inside the lengths of a record")
        header_length, payload_length = unpack_lengths(view[at:start])
        middle = start + header_length
        at = middle + payload_length
        if at > whole:
            raise RemoteProtocolError("not a message: cut inside a record")
        yield view[start:middle], view[middle:at]
