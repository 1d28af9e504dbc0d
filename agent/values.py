"""
The types of parameters: how each is read from JSON, and described to people.

A *reader* turns a JSON value (as ``exact_json`` gives it) into a Python value or raises ``ValueError``;
what was wanted is told by ``wants``, once per parameter, so that every refusal reads the same.
"""

from __future__ import annotations

import base64
import math
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

from agent.patterns import matcher
from agent.settings import Param

Reader = Callable[[Any], Any]

MAX_PATTERN_CHARS: Final = 1_000  # of a text with a pattern but no max_length: matching may be slower than linear

_DECIMAL: Final = re.compile(r"-?[0-9]{1,1000}(?:\.[0-9]{1,1000})?")
DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
CLOCK: Final = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?"
)
UUID: Final = r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"


def reader(param: Param) -> Reader:
    """
    Return the reader of ``param``.

    Raises:
        ValueError: its ``min`` or ``max`` is no value of its type.
    """
    read = _READERS[param.type](param)
    if not param.nullable:
        return read
    return lambda value: None if value is None else read(value)


def as_json(value: Any) -> Any:
    """Return a value of the operator's file (TOML) as ``exact_json`` would have read it."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: as_json(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(child) for child in value]
    return value


# --- readers ------------------------------------------------------------------------------------


def _string(param: Param) -> Reader:
    shortest, longest = param.min_length or 0, longest_text(param)
    fits = matcher(param.pattern) if param.pattern is not None else None
    choices = frozenset(param.enum) if param.enum is not None else None

    def read(value: Any) -> str:
        if type(value) is not str or "\0" in value or len(value) < shortest:
            raise ValueError
        if longest is not None and len(value) > longest:
            raise ValueError
        if choices is not None and value not in choices:
            raise ValueError
        if fits is not None and not fits(value):
            raise ValueError
        return value

    return read


def longest_text(param: Param) -> int | None:
    """Return the most characters a string may have; ``None`` for no limit."""
    if param.max_length is None and param.pattern is not None:
        return MAX_PATTERN_CHARS
    return param.max_length


def _within(param: Param, read: Reader) -> Reader:
    low = read(as_json(param.min)) if param.min is not None else None
    high = read(as_json(param.max)) if param.max is not None else None
    if low is None and high is None:
        return read

    def read_within(value: Any) -> Any:
        found = read(value)
        try:
            if (low is not None and found < low) or (high is not None and found > high):
                raise ValueError
        except TypeError as exc:  # one has an offset and the other has none
            raise ValueError from exc
        return found

    return read_within


def _integer(param: Param) -> Reader:
    choices = frozenset(param.enum) if param.enum is not None else None

    def read(value: Any) -> int:
        if type(value) is not int or (choices is not None and value not in choices):
            raise ValueError
        return value

    def read_bound(value: Any) -> int:
        if type(value) is not int:
            raise ValueError
        return value

    within = _within(param, read_bound)
    return read if within is read_bound else lambda value: within(read(value))


def _decimal(param: Param) -> Reader:
    scale, precision = param.scale, param.precision

    def read_any(value: Any) -> Decimal:
        kind = type(value)
        if kind is str:
            if _DECIMAL.fullmatch(value) is None:
                raise ValueError
            return Decimal(value)
        if kind is int:
            return Decimal(value)
        if kind is Decimal:
            return value if value.as_tuple().exponent <= 0 else Decimal(format(value, "f"))
        raise ValueError

    def read(value: Any) -> Decimal:
        number = read_any(value)
        if scale is not None or precision is not None:
            _, digits, exponent = number.as_tuple()
            after = -int(exponent)
            before = max(len(digits) - after, 0)
            if scale is not None and after > scale:
                raise ValueError
            if precision is not None and before + after > precision:
                raise ValueError
        return number

    within = _within(param, read_any)
    return read if within is read_any else lambda value: within(read(value))


def _number(param: Param) -> Reader:
    def read(value: Any) -> float:
        if type(value) is not int and type(value) is not Decimal:
            raise ValueError
        try:
            number = float(value)
        except OverflowError as exc:
            raise ValueError from exc
        if not math.isfinite(number):
            raise ValueError
        return number

    return _within(param, read)


def _boolean(param: Param) -> Reader:
    def read(value: Any) -> bool:
        if type(value) is not bool:
            raise ValueError
        return value

    return read


def _text_of(form: str, parse: Callable[[str], Any]) -> Callable[[Param], Reader]:
    matches = re.compile(form).fullmatch

    def read(value: Any) -> Any:
        if type(value) is not str or matches(value) is None:
            raise ValueError
        return parse(value)

    return lambda param: _within(param, read)


def _binary(param: Param) -> Reader:
    shortest, longest = param.min_length or 0, param.max_length

    def read(value: Any) -> bytes:
        if type(value) is not str:
            raise ValueError
        found = base64.b64decode(value, validate=True)
        if len(found) < shortest or (longest is not None and len(found) > longest):
            raise ValueError
        return found

    return read


def _json(param: Param) -> Reader:
    def read(value: Any) -> Any:
        if value is None:
            raise ValueError
        return value

    return read


_READERS: Final[dict[str, Callable[[Param], Reader]]] = {
    "string": _string,
    "integer": _integer,
    "decimal": _decimal,
    "number": _number,
    "boolean": _boolean,
    "date": _text_of(DATE, date.fromisoformat),
    "datetime": _text_of(f"{DATE}[Tt ]{CLOCK}", lambda text: datetime.fromisoformat(text.upper())),
    "time": _text_of(CLOCK, lambda text: time.fromisoformat(text.upper())),
    "binary": _binary,
    "json": _json,
    "uuid": _text_of(UUID, uuid.UUID),
}


# --- for people ---------------------------------------------------------------------------------

_NOUNS: Final = {
    "string": "text",
    "integer": "a whole number",
    "decimal": "a decimal such as '12.50'",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date such as '2026-01-31'",
    "datetime": "a time such as '2026-01-31T14:00:00+01:00' (the offset may be left out)",
    "time": "a time of day such as '14:00:00'",
    "binary": "bytes in base64",
    "json": "any JSON value but null",
    "uuid": "a UUID such as '123e4567-e89b-12d3-a456-426614174000'",
}


def wants(param: Param) -> str:
    """Return in words which values ``param`` takes."""
    parts = [_NOUNS[param.type] if param.enum is None else f"one of {', '.join(map(repr, param.enum))}"]
    if param.min is not None:
        parts.append(f"from {param.min}")
    if param.max is not None:
        parts.append(f"up to {param.max}")
    unit = "bytes" if param.type == "binary" else "characters"
    longest = longest_text(param) if param.type == "string" else param.max_length
    if param.min_length:
        parts.append(f"of at least {param.min_length} {unit}")
    if longest is not None:
        parts.append(f"of at most {longest} {unit}")
    if param.pattern is not None:
        parts.append(f"that matches {param.pattern}")
    if param.scale is not None:
        parts.append(f"with at most {param.scale} digits after the point")
    if param.precision is not None:
        parts.append(f"with at most {param.precision} digits in all")
    if param.nullable:
        parts.append("or null")
    return " ".join(parts)
