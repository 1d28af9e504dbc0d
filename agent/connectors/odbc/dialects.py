"""
What differs from database to database: the interface, and what holds for any of them.

PostgreSQL, MariaDB and SQLite have a module each and are tried against real servers; the others
stand in ``untried``.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
import pyodbc

from agent.connectors.odbc import self_commits, types
from agent.connectors.odbc.ledger_tables import LEDGER_TABLES, LedgerTable
from agent.connectors.odbc.metadata import Described
from agent.connectors.odbc.statements import Statement, Syntax
from agent.connectors.odbc.types import Field
from agent.errors import SourceFailed
from agent.settings import ProcedureOperation, SqlOperation

INTEGER_MAX: Final = 2**63 - 1
VALUE_BYTES: Final = 32_766  # bytes of a text or binary at most where whole buffers are handed over
UNLIMITED: Final = 2**31 - 1  # bytes bound at once: a driver's own pieces may spoil long texts (MariaDB)

_JSON: Final = msgspec.json.Encoder(decimal_format="number")


def _not_written(_: Sequence[Leaves]) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Leaves:
    """
    A column that leaves the site.

    Attributes:
        position: among those of the statement.
        name: in the result.
        hidden: whether only ``MASKED`` leaves for its values.
    """

    position: int
    name: str
    hidden: bool


@dataclass(frozen=True, slots=True)
class Query:
    """
    A statement ready to run.

    Attributes:
        fields: where they are known better than the driver tells.
        written: returns, for the columns that leave, a statement of which each row is one text: a line of NDJSON, or
            the number of a column that can't be carried, a space, and its value; ``None`` where that can't be had.
    """

    sql: str
    values: Sequence[Any]
    fields: tuple[Field, ...] | None = None
    written: Callable[[Sequence[Leaves]], str | None] = _not_written


@dataclass(frozen=True, slots=True)
class Invocation:
    """
    A procedure's call ready to run.

    Attributes:
        query: what is executed.
        outputs: names of the OUT parameters, in the order in which they come back.
        answer: ``rows``: every row set is a row set; ``row``: the one row of the only set has the outputs;
            ``last``: the last set has them in its one row; ``cursors``: each row names a cursor to be read.
        cursors: positions in the row of outputs that name cursors to be read.
    """

    query: Query
    outputs: tuple[str, ...] = ()
    answer: Literal["rows", "row", "last", "cursors"] = "rows"
    cursors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter as the database's catalogue has it."""

    name: str
    direction: Literal["in", "out", "inout"]
    type: str


@dataclass(frozen=True, slots=True)
class Routine:
    """A procedure or function as the database's catalogue has it; ``returns`` is "" for procedures."""

    kind: Literal["procedure", "function"]
    arguments: tuple[Argument, ...]
    returns: str = ""
    returns_set: bool = False


