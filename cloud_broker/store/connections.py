"""One SQLite file: its writing thread with group commit, and its reading threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import operator
import os
import queue
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from cloud_broker.audit import trail as audit
from cloud_broker.audit.trail import Record
from cloud_broker.errors import StoreUnavailable
from cloud_broker.store import together
from cloud_broker.store.batches import MAX_BATCH, BatchThread, Task
from cloud_broker.store.queries import QUERIES
from cloud_broker.store.together import Kind

log = logging.getLogger(__name__)

MAX_CARRIED: Final = 10_000  # changes nobody waits for that are kept in memory while the disk is full
STATEMENTS: Final = 512  # prepared ones that are kept: a text for each number of rows
# Seconds between two transactions of changes that can wait for others: of a crowd of agents, each of which tells three
# things. One more change costs a fraction of one more transaction, and nobody notices.
PATIENCE_S: Final = 0.05
PART: Final = 24  # changes that are handed over before a round ends: the thread writes while the event loop goes on
BUSY_S: Final = 10.0  # seconds a write waits for another process, such as the command line, to finish its own
# What is wrong with one write only; every other error of SQLite is about the file, the disk or the transaction.
OWN_FAULTS: Final = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class NotingConnection(sqlite3.Connection):
    """
    One that also notes acts in the audit trail.

    Attributes:
        notes: of the transaction that is open, without their places in their chains; in order.
    """

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.notes: list[Record] = []

    def keep_notes(self) -> None:
        """Add the notes to the ends of their chains, which other processes may have made longer meanwhile."""
        ends: dict[str, tuple[int, bytes]] = {}
        for record in self.notes:
            if record.tenant not in ends:
                found = self.execute(QUERIES["audit_head"], (record.tenant,)).fetchone()
                ends[record.tenant] = found or (0, audit.BEGINNING)
            audit.chain(record, *ends[record.tenant])
            ends[record.tenant] = (record.number, record.hash)
        together.run(self, "add_audit", list(map(_columns, self.notes)))
        self.notes.clear()


_columns = operator.attrgetter(*Record.__struct_fields__)


def connect_to_write(path: Path) -> NotingConnection:
    """Open for writing; made if it is not there, readable by its owner only."""
    # Only a file that is not there is opened here: on POSIX, closing any descriptor of a file drops all locks that
    # this process holds on it. Another process that leaves would then take its write-ahead log away from under us.
    names = ["write_ahead", "durable", "kept_in_memory", "checked_references"]
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        names.insert(0, "shrinks")
    connection = sqlite3.connect(
        path,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
        factory=NotingConnection,
        cached_statements=STATEMENTS,
    )
    for name in names:
        connection.execute(QUERIES[name])
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open for reading; sees all that was committed before each query."""
    address = path.absolute().as_uri() + "?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    connection.execute(QUERIES["read_only"])
    return connection


