"""The wire format: the only file that knows how a message becomes bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from protocol import framing
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import WITH_PAYLOAD, AnyMessage


class Record(NamedTuple):
    """A message and the raw bytes beside it."""

    message: AnyMessage
    payload: framing.Buffer = b""


_WITH_PAYLOAD: Final = frozenset(WITH_PAYLOAD)
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final[msgspec.json.Decoder[AnyMessage]] = msgspec.json.Decoder(AnyMessage)


def encode(record: Record) -> bytes:
    """
    Return one record as bytes.

    Raises:
        LocalProtocolError: a payload beside a message that has none.
    """
    if record.payload and type(record.message) not in _WITH_PAYLOAD:
        raise LocalProtocolError(f"{type(record.message).__name__} has no payload")
    return framing.pack(_ENCODER.encode(record.message), record.payload)


def encode_all(records: Iterable[Record]) -> bytes:
    """Return one websocket message that holds ``records``, at least one."""
    return b"".join([encode(record) for record in records])


def decode(message: framing.Buffer | str) -> list[Record]:
    """
    Return the records of one websocket message; payloads are views on it.

    Raises:
        RemoteProtocolError: text, garbage, a cut record, an unknown kind, or a limit passed.
    """
    if isinstance(message, str):
        raise RemoteProtocolError("not a message: text, where binary is wanted")
    records = []
    for header, payload in framing.unpack(message):
        decoded = decode_header(header)
        if payload and type(decoded) not in _WITH_PAYLOAD:
            raise RemoteProtocolError(f"{type(decoded).__name__} has no payload")
        records.append(Record(decoded, payload))
    return records


def decode_header(header: framing.Buffer) -> AnyMessage:
    """
    Return the message of one record without its payload.

    Raises:
        RemoteProtocolError: garbage, or an unknown kind.
    """
    try:
        return _DECODER.decode(header)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise RemoteProtocolError(f"not a message: {exc}") from exc