class Dialect:
    """
    Any database: calls by ODBC's own escape, nothing assumed.

    One object for each session; ``connection`` is there after ``configure``.
    """

    name = "generic"
    syntax = Syntax(split=False)
    tried = False
    ends_late_statements = True  # whether begin(timeout_s=…) does; else the driver cancels them itself
    refuses_writes = False  # whether begin(read_only=True) makes the database refuse writes
    buffering = "whether the driver holds a whole result in memory is not known"
    ping = "SELECT 1"
    encoding = ""  # a query for how the database keeps text; told by `check`
    spoils: tuple[str, ...] = ()  # what the driver changes without a sign; told by `check`
    work_can_commit = True  # whether what runs in a transaction can end it
    transaction_id = ""  # a query for the number of the transaction, where ``mark`` is to compare it
    implicit_commits: tuple[tuple[str, ...], ...] = ()  # first words of statements that commit without saying so
    arrow = False  # whether it is known how its columns come as Arrow without being changed
    stops_by_any = False  # whether a cancel of any of a session's cursors stops what runs in it
    number = ""  # a query for the number of the session
    stop = ""  # what another session says to have the statement of the one with the number {} stopped

    connection: pyodbc.Connection

    def __init__(self) -> None:
        self._routines: dict[str, list[Routine]] = {}
        self._marked = ""

    def options(self) -> Mapping[str, str]:
        """Return what is added to the connection string where the operator says nothing else."""
        return {}

    def configure(self, connection: pyodbc.Connection) -> None:
        """Set up a new session."""
        self.connection = connection

    def begin(self, *, read_only: bool, timeout_s: float) -> None:
        """Begin a transaction; the database itself ends a statement after ``timeout_s`` where it can."""
        for statement in self.beginning(read_only=read_only, timeout_s=timeout_s):
            self.connection.execute(statement)

    def beginning(self, *, read_only: bool, timeout_s: float) -> list[str]:
        """Return what ``begin`` says."""
        return []

    def options_for_arrow(self) -> Mapping[str, str]:
        """As ``options``, for a session that hands over whole buffers."""
        return self.options()

    def bind(self, value: Any) -> Any:
        """Return a parameter as the driver wants it."""
        if isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if -INTEGER_MAX <= value <= INTEGER_MAX else Decimal(value)
        if isinstance(value, uuid.UUID):
            return str(value)
        return value

    def bind_json(self, value: Any) -> str:
        """Return a ``json`` parameter as text."""
        return _JSON.encode(value).decode("utf-8")

    def field(self, column: Described) -> Field:
        """Return how a column is read."""
        return types.plain_field(column)

    def remarks(self, fields: Sequence[Field]) -> list[str]:
        """Return what the caller should know of a row set with these columns."""
        return []

    def query(self, statement: Statement, values: Sequence[Any]) -> Query:
        """Return how a statement of the operator is run."""
        return Query(statement.sql, values)

    def explain(self, sql: str) -> str | None:
        """Return a statement that has the database read ``sql`` without running it; ``None`` where there is none."""
        return None

    def find(self, procedure: str) -> list[Routine] | None:
        """Look a procedure up in the catalogue, once: all of that name; ``None`` where this can't be told."""
        if procedure not in self._routines:
            found = self.look_up(procedure)
            if not found:
                return found
            self._routines[procedure] = found
        return self._routines[procedure]

    def look_up(self, procedure: str) -> list[Routine] | None:
        """As ``find``, asking the database."""
        return None

    def fitting(self, operation: ProcedureOperation, routines: Sequence[Routine]) -> Routine | None:
        """Return the one of ``routines`` that a call runs; ``None`` where that is not sure."""
        return routines[0] if len(routines) == 1 else None

    def result_columns(self, sql: str, values: Sequence[Any]) -> list[Described] | None:
        """
        Return the columns of a statement's result without running it; ``None`` where they can't be told so.

        Call it where nothing can be written: a database may run the functions in a statement that it describes.
        """
        return None

    def result_names(self, sql: str, values: Sequence[Any]) -> list[str] | None:
        """As ``result_columns``, of which only the names are wanted."""
        columns = self.result_columns(sql, values)
        return None if columns is None else [column.name for column in columns]

    def around(self, sql: str, names: Sequence[str], selected: str) -> str:
        """Return a SELECT around another one, whose columns it calls ``names`` and whose order it keeps."""
        return f"SELECT {selected} FROM (\n{sql}\n) AS q({', '.join(names)})"  # noqa: S608 # the operator's own statement

    def invoke(self, operation: ProcedureOperation, values: Mapping[str, Any]) -> Invocation:
        """
        Return how a procedure is called.

        Raises:
            SourceFailed: there is no such procedure, or its parameters differ from the operator's.
        """
        if any(param.direction != "in" for param in operation.params.values()):
            raise SourceFailed(
                f"{operation.procedure}: the dialect {self.name} can't return OUT parameters; have the procedure "
                "return them as a row set, or set the connection's dialect",
                touched=False,
            )
        marks = ", ".join("?" * len(operation.params))
        return Invocation(Query(f"{{CALL {operation.procedure}({marks})}}", given(operation, values)))

    # --- effect = "once" -----------------------------------------------------------------------------

    @property
    def ledger(self) -> LedgerTable | None:
        """The texts of the ledger's table, where there are any."""
        return LEDGER_TABLES.get(self.name)

    def ledger_flaw(self, table: str) -> str:
        """Return why the table can't be the ledger, beyond what trying it out shows; or ""."""
        return ""

    def never_once(self, operation: SqlOperation | ProcedureOperation) -> str:
        """
        Return why an operation's work is not in one transaction, as far as the database tells; or "".

        Raises:
            StatementError: its SQL can't be taken apart.
        """
        if isinstance(operation, SqlOperation):
            ends = self_commits.ending_in_sql(operation.sql, self.syntax, self.implicit_commits)
            return f"its {ends} ends the transaction" if ends else ""
        routine, ends = self_commits.ends_within(operation.procedure, self.body, self.syntax, self.implicit_commits)
        return f"{routine} ends the transaction by itself ({ends})" if ends else ""

    def body(self, procedure: str) -> str:
        """Return a procedure's text; "" where it can't be read."""
        return ""

    def mark(self) -> None:
        """Remember which transaction this is."""
        self._marked = self._transaction()

    def unbroken(self) -> bool:
        """Whether the transaction is still that of ``mark``, as far as the database tells."""
        return self._transaction() == self._marked

    def _transaction(self) -> str:
        return str(self.connection.execute(self.transaction_id).fetchval()) if self.transaction_id else ""

    def fetch(self, cursor_name: str, count: int) -> str:
        """Return the statement that fetches from a cursor that a procedure left open."""
        raise SourceFailed(f"the dialect {self.name} has no cursors to fetch from", touched=True)


def given(operation: ProcedureOperation, values: Mapping[str, Any]) -> list[Any]:
    """Return a value for each declared parameter in order, null for those that only come out."""
    return [values.get(name) for name in operation.params]


def out_names(operation: ProcedureOperation) -> tuple[str, ...]:
    """Return the names of the parameters that come out."""
    return tuple(name for name, param in operation.params.items() if param.direction != "in")


def mismatch(operation: ProcedureOperation, routines: list[Routine]) -> str:
    """Return the message for parameters that differ from those in the database."""
    ours = ", ".join(f"{name} {param.direction}" for name, param in operation.params.items()) or "none"
    theirs = " or ".join(
        "(" + ", ".join(f"{a.name or '?'} {a.direction} {a.type}" for a in routine.arguments) + ")"
        for routine in routines
    )
    return (
        f"{operation.procedure}: its parameters in the database are {theirs}, in the agent's file ({ours}); "
        "declare the same ones in the same order, with the same directions"
    )


def plain_time(value: Any) -> Any:
    """Return dates and times as text with all their digits: some drivers cut fractions of a second."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, date | time) else value
