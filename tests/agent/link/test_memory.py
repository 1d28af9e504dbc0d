"""The link in memory behaves as a line does."""

from __future__ import annotations

import asyncio

import pytest

from agent.errors import LinkError
from agent.link.memory import ROOM, pair


async def test_messages_arrive_in_order_both_ways() -> None:
    here, there = pair()
    await here.send(b"1")
    await here.send(b"2")
    await there.send(b"3")
    assert [await there.receive(), await there.receive(), await here.receive()] == [b"1", b"2", b"3"]


async def test_a_full_line_makes_the_sender_wait() -> None:
    here, there = pair()
    for number in range(ROOM):
        await here.send(bytes([number]))
    waiting = asyncio.create_task(here.send(b"more"))
    await asyncio.wait((waiting,), timeout=0.01)
    assert not waiting.done()
    assert await there.receive() == b"\0"
    await waiting


@pytest.mark.parametrize("end", [0, 1])
async def test_what_was_sent_before_the_close_still_arrives(end: int) -> None:
    ends = pair()
    await ends[0].send(b"last")
    await ends[end].close("enough")
    await ends[end].close()
    assert await ends[1].receive() == b"last"
    for side in ends:
        with pytest.raises(LinkError):
            await side.receive()
        with pytest.raises(LinkError):
            await side.send(b"late")


async def test_a_close_wakes_who_waits() -> None:
    here, there = pair()
    reading = asyncio.create_task(here.receive())
    for number in range(ROOM):
        await here.send(bytes([number]))
    writing = asyncio.create_task(here.send(b"more"))
    await asyncio.wait((reading, writing), timeout=0.01)
    await there.close()
    for task in (reading, writing):
        with pytest.raises(LinkError):
            await task
