"""
The ledger behind ``effect = "once"``: a row for each command, in the same database transaction as its work.

A run inserts its row first (``begun``), then works, then makes the row ``done`` with the outcome in it, then commits.
So the row is there exactly if the work is, and holds what it returned. The primary key lets one run through:
another that inserts the same id waits until the first one's transaction has ended, and then finds the row or not.

When the end of a run was not heard (process killed, session cut, reply to COMMIT lost), ``find`` inserts a tombstone
(``void``) for the same id, on another session. Whatever the lost run was at:

* **Its INSERT has not arrived.** The tombstone goes in and is committed. A late INSERT meets it: no row is added. The
  work is sent only after the answer to the INSERT, by a driver that looks at it and stops (``NotHappened``).
* **Its transaction is open**, be it at work, idle because its client is gone, or with a COMMIT still on its way. The
  key is taken by an uncommitted row, so the tombstone's INSERT waits. If the database rolls back, the tombstone goes
  in: the lost session has no transaction any more that could be committed. If it commits, the INSERT finds the row
  ``done``. If neither happens within the operation's timeout, nothing is known: ``SourceUnavailable``, ask again.
* **It has committed.** The row is ``done`` and has the outcome.
* **It has rolled back.** As if it had never been there.

A tombstone must stop the lost attempt and let later ones through, so it carries the number of the attempt: a run takes
over a ``void`` row only if its own attempt is newer, and a finder makes an older tombstone as new as what it was asked
for. Both are UPDATEs of a row that was read under a lock: a run that took a tombstone over and was lost holds that
lock until its transaction ends, and a finder waits for it as it would for an INSERT.

What this rests on, database by database:

* PostgreSQL, READ COMMITTED: ``INSERT … ON CONFLICT DO NOTHING`` waits for the other transaction, and does not abort
  ours. ``SELECT … FOR UPDATE`` waits, and reads the row as committed last. Under REPEATABLE READ and SERIALIZABLE both
  may fail with 40001 instead; nothing is done then, and it is asked again.
* MariaDB, InnoDB: ``INSERT … ON DUPLICATE KEY UPDATE`` waits for the other's lock on the key, and then changes nothing.
  A locking read sees the row as committed last, also under REPEATABLE READ. 1205 (waited too long) and 1213 (deadlock)
  are rolled back and asked again. A table in an engine without transactions would keep the row of a run that was
  undone, so ``try_out`` refuses it, before the first run of each session.
* SQLite: the INSERT takes the lock on the whole file, so there is one writer, and nobody to wait for but its end.
* SQL Server: ``UPDLOCK, HOLDLOCK`` locks the key's range from the look to the insert; readers under a snapshot do not
  matter, as all reads here lock. Oracle and Db2: a refused INSERT undoes itself alone, and the row is
  read under a lock. These three have not met a server yet.

Agents of one group may ask what became of each other's runs. That this is the ledger that the lost run had to write to
is seen by a row that its agent left, committed, before its first run (``sign_in``): its key is made of the agent's word
for where its connection leads and of what the server says of itself. A copy of the database, another node of it, and an
agent whose file leads elsewhere have no such row, and then ``find`` leaves everything as it is: it can't tell.

Where the work itself can end a transaction (MariaDB's procedures, by COMMIT or by DDL), the row is committed as
``begun`` with the first part of it: it never runs again, and its outcome can't be told. Such work is refused beforehand
where the database shows its text, and found out afterwards by a savepoint that is gone.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyodbc

from agent.connectors.base import Call, Outputs, Piece, Rows, RowSet
from agent.connectors.odbc.dialects import Query
from agent.connectors.odbc.ledger_tables import AGENT, LedgerTable
from agent.errors import JournalConflict, NotHappened, OutcomeUnknown, SourceFailed
from protocol import limits

BEGUN: Final = "begun"
DONE: Final = "done"
VOID: Final = "void"

_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]")


class RowSetSummary(msgspec.Struct):
    """A row set that was returned, without its rows."""

    columns: list[str]
    rows: int = 0


class Outcome(msgspec.Struct):
    """What a run returned; outputs digit for digit."""

    outputs: dict[str, msgspec.Raw]
    row_sets: list[RowSetSummary] = []

    @property
    def rows(self) -> int:
        """How many rows came with it."""
        return sum(row_set.rows for row_set in self.row_sets)

    def told(self) -> Outputs:
        """Return it as ``Driver.find`` does."""
        return Outputs(dict(self.outputs), self.rows)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ledger."""

    fingerprint: str
    operation: str
    attempt: int
    state: str
    outcome: str | None


