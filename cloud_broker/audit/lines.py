"""Records of the audit trail as JSON lines, and the hashes that somebody kept of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from cloud_broker.audit.trail import Record

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_ITEM_SEPARATOR: Final = b"\n"


class Line(msgspec.Struct, frozen=True):
    """A record as it is exported; its hash covers all other members, as canonical JSON (RFC 8785)."""

    tenant: str
    number: int
    at: str
    actor: str
    action: str
    target: str
    correlation_id: str
    detail: msgspec.Raw
    previous: str
    hash: str


class Kept(msgspec.Struct, frozen=True):
    """The hash that somebody kept of a record: a line of an export, or an anchor of an agent's journal."""

    tenant: str
    number: int
    hash: str


class LineInvalid(ValueError):
    """A line that is none of these."""


_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="sorted").encode
_line = msgspec.json.Decoder(Line)
_kept = msgspec.json.Decoder(Kept)
_any = msgspec.json.Decoder()


def line_of(record: Record) -> Line:
    """Return a record as it is shown."""
    return Line(
        record.tenant,
        record.number,
        record.at,
        record.actor,
        record.action,
        record.target,
        record.correlation_id,
        msgspec.Raw(record.detail),
        record.previous.hex(),
        record.hash.hex(),
    )


def encode(record: Record) -> bytes:
    """Return a record as one line, with its end."""
    return _encode(line_of(record)) + _ITEM_SEPARATOR


def decode(line: bytes) -> Record:
    """
    Return the record of a line; its hash is not checked.

    Raises:
        LineInvalid: it is none.
    """
    try:
        found = _line.decode(line)
        detail: Any = _any.decode(found.detail)
        return Record(
            tenant=found.tenant,
            number=found.number,
            at=found.at,
            actor=found.actor,
            action=found.action,
            target=found.target,
            correlation_id=found.correlation_id,
            # As it was written: whoever kept the line may have set it in another way.
            detail=_canonical(detail).decode(),
            previous=bytes.fromhex(found.previous),
            hash=bytes.fromhex(found.hash),
        )
    except (ValueError, RecursionError) as exc:
        raise LineInvalid(f"wants a record of the audit trail, found something else: {exc}") from exc


def kept(lines: Iterable[bytes]) -> Iterator[Kept]:
    """
    Yield what lines tell of hashes; of a line only ``tenant``, ``number`` and ``hash`` count.

    Raises:
        LineInvalid: one is none; it is told by its number, counted from 1.
    """
    for count, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = _kept.decode(line)
        except (ValueError, RecursionError) as exc:
            raise LineInvalid(f"line {count}: wants an object with tenant, number and hash: {exc}") from exc
        if not _HASH.fullmatch(found.hash) or found.number < 1:
            raise LineInvalid(f"line {count}: wants a number from 1 and a hash of 64 hexadecimal digits")
        yield found
