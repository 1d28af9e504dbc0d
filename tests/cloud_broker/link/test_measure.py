"""Measuring: what a broker answers, and how little of it one agent can have."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from agent.errors import LinkError
from agent.link.measure import NotMeasured, measure
from agent.link.memory import MemoryTransport, pair
from cloud_broker.link.base import LinkLost, Peer, Transport
from cloud_broker.link.measure import AT_ONCE, MAX_BYTES, MAX_PINGS, Measuring
from protocol.measure import DOWN, END, PIECE_BYTES, PING, PING_BYTES, UP

ONE = Peer("acme", "plant-1", "01", "here:1")


class Far(Transport):
    """The broker's end of a transport in memory."""

    def __init__(self, end: MemoryTransport) -> None:
        self.address = "here:1"
        self._end = end

    async def send(self, data: bytes) -> None:
        try:
            await self._end.send(data)
        except LinkError as exc:
            raise LinkLost(str(exc)) from exc

    async def receive(self) -> bytes:
        try:
            return await self._end.receive()
        except LinkError as exc:
            raise LinkLost(str(exc)) from exc

    async def close(self, reason: str = "") -> None:
        await self._end.close(reason)


def begun(measuring: Measuring, peer: Peer = ONE) -> tuple[MemoryTransport, asyncio.Task[None]]:
    near, far = pair()
    return near, asyncio.create_task(measuring.serve(Far(far), peer))


async def test_a_line_is_measured() -> None:
    near, task = begun(Measuring())
    found = await measure(near)
    assert min(found.round_trip_s, found.up_s, found.down_s) > 0
    await near.close()
    await task


async def test_one_agent_measures_once_at_a_time_and_seldom() -> None:
    now = [0.0]
    measuring = Measuring(lambda: now[0], pause_s=10.0)
    first, running = begun(measuring)
    await first.send(PING + b"1")
    assert await first.receive() == PING + b"1"
    for at, words in ((5.0, "measured already"), (50.0, "measured already")):
        now[0] = at
        again, refused = begun(measuring)
        with pytest.raises(NotMeasured, match=words):
            await measure(again)
        await refused
    await first.close()
    await running
    soon, asked = begun(measuring)
    await measure(soon)
    await soon.close()
    await asked
    now[0] = 55.0
    again, refused = begun(measuring)
    with pytest.raises(NotMeasured, match="again in 5 s"):
        await measure(again)
    await refused


async def test_a_fleet_does_not_measure_all_at_once() -> None:
    measuring = Measuring()
    all_of_them = [begun(measuring, Peer("acme", f"plant-{number}", "01", "here:1")) for number in range(AT_ONCE)]
    for near, _ in all_of_them:
        await near.send(PING)
        assert await near.receive() == PING
    late, refused = begun(measuring, Peer("acme", "late", "01", "here:1"))
    with pytest.raises(NotMeasured, match="measures others now"):
        await measure(late)
    await refused
    for near, task in all_of_them:
        await near.close()
        await task


@pytest.mark.parametrize(
    "said",
    [
        [UP + bytes(PIECE_BYTES)] * (MAX_BYTES // PIECE_BYTES) + [UP + b"x"],
        [DOWN + (MAX_BYTES + 1).to_bytes(4, "big")],
        [PING + bytes(PING_BYTES + 1)],
        [DOWN],
        [END + b"x"],
        [b""],
        [b"\x00"],
    ],
)
async def test_more_than_a_measurement_ends_it(said: list[bytes]) -> None:
    near, task = begun(Measuring())
    with contextlib.suppress(LinkError):
        for message in said:
            await near.send(message)
    await task
    with pytest.raises(LinkError):
        await near.receive()


async def test_pings_end_too() -> None:
    near, task = begun(Measuring())
    for _ in range(MAX_PINGS):
        await near.send(PING)
        assert await near.receive() == PING
    await near.send(PING)
    with pytest.raises(LinkError):
        await near.receive()
    await task