class Ledger:
    """
    The ledger of one session.

    Args:
        texts: of the database.
        table: the connection's ``ledger``.
        execute: runs a statement under the timeout of the call at work; raises ``pyodbc.Error``.
    """

    def __init__(self, texts: LedgerTable, table: str, execute: Callable[[Query], pyodbc.Cursor]) -> None:
        self._table = table
        self._texts = texts
        self._execute = execute

    def begin(self, call: Call) -> Outcome | None:
        """
        Insert the row of a run, as the first thing in its transaction.

        Returns:
            What the first run returned, if there was one; ``None`` if this one is to go on.

        Raises:
            JournalConflict: the id belongs to another operation or other parameters.
            NotHappened: this attempt was given up meanwhile.
            OutcomeUnknown: an earlier run left only its beginning.
        """
        row = self._insert(call, BEGUN)
        if row is None:
            return None
        known = first_outcome(row, call)
        if known is None:
            self._take_over(call, BEGUN)
        return known

    def finish(self, call: Call, outputs: dict[str, Any], row_sets: list[RowSetSummary]) -> bool:
        """
        Put the outcome into the row; return whether the row was still there.

        Raises:
            SourceFailed: the outcome is larger than what goes over the link.
        """
        size = len(msgspec.json.encode(outputs))
        if size > limits.MAX_OUTPUT_BYTES:
            raise SourceFailed(
                f"{call.operation}: its outputs of {size} bytes are more than the {limits.MAX_OUTPUT_BYTES} that go "
                "over the link; it was rolled back. Let the operation return less"
            )
        changed: int = self._run("finish", as_text(outputs, row_sets), call.command_id, call.epoch).rowcount
        return changed == 1

    def find(self, call: Call) -> Outcome | None:
        """
        Return what the lost run of ``call`` returned; ``None`` after the tombstone is in. To be committed then.

        Raises:
            OutcomeUnknown: the ledger can't tell.
        """
        row = self._insert(call, VOID)
        if row is None:
            return None
        if row.fingerprint != call.fingerprint:
            raise OutcomeUnknown(
                f"{self._table}: {call.command_id} is there with another operation or other parameters"
            )
        if row.state == DONE:
            return outcome_of(row)
        if row.state != VOID:
            raise begun(self._table, call)
        if row.attempt < call.epoch:
            self._take_over(call, VOID)
        return None

    def left_behind(self, call: Call) -> bool:
        """Whether a run that failed and was rolled back has left its row, committed by its own work."""
        found = self._read(call.command_id)
        return found is not None and found.state == BEGUN and found.attempt == call.epoch

    def leave_behind(self, call: Call) -> None:
        """See to it that the row is there as ``begun``, for work that ended the transaction by itself."""
        row = self._insert(call, BEGUN)
        if row is not None and row.state == VOID:
            self._take_over(call, BEGUN)

    def try_out(self) -> str:
        """
        Return what is wrong with the table, or ""; in a transaction that is to be rolled back.

        Raises:
            pyodbc.Error: it is not there, has other columns, or may not be written.
        """
        call = Call(f"check-{uuid.uuid4().hex}", "check", b"", 1.0, fingerprint="check")
        if self._insert(call, VOID) is not None:
            return "a row was not added; make the table as `outhaul-agent ledger sql` prints it"
        again = self._insert(call, VOID)
        if again is None:
            return (
                "takes the same command_id twice, or the driver counts what was not added; command_id must be its "
                "primary key, and MariaDB's option FOUND_ROWS must not stand in connection_string"
            )
        self._take_over(call, BEGUN)
        if not self.finish(call, {}, []):
            return "a row was not changed; make the table as `outhaul-agent ledger sql` prints it"
        return ""

    def sign_in(self, place: str) -> None:
        """Leave word that an agent works with this ledger; to be committed."""
        self._insert(self._presence(place), VOID)

    def knows(self, place: str) -> bool:
        """Whether an agent has left that word, here and not in a copy of this ledger."""
        return self._read(self._presence(place).command_id) is not None

    def _presence(self, place: str) -> Call:
        server = self._texts.server
        here = str(self._execute(Query(server, ())).fetchval()) if server else platform.node()
        name = hashlib.sha256(f"{place}\n{here}".encode()).hexdigest()
        return Call(f"agent-{name[:40]}", AGENT, b"", 1.0, fingerprint=name)

    def _insert(self, call: Call, state: str) -> Row | None:
        """Add a row; return the one that is there instead, locked."""
        refused: pyodbc.Error | None = None
        values = (call.command_id, call.fingerprint, call.operation, call.epoch, state)
        try:
            if self._run("insert", *values).rowcount == 1:
                return None
        except pyodbc.IntegrityError as exc:
            if not self._texts.raises_if_there:
                raise
            refused = exc
        row = self._read(call.command_id)
        if row is None:
            if refused is not None:
                raise refused
            raise SourceFailed(f"{self._table}: a row for {call.command_id} came and went", may_work_later=True)
        return row

    def _read(self, command_id: str) -> Row | None:
        found = self._run("read", command_id).fetchone()
        if found is None:
            return None
        fingerprint, operation, attempt, state, outcome = found
        return Row(str(fingerprint), str(operation), int(attempt), str(state), outcome)

    def _take_over(self, call: Call, state: str) -> None:
        if self._run("take_over", state, call.epoch, call.command_id).rowcount != 1:
            raise SourceFailed(f"{self._table}: the row of {call.command_id} is not void any more", may_work_later=True)

    def _run(self, name: str, *values: Any) -> pyodbc.Cursor:
        return self._execute(Query(self._texts.text(name, self._table), values))


