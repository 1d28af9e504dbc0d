"""The service manager's watchdog is fed while all parts of the agent move on, and starves when one hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from agent.errors import JournalUnavailable
from agent.service.base import Nobody, Notifier
from agent.service.notify import watchdog_s

EVERY_S: Final = 5.0  # seconds between two looks at most
LOOKS: Final = 4.0  # in the time after which a watchdog bites
JOURNAL_S: Final = 10.0  # seconds that a disk may take for one byte before it counts as hung

log = logging.getLogger(__name__)


class Pulse:
    """
    Feels, again and again, whether the agent lives, and tells the service manager.

    That the event loop lives shows in that it is called at all. The journal lives if its writer answers, also with
    "the disk is full": that is told to the broker, and another process would find the same disk. The link lives if it
    is up, or is being dialled again: without a broker the agent is well.
    """

    def __init__(
        self,
        notifier: Notifier,
        *,
        journal: Callable[[], Awaitable[None]],
        link: Callable[[], str | None],
        line: Callable[[], str],
        every_s: float | None = None,
        journal_s: float = JOURNAL_S,
    ) -> None:
        """
        Args:
            journal: returns once the journal's writer and its disk have answered.
            link: returns what hangs of the link, ``None`` if nothing does.
            line: returns how the agent is, for people.
            every_s: seconds between two looks; by default as the watchdog wants them.
        """
        self._notifier = notifier
        self._journal = journal
        self._link = link
        self._line = line
        self._every_s = every_s if every_s is not None else _every_s()
        self._journal_s = journal_s
        self._asked: asyncio.Task[None] | None = None
        self._told: str | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Feel until cancelled; ``stop`` is told to the service manager at once."""
        if isinstance(self._notifier, Nobody):
            return
        try:
            while not stop.is_set():
                await self.feel()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._every_s):
                        await stop.wait()
            self._notifier.stopping()
            while True:
                await self.feel()
                await asyncio.sleep(self._every_s)
        finally:
            if self._asked is not None:
                self._asked.cancel()

    async def feel(self) -> None:
        """Feel once."""
        hangs = self._link() or await self._journal_hangs()
        if hangs is None:
            self._notifier.alive()
        elif hangs != self._told:
            log.error("%s; the service manager is not told that the agent is well", hangs, extra={"event": "stuck"})
        self._told = hangs
        self._notifier.status(hangs or self._line())

    async def _journal_hangs(self) -> str | None:
        # One question at a time: a disk that hangs is not asked again before it has answered.
        if self._asked is None:
            self._asked = asyncio.ensure_future(self._ask())
        await asyncio.wait((self._asked,), timeout=self._journal_s)
        if not self._asked.done():
            return f"the journal has not answered for {self._journal_s:g} s: its disk hangs"
        self._asked = None
        return None

    async def _ask(self) -> None:
        with contextlib.suppress(JournalUnavailable):
            await self._journal()


@contextlib.asynccontextmanager
async def alive_meanwhile(notifier: Notifier) -> AsyncIterator[None]:
    """Say that the agent lives while something takes its time, as long as the event loop goes on."""

    async def say() -> None:
        while True:
            notifier.alive()
            await asyncio.sleep(_every_s())

    saying = asyncio.create_task(say(), name="say that it lives")
    try:
        yield
    finally:
        saying.cancel()


def _every_s() -> float:
    bites_s = watchdog_s()
    return EVERY_S if bites_s is None else min(EVERY_S, bites_s / LOOKS)
