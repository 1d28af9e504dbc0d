"""What pyodbc does not tell of a column: the database's own name of its type, asked of ODBC itself."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import sys
from dataclasses import dataclass
from typing import Any, Final

import pyodbc

SQL_DESC_CONCISE_TYPE: Final = 2
SQL_DESC_TYPE_NAME: Final = 14
_BUFFER_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Described:
    """
    A column of a result as the driver describes it.

    Attributes:
        name: may be empty, and may be there twice.
        python_type: what pyodbc makes of its values; ``str`` where a converter reads them.
        source_type: the database's own word, "" if unknown.
        code: of its ODBC type, 0 if unknown.
        precision: digits of a number, 0 if unknown.
        scale: of them, behind the point.
    """

    name: str
    python_type: type
    source_type: str = ""
    code: int = 0
    precision: int = 0
    scale: int = 0


def describe(cursor: pyodbc.Cursor) -> list[Described]:
    """Return the columns of the result."""
    return [
        Described(
            column[0],
            column[1],
            _type_name(cursor, number),
            _type_code(cursor, number),
            column[4] or 0,
            column[5] or 0,
        )
        for number, column in enumerate(cursor.description or (), 1)
    ]


def _type_code(cursor: pyodbc.Cursor, number: int) -> int:
    ask = _column_attribute()
    if ask is None or cursor.hstmt is None:
        return 0
    code = ctypes.c_ssize_t()
    answer = ask(cursor.hstmt, number, SQL_DESC_CONCISE_TYPE, None, 0, None, ctypes.byref(code))
    # Some drivers write 32 of the 64 bits.
    return ctypes.c_int32(code.value & 0xFFFFFFFF).value if answer in (0, 1) else 0


def _type_name(cursor: pyodbc.Cursor, number: int) -> str:
    ask = _column_attribute()
    if ask is None or cursor.hstmt is None:
        return ""
    buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
    length = ctypes.c_short()
    answer = ask(cursor.hstmt, number, SQL_DESC_TYPE_NAME, buffer, _BUFFER_BYTES, ctypes.byref(length), None)
    if answer not in (0, 1):
        return ""
    raw = buffer.raw[: max(0, min(length.value, _BUFFER_BYTES))]
    return raw.decode("utf-16-le", errors="replace").rstrip("\0")


@functools.cache
def _column_attribute() -> Any:
    try:
        if sys.platform == "win32":
            library: Any = ctypes.WinDLL("odbc32.dll")
        else:
            # The one pyodbc has loaded: a second driver manager would not know its handles.
            library = ctypes.CDLL(_loaded_library())
    except OSError:
        return None
    function = library.SQLColAttributeW
    function.restype = ctypes.c_short
    function.argtypes = [
        ctypes.c_void_p,
        ctypes.c_ushort,
        ctypes.c_ushort,
        ctypes.c_void_p,
        ctypes.c_short,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return function


def _loaded_library() -> str | None:
    if sys.platform == "darwin":
        return ctypes.util.find_library("odbc")
    return "libodbc.so.2"
