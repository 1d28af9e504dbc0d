"""What goes into the frozen agent and what stays out; read by ``agent.spec``, under the Python that is packed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Final

from agent.connectors import CONNECTORS

# Loaded by name at run time, where no reader of imports finds them.
NAMED: Final = ("agent.cli", *(driver.partition(":")[0] for driver in CONNECTORS.values()))
ON_WINDOWS: Final = ("win32timezone",)  # pywin32 asks for it when it first makes a time

# Hooks and optional imports of libraries would bring these along: tools of developers, and parts nobody calls.
LEFT_OUT: Final = (
    "PyInstaller",
    "_pytest",
    # Of the extra `arrow`: larger than all of the agent.
    "agent.connectors.odbc.arrow",
    "agent.connectors.odbc.arrow_columns",
    "arrow_odbc",
    "aiohttp",
    "cloud_broker",
    "curses",
    "doctest",
    "hypothesis",
    "lib2to3",
    "lxml.html",
    "lxml.isoschematron",
    "lxml.objectify",
    "lxml.sax",
    "markupsafe",
    "multiprocessing",
    "mypy",
    "mypy_extensions",
    "numpy",
    "pdb",
    "pip",
    "pyarrow",
    "pydantic.mypy",
    "pydantic.v1",
    "pydoc",
    "pydoc_data",
    "pygments",
    "pytest",
    "readline",
    "rich",
    "setuptools",
    "sqlite3",
    "test",
    "tkinter",
    "tomli_w",
    "trio",
    "unittest",
    "werkzeug",
    "xmlrpc",
    "yaml",
)

# The system's own. A driver of an ERP is linked to the unixODBC of its system, whose list of drivers and whose
# handles must be the same for both; and it may want a newer C++ than the one that we were built beside.
_SYSTEMS: Final = re.compile(r"^lib(odbc|odbcinst|ltdl|stdc\+\+|gcc_s)([-.]|$)")
# Licences and versions stand in the bill of materials; `keyring` looks for its own entry points.
_UNREAD: Final = re.compile(r"\.(dist|egg)-info/|\.pyi$|/py\.typed$")
_READ: Final = re.compile(r"^keyring-[^/]*\.dist-info/(METADATA|entry_points\.txt)$")

# PyInstaller runs it at each start of each process: it loads what reads archives, to tell where sources are not.
_NOT_RUN: Final = "pyi_rth_inspect"

Entry = tuple[str, str, str]  # name in the bundle, file, kind: as PyInstaller lists them


def named() -> list[str]:
    """Return the modules to pack besides those that the first ones import."""
    return [*NAMED, *(ON_WINDOWS if sys.platform == "win32" else ())]


def first_scripts(found: Iterable[Entry]) -> list[Entry]:
    """Return what runs before the program, and the program."""
    return [entry for entry in found if entry[0] != _NOT_RUN]


def own_libraries(found: Iterable[Entry]) -> list[Entry]:
    """Return the shared libraries that are packed, without those that must be the system's."""
    return [entry for entry in found if sys.platform == "win32" or not _SYSTEMS.match(_last(entry[0]))]


def read_files(found: Iterable[Entry]) -> list[Entry]:
    """Return the data files that something reads."""
    return [entry for entry in found if not _UNREAD.search(_slashes(entry[0])) or _READ.match(_slashes(entry[0]))]


def documented(found: Iterable[Entry]) -> list[Entry]:
    """Return the modules that are packed, with texts only in ours: libraries' are two megabytes that nobody reads."""
    # Ours are shown as help, and stand in the schema of the operator's file.
    return [(name, file, "PYMODULE-1" if _is_ours(name) else "PYMODULE-2") for name, file, _ in found]


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in ("agent", "protocol")


def _last(name: str) -> str:
    return _slashes(name).rpartition("/")[2]


def _slashes(name: str) -> str:
    return name.replace("\\", "/")
