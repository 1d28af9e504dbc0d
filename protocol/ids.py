"""Identifiers: sortable by time, unguessable, the same on both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread
_PAIRS: Final = [first + second for first in _ALPHABET for second in _ALPHABET]
_SHIFTS: Final = range(120, -1, -10)
RANDOM_BYTES: Final = 10


def new_id(prefix: str, now_ms: int, random_bytes: Callable[[int], bytes]) -> str:
    """
    Return ``prefix_`` and 26 characters: 48 bits of time, 80 bits of chance.

    Args:
        prefix: a short word for the kind of thing, such as ``cmd``.
        now_ms: milliseconds since 1970; ids sort by it.
        random_bytes: usually ``os.urandom``.

    Source:
        ULID, https://github.com/ulid/spec
    """
    value = (now_ms & ((1 << 48) - 1)) << 80 | int.from_bytes(random_bytes(RANDOM_BYTES), "big")
    return f"{prefix}_{''.join([_PAIRS[value >> shift & 0x3FF] for shift in _SHIFTS])}"
