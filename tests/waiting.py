"""Waiting for what nobody tells: asked again and again, never longer than a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

# Seconds for a test that may be the first to want a frozen program, or a Python for Windows: that takes two minutes.
BUILD_S: Final = 600


async def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something on this event loop."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for is told by nobody
            await asyncio.sleep(0.002)


async def until_seen(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something that takes a while to look at, such as a row in a database."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(true):  # noqa: ASYNC110 - what is waited for is told by nobody
            await asyncio.sleep(0.02)


def until_so(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something of another process, in a test without an event loop."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so within {seconds:g} s"
        time.sleep(0.02)  # between two looks
