"""As what the rows of an operation can leave besides NDJSON, which all do."""

from __future__ import annotations

import functools
import importlib.util
from typing import Final

from agent.connectors.base import RowsAs
from agent.connectors.odbc.connection_string import dialect_in, driver_in
from agent.errors import NotAllowed
from agent.settings import Connection, OdbcConnection, Operation, SqlOperation
from protocol.messages import Run

ARROW: Final = "arrow"
_DIALECTS: Final = ("auto", "postgresql", "mariadb", "sqlite")  # whose columns are known to come unchanged


def offered(operation: Operation, connection: Connection | None) -> dict[str, list[str]]:
    """Return what a catalogue says of an operation whose rows can be asked for as something else; else nothing."""
    return {"rows_as": [ARROW]} if not _why_not(operation, connection) else {}


def asked_for(run: Run | None, operation: Operation, connection: Connection) -> RowsAs:
    """
    Return as what the caller of a command wants its rows.

    Raises:
        NotAllowed: they can't leave so.
    """
    if run is None or run.rows_as == "ndjson":
        return "ndjson"
    if run.rows_as != ARROW:
        raise NotAllowed(f"rows_as: this agent knows ndjson and arrow, not {run.rows_as!r}", touched=False)
    why = "its result is to be sealed" if run.seal_to else _why_not(operation, connection)
    if why:
        raise NotAllowed(f"rows do not come as Arrow here: {why}; ask for them as NDJSON", touched=False)
    return ARROW


def _why_not(operation: Operation, connection: Connection | None) -> str:
    if not isinstance(operation, SqlOperation) or operation.effect != "read":
        return 'only those of `sql` with effect = "read" do'
    if not isinstance(connection, OdbcConnection) or _dialect(connection) not in _DIALECTS:
        return "its database is not one of PostgreSQL, MariaDB and SQLite"
    return "" if _installed() else "the agent was installed without the extra `arrow`"


def _dialect(connection: OdbcConnection) -> str:
    if connection.dialect != "auto":
        return connection.dialect
    return dialect_in(driver_in(connection.connection_string), "auto")


@functools.cache
def _installed() -> bool:
    # Looked for and not loaded: only a driver's process has a use for its 40 MiB.
    return all(importlib.util.find_spec(name) is not None for name in ("arrow_odbc", "pyarrow"))
