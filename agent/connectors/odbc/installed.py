"""Which ODBC drivers this machine has for programs like this one."""

from __future__ import annotations

import pyodbc


def drivers() -> list[str]:
    """Return their names; the versions are asked of the drivers themselves, once they are connected."""
    return sorted(pyodbc.drivers())
