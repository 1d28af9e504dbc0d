"""Look-ups asked for at the same time are one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cloud_broker.store.gathered import Gathered


async def test_what_is_asked_for_at_once_is_looked_up_once_and_each_gets_its_own() -> None:
    batches: list[list[int]] = []

    async def double(asked: Sequence[int]) -> list[int]:
        batches.append(list(asked))
        return [2 * one for one in asked]

    gathered = Gathered(double)
    assert await gathered.one(1) == 2
    left, *rest = (gathered.one(number) for number in (2, 3, 4))
    left.cancel()
    assert await asyncio.gather(*rest) == [6, 8]
    assert batches == [[1], [2, 3, 4]]


async def test_everybody_who_asked_hears_why_nothing_can_be_looked_up() -> None:
    async def fail(asked: Sequence[int]) -> Sequence[int]:
        raise OSError(f"{len(asked)} not found")

    gathered = Gathered(fail)
    found = await asyncio.gather(gathered.one(1), gathered.one(2), return_exceptions=True)
    assert [str(exc) for exc in found] == ["2 not found"] * 2
    with pytest.raises(OSError, match="1 not found"):
        await gathered.one(3)
