"""Waking those who wait for something to change: there are thousands of things that nobody waits for."""

from __future__ import annotations

import asyncio


class Bell:
    """Wakes all who wait at the moment when it rings; costs next to nothing where nobody does."""

    __slots__ = ("_heard",)

    def __init__(self) -> None:
        self._heard: asyncio.Event | None = None

    def ring(self) -> None:
        """Wake all who wait now."""
        if self._heard is not None:
            self._heard.set()
            self._heard = None

    async def rung(self) -> None:
        """Wait until it rings the next time."""
        if self._heard is None:
            self._heard = asyncio.Event()
        await self._heard.wait()
