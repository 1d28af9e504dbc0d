"""
The one thread that writes the journal.

All that waits goes into one write and one sync, and is answered after it. What nobody waits for rides along, or is
written by itself after a moment without a sync. While nothing can be written it tries again every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from agent.journal import records
from agent.journal.base import Entry
from agent.journal.log import Log
from agent.journal.records import Event, Index, Kept
from protocol.limits import REMEMBERS

log = logging.getLogger(__name__)

SOON_S: Final = 1.0  # seconds after which what nobody waits for is written
PROBE_S: Final = 3.0  # seconds between tries while nothing can be written
UNSYNCED: Final = 1_000  # records that nobody waits for, until they are synced too
BATCH: Final = 1_000  # records in one write
SIGN_BYTES: Final = 1  # bytes that the disk has to take as a sign of life
TIDY_AGAIN_S: Final = 60.0  # seconds until a rewrite that failed for want of space is tried again
REWRITE_BYTES: Final = 4 * 1_048_576  # bytes; a log this much over twice of what it was after its last rewrite
SEGMENTS: Final = 16  # or of so many segments, is written anew


class Request(msgspec.Struct, eq=False):
    """
    Something to be kept.

    Attributes:
        make: returns the record, once it is its turn, or ``None`` if there is nothing to write; called with the
            lock held. ``None`` itself asks for a sign of life: something that the disk takes, and no record.
        answer: of the event loop; is told once it is durable, or an ``OSError`` if it can't be kept; ``None`` if nobody
            waits. Who waits may be cancelled: what is asked for is kept nevertheless.
    """

    command_id: str
    make: Callable[[Index], Event | None] | None
    answer: asyncio.Future[None] | None = None


class Written(msgspec.Struct, eq=False):
    """What stands in the log at a place, and is believed once it is synced."""

    request: Request
    event: Event
    place: int


class Renewal(msgspec.Struct):
    """
    The journal has to be written anew before anything else.

    Attributes:
        mark: that it then has.
        first: what has to be done before.
    """

    mark: str
    first: Callable[[], None]


class Writer:
    """
    Writes to a log what it is asked to.

    Attributes:
        lock: for the index, and for what stands where in the log.
        trouble: why nothing can be kept now; ``None`` when all is well.
    """

    def __init__(
        self,
        journal_log: Log,
        index: Index,
        *,
        where: str,
        new_mark: Callable[[], str],
        loop: asyncio.AbstractEventLoop,
        told: Callable[[], None],
        renewal: Renewal | None,
    ) -> None:
        """
        Args:
            where: the folder, for messages.
            new_mark: returns another mark for the journal, where a record is found damaged.
            loop: of those who wait.
            told: called on it when ``trouble`` appears or goes.
            renewal: what the reading of the log has found to be necessary.
        """
        self.lock = threading.Lock()
        self.trouble: str | None = None
        self._log = journal_log
        self._index = index
        self._where = where
        self._new_mark = new_mark
        self._loop = loop
        self._told = told
        self._renewal = renewal
        self._queue: deque[Request] = deque()
        self._changed = threading.Condition()
        self._waited_for = 0  # requests in the queue with somebody waiting
        self._since = 0.0  # when the oldest request was put into the empty queue
        self._tried = 0.0
        self._closing = False
        self._unsynced: list[Written] = []
        self._rewritten = journal_log.size
        self._tidy_after = 0.0
        # A disk that hangs for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def start(self) -> None:
        """Do what must come first, then start the thread. A failure is ``trouble``, and is tried again."""
        self._attempt([])
        self._thread.start()

    def put(self, request: Request) -> None:
        """Ask for something to be kept."""
        with self._changed:
            if self._closing:
                self._answer([request], OSError(f"{self._where}: is closed"))
                return
            if not self._queue:
                self._since = time.monotonic()
            self._queue.append(request)
            self._waited_for += request.answer is not None
            if request.answer is not None or len(self._queue) == 1:
                self._changed.notify()

    @property
    def mark(self) -> str:
        """Of the journal; one that is not written yet is in force already."""
        renewal = self._renewal
        return self._log.mark if renewal is None else renewal.mark

    def renew(self) -> None:
        """Write the journal anew, under another mark, as a record in it turned out to be damaged."""
        with self._changed:
            if self._renewal is None:
                self._renewal = Renewal(self._new_mark(), lambda: None)
            self._changed.notify()

    def close(self, timeout_s: float) -> bool:
        """Write what waits, and close the log; return whether that was done in time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while (batch := self._gather()) is not None:
            self._attempt(batch)
        self._log.close()

    def _gather(self) -> list[Request] | None:
        """Wait for something to do; return the requests, ``None`` at the end."""
        with self._changed:
            while not self._closing and not self._waited_for and (left_s := self._left_s()) > 0:
                self._changed.wait(left_s if left_s < threading.TIMEOUT_MAX else None)
            if self._closing and (self.trouble or not self._queue) and not self._unsynced:
                self._refuse_rest()
                return None
            return self._next()

    def _left_s(self) -> float:
        """Return how long nothing need be done if nobody asks."""
        if self.trouble is not None:
            return self._tried + PROBE_S - time.monotonic()
        if self._renewal is not None:
            return 0.0
        return self._since + SOON_S - time.monotonic() if self._queue else threading.TIMEOUT_MAX

    def _next(self) -> list[Request]:
        """Take from the queue, but of each command one thing only: what comes later is made of what came first."""
        batch: dict[str, Request] = {}
        while self._queue and len(batch) < BATCH and self._queue[0].command_id not in batch:
            request = self._queue.popleft()
            batch[request.command_id] = request
            self._waited_for -= request.answer is not None
        return list(batch.values())

    def _refuse_rest(self) -> None:
        self._answer(self._queue, OSError(f"{self._where}: {self.trouble}"))
        self._queue.clear()

    def _attempt(self, batch: list[Request]) -> None:
        self._tried = time.monotonic()
        try:
            self._repair(probe=not batch)
            signs = [request for request in batch if request.make is None]
            if signs:
                self._log.probe(SIGN_BYTES)
            made = [(request, event) for request in batch if (event := self._made(request)) is not None]
            places = self._log.append([records.encode(event) for _, event in made]) if made else []
            written = [Written(*one, place) for one, place in zip(made, places, strict=True)]
            self._unsynced += written
            waited_for = any(one.request.answer is not None for one in written)
            if waited_for or self._closing or len(self._unsynced) >= UNSYNCED:
                self._log.sync()
                self._take_in()
        except Exception as exc:  # a mistake of ours too must refuse commands, and not leave them waiting
            self._failed(exc, batch)
            return
        self._set_trouble(None)
        self._answer([*signs, *(one.request for one in written)], None)
        self._tidy()

    def _made(self, request: Request) -> Event | None:
        try:
            with self.lock:
                return None if request.make is None else request.make(self._index)
        except Exception as exc:  # one that can't be made keeps nobody else from being kept
            self._answer([request], exc)
            return None

    def _take_in(self) -> None:
        """All that was written is synced: now it is known."""
        with self.lock:
            for one in self._unsynced:
                if one.request.answer is not None:
                    self._index.apply(one.event, one.place)
                elif isinstance(one.event, Kept):
                    self._index.written(one.event.entry, one.place)
        self._unsynced = []

    def _failed(self, exc: Exception, batch: list[Request]) -> None:
        if not isinstance(exc, OSError):
            log.exception("the journal broke", extra={"event": "journal_broke"})
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        self._set_trouble(f"can't be written ({reason})")
        self._give_up(batch)
        with self._changed:
            # Who waits behind the batch would only wait for the same failure.
            left = [*batch, *self._queue]
            self._queue = deque([request for request in self._queue if request.answer is None][-REMEMBERS:])
            self._waited_for = 0
        self._answer(left, OSError(f"{self._where}: {self.trouble}"))

    def _give_up(self, batch: Sequence[Request] = ()) -> None:
        """Go on with another file; of what was not synced, what nobody waits for is written again."""
        self._log.abandon()
        again = dict.fromkeys([*(one.request for one in self._unsynced), *batch])
        self._unsynced = []
        with self._changed:
            self._queue.extendleft(request for request in reversed(again) if request.answer is None)

    def _set_trouble(self, trouble: str | None) -> None:
        if trouble == self.trouble:
            return
        self.trouble = trouble
        if trouble is not None:
            log.error(
                "%s: %s; nothing that must not run twice is begun before it can",
                self._where,
                trouble,
                extra={"event": "journal_unavailable"},
            )
        else:
            log.warning("%s: can be written again", self._where, extra={"event": "journal_available"})
        self._on_loop(self._told)

    def _answer(self, requests: Iterable[Request], error: Exception | None) -> None:
        """Tell all who wait, with one wake-up of the event loop."""
        if answers := [request.answer for request in requests if request.answer is not None]:
            self._on_loop(_tell, answers, error)

    def _on_loop(self, call: Callable[..., None], *args: object) -> None:
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    # --- writing it anew --------------------------------------------------------------------------

    def _repair(self, *, probe: bool) -> None:
        if self._renewal is not None:
            self._renewal.first()
            self._rewrite(self._renewal.mark)
        elif probe and self.trouble is not None:
            self._log.probe()
            self._log.ready()

    def _tidy(self) -> None:
        """Let go what is dead, once it is more than what lives."""
        large = self._log.size > 2 * self._rewritten + REWRITE_BYTES or len(self._log.chain) > SEGMENTS
        if not large or time.monotonic() < self._tidy_after:
            return
        try:
            self._rewrite(self._log.mark)
        except Exception as exc:  # the log goes on as it is, only larger
            self._give_up()
            self._tidy_after = time.monotonic() + TIDY_AGAIN_S
            log.warning(
                "%s: can't be written anew to make it smaller (%s)",
                self._where,
                exc,
                extra={"event": "journal_not_rewritten"},
            )

    def _rewrite(self, mark: str) -> None:
        """
        Write all that is known into a segment of its own.

        Raises:
            OSError: it can't be written; all is as it was.
        """
        while True:
            with self.lock:
                known: list[tuple[str, Entry | int]] = [*self._index.remembered.items(), *self._index.open.items()]
                standing = self._index.standing()
            try:
                self._log.rewrite(self._bodies(known, standing), mark, functools.partial(self._moved, known))
            except _Damaged as exc:
                with self.lock:
                    self._index.remembered.pop(exc.command_id, None)
                mark = self._new_mark()
                self._renewal = Renewal(mark, lambda: None)
                log.error(
                    "journal damaged: %s",
                    exc,
                    extra={"event": "journal_damaged", "commands": [exc.command_id]},
                )
                continue
            break
        self._renewal = None
        self._rewritten = self._log.size
        self._unsynced = []  # all that is known was written anew

    def _bodies(self, known: list[tuple[str, Entry | int]], standing: Sequence[Event]) -> Iterator[bytes]:
        read = self._log.reader()
        for command_id, entry in known:
            if isinstance(entry, Entry):
                yield records.encode(Kept(entry))
                continue
            try:
                yield read(entry)
            except (OSError, ValueError) as exc:
                raise _Damaged(command_id, str(exc)) from exc
        for event in standing:
            yield records.encode(event)

    def _moved(self, known: list[tuple[str, Entry | int]], places: list[int]) -> None:
        with self.lock:
            for (command_id, entry), place in zip(known, places, strict=False):  # what has no id comes after
                if self._index.remembered.get(command_id) is entry:
                    self._index.remembered[command_id] = place


class _Damaged(ValueError):
    """A remembered record can't be read any more."""

    def __init__(self, command_id: str, message: str) -> None:
        super().__init__(message)
        self.command_id = command_id


def _tell(answers: list[asyncio.Future[None]], error: Exception | None) -> None:
    for answer in answers:
        if answer.done():
            continue
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
