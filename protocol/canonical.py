"""
One text for one JSON value, so that a digest says the same at both ends (RFC 8785).

Keys stand in the order of their UTF-16 code units, texts with as few escapes as there may be, nothing has spaces.
Unlike there numbers stay digit for digit as they were written: nobody on the way rounds them, and 1.10 is not 1.1.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 64  # objects and lists within each other, as the agent reads them


class NotCanonical(ValueError):
    """The text is no JSON, or JSON that two readers could take differently; the text says why."""


def canonical(text: bytes) -> bytes:
    """
    Return the canonical form of a JSON text.

    Raises:
        NotCanonical: no UTF-8, no JSON, a key that stands twice, NaN, half a surrogate pair, or nested deeper than
            ``MAX_DEPTH``.
    """
    if (found := _without_spaces(text)) is not None:
        return found
    try:
        value = _DECODER.decode(text.decode("utf-8"))
        # A look at each level is rarely needed, and the bytes tell when.
        if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            raise NotCanonical(_TOO_DEEP)
        return _ENCODER.encode(value)
    except UnicodeDecodeError as exc:
        raise NotCanonical(f"wants UTF-8, found the byte 0x{text[exc.start]:02x} at position {exc.start}") from exc
    except UnicodeEncodeError as exc:
        raise NotCanonical(_HALF) from exc
    except json.JSONDecodeError as exc:
        raise NotCanonical(f"wants JSON, found at line {exc.lineno}, column {exc.colno}: {exc.msg}") from exc
    except RecursionError as exc:
        raise NotCanonical(_TOO_DEEP) from exc


def _without_spaces(text: bytes) -> bytes | None:
    """
    Return the canonical form where it is the same text but for white space, which takes a tenth of the time.

    Where both have the same characters besides white space, they have the same names, in the same order and as many,
    and the same numbers; texts are as they were read. ``None`` if they don't, or nobody can tell.
    """
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH or not text.isascii():
        return None  # of other characters the order is another one here
    try:
        found = _SORTED.encode(_READ.decode(text))
    except (ValueError, RecursionError):
        return None  # who reads it properly can tell why
    return found if found.translate(None, _SPACES) == text.translate(None, _SPACES) else None


def encode(value: Any) -> bytes:
    """
    Return a value in its canonical form.

    Args:
        value: of texts, integers, booleans, ``None``, lists and mappings; a fraction has no one text, so there is none.

    Raises:
        NotCanonical: it holds something else, half a surrogate pair, or is nested deeper than ``MAX_DEPTH``.
    """
    parts: list[str] = []
    _write(value, parts, 0)
    try:
        return "".join(parts).encode("utf-8")
    except UnicodeEncodeError as exc:
        raise NotCanonical(_HALF) from exc


def encode_sorted(value: msgspec.Struct) -> bytes:
    """
    Return a record in its canonical form, quickly; it and all in it must have their members in the order of the names.

    Raises:
        NotCanonical: a text of it has half a surrogate pair.
    """
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError as exc:
        raise NotCanonical(_HALF) from exc


_HALF: Final = "a text has half a surrogate pair, which is no character"
_TOO_DEEP: Final = f"wants at most {MAX_DEPTH} levels of objects and lists within each other"


def _write(value: Any, parts: list[str], depth: int) -> None:
    if isinstance(value, str):
        parts.append(_text(value))
    elif value is None or isinstance(value, bool):
        parts.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, int):
        parts.append(str(value))
    elif depth == MAX_DEPTH:
        raise NotCanonical(_TOO_DEEP)
    elif isinstance(value, Mapping):
        _write_object(value, parts, depth)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        between = "["
        for item in value:
            parts.append(between)
            _write(item, parts, depth + 1)
            between = ","
        parts.append("]" if value else "[]")
    else:
        raise NotCanonical(f"wants JSON values without fractions, found {type(value).__name__}")


def _write_object(value: Mapping[str, Any], parts: list[str], depth: int) -> None:
    between = "{"
    for key in sorted(value, key=_order):
        parts.append(between + _text(key) + ":")
        _write(value[key], parts, depth + 1)
        between = ","
    parts.append("}" if value else "{}")


def _order(key: str) -> bytes:
    if not isinstance(key, str):
        raise NotCanonical(f"wants texts as keys, found {type(key).__name__}")
    return key.encode("utf-16-be", "surrogatepass")


# The escapes of the standard library are those of RFC 8785 where it is told to leave other characters alone.
_text: Final = json.JSONEncoder(ensure_ascii=False).encode


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    # Python sorts by characters, which is another order for those that are two units each.
    pairs.sort(key=itemgetter(0) if "".join(names).isascii() else lambda pair: _order(pair[0]))
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise NotCanonical(f"the key {twice[:60]!r} stands twice in one object")
    return found


def _number(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode("ascii"))  # as it was written


def _constant(text: str) -> Any:
    raise NotCanonical(f"{text} is no JSON number")


def _depth(value: Any) -> int:
    depth, level = 0, [value] if isinstance(value, dict | list) else []
    while level:
        depth += 1
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
    return depth


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_number, parse_float=_number, parse_constant=_constant
)
_SPACES: Final = b" \t\r\n"
_READ: Final = msgspec.json.Decoder()
_SORTED: Final = msgspec.json.Encoder(order="sorted")
_ENCODER: Final = msgspec.json.Encoder()  # its escapes are those of RFC 8785 too
