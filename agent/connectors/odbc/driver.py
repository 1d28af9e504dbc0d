"""One session to a database through its ODBC driver."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pyodbc

from agent.connectors.base import Call, Driver, DriverSetup, Finding, Outputs, Piece, Ready, RowsAs
from agent.connectors.odbc import check
from agent.connectors.odbc.connect_faults import connect_fault
from agent.connectors.odbc.connection_string import dialect_in, driver_in, secrets_of, with_options
from agent.connectors.odbc.dialects import Dialect, Query
from agent.connectors.odbc.ledger import Summary
from agent.connectors.odbc.leftovers import Leftovers
from agent.connectors.odbc.mariadb import MariaDB
from agent.connectors.odbc.once import INSTEAD, Once, TransactionEnded, repeated
from agent.connectors.odbc.pins import Pins
from agent.connectors.odbc.postgresql import PostgreSQL
from agent.connectors.odbc.reading import Reader
from agent.connectors.odbc.sqlite import SQLite
from agent.connectors.odbc.sqlstates import IN_THE_WAY, TIMED_OUT, UNAVAILABLE, diagnose
from agent.connectors.odbc.statements import StatementError, parse
from agent.connectors.odbc.stop import Stop
from agent.connectors.odbc.types import Spoiled
from agent.connectors.odbc.untried import DB2, Oracle, SQLServer
from agent.errors import (
    Cancelled,
    CommandError,
    NotAllowed,
    OperationUnknown,
    OutcomeUnknown,
    ParametersInvalid,
    SourceFailed,
    SourceRejected,
    SourceUnavailable,
    TimedOut,
)
from agent.leaving import Leaving, columns_missing
from agent.parameters import decode
from agent.settings import OdbcConnection, Operation, ProcedureOperation, SqlOperation

if TYPE_CHECKING:
    from agent.connectors.odbc.arrow import ArrowSelect

# The driver manager's own pool hands out sessions that may be dead or in another's state; ours live in the agent.
pyodbc.pooling = False

DIALECTS: Final[dict[str, type[Dialect]]] = {
    "postgresql": PostgreSQL,
    "mariadb": MariaDB,
    "sqlite": SQLite,
    "sqlserver": SQLServer,
    "oracle": Oracle,
    "db2": DB2,
    "generic": Dialect,
}

TIMEOUT_MARGIN_S: Final = 0.5  # the database gives up this much before the agent would kill the session
CANCEL_AGAIN_S: Final = 0.2  # seconds from one cancel of a late statement to the next
READ_EFFECT: Final = "read"
NEVER_TWICE: Final = ("once", "at-most-once")
_COMMIT_REFUSED: Final = "2D000"


class OdbcDriver(Driver):
    """
    Runs ``sql`` and ``procedure`` operations, each in a transaction of its own.

    Rows are yielded while the transaction is open; it is committed after the last of them and before
    the ``Outputs``. Whatever goes wrong before, and a consumer that goes away, rolls back. What ``once`` adds stands
    in ``ledger.py``.
    """

    def __init__(self, setup: DriverSetup) -> None:
        super().__init__(setup)
        assert isinstance(setup.connection, OdbcConnection)  # noqa: S101 # the CONNECTORS table sees to it
        self._settings: OdbcConnection = setup.connection
        self._hidden = secrets_of(self._settings.connection_string)
        self._connection: pyodbc.Connection | None = None
        self._dialect: Dialect = Dialect()
        self._once: Once | None = None
        self._pins = Pins()
        self._stop = Stop()
        self._number = ""  # of the session, where that is how it is stopped
        self._idle: pyodbc.Cursor | None = None  # runs nothing: by it the others are stopped, where the dialect can
        self._arrow: ArrowSelect | None = None
        self._cancelled = False
        self._late = False
        self._end = 0.0

    @property
    def dialect_name(self) -> str:
        """The dialect in use; ``generic`` before ``open``."""
        return self._dialect.name

    # --- the session ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, find out the dialect, and set the session up."""
        text = self._settings.connection_string
        name: str = self._settings.dialect
        if name == "auto":
            name = dialect_in(driver_in(text), "auto")
        try:
            connection = self._connect(text, DIALECTS.get(name, Dialect)())
            if name == "auto":
                # A DSN hides the driver; now it can be asked, and the dialect's own options be given.
                name = dialect_in(str(connection.getinfo(pyodbc.SQL_DBMS_NAME)), "generic")
                connection.close()
                connection = self._connect(text, DIALECTS[name]())
            self._dialect = DIALECTS[name]()
            self._dialect.configure(connection)
            self._number = str(connection.execute(self._dialect.number).fetchval()) if self._dialect.number else ""
            self._idle = connection.cursor() if self._dialect.stops_by_any else None
            connection.commit()
        except pyodbc.Error as exc:
            found = diagnose(exc.args, self._hidden)
            fault = connect_fault(found, text)
            raise SourceUnavailable(
                f"{self.setup.name}: can't connect: {found.message}; {fault.hint}",
                source_code=found.code,
                touched=False,
                remedy=fault.remedy,
            ) from None  # the cause's text may hold the connection string
        self._connection, self._arrow = connection, None

    def _connect(self, text: str, dialect: Dialect) -> pyodbc.Connection:
        full = with_options(text, dialect.options())
        return pyodbc.connect(full, autocommit=False, timeout=max(1, round(self._settings.login_timeout)))

    def alive(self) -> bool:
        """Whether the database still answers."""
        if self._connection is None:
            return False
        try:
            self._connection.execute(self._dialect.ping).fetchall()
            self._connection.rollback()
        except pyodbc.Error:
            return False
        return True

    def cancel(self) -> None:
        """Ask the driver to stop the running statement."""
        self._cancelled = True
        self._stop.now()

    def _way_to_stop(self, cursor: pyodbc.Cursor) -> Callable[[], None]:
        if self._number:
            return partial(self._say, self._dialect.stop.format(self._number))
        cancel: Callable[[], None] = (self._idle or cursor).cancel
        return cancel

    def _stop_arrow(self, arrow: ArrowSelect) -> None:
        if arrow.stop:
            self._say(arrow.stop)

    def _say(self, stop: str) -> None:
        """Stop another session's statement by a session of its own, which touches nothing that the other one uses."""
        other = self._connect(self._settings.connection_string, self._dialect)
        try:
            other.execute(stop).close()
        finally:
            other.close()

    def close(self) -> None:
        """Roll back and disconnect."""
        self._stop.not_any_more()
        self._idle = None
        connection, self._connection, self._arrow = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(pyodbc.Error):
                connection.rollback()
            with contextlib.suppress(pyodbc.Error):
                connection.close()

    # --- one call --------------------------------------------------------------------------------------

    def run(self, call: Call) -> Iterator[Piece]:
        """As ``Driver.run``: one transaction."""
        # Now, and not when the first piece is asked for: a cancel may come before that.
        self._cancelled = self._late = False
        return self._pieces(call)

    def _pieces(self, call: Call) -> Iterator[Piece]:
        operation = self._operation(call.operation)
        values = self._bound(operation, decode(operation, call.params))
        # Not monotonic(), which ticks 64 times a second on Windows: what the database stopped would seem in time.
        start = time.perf_counter()
        statement_s = _server_timeout(call.timeout_s)
        self._end = start + statement_s
        began = False
        outputs: dict[str, Any] = {}
        summary = Summary()
        once: Once | None = None
        leftovers: Leftovers | None = None
        try:
            if self._pins.check(call.operation, operation, self._dialect):
                self._rollback()
            once = self._once_for(call, operation)
            leftovers = self._leftovers_for(operation)
            self._dialect.begin(read_only=operation.effect == READ_EFFECT, timeout_s=statement_s)
            if leftovers is not None:
                leftovers.begin()
            began = True
            first = once.begin(call) if once is not None else None
            if first is not None:
                self._rollback()
                yield repeated(call, first)
                return
            leaving = Leaving(operation)
            for piece in self._work(operation, values, leaving, call.rows_as):
                if isinstance(piece, Outputs):
                    outputs.update(piece.values)
                    continue
                summary.add(piece)
                yield piece
                self._in_time(call, start, call.timeout_s)
            # A procedure may take the database's interruption for an answer (MariaDB's SLEEP, GET_LOCK) and go on.
            self._in_time(call, start, statement_s if isinstance(operation, ProcedureOperation) else call.timeout_s)
            # Before the commit: an operation that can't return what its operator wants has no effect.
            if missing := leaving.missing():
                raise SourceFailed(f"{call.operation}: {columns_missing(call.operation, missing)}")
            if once is not None:
                once.end(call, outputs, summary)
            # Whoever is asked for leave may say no, which only a rollback of all of it makes true.
            if summary.rows and operation.effect in NEVER_TWICE and (leftovers is None or leftovers.none_for_sure()):
                leftovers = None
                yield Ready()
                self._in_time(call, start, call.timeout_s)
        except pyodbc.Error as exc:
            sure = not began or leftovers is None or leftovers.none_for_sure(exc)
            self._rollback()
            failure = self._failure(exc, call, operation, began=began)
            if leftovers is not None and not sure:
                raise leftovers.told(failure) from exc
            raise self._or_left_behind(failure, once if began else None, call) from exc
        except StatementError as exc:
            self._rollback()
            raise SourceFailed(f"{call.operation}: {exc}", touched=False) from exc
        except TransactionEnded as exc:
            self._rollback()
            assert once is not None  # noqa: S101 # who else raises it
            raise self._leave_behind(once, call) from exc
        except CommandError as exc:
            sure = not began or leftovers is None or leftovers.none_for_sure()
            self._rollback()
            if leftovers is not None and not sure:
                raise leftovers.told(exc) from exc
            raise self._or_left_behind(exc, once if began else None, call) from exc
        except BaseException:  # the end of a consumer that went away (GeneratorExit) too: nothing may be kept
            self._rollback()
            raise
        self._commit(call, operation)
        yield Outputs(outputs)

    def _in_time(self, call: Call, start: float, limit_s: float) -> None:
        if self._cancelled:
            raise Cancelled(f"{call.operation}: cancelled and rolled back")
        if time.perf_counter() - start > limit_s:
            raise TimedOut(f"{call.operation}: stopped after its timeout of {call.timeout_s:g} s")

    def _operation(self, name: str) -> SqlOperation | ProcedureOperation:
        operation = self.setup.operations.get(name)
        if not isinstance(operation, SqlOperation | ProcedureOperation):
            raise OperationUnknown(f"{name}: no operation of the connection {self.setup.name}", touched=False)
        if self._connection is None:
            raise SourceUnavailable(f"{self.setup.name}: not connected", touched=False)
        return operation

    def _bound(self, operation: Operation, values: Mapping[str, Any]) -> dict[str, Any]:
        bound = {}
        for name, value in values.items():
            is_json = operation.params[name].type == "json" and value is not None
            try:
                bound[name] = self._dialect.bind(self._dialect.bind_json(value) if is_json else value)
            except (Spoiled, OverflowError) as exc:
                raise ParametersInvalid(f"{name}: {exc}", touched=False) from exc
        return bound

    def _work(
        self, operation: SqlOperation | ProcedureOperation, values: Mapping[str, Any], leaving: Leaving, rows_as: RowsAs
    ) -> Iterator[Piece]:
        if rows_as == "arrow":
            yield from self._as_arrow(operation, values, leaving)
            return
        reader = Reader(self._dialect, self._execute, leaving)
        if isinstance(operation, ProcedureOperation):
            yield from reader.procedure(operation, self._dialect.invoke(operation, values))
            return
        for statement in parse(operation.sql, self._dialect.syntax):
            query = self._dialect.query(statement, [values.get(name) for name in statement.names])
            yield from reader.statement(query)

    def _as_arrow(
        self, operation: SqlOperation | ProcedureOperation, values: Mapping[str, Any], leaving: Leaving
    ) -> Iterator[Piece]:
        # Deferred: pyarrow takes 40 MiB, and is there only with the extra `arrow`.
        from agent.connectors.odbc.arrow import ArrowSelect

        if operation.effect != READ_EFFECT or not isinstance(operation, SqlOperation):
            raise NotAllowed('rows come as Arrow from `sql` with effect = "read" only', touched=False)
        if self._arrow is None:
            full = with_options(self._settings.connection_string, self._dialect.options_for_arrow())
            self._arrow = ArrowSelect(self._dialect, full, self._settings.login_timeout)
        self._stop.by(partial(self._stop_arrow, self._arrow))
        yield from self._arrow.pieces(operation, values, leaving, self._end - time.perf_counter())

    def _execute(self, query: Query) -> pyodbc.Cursor:
        if self._cancelled:
            raise Cancelled("cancelled before the statement began")
        return self._timed(query)

    def _timed(self, query: Query) -> pyodbc.Cursor:
        assert self._connection is not None  # noqa: S101 # _operation has seen to it
        cursor = self._connection.cursor()
        self._stop.by(self._way_to_stop(cursor))
        if self._dialect.ends_late_statements:
            return cursor.execute(query.sql, *query.values)
        done = threading.Event()
        watch = threading.Thread(target=self._stop_late, args=(done,), daemon=True)
        watch.start()
        try:
            return cursor.execute(query.sql, *query.values)
        finally:
            done.set()
            watch.join()  # or it might stop the next statement

    def _stop_late(self, done: threading.Event) -> None:
        wait_s = max(0.0, self._end - time.perf_counter())
        while not done.wait(wait_s):
            self._late = True
            self._stop.now()
            # Again, because one that comes before the driver has begun is lost.
            wait_s = CANCEL_AGAIN_S

    # --- once -----------------------------------------------------------------------------------------------

    def _once_for(self, call: Call, operation: SqlOperation | ProcedureOperation) -> Once | None:
        """Return what makes a run happen once, when ledger and operation are fit for it."""
        if operation.effect != "once":
            return None
        once = self._with_ledger(call, sign_in=True)
        once.vet(call.operation, operation)
        self._rollback()
        return once

    def _leftovers_for(self, operation: SqlOperation | ProcedureOperation) -> Leftovers | None:
        """Return what tells of a failed run whether it left anything, where a rollback alone may not."""
        if operation.effect != "at-most-once" or not self._dialect.work_can_commit:
            return None
        leftovers = Leftovers(self._dialect, operation)
        self._rollback()
        return leftovers

    def _with_ledger(self, call: Call, *, sign_in: bool = False) -> Once:
        once = self._ledger_runs()
        timeout_s = max(0.1, self._end - time.perf_counter())
        try:
            self._dialect.begin(read_only=False, timeout_s=timeout_s)
            once.try_ledger()
            if sign_in and call.place and call.place != once.signed_in:
                self._sign_in(once, call.place, timeout_s)
        except pyodbc.Error as exc:
            self._rollback()
            found = diagnose(exc.args, self._hidden)
            if not self.alive():
                raise SourceUnavailable(f"{call.operation}: {found.message}", touched=False) from exc
            raise SourceFailed(
                f"{call.operation}: the ledger {once.table} can't be used: {found.message}; make it as "
                "`outhaul-agent ledger sql` prints it, and grant the rights that stand there",
                source_code=found.code,
                touched=False,
            ) from exc
        self._rollback()
        return once

    def _sign_in(self, once: Once, place: str, timeout_s: float) -> None:
        """Leave word that this agent works with the ledger, before anything that another one may have to find out."""
        self._rollback()
        self._dialect.begin(read_only=False, timeout_s=timeout_s)
        once.sign_in(place)
        if self._connection is not None:
            self._connection.commit()
            once.signed_in = place

    def _ledger_runs(self) -> Once:
        if self._once is None:
            if self._settings.ledger is None:
                raise NotAllowed(f'effect = "once" wants connections.{self.setup.name}.ledger', touched=False)
            self._once = Once(self._dialect, self._settings.ledger, self._timed)
        return self._once

    def _or_left_behind(self, error: CommandError, once: Once | None, call: Call) -> CommandError:
        """Return the error, or the one that it is if the work had committed a part of itself before."""
        if once is None or isinstance(error, OutcomeUnknown | SourceUnavailable) or self._connection is None:
            return error
        try:
            return once.left_behind(call) or error
        except pyodbc.Error as exc:
            found = diagnose(exc.args, self._hidden)
            return OutcomeUnknown(f"{error.message}; and the ledger can't tell what it left: {found.message}")
        finally:
            self._rollback()

    def _leave_behind(self, once: Once, call: Call) -> CommandError:
        try:
            error = once.leave_behind(call)
            if self._connection is not None:
                self._connection.commit()
        except pyodbc.Error as exc:
            self._rollback()
            found = diagnose(exc.args, self._hidden)
            return OutcomeUnknown(f"{call.operation}: it ended the transaction by itself, and then: {found.message}")
        return error

    def find(self, call: Call) -> Outputs | None:
        """As ``Driver.find``: by the ledger."""
        operation = self._operation(call.operation)
        if operation.effect != "once":
            return super().find(call)
        self._cancelled = self._late = False
        statement_s = _server_timeout(call.timeout_s)
        self._end = time.perf_counter() + statement_s
        try:
            once = self._with_ledger(call)
            self._dialect.begin(read_only=False, timeout_s=statement_s)
            if call.place and not once.knows(call.place):
                raise OutcomeUnknown(
                    f"{call.operation}: the other agent has left no word in this agent's ledger {once.table}: it works "
                    "with another database, or never got to it"
                )
            found = once.find(call)
            if self._connection is not None:
                self._connection.commit()
        except pyodbc.Error as exc:
            self._rollback()
            told = diagnose(exc.args, self._hidden)
            raise SourceUnavailable(
                f"{call.operation}: the ledger can't tell yet what became of it: {told.message}", source_code=told.code
            ) from exc
        except SourceFailed as exc:
            self._rollback()
            raise SourceUnavailable(exc.message, source_code=exc.source_code) from exc
        except NotAllowed as exc:
            raise OutcomeUnknown(f"{call.operation}: {exc.message}") from exc
        except BaseException:  # whatever it was: the session must not keep a lock on the ledger's row
            self._rollback()
            raise
        return found

    # --- ends ---------------------------------------------------------------------------------------------

    def _commit(self, call: Call, operation: Operation) -> None:
        assert self._connection is not None  # noqa: S101 # _operation has seen to it
        try:
            self._connection.commit()
            self._stop.not_any_more()
        except pyodbc.Error as exc:
            self._rollback()
            found = diagnose(exc.args, self._hidden)
            lost = found.kind in (UNAVAILABLE, TIMED_OUT) or not self.alive()
            if operation.effect != READ_EFFECT and lost:
                raise OutcomeUnknown(
                    f"{call.operation}: the session was lost while its work was being committed: {found.message}",
                    source_code=found.code,
                ) from exc
            raise self._failure(exc, call, operation, began=True) from exc

    def _rollback(self) -> None:
        self._stop.not_any_more()
        if self._connection is None:
            return
        try:
            self._connection.rollback()
        except pyodbc.Error:
            # Nothing of the transaction is known any more: the session is given up, and the database rolls back.
            connection, self._connection = self._connection, None
            with contextlib.suppress(pyodbc.Error):
                connection.close()

    def _failure(self, exc: pyodbc.Error, call: Call, operation: Operation, *, began: bool) -> CommandError:
        found = diagnose(exc.args, self._hidden)
        text, code = f"{call.operation}: {found.message}", found.code
        if isinstance(operation, SqlOperation | ProcedureOperation) and found.is_business(operation.business_errors):
            return SourceRejected(found.message, source_code=code)
        if found.kind != TIMED_OUT and not self.alive():
            # Asked, not guessed from the code: a procedure's own errors may say "connection", and drivers roll back
            # on a dead session without a word.
            if not began:
                return SourceUnavailable(text, source_code=code, touched=False)
            if operation.effect == READ_EFFECT:
                return SourceUnavailable(text, source_code=code)
            return OutcomeUnknown(f"{text} (the session was lost while it worked)", source_code=code)
        if self._cancelled:
            # Whatever the driver calls it: it ended, and was rolled back.
            return Cancelled(f"{call.operation}: cancelled and rolled back", source_code=code)
        if found.kind == TIMED_OUT or self._late:
            return TimedOut(f"{call.operation}: stopped after its timeout of {call.timeout_s:g} s", source_code=code)
        if found.sqlstate == _COMMIT_REFUSED and operation.effect == "once":
            return NotAllowed(f'{text}; effect = "once" is one transaction: {INSTEAD}', source_code=code, touched=False)
        later = True if found.kind == IN_THE_WAY else None
        return SourceFailed(text, source_code=code, touched=began, may_work_later=later)

    # --- check ---------------------------------------------------------------------------------------------

    def check(self, operation: str | None = None) -> Iterator[Finding]:
        """Tell driver and database and what they are known to change; or whether one operation could run."""
        if self._connection is None:
            return
        subject = f"connection {self.setup.name}"
        once: Once | None = None
        try:
            once = self._ledger_runs() if self._settings.ledger is not None else None
        except NotAllowed as exc:
            if operation is None:
                fix = "set the connection's `dialect`, or take its `ledger` out"
                yield Finding(subject, False, exc.message, fix, code="odbc.ledger")
        if operation is None:
            yield from check.session(subject, self._connection, self._dialect)
            self._rollback()
            if once is not None:
                self._end = time.perf_counter() + self._settings.login_timeout
                yield check.ledger(subject, once, self._hidden)
                self._rollback()
            return
        known = self.setup.operations[operation]
        if isinstance(known, SqlOperation | ProcedureOperation):
            found = check.operation(operation, known, self._dialect, self._hidden, self._settings.login_timeout)
            if found.ok and known.effect == "once" and once is not None:
                found = check.once_only(operation, known, once) or found
            yield found
            self._rollback()
            if found.ok:
                yield from check.limits(operation, known, self._dialect, self._hidden)
                self._rollback()


def _server_timeout(timeout_s: float) -> float:
    return max(timeout_s - TIMEOUT_MARGIN_S, timeout_s * 0.8)
