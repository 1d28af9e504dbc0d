"""The simple types of XML Schema: as parameters on the way in, as JSON values on the way out."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Final

from zeep import xsd

from agent import values
from agent.connectors.base import ColumnType
from agent.connectors.soap.facets import Facets
from agent.settings import Param, ParamType
from agent.settings_reader import read

_KINDS: Final[dict[str, ParamType]] = {
    "boolean": "boolean",
    "decimal": "decimal",
    "float": "number",
    "double": "number",
    "date": "date",
    "dateTime": "datetime",
    "time": "time",
    "base64Binary": "binary",
    "hexBinary": "binary",
}
_INTEGERS: Final[dict[str, tuple[int | None, int | None]]] = {
    "integer": (None, None),
    "nonPositiveInteger": (None, 0),
    "negativeInteger": (None, -1),
    "nonNegativeInteger": (0, None),
    "positiveInteger": (1, None),
    "long": (-(2**63), 2**63 - 1),
    "int": (-(2**31), 2**31 - 1),
    "short": (-(2**15), 2**15 - 1),
    "byte": (-(2**7), 2**7 - 1),
    "unsignedLong": (0, 2**64 - 1),
    "unsignedInt": (0, 2**32 - 1),
    "unsignedShort": (0, 2**16 - 1),
    "unsignedByte": (0, 2**8 - 1),
}
# zeep writes these from tuples only, which its own reader makes.
_CALENDAR_PARTS: Final = frozenset({"gYear", "gYearMonth", "gMonthDay", "gDay", "gMonth"})
# What XML Schema's patterns mean differently from Python's, or not at all; such a pattern is left to the service.
_OTHER_DIALECT: Final = re.compile(r"\\[iIcCpPwWsSdD]|[\^$]|-\[|&&|\(\?")

_DECIMAL: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")
# As most services send it and we pass it on: nothing to change.
_PLAIN_DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?").fullmatch
_INTEGER: Final = re.compile(r"[+-]?\d+")
_ZONE: Final = r"(Z|[+-]\d{2}:\d{2})?"
_DATE: Final = re.compile(rf"-?\d{{4,}}-\d{{2}}-\d{{2}}{_ZONE}")
_DATETIME: Final = re.compile(rf"-?\d{{4,}}-\d{{2}}-\d{{2}}T\d{{2}}:\d{{2}}:\d{{2}}(\.\d+)?{_ZONE}")
_TIME: Final = re.compile(rf"\d{{2}}:\d{{2}}:\d{{2}}(\.\d+)?{_ZONE}")
_FLOATS: Final = {"INF": "Infinity", "-INF": "-Infinity", "NaN": "NaN"}  # as rows spell them


def builtin(kind: Any) -> str:
    """Return the local name of the built-in type that a zeep type is derived from, such as ``decimal``."""
    if isinstance(kind, xsd.ListType | xsd.UnionType):
        return "string"
    name = getattr(kind, "_default_qname", None)
    return name.localname if name is not None else "string"


def param(kind: Any, facets: Mapping[str, Facets]) -> Param:
    """Return what a value of a simple type must be; facets that can't be said of a parameter are left out."""
    name = builtin(kind)
    own = facets.get(str(kind.qname), Facets()) if getattr(kind, "qname", None) is not None else Facets()
    if name in _INTEGERS:
        low, high = _INTEGERS[name]
        with contextlib.suppress(ValueError):
            low = int(own.min) if own.min is not None else low
            high = int(own.max) if own.max is not None else high
        return Param(type="integer", min=low, max=high)
    found: ParamType = _KINDS.get(name, "string")
    if found == "string":
        return Param(
            type="string",
            enum=own.enum,
            min_length=own.min_length,
            max_length=own.max_length,
            pattern=own.pattern if own.pattern is not None and _same_dialect(own.pattern) else None,
        )
    limits = {} if found in ("boolean", "binary", "number") else {"min": own.min, "max": own.max}
    digits = {"scale": own.scale, "precision": own.precision} if found == "decimal" else {}
    wanted = read({"type": found, **limits, **digits}, Param)
    try:
        values.reader(wanted)
    except ValueError:  # a limit with a zone, or of another notation
        wanted = read({"type": found, **digits}, Param)
    return wanted


def for_zeep(kind: Any, value: Any) -> Any:
    """
    Return a value that a reader of ``param`` accepted as zeep wants it.

    Raises:
        ValueError: one of the rarer types has another notation.
    """
    name = builtin(kind)
    if name in _CALENDAR_PARTS:
        return kind.pythonvalue(value)
    if name == "hexBinary":
        return value.hex().upper()
    if name == "base64Binary":
        return base64.b64encode(value).decode("ascii")
    if name == "date" and isinstance(value, date):
        return value.isoformat()
    return value


def converter(kind: Any) -> Callable[[str], Any] | None:
    """
    Return what turns the text of an element or attribute into its JSON value; ``None`` where that is the text itself.

    Nothing is rounded. It raises ValueError where the text is no value of the type.
    """
    if isinstance(kind, xsd.ListType):
        item = converter(kind.item_type)
        return str.split if item is None else lambda text: [item(one) for one in text.split()]
    return _READERS.get(name_of(kind))


def name_of(kind: Any) -> str:
    """Return a simple type's name, as errors and columns have it."""
    if isinstance(kind, xsd.ListType):
        return name_of(kind.item_type)
    name = builtin(kind)
    return "integer" if name in _INTEGERS else name


def column_type(kind: Any) -> ColumnType:
    """Return how the values of a simple type stand in rows."""
    if isinstance(kind, xsd.ListType) or type(kind).__name__ in ("AnyType", "AnySimpleType"):
        return "json"
    name = name_of(kind)
    return "integer" if name == "integer" else _KINDS.get(name, "string")


def _same_dialect(pattern: str) -> bool:
    if _OTHER_DIALECT.search(pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


_TRUTHS: Final = {"true": True, "1": True, "false": False, "0": False}


def _refuse() -> Any:
    raise ValueError


def _stripped(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: read(text.strip())


def _matching(form: re.Pattern[str], convert: Callable[[str], Any] = str) -> Callable[[str], Any]:
    return _stripped(lambda text: convert(text) if form.fullmatch(text) else _refuse())


def _decimal(text: str) -> str:
    if _PLAIN_DECIMAL(text):
        return text
    text = text.strip()
    return format(Decimal(text), "f") if _DECIMAL.fullmatch(text) else _refuse()


def _float(text: str) -> Any:
    return _FLOATS[text] if text in _FLOATS else float(text)


def _binary(text: str) -> str:
    try:
        return base64.b64encode(base64.b64decode("".join(text.split()), validate=True)).decode("ascii")
    except binascii.Error as exc:
        raise ValueError from exc


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "boolean": _stripped(lambda text: _TRUTHS[text] if text in _TRUTHS else _refuse()),
    "integer": _matching(_INTEGER, int),
    "decimal": _decimal,
    "float": _stripped(_float),
    "double": _stripped(_float),
    "date": _matching(_DATE),
    "dateTime": _matching(_DATETIME),
    "time": _matching(_TIME),
    "base64Binary": _binary,
    "hexBinary": _stripped(lambda text: base64.b64encode(bytes.fromhex(text)).decode("ascii")),
}
