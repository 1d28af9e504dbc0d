"""Threads that take all that waits at once: one transaction, and one wake-up of the event loop, for many callers."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cloud_broker.store.together import Kind

log = logging.getLogger(__name__)

MAX_BATCH: Final = 512  # tasks; bounds how long the first of a batch waits for the last


@dataclass(slots=True)
class Task:
    """
    Work for a thread, and what came of it.

    Attributes:
        work: called with the thread's database connection.
        answer: told the value or the error; ``None`` if nobody waits.
        kind: of a change that can be made together with others; then ``given`` is what it takes of this one, and
            ``about`` names the command.
    """

    work: Callable[[Any], Any]
    answer: asyncio.Future[Any] | None
    value: Any = None
    error: BaseException | None = None
    kind: Kind | None = None
    given: Any = None
    about: str = ""


class BatchThread:
    """
    One thread and its queue.

    Args:
        name: of the thread.
        run: called in the thread with all waiting tasks; sets ``value`` or ``error`` of each. Must not raise.
        stop: called in the thread at its end.
        waiting: tasks, in order; ``None`` ends the thread.
        together: tasks in one batch at most.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Task]], None],
        stop: Callable[[], None],
        waiting: queue.SimpleQueue[Task | None],
        together: int,
    ) -> None:
        self._together = together
        self._run = run
        self._stop = stop
        self._waiting = waiting
        self._loop = asyncio.get_running_loop()
        # A daemon: a program that forgot to close the store must still be able to end.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def join(self) -> None:
        """Wait until the thread has ended; its queue must hold a ``None`` for it."""
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        ending = False
        while not ending:
            batch: list[Task] = []
            task = self._waiting.get()
            while task is not None:
                batch.append(task)
                if len(batch) == self._together:
                    break
                try:
                    task = self._waiting.get_nowait()
                except queue.Empty:
                    break
            ending = task is None
            if batch:
                self._run(batch)
                self._release(batch)
        self._stop()

    def _release(self, batch: list[Task]) -> None:
        awaited = [task for task in batch if task.answer is not None]
        if awaited:
            try:
                self._loop.call_soon_threadsafe(_answer, awaited)
            except RuntimeError:
                log.debug("the event loop ended before the store")


def _answer(batch: list[Task]) -> None:
    for task in batch:
        answer = task.answer
        if answer is None or answer.done():  # its caller was cancelled
            continue
        if task.error is not None:
            answer.set_exception(task.error)
        else:
            answer.set_result(task.value)
