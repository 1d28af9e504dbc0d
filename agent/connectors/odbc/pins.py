"""A procedure held to its parameters: what the database tells of them as one digest, which the operator's file pins."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Final

import pyodbc

from agent.connectors.odbc.dialects import Argument, Dialect, Routine
from agent.connectors.odbc.statements import bare, split_name
from agent.errors import ProcedureChanged
from agent.settings import Operation, ProcedureOperation

LOOK_AGAIN_S: Final = 10.0  # seconds that a look at the catalogue is good for; a session's first run always looks

_DIRECTIONS: Final = {1: "in", 2: "inout", 4: "out"}  # SQL_PARAM_INPUT, _INPUT_OUTPUT and _OUTPUT
_RETURNED: Final = 5  # SQL_RETURN_VALUE


def pin_of(routine: Routine) -> str:
    """Return the digest of a routine's parameters: names, directions, types and their order, and what it returns."""
    document = {
        "v": 1,
        "kind": routine.kind,
        "parameters": [[argument.name, argument.direction, argument.type] for argument in routine.arguments],
        "returns": [routine.returns, routine.returns_set],
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def shown(routine: Routine) -> str:
    """Return a routine's parameters for people."""
    told = ", ".join(f"{a.name or '?'} {a.direction} {a.type}" for a in routine.arguments)
    many = "a set of " if routine.returns_set else ""
    return f"({told}){f' returning {many}{routine.returns}' if routine.returns else ''}"


def called(operation: ProcedureOperation, dialect: Dialect) -> Routine | None:
    """
    Return the routine that a call would run, asked of the database now; ``None`` where that can't be told.

    Raises:
        pyodbc.Error: the database did not answer.
    """
    there = dialect.look_up(operation.procedure)
    if there is None:
        there = _by_driver(operation.procedure, dialect.connection)
    return dialect.fitting(operation, there)


def flaw(name: str, operation: ProcedureOperation, routine: Routine | None) -> str:
    """Return why a pinned procedure may not be run, or "" if it is as it was pinned."""
    if routine is None:
        found = "none of that name that fits the file's parameters is there, or the driver does not tell them"
    elif (pin := pin_of(routine)) != operation.pin:
        found = f"they are {shown(routine)}, {pin}"
    else:
        return ""
    return (
        f"{name}: the parameters of {operation.procedure} in the database are not those that were pinned "
        f"(operations.{name}.pin): {found}; an operator allows it by looking at what changed and writing there the pin "
        f"that `outhaul-agent check {name}` shows"
    )


class Pins:
    """Looks after the pinned procedures of one session."""

    def __init__(self) -> None:
        self._good_until: dict[str, float] = {}

    def check(self, name: str, operation: Operation, dialect: Dialect) -> bool:
        """
        Refuse a procedure that is not as it was pinned; leaves a transaction open if it looked, and tells so.

        Raises:
            ProcedureChanged: it is not; nothing was run.
            pyodbc.Error: the database did not answer.
        """
        now = time.monotonic()
        if not isinstance(operation, ProcedureOperation) or operation.pin is None:
            return False
        if now < self._good_until.get(name, now):
            return False
        wrong = flaw(name, operation, called(operation, dialect))
        if wrong:
            self._good_until.pop(name, None)
            raise ProcedureChanged(wrong, touched=False)
        self._good_until[name] = now + LOOK_AGAIN_S
        return True


def _by_driver(procedure: str, connection: pyodbc.Connection) -> list[Routine]:
    """Return what ODBC itself tells (SQLProcedureColumns); one routine for each schema that has the name."""
    parts = [bare(part) for part in split_name(procedure)]
    names: dict[str, str] = {"procedure": parts[-1]}
    if len(parts) > 1:
        names["schema"] = parts[-2]
    found: dict[tuple[str, str], tuple[list[Argument], list[str]]] = {}
    cursor = connection.cursor()
    # To the driver the name is a pattern, in which `_` is any character; SQL Server adds a number to it.
    for row in cursor.procedureColumns(**names).fetchall():
        # By position: what the columns are called differs from driver to driver.
        catalog, schema, name, column, use, _, type_name, size, _, digits, *_ = row
        if str(name).partition(";")[0].casefold() != parts[-1].casefold():
            continue
        arguments, returns = found.setdefault((catalog or "", schema or ""), ([], []))
        kind = f"{type_name}({size},{digits})"
        if use in _DIRECTIONS:
            arguments.append(Argument(column or "", _DIRECTIONS[use], kind))  # type: ignore[arg-type] # the table's values are directions
        elif use == _RETURNED:
            returns.append(kind)
    return [
        Routine("procedure", tuple(arguments), returns[0] if returns else "") for arguments, returns in found.values()
    ]
