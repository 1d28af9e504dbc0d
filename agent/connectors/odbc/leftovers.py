"""
What a failed run that is ``at-most-once`` may have left, where the work can end its transaction by itself.

Such a run has no ledger to ask, so a rollback after it proves nothing.
"""

from __future__ import annotations

import pyodbc

from agent.connectors.odbc.dialects import Dialect
from agent.connectors.odbc.sqlstates import IN_THE_WAY, diagnose
from agent.connectors.odbc.statements import StatementError
from agent.errors import CommandError, OutcomeUnknown, SourceRejected
from agent.settings import ProcedureOperation, SqlOperation


class Leftovers:
    """Watches over one run; make it outside of its transaction, which it needs to look at the work's text."""

    def __init__(self, dialect: Dialect, operation: SqlOperation | ProcedureOperation) -> None:
        self._dialect = dialect
        # Where a transaction has a number, it may get it with its first write only: that tells nothing here.
        self._marks = not dialect.transaction_id
        try:
            self._reason = dialect.never_once(operation)
        except (StatementError, pyodbc.Error):
            self._reason = ""  # the run itself will say so, or the mark

    def begin(self) -> None:
        """Remember which transaction this is; raises ``pyodbc.Error``."""
        if self._marks:
            self._dialect.mark()

    def none_for_sure(self, failed: pyodbc.Error | None = None) -> bool:
        """
        Whether a rollback would undo all of the work; to be asked before it, and once.

        Args:
            failed: what the database said.
        """
        if self._reason:
            return False
        if failed is not None and diagnose(failed.args).kind == IN_THE_WAY:
            return True  # the database itself ended the transaction, to let another one go on
        try:
            return not self._marks or self._dialect.unbroken()
        except pyodbc.Error:
            return False

    def told(self, error: CommandError) -> CommandError:
        """Return what ``error`` is where a rollback may not have undone all of the work."""
        if isinstance(error, OutcomeUnknown | SourceRejected):
            return error
        why = self._reason or "it ended its transaction by itself"
        return OutcomeUnknown(f"{error.message}; a part of it may have been kept: {why}", source_code=error.source_code)
