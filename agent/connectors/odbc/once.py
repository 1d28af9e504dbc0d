"""Runs with ``effect = "once"`` on one session: who may, the ledger around them, and what a broken one means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyodbc

from agent.connectors.base import Call, Outputs
from agent.connectors.odbc.dialects import Dialect, Query
from agent.connectors.odbc.ledger import Ledger, Outcome, Summary, begun
from agent.connectors.odbc.statements import StatementError
from agent.errors import NotAllowed, OutcomeUnknown, SourceFailed
from agent.settings import ProcedureOperation, SqlOperation

INSTEAD = (
    "take it out, as the agent commits; MariaDB's may also stay where the operation is "
    'effect = "at-most-once" with a `verify`'
)


class TransactionEnded(Exception):
    """The work ended its transaction; the ledger's row may be there or not."""


class Once:
    """
    What makes the runs of one session happen once.

    Attributes:
        signed_in: the word that this session has left in the ledger, committed.

    Args:
        table: the connection's ``ledger``.
        execute: runs a statement under the timeout of the call at work.

    Raises:
        NotAllowed: the dialect has no ledger.
    """

    def __init__(self, dialect: Dialect, table: str, execute: Callable[[Query], pyodbc.Cursor]) -> None:
        if dialect.ledger is None:
            raise NotAllowed(
                f'effect = "once" is not for the dialect {dialect.name}; name the database\'s own dialect in the '
                "connection's `dialect`",
                touched=False,
            )
        self.table = table
        self._dialect = dialect
        self._ledger = Ledger(dialect.ledger, table, execute)
        self._vetted: set[str] = set()
        self._tried = False
        self.signed_in = ""

    def vet(self, name: str, operation: SqlOperation | ProcedureOperation) -> None:
        """
        Make sure, once a session, that an operation's work is one transaction; leaves a transaction to be rolled back.

        Raises:
            NotAllowed: it is not.
            pyodbc.Error: the database can't be asked.
        """
        if name not in self._vetted:
            refusal = self.refusal(operation)
            if refusal:
                raise NotAllowed(f'{name} can\'t be effect = "once": {refusal}; {INSTEAD}', touched=False)
            self._vetted.add(name)

    def try_ledger(self) -> None:
        """
        Make sure, once a session, that the ledger's table is fit; leaves a transaction to be rolled back.

        Raises:
            SourceFailed: it is not.
            pyodbc.Error: it is not there, or may not be written.
        """
        if not self._tried:
            flaw = self.flaw()
            if flaw:
                raise SourceFailed(f"the ledger {self.table} {flaw}", touched=False)
            self._tried = True

    def sign_in(self, place: str) -> None:
        """As ``Ledger.sign_in``; ``signed_in`` is to be set once that is committed."""
        self._ledger.sign_in(place)

    def knows(self, place: str) -> bool:
        """As ``Ledger.knows``."""
        return self._ledger.knows(place)

    def refusal(self, operation: SqlOperation | ProcedureOperation) -> str:
        """Return why an operation can't be once, or ""."""
        try:
            return self._dialect.never_once(operation)
        except StatementError as exc:
            return str(exc)

    def flaw(self) -> str:
        """Return what is wrong with the ledger's table, or ""; raises ``pyodbc.Error``."""
        return self._dialect.ledger_flaw(self.table) or self._ledger.try_out()

    def begin(self, call: Call) -> Outcome | None:
        """As ``Ledger.begin``."""
        first = self._ledger.begin(call)
        if first is None:
            self._dialect.mark()
        return first

    def end(self, call: Call, outputs: dict[str, Any], summary: Summary) -> None:
        """
        Put the outcome into the ledger, to be committed with the work.

        Raises:
            TransactionEnded: the work is not in this transaction any more.
        """
        if not self._dialect.unbroken() or not self._ledger.finish(call, outputs, summary.row_sets):
            raise TransactionEnded

    def leave_behind(self, call: Call) -> OutcomeUnknown:
        """After ``TransactionEnded``: see to it that it never runs again. To be committed."""
        self._ledger.leave_behind(call)
        return begun("the ledger", call)

    def left_behind(self, call: Call) -> OutcomeUnknown | None:
        """After a failure that was rolled back: the error that it is instead if a part of it was committed before."""
        if self._dialect.work_can_commit and self._ledger.left_behind(call):
            return begun("the ledger", call)
        return None

    def find(self, call: Call) -> Outputs | None:
        """As ``Driver.find``; to be committed, as long as nothing is raised."""
        outcome = self._ledger.find(call)
        return None if outcome is None else outcome.told()


def repeated(call: Call, first: Outcome) -> Outputs:
    """
    Return what a repeat of a run is told.

    Raises:
        OutcomeUnknown: there were rows, and the ledger does not keep them.
    """
    if first.rows:
        raise OutcomeUnknown(
            f"{call.operation}: it is done, by an earlier attempt, and the {first.rows} row(s) that it returned then "
            "are not kept in the ledger. Nothing was run again; read in the ERP what you need of them"
        )
    return Outputs(dict(first.outputs))
