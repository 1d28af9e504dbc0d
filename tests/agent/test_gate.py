"""Limits beside the ERP."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.gate import Gate
from agent.settings import SyntheticConnection
from agent.settings_reader import read
from protocol.flow import Bucket


@given(st.floats(0.1, 100), st.lists(st.floats(0, 2), min_size=1, max_size=200))
def test_a_bucket_never_lets_more_through_than_its_rate(rate: float, gaps: list[float]) -> None:
    bucket, now, passed = Bucket(rate, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        passed += bucket.take(now) == 0.0
        assert passed <= max(1.0, rate) + rate * now + 1e-6


@given(st.floats(0.1, 100))
def test_a_bucket_tells_when_to_come_again(rate: float) -> None:
    bucket, now = Bucket(rate, 0.0), 0.0
    while (wait := bucket.take(now)) == 0.0:
        pass
    assert bucket.take(now + wait * 1.000001) == 0.0


def gate(now: datetime | None = None, **settings: object) -> Gate:
    connection = read({"type": "synthetic", **settings}, SyntheticConnection)
    return Gate(connection, lambda: now or datetime(2026, 11, 21, 12, 0))


async def waits(wanted: Gate) -> bool:
    entering = asyncio.ensure_future(wanted.enter())
    await asyncio.wait((entering,), timeout=0.05)
    waiting = not entering.done()
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    return waiting


async def test_no_more_than_max_concurrent_pass() -> None:
    limited = gate(max_concurrent=2)
    await limited.enter()
    await limited.enter()
    assert await waits(limited)
    limited.leave()
    assert not await waits(limited)


@pytest.mark.parametrize(("hour", "closed"), [(12, False), (3, True)])
async def test_outside_its_window_a_connection_waits(hour: int, closed: bool) -> None:
    assert await waits(gate(datetime(2026, 11, 20, hour), windows=["mon-fri 06:00-22:00"])) is closed


async def test_one_who_gives_up_waiting_gives_the_slot_back() -> None:
    limited = gate(max_concurrent=1, rate="1/h")
    await limited.enter()
    limited.leave()
    assert await waits(limited)
    assert not limited._slots.locked()
