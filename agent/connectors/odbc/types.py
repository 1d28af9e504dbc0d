"""
Values between a driver and JSON: text to RFC 3339, numbers without rounding, and what can't be carried, refused.

Where a driver's own conversion loses something (fractions of seconds, zones, zero dates), the dialect
makes it hand over the database's text, and a *reader* of this module turns that into the value.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from agent.connectors.base import Column, ColumnType
from agent.connectors.odbc.metadata import Described
from agent.errors import ValueUnreadable

Reader = Callable[[Any], Any]


class Spoiled(ValueError):
    """A value can't be carried without change; the text says why."""


@dataclass(frozen=True, slots=True)
class Field:
    """A column and what turns the driver's value, if not null, into one for ``RowEncoder``; ``None``: nothing."""

    column: Column
    read: Reader | None = None


def convert(fields: Sequence[Field], rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """
    Return ``rows`` read.

    Raises:
        ValueUnreadable: naming the column and what was found.
    """
    reading = [(i, field) for i, field in enumerate(fields) if field.read is not None]
    if not reading or not rows:
        return rows
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    for i, field in reading:
        read = field.read
        assert read is not None  # noqa: S101 # chosen above
        try:
            columns[i] = [None if value is None else read(value) for value in columns[i]]
        except (ValueError, ArithmeticError, UnicodeDecodeError) as exc:
            raise unreadable(field.column, exc) from exc
    return list(zip(*columns, strict=True))


def unreadable(column: Column, exc: Exception) -> ValueUnreadable:
    """Return the error that names the column; the value itself may be private and is not shown."""
    what = str(exc) if isinstance(exc, Spoiled) else f"is no {column.type}"
    kind = f"{column.source_type} " if column.source_type else ""
    return ValueUnreadable(
        f"column {column.name}: a value of the {kind}column {what}; "
        "cast the column to text in the statement, or leave it out"
    )


# --- readers: text of the database to values -------------------------------------------------------

_DATE: Final = re.compile(r"(?!0000)\d{4}-(?!00)\d\d-(?!00)\d\d").fullmatch
_DATETIME: Final = re.compile(
    r"((?!0000)\d{4}-(?!00)\d\d-(?!00)\d\d)[ T]((?:[01]\d|2[0-3]):\d\d(?::\d\d(?:\.\d{1,9})?)?)(Z|[+-]\d\d(?::?\d\d)?)?"
).fullmatch
_USUAL: Final = re.compile(  # nearly every value: told by one look, and cut without groups
    r"(?!0000)\d{4}-(?!00)\d\d-(?!00)\d\d (?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,9})?(?:\+00)?"
).fullmatch
_TIME: Final = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?").fullmatch
_SECONDS: Final = len("12:34:56")


def text_of(value: bytes | bytearray | str) -> str:
    """Return UTF-8 bytes as text."""
    return value if isinstance(value, str) else value.decode("utf-8")


def read_date(text: str) -> str:
    """Check ``2024-02-29``; infinity, zero dates, years before 1 and beyond 9999 are refused."""
    if _DATE(text) is None:
        raise Spoiled("is no date of the years 1 to 9999")
    return text


def read_datetime(text: str) -> str:
    """Turn ``2024-02-29 12:34:56.123456`` into RFC 3339; an offset is kept, none is added."""
    if _USUAL(text) is not None:
        return f"{text[:10]}T{text[11:]}" if text[-3] != "+" else f"{text[:10]}T{text[11:-3]}Z"
    match = _DATETIME(text)
    if match is None:
        raise Spoiled("is no point in time of the years 1 to 9999")
    day, clock, zone = match.groups()
    if len(clock) < _SECONDS:
        clock += ":00"
    return f"{day}T{clock}{_offset(zone)}" if zone else f"{day}T{clock}"


def read_utc(text: str) -> str:
    """As ``read_datetime`` for a source that speaks UTC: ends in ``Z``."""
    plain = read_datetime(text)
    return plain if plain[-1] == "Z" else plain.removesuffix("+00:00") + "Z"


def read_time(text: str) -> str:
    """Check ``12:34:56.123456``; durations (negative, or of 24 hours and more) are refused."""
    if _TIME(text) is None:
        raise Spoiled("is no time of day from 00:00:00 to 23:59:59")
    return text


def _offset(zone: str) -> str:
    if zone in ("Z", "+00", "+00:00", "+0000"):
        return "Z"
    digits = zone[1:].replace(":", "")
    return f"{zone[0]}{digits[:2]}:{digits[2:] or '00'}"


def read_integer(text: str) -> int:
    """Turn digits into an integer."""
    try:
        return int(text)
    except ValueError:
        raise Spoiled("holds something else than a whole number") from None


def read_decimal(text: str) -> Decimal:
    """Turn digits into a decimal."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise Spoiled("holds something else than a number") from None


def read_number(text: str) -> float:
    """Turn text into a float; ``Inf`` and ``NaN`` included."""
    try:
        return float(text)
    except ValueError:
        raise Spoiled("holds something else than a number") from None


def read_boolean(text: str) -> bool:
    """Turn ``0`` and ``1`` into a boolean."""
    if text not in ("0", "1"):
        raise Spoiled("holds something else than 0 and 1")
    return text == "1"


def read_json(text: str) -> str:
    """Check JSON and put it on one line."""
    try:
        msgspec.json.decode(text, type=_ANY_JSON)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise Spoiled("holds something else than JSON") from exc
    # A newline in valid JSON stands between two tokens; rows go one a line.
    return text.replace("\r", " ").replace("\n", " ")


_ANY_JSON: Final = Any


def read_uuid(text: str) -> str:
    """Turn any spelling of a UUID into the common one."""
    return str(uuid.UUID(text))


def read_datetimeoffset(raw: bytes) -> str:
    """Turn SQL Server's ``SQL_SS_TIMESTAMPOFFSET_STRUCT`` into RFC 3339, all seven digits kept."""
    year, month, day, hour, minute, second, billionths, hours, minutes = struct.unpack("<hHHHHHIhh", raw)
    sign = "-" if hours < 0 or minutes < 0 else "+"
    zone = f"{sign}{abs(hours):02}:{abs(minutes):02}"
    fraction = f".{billionths // 100:07}" if billionths else ""
    return (
        f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{'Z' if zone == '+00:00' else zone}"
    )


# --- columns of drivers that need no help -----------------------------------------------------------

COLUMN_TYPES: Final[dict[type, ColumnType]] = {
    str: "string",
    int: "integer",
    bool: "boolean",
    float: "number",
    Decimal: "decimal",
    dt.date: "date",
    dt.datetime: "datetime",
    dt.time: "time",
    bytes: "binary",
    bytearray: "binary",
    uuid.UUID: "uuid",
}


def plain_field(column: Described) -> Field:
    """Return the field of a column whose driver is trusted with its values."""
    return Field(Column(column.name, COLUMN_TYPES.get(column.python_type, "string"), column.source_type))


# --- outputs: OUT parameters by their declared type ---------------------------------------------------


def _as_string(value: Any) -> str:
    return text_of(value) if isinstance(value, str | bytes | bytearray) else _iso(value)


def _as_integer(value: Any) -> int:
    if isinstance(value, str):
        return read_integer(value)
    if value != int(value):
        raise Spoiled("holds something else than a whole number")
    return int(value)


def _as_decimal(value: Any) -> str:
    if isinstance(value, float):
        value = repr(value)
    return str(read_decimal(str(value)))


def _as_number(value: Any) -> float | int | str:
    number = float(value)
    return number if number - number == 0 else ("NaN" if number != number else str(number).replace("inf", "Infinity"))


def _as_boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in ("1", "t", "true", "y", "yes", "0", "f", "false", "n", "no"):
        return text in ("1", "t", "true", "y", "yes")
    raise Spoiled("is neither true nor false")


def _as_binary(value: Any) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else bytes(value)).decode("ascii")


