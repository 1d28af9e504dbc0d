"""What a driver's error means: SQLSTATEs and native codes as tables, and the message without the driver's noise."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

UNAVAILABLE: Final = "unavailable"
TIMED_OUT: Final = "timed out"
IN_THE_WAY: Final = "in the way"  # of another transaction, and rolled back: the same may work later

# By SQLSTATE or its class (the first two characters); what is not here is a technical failure.
SQLSTATES: Final[dict[str, str]] = {
    "08": UNAVAILABLE,  # connection exceptions
    "28": UNAVAILABLE,  # it does not let us in
    "57P01": UNAVAILABLE,  # PostgreSQL: stopped by its administrator
    "57P02": UNAVAILABLE,  # PostgreSQL: another session crashed it
    "57P03": UNAVAILABLE,  # PostgreSQL: starting or stopping
    "57P05": UNAVAILABLE,  # PostgreSQL: idle session ended
    "40001": IN_THE_WAY,  # serialization failure, deadlock
    "40P01": IN_THE_WAY,  # PostgreSQL: deadlock
    "55P03": IN_THE_WAY,  # PostgreSQL: lock not available
    "57033": IN_THE_WAY,  # Db2: deadlock or timeout
    "57014": TIMED_OUT,  # PostgreSQL, DB2: statement cancelled
    "HYT00": TIMED_OUT,
    "HYT01": UNAVAILABLE,
}
# MariaDB, MySQL and SQLite say HY000 or 70100 for much; only their own number tells.
NATIVE: Final[dict[int, str]] = {
    5: IN_THE_WAY,  # SQLite: locked by another
    6: IN_THE_WAY,
    1020: IN_THE_WAY,  # changed since it was read
    1053: UNAVAILABLE,  # server shutdown in progress
    1205: IN_THE_WAY,  # waited too long for a lock
    1213: IN_THE_WAY,  # deadlock
    1927: UNAVAILABLE,  # connection was killed
    1969: TIMED_OUT,  # max_statement_time exceeded
    2002: UNAVAILABLE,  # can't connect
    2003: UNAVAILABLE,
    2006: UNAVAILABLE,  # server has gone away
    2013: UNAVAILABLE,  # lost during query
    2055: UNAVAILABLE,
    3024: TIMED_OUT,  # MySQL: max_execution_time
    5013: UNAVAILABLE,  # read error
    5014: UNAVAILABLE,  # write error
}

_NATIVE_CODE: Final = re.compile(r"\s*\((-?\d+)\)\s*\((SQL\w+)\)")
_VENDOR: Final = re.compile(r"^(?:\s*\[[^\]\n]*\])+\s*")
_NOISE: Final = re.compile(
    r"(;?\s*\n?Error while (?:executing the query|preparing parameters)\.?|;\n\s*$|^(?:ERROR|FATAL):\s+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """
    What a driver said.

    Attributes:
        sqlstate: five characters, or "".
        native: the database's own number as text, or "".
        message: its words, cleaned of brackets and names of ODBC functions.
    """

    sqlstate: str
    native: str
    message: str

    @property
    def kind(self) -> str:
        """``UNAVAILABLE``, ``TIMED_OUT``, ``IN_THE_WAY`` or "" for any other failure."""
        native = int(self.native) if self.native.lstrip("-").isdigit() else 0
        if self.sqlstate[:2] in ("HY", "70", "08", "") and native in NATIVE:
            return NATIVE[native]
        return SQLSTATES.get(self.sqlstate, SQLSTATES.get(self.sqlstate[:2], ""))

    @property
    def code(self) -> str:
        """What a person would look up: the SQLSTATE, or the native code where the SQLSTATE says nothing."""
        return self.native if self.sqlstate in ("", "HY000") and self.native not in ("", "0") else self.sqlstate

    def is_business(self, listed: Collection[str]) -> bool:
        """Whether the operator listed it as the ERP's own answer."""
        return self.sqlstate in listed or self.native in listed


def diagnose(args: tuple[object, ...], hide: Collection[str] = ()) -> Diagnosis:
    """
    Read what pyodbc raised; ``hide`` are texts (passwords) that must not stand in a message.

    pyodbc's own errors have the SQLSTATE last, those of drivers have it first.
    """
    texts = [str(arg) for arg in args]
    sqlstate = next((text for text in texts if re.fullmatch(r"[0-9A-Z]{5}", text)), "")
    message = max((text for text in texts if text != sqlstate), key=len, default="no message")
    natives = _NATIVE_CODE.findall(message)
    native = natives[0][0] if natives else ""
    message = _NATIVE_CODE.split(message)[0] if natives else message
    message = _VENDOR.sub("", message)
    message = (_NOISE.sub("", message).strip(" ;\n")) or message
    # SQLite's driver repeats the number inside.
    message = message.removesuffix(f"({native})").strip() or "the driver gave no message"
    for secret in hide:
        message = message.replace(secret, "***")
    return Diagnosis(sqlstate, native, message)