class Summary:
    """What goes by of a result."""

    def __init__(self) -> None:
        self.row_sets: list[RowSetSummary] = []

    def add(self, piece: Piece) -> None:
        """Take note of a piece."""
        if isinstance(piece, RowSet):
            self.row_sets.append(RowSetSummary([column.name for column in piece.columns]))
        elif isinstance(piece, Rows):
            self.row_sets[-1].rows += piece.count

    @property
    def rows(self) -> int:
        """How many rows there were."""
        return sum(row_set.rows for row_set in self.row_sets)


def first_outcome(row: Row, call: Call) -> Outcome | None:
    """
    Decide what a run does that finds ``row`` under its id: return the first outcome, or ``None`` to take over.

    Raises:
        JournalConflict, NotHappened, OutcomeUnknown: as ``Ledger.begin``.
    """
    if row.fingerprint != call.fingerprint:
        raise JournalConflict(
            f"{call.command_id} is in the ledger with the operation {row.operation} and "
            f"{'other parameters' if row.operation == call.operation else 'its parameters'}; it was not run",
            touched=False,
        )
    if row.state == DONE:
        return outcome_of(row)
    if row.state != VOID:
        raise begun("the ledger", call)
    if row.attempt >= call.epoch:
        raise NotHappened(
            f"{call.operation}: attempt {call.epoch} was given up before it had begun, and had no effect", touched=False
        )
    return None


def begun(place: str, call: Call) -> OutcomeUnknown:
    """Return the error for a run of which only the beginning was kept."""
    return OutcomeUnknown(
        f"{call.operation}: {place} has its beginning and not its end: it ended the transaction by itself, and what it "
        "did is not known. Look in the ERP, then resolve it; take COMMIT, ROLLBACK and DDL out of the procedure"
    )


def as_text(outputs: dict[str, Any], row_sets: list[RowSetSummary]) -> str:
    """Return an outcome as the ledger keeps it: ASCII, so that no code page of table or driver matters."""
    text = msgspec.json.encode({"outputs": outputs, "row_sets": row_sets}).decode()
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def outcome_of(row: Row) -> Outcome:
    """
    Read an outcome.

    Raises:
        OutcomeUnknown: it is none; somebody else wrote it.
    """
    try:
        return msgspec.json.decode(row.outcome or "", type=Outcome)
    except msgspec.DecodeError as exc:
        raise OutcomeUnknown(f"it is done, but its outcome in the ledger can't be read: {exc}") from exc
