"""What goes on beside: tasks that nobody awaits, kept, told of when they fail, and ended with the broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from cloud_broker.errors import StoreUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")
Note = Callable[[], Awaitable[Any]]  # something to tell the store

STORE_RETRY_S: Final = 1.0  # seconds; a full disk is asked again until there is room


class Background:
    """Tasks that nobody awaits."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._endings: set[asyncio.Future[Any]] = set()

    @property
    def endings(self) -> int:
        """How many ends of attempts are being kept."""
        return len(self._endings)

    def note(self, note: Note, name: str) -> None:
        """Tell the store something that nobody waits for."""
        self.spawn(_ignore(note), name)

    def spawn(self, work: Coroutine[Any, Any, None], name: str, *, ending: bool = False) -> None:
        """Do something beside, until the broker stops; ``ending`` says that it keeps what came of an attempt."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        if ending:
            self._endings.add(task)
        task.add_done_callback(self._done)

    def await_end(self, kept: asyncio.Future[T], then: Callable[[asyncio.Future[T]], None]) -> None:
        """Call ``then`` with what keeps how a command ended, once it is done, or was cancelled as the broker stops."""
        self._endings.add(kept)
        kept.add_done_callback(self._endings.discard)
        kept.add_done_callback(then)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._endings.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error, extra={"event": "task_failed"})

    async def kept(self, timeout_s: float) -> None:
        """Wait until what came of attempts is kept, but not longer than that."""
        if self._endings:
            await asyncio.wait(self._endings, timeout=timeout_s)

    async def stop(self) -> None:
        """End all of it."""
        for doing in {*self._tasks, *self._endings}:
            doing.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def until_kept(note: Note) -> None:
    """Tell the store something, for as long as it takes: the agent holds the outcome until it is told that we do."""
    while True:
        try:
            await note()
            return
        except StoreUnavailable:
            await store_pause()


async def store_pause() -> None:
    """Wait before a store that could not answer is asked again."""
    await asyncio.sleep(STORE_RETRY_S)


async def _ignore(note: Note) -> None:
    """Await a note that nobody waits for; a store that can't take it now costs only the note."""
    try:
        await note()
    except StoreUnavailable as exc:
        log.warning("a state was not noted: %s", exc, extra={"event": "note_lost"})