class Writer:
    """
    The only thread that writes: all that waits goes into one transaction, answered after its commit.

    Attributes:
        commits: transactions so far.
    """

    def __init__(self, path: Path) -> None:
        self.commits = 0
        self._path = path
        self._connection: NotingConnection | None = None
        self._carried: list[Task] = []
        self._waiting: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._thread = BatchThread("store writer", self._run, self._disconnect, self._waiting, MAX_BATCH)
        self._loop = asyncio.get_running_loop()
        self._asked: list[Task] = []  # in this round of the event loop, or a little earlier
        self._turn: asyncio.TimerHandle | None = None
        self._patient = False  # whether all that were asked can wait for their turn
        self._handed_at = float("-inf")

    async def write(self, work: Work[T]) -> T:
        """
        Run ``work`` in a transaction; return its value once that is on the disk.

        Raises:
            StoreUnavailable: it could not be kept.
        """
        answer: asyncio.Future[T] = self._loop.create_future()
        self._put(Task(work, answer))
        return await answer

    def send(self, work: Work[object]) -> None:
        """Run ``work`` after all that was asked before, without waiting for it; again later if it can't be kept now."""
        self._put(Task(work, None))

    def write_one(self, kind: Kind, about: str, given: object) -> asyncio.Future[Any]:
        """Make a change of a kind, with others of it; what is returned has its value as ``write`` returns it."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._put(Task(_no_work, answer, kind=kind, given=given, about=about))
        return answer

    def send_one(self, kind: Kind, about: str, given: object) -> None:
        """Make a change of a kind, with others of it, as ``send`` does."""
        self._put(Task(_no_work, None, kind=kind, given=given, about=about))

    async def close(self) -> None:
        """Finish what was asked and end the thread."""
        self._hand_over()
        self._waiting.put(None)
        await self._thread.join()

    def _put(self, task: Task) -> None:
        # The thread would begin with the first of many that are asked for in one round, and come late for the others.
        self._asked.append(task)
        patient = task.kind is not None and task.kind.patient
        if self._turn is not None:
            if not self._patient:
                if len(self._asked) >= PART:
                    self._hand_over()
                return
            if patient:
                return
            self._turn.cancel()
        self._patient = patient
        wait_s = self._handed_at + PATIENCE_S - self._loop.time() if patient else 0.0
        self._turn = self._loop.call_later(max(0.0, wait_s), self._hand_over)

    def _hand_over(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._handed_at = self._loop.time()
        asked, self._asked = self._asked, []
        for task in asked:
            self._waiting.put(task)

    def _run(self, batch: Sequence[Task]) -> None:
        try:
            if self._connection is None:
                self._connection = connect_to_write(self._path)
            self._commit(self._connection, [*self._carried, *batch])
            self._carried.clear()
        except (sqlite3.Error, OSError) as exc:
            # A full disk, most often. A new connection knows for sure what is in the file, and
            # works again as soon as the disk does.
            self._disconnect()
            log.error("nothing can be kept: %s", exc, extra={"event": "store_unavailable", "writes": len(batch)})
            self._carried = [*self._carried, *(task for task in batch if task.answer is None)][-MAX_CARRIED:]
            for task in batch:
                task.error = StoreUnavailable(f"The store can't be written ({exc}); nothing was kept.", retry_after_s=5)

    def _commit(self, connection: NotingConnection, batch: Sequence[Task]) -> None:
        connection.execute(QUERIES["begin"])
        if not self._all(connection, batch):
            connection.execute(QUERIES["undo"])
            connection.notes.clear()
            connection.execute(QUERIES["begin"])
            for tasks in together.steps(batch):
                if len(tasks) == 1 or not self._together(connection, tasks):
                    for task in tasks:
                        self._alone(connection, task)
        if connection.notes:
            connection.keep_notes()
        connection.execute(QUERIES["commit"])
        self.commits += 1

    def _all(self, connection: NotingConnection, batch: Sequence[Task]) -> bool:
        """Make all changes; return False if one of them is wrong: then they are made with a way back from each."""
        try:
            for tasks in together.steps(batch):
                _make(connection, tasks)
        except Exception as exc:  # the one that is wrong tells its caller, once it is known which one it is
            if isinstance(exc, sqlite3.Error) and not isinstance(exc, OWN_FAULTS):
                raise
            return False
        return True

    def _together(self, connection: NotingConnection, tasks: Sequence[Task]) -> bool:
        """Make changes of one kind; return False, with nothing made, if one of them is wrong."""
        connection.execute(QUERIES["begin_one"])
        notes = len(connection.notes)
        try:
            _make(connection, tasks)
        except Exception as exc:  # each is made by itself then, and the one that is wrong tells its caller
            if isinstance(exc, sqlite3.Error) and not isinstance(exc, OWN_FAULTS):
                raise
            connection.execute(QUERIES["undo_one"])
            del connection.notes[notes:]
            return False
        finally:
            if connection.in_transaction:
                connection.execute(QUERIES["end_one"])
        return True

    def _alone(self, connection: NotingConnection, task: Task) -> None:
        connection.execute(QUERIES["begin_one"])
        notes = len(connection.notes)
        try:
            _make(connection, [task])
        except Exception as exc:  # its caller gets it; the thread serves others
            if isinstance(exc, sqlite3.Error) and not isinstance(exc, OWN_FAULTS):
                raise
            task.error = exc
            if task.answer is None:
                log.exception("a change nobody waits for is wrong", extra={"event": "store_write_wrong"})
            connection.execute(QUERIES["undo_one"])
            del connection.notes[notes:]
        connection.execute(QUERIES["end_one"])

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _make(connection: sqlite3.Connection, tasks: Sequence[Task]) -> None:
    """Make changes of one kind, or the one that is of none."""
    kind = tasks[0].kind
    if kind is None:
        for task in tasks:
            task.value = task.work(connection)
        return
    for task, value in zip(tasks, kind.make(connection, [task.given for task in tasks]), strict=True):
        task.value = value


def _no_work(connection: sqlite3.Connection) -> None:
    raise AssertionError("a change of a kind is made by its kind")


class Readers:
    """
    Some threads that read, each with a connection of its own.

    Args:
        together: how many reads one thread takes at once; 1 where a read may be long.
    """

    def __init__(self, path: Path, threads: int, together: int) -> None:
        self._waiting: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        readers = [_Reader(path) for _ in range(threads)]
        self._threads = [
            BatchThread(f"store reader {number}", reader.run, reader.disconnect, self._waiting, together)
            for number, reader in enumerate(readers)
        ]

    async def read(self, work: Work[T]) -> T:
        """
        Return the value of ``work``.

        Raises:
            StoreUnavailable: the file can't be read.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.put(Task(work, answer))
        return await answer

    async def close(self) -> None:
        """Finish what was asked and end the threads."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            await thread.join()


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def run(self, batch: Sequence[Task]) -> None:
        for task in batch:
            try:
                if self._connection is None:
                    self._connection = connect_to_read(self._path)
                task.value = task.work(self._connection)
            except sqlite3.Error as exc:
                self.disconnect()
                log.error("the store can't be read: %s", exc, extra={"event": "store_unreadable"})
                task.error = StoreUnavailable(f"The store can't be read ({exc}).", retry_after_s=5)
            except Exception as exc:  # its caller gets it; the thread serves others
                task.error = exc

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
