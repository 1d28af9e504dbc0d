"""An ODBC connection string, read: its parts, its secrets, and the database that it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# What a driver's or database's name has in it, in lower case, and the dialect.
NAMES: Final = {
    "postgres": "postgresql",
    "psqlodbc": "postgresql",
    "mariadb": "mariadb",
    "mysql": "mariadb",
    "sqlite": "sqlite",
    "sql server": "sqlserver",
    "oracle": "oracle",
    "db2": "db2",
}

_PART: Final = re.compile(r"\s*([^=;{}]+?)\s*=\s*(\{(?:[^}]|\}\})*\}|[^;]*)\s*(?:;|$)")
_SECRETS: Final = ("pwd", "password", "passwd", "accesstoken", "token")


def parts_of(connection_string: str) -> list[tuple[str, str]]:
    """Return keys and values, braces around values taken off."""
    return [
        (key, value[1:-1].replace("}}", "}") if value.startswith("{") and value.endswith("}") else value.strip())
        for key, value in _PART.findall(connection_string)
    ]


def with_options(connection_string: str, options: Mapping[str, str]) -> str:
    """Return the string with those ``options`` added that it does not set itself."""
    there = {key.lower() for key, _ in parts_of(connection_string)}
    more = [f"{key}={value}" for key, value in options.items() if key.lower() not in there]
    return ";".join([connection_string.rstrip("; "), *more])


def secrets_of(connection_string: str) -> list[str]:
    """Return the values that must not stand in a message."""
    return [value for key, value in parts_of(connection_string) if key.lower() in _SECRETS and value]


def driver_in(connection_string: str) -> str:
    """Return the driver's name; "" where a DSN hides it."""
    return {key.lower(): value for key, value in parts_of(connection_string)}.get("driver", "")


def dialect_in(name: str, default: str = "") -> str:
    """Return the dialect that the name of a driver or a database tells, or ``default``."""
    return next((dialect for part, dialect in NAMES.items() if part in name.lower()), default)
