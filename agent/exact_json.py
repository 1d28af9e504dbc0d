"""JSON read without loss: fractions as Decimal, and everything refused that two readers could take differently."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 64  # objects and lists within each other; no business document comes near
MAX_FRACTION_CHARS: Final = 1_000  # characters of a number with a fraction or an exponent, and its largest exponent


class NotExact(ValueError):
    """The text is not JSON, or is JSON that would not be read the same by everyone; the text says why."""


def loads(raw: bytes) -> Any:
    """
    Read ``raw``; integers become int, other numbers Decimal, digit for digit.

    Raises:
        NotExact: no UTF-8, no JSON, a key that stands twice, NaN, half a surrogate pair, nested
            deeper than ``MAX_DEPTH``, or a number too long to be one.
    """
    try:
        # Where it is the same when it is written again, nothing stood twice in it, and no number was changed.
        value = _READ.decode(raw)
        if _is_deep(raw, value):
            raise NotExact(_TOO_DEEP)
        if _WRITE.encode(value).translate(None, _SPACES) == raw.translate(None, _SPACES):
            return value
    except NotExact:
        raise
    except (ValueError, RecursionError):
        pass  # who reads it more slowly can tell why
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise NotExact(f"wants UTF-8, found the byte 0x{raw[exc.start]:02x} at position {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise NotExact(f"wants JSON, found at line {exc.lineno}, column {exc.colno}: {exc.msg}") from exc
    except RecursionError as exc:
        raise NotExact(_TOO_DEEP) from exc
    except NotExact:
        raise
    except ValueError as exc:  # the only one left: int() refuses more digits than sys.get_int_max_str_digits()
        raise NotExact("a whole number has more digits than can be read") from exc
    if _is_deep(raw, value):
        raise NotExact(_TOO_DEEP)
    # Rarely needed, and the bytes tell when.
    if b"\\ud" in raw or b"\\uD" in raw:
        _refuse_half_pairs(value)
    return value


_TOO_DEEP: Final = f"wants at most {MAX_DEPTH} levels of objects and lists within each other"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name, times in Counter(names).items() if times > 1)
        raise NotExact(f"the key {twice[:60]!r} stands twice in one object")
    return found


def _fraction(text: str) -> Decimal:
    if len(text) <= MAX_FRACTION_CHARS:
        try:
            number = Decimal(text)
        except ArithmeticError:
            pass  # an exponent beyond what Decimal holds: refused below
        else:
            if abs(number.adjusted()) <= MAX_FRACTION_CHARS:
                return number
    raise NotExact(f"a number is too large or too long: {text[:20]}…")


def _constant(text: str) -> Any:
    raise NotExact(f"{text} is no JSON number")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=_fraction, parse_constant=_constant)


_SPACES: Final = b" \t\r\n"
_READ: Final = msgspec.json.Decoder(float_hook=_fraction)
_WRITE: Final = msgspec.json.Encoder(decimal_format="number")


def _is_deep(raw: bytes, value: Any) -> bool:
    # A look at each level is rarely needed, and the bytes tell when.
    return raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH


def _depth(value: Any) -> int:
    depth, level = 0, [value] if isinstance(value, dict | list) else []
    while level:
        depth += 1
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
    return depth


def _refuse_half_pairs(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError as exc:
        raise NotExact("a text has half a surrogate pair, which is no character") from exc
