"""The broker's chores go on, whatever happens to one of them."""

from __future__ import annotations

import asyncio

import pytest

from cloud_broker.app import every
from cloud_broker.errors import StoreUnavailable


async def test_a_chore_that_fails_is_told_and_done_again(caplog: pytest.LogCaptureFixture) -> None:
    done = 0
    enough = asyncio.Event()

    async def chore() -> None:
        nonlocal done
        done += 1
        if done == 3:
            enough.set()
        raise StoreUnavailable("the disk is full")

    task = asyncio.create_task(every(0.001, chore), name="look again")
    async with asyncio.timeout(5):
        await enough.wait()
    task.cancel()
    assert caplog.records[0].__dict__["chore"] == "look again"
