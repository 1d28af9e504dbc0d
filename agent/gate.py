"""A connection's limits, kept beside the ERP: how many at once, how fast, and when."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final

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
        # One at a time waits for the window and the rate, so that they leave in the order they came.
        self._turn = asyncio.Lock()

    async def enter(self) -> None:
        """Wait for a slot, an open window and the rate; ``leave`` gives the slot back."""
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
        """Take a slot for a question beside the commands, whatever the window and the rate."""
        async with self._slots:
            yield

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
