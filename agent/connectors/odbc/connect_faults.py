"""Why a session to a database could not be opened: the driver, the account, the database or the way to it."""

from __future__ import annotations

import configparser
import os
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyodbc

from agent.connectors.odbc.connection_string import driver_in
from agent.connectors.odbc.sqlstates import Diagnosis

BITS: Final = 8 * struct.calcsize("P")

# Codes of a driver manager, which has found or loaded no driver.
_NO_DRIVER: Final = ("IM002", "IM003", "IM004", "IM005", "IM006", "01000")
_WRONG_BITS: Final = "IM014"
_NO_DATABASE: Final = ("3D000", "1049", "4060", "12514", "-30061")  # PostgreSQL, MariaDB, SQL Server, Oracle, Db2
_NO_DATABASE_TEXT: Final = re.compile(r'database "[^"]*" does not exist|unable to open database', re.IGNORECASE)
_TLS_TEXT: Final = re.compile(r"\b(ssl|tls|certificate)\b", re.IGNORECASE)

_ELF_MAGIC: Final = b"\x7fELF"
_ELF_BITS: Final = {1: 32, 2: 64}  # the byte after the magic


@dataclass(frozen=True, slots=True)
class ConnectFault:
    """
    Attributes:
        remedy: its code in ``agent.check.remedies``.
        hint: what to look at, as the end of a sentence.
    """

    remedy: str
    hint: str


def connect_fault(found: Diagnosis, connection_string: str) -> ConnectFault:
    """Return what is behind ``found``, which a driver manager or a driver said on connecting."""
    if found.sqlstate == _WRONG_BITS:
        return _wrong_bits("the driver", 96 - BITS)
    if found.sqlstate in _NO_DRIVER:
        driver = driver_in(connection_string)
        return driver_fault(driver) if driver else _no_dsn()
    text = found.message
    if found.sqlstate[:2] == "28" or "password" in text.lower():
        return ConnectFault("odbc.account", "check the account and its secret")
    if found.sqlstate in _NO_DATABASE or found.native in _NO_DATABASE or _NO_DATABASE_TEXT.search(text):
        return ConnectFault("odbc.database", "check the database's name in connection_string")
    if _TLS_TEXT.search(text):
        return ConnectFault("odbc.tls", "check what connection_string says of encryption, and the server's certificate")
    return ConnectFault(
        "odbc.unreachable", "check the server's address and port in connection_string, and that it runs"
    )


def driver_fault(driver: str) -> ConnectFault:
    """Return why ``driver``, a name or a library's path, could not be loaded."""
    there = ", ".join(pyodbc.drivers()) or "none"
    if sys.platform == "win32":
        if driver in _names_of_other_bits():
            return _wrong_bits(f"{driver!r}", 96 - BITS)
        return ConnectFault("odbc.driver", f"check Driver= in connection_string, installed are: {there}")
    library = Path(driver) if "/" in driver else _library_of(driver)
    if library is None:
        return ConnectFault("odbc.driver", f"check Driver= in connection_string, installed are: {there}")
    try:
        with library.open("rb") as file:
            head = file.read(len(_ELF_MAGIC) + 1)
    except FileNotFoundError:
        return ConnectFault("odbc.driver", f"its library {library} is not there: install the driver")
    except OSError as exc:
        return ConnectFault("odbc.driver", f"its library {library} can't be read: {exc.strerror}")
    bits = _ELF_BITS.get(head[4]) if head[:4] == _ELF_MAGIC and len(head) > len(_ELF_MAGIC) else None
    if bits is not None and bits != BITS:
        return _wrong_bits(str(library), bits)
    return ConnectFault("odbc.driver", f"its library {library} can't be loaded; `ldd {library}` shows what it misses")


def _wrong_bits(what: str, bits: int) -> ConnectFault:
    return ConnectFault("odbc.bitness", f"{what} is for {bits}-bit programs, and this agent is {BITS}-bit")


def _no_dsn() -> ConnectFault:
    seen = ", ".join(pyodbc.dataSources()) or "none"
    return ConnectFault("odbc.dsn", f"check DSN= in connection_string, this account sees: {seen}")


def _library_of(driver: str) -> Path | None:
    """Return the library that unixODBC's own lists name for ``driver``."""
    folders = (os.environ.get("ODBCSYSINI") or "/etc", str(Path.home()))
    for path in (Path(folders[0], "odbcinst.ini"), Path(folders[1], ".odbcinst.ini")):
        lists = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            lists.read(path, "utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        for name in lists.sections():
            library = lists[name].get("driver64") or lists[name].get("driver")
            if name.lower() == driver.lower() and library:
                return Path(library)
    return None


if sys.platform == "win32":
    import winreg

    def _names_of_other_bits() -> list[str]:
        """Return the drivers that are installed for programs of the other bitness."""
        other = winreg.KEY_WOW64_32KEY if BITS == 64 else winreg.KEY_WOW64_64KEY
        names = []
        try:
            key = winreg.OpenKey(
                winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\ODBC\ODBCINST.INI\ODBC Drivers", 0, winreg.KEY_READ | other
            )
        except OSError:
            return []
        with key:
            for number in range(winreg.QueryInfoKey(key)[1]):
                names.append(winreg.EnumValue(key, number)[0])
        return names
else:

    def _names_of_other_bits() -> list[str]:
        return []
