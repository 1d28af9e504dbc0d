"""A connection's limits, kept beside the ERP: how many at once, how fast, and when; and whether it is paused."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final

from agent.errors import Paused
from agent.settings import ConnectionBase
from agent.windows import opens_in, parse_window
from protocol.flow import Bucket

LOOK_AGAIN_S: Final = 30.0  # seconds; the local clock may be set while we wait for a window


class Gate:
    """Lets commands through to one connection."""

    def __init__(
        self, settings: ConnectionBase, local_time: Callable[[], datetime] = lambda: datetime.now().astimezone()
    ) -> None:
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        self._windows = tuple(parse_window(text) for text in settings.windows)
        self._bucket = Bucket(settings.rate, time.monotonic()) if settings.rate is not None else None
        self._local_time = local_time
        self._paused = ""  # what a caller is told
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        # One at a time waits for the window and the rate, so that they leave in the order they came.
        self._turn = asyncio.Lock()

    @property
    def paused(self) -> str:
        """Why nobody is let through, for callers; "" where they are."""
        return self._paused

    def pause(self, why: str) -> None:
        """Let nobody through from now on, or with "" let them through again; who waits already must be called back."""
        self._paused = why
        if why:
            self._unpaused.clear()
        else:
            self._unpaused.set()

    def check(self) -> None:
        """
        Refuse what has not begun while the connection is paused.

        Raises:
            Paused: it is.
        """
        if self._paused:
            raise Paused(self._paused, touched=False)

    @property
    def free(self) -> bool:
        """Whether ``enter`` has nothing to wait for now."""
        if self._slots.locked() or self._turn.locked() or self._windows:
            return False
        return self._bucket is None or self._bucket.wait(time.monotonic()) == 0.0

    async def enter(self) -> None:
        """
        Wait for a slot, an open window and the rate; ``leave`` gives the slot back.

        Raises:
            Paused: somebody at this machine has paused the connection.
        """
        self.check()
        await self._slots.acquire()
        try:
            async with self._turn:
                while True:
                    wait = self._delay()
                    if wait == 0.0:
                        return
                    await asyncio.sleep(wait)
        except BaseException:
            self._slots.release()
            raise

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Take a slot for a question beside the commands, whatever the window and the rate; waits out a pause."""
        while True:
            await self._unpaused.wait()
            async with self._slots:
                if not self._paused:
                    yield
                    return

    def opens_in(self) -> float:
        """Return seconds until its window opens; 0.0 if it is open, or there is none."""
        return opens_in(self._windows, self._local_time())

    def leave(self) -> None:
        """Give the slot back."""
        self._slots.release()

    def _delay(self) -> float:
        wait = min(opens_in(self._windows, self._local_time()), LOOK_AGAIN_S) if self._windows else 0.0
        if wait == 0.0 and self._bucket is not None:
            wait = self._bucket.take(time.monotonic())
        return wait