def _as_json(value: Any) -> Any:
    if not isinstance(value, str | bytes | bytearray):
        return value
    # As it was written, digit for digit.
    text = value if isinstance(value, str) else bytes(value).decode()
    return msgspec.Raw(read_json(text).encode())


def _iso(value: Any) -> str:
    if isinstance(value, dt.datetime | dt.date | dt.time):
        text = value.isoformat()
        return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
    return str(value)


_OUTPUTS: Final[dict[str, Reader]] = {
    "string": _as_string,
    "integer": _as_integer,
    "decimal": _as_decimal,
    "number": _as_number,
    "boolean": _as_boolean,
    "date": _iso,
    "datetime": _iso,
    "time": _iso,
    "binary": _as_binary,
    "json": _as_json,
    "uuid": lambda value: read_uuid(str(value)),
}


def output(name: str, declared: str, value: Any) -> Any:
    """
    Return an OUT parameter as a JSON value of its declared type.

    Raises:
        ValueUnreadable: the database returned something that is no such value.
    """
    if value is None:
        return None
    try:
        return _OUTPUTS[declared](value)
    except (ValueError, ArithmeticError, TypeError, UnicodeDecodeError) as exc:
        what = str(exc) if isinstance(exc, Spoiled) else f"is no {declared}"
        raise ValueUnreadable(
            f"output {name}: the value that came back {what}; declare it with the type the procedure returns"
        ) from exc
