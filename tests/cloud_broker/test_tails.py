"""The newest bytes of a result, in memory for whoever keeps up."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from pathlib import Path

import pytest

from cloud_broker.results import LiveResult
from cloud_broker.tails import TAIL_BYTES, Tail
from protocol.messages import ColumnInfo, RowSetBegins, RowSetDone


def test_what_is_read_are_the_bytes_that_are_there() -> None:
    tail = Tail()
    tail.add(b"abc", 10)
    tail.add(memoryview(b"defg"), 13)
    assert tail.read(10, 100) == b"abcdefg"
    assert tail.read(11, 14) == b"bcd"
    assert tail.read(16, 17) == b"g"
    assert [tail.read(at, 100) for at in (9, 17, 18)] == [b"", b"", b""]


def test_the_oldest_bytes_go_first_and_a_gap_ends_what_was_there() -> None:
    tail = Tail()
    part = bytes(TAIL_BYTES // 2)
    for number in range(3):
        tail.add(part, number * len(part))
    assert (tail.start, tail.end) == (len(part), 3 * len(part))
    tail.add(b"x", 5 * len(part))
    assert (tail.start, tail.read(5 * len(part), tail.end)) == (5 * len(part), b"x")
    tail.drop()
    assert tail.read(tail.end - 1, tail.end) == b""


@pytest.mark.parametrize("seed", range(8))
async def test_readers_of_any_speed_have_every_byte_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - sizes are no secret
    result = LiveResult(tmp_path / "aa" / "cmd_1", 1_000, 100_000_000)
    result.begin(RowSetBegins("cmd_1", 1, 0, 0, [ColumnInfo("a", "string")]))

    async def read(most_rounds: int) -> bytes:
        found = b""
        async for piece in result.chunks(0):
            found += piece
            for _ in range(chance.randrange(most_rounds + 1)):
                await asyncio.sleep(0)  # a round of the loop: a reader as slow as chance wants
        return found

    reading = [asyncio.ensure_future(read(rounds)) for rounds in (0, 3, 50)]
    whole, parts = b"", chance.randrange(20, 60)
    for number in range(parts):
        if number == parts // 2:
            reading.append(asyncio.ensure_future(read(1)))
        part = chance.randbytes(chance.randrange(1, 65_536))
        whole += part
        result.append(part, 1, lambda _: None)
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)  # a round of the loop: a writer as slow as chance wants
    await result.complete([RowSetDone(len(whole), parts, hashlib.sha256(whole).hexdigest())])
    result.end()
    assert await asyncio.gather(*reading) == [whole] * 4
    assert result.path.read_bytes() == whole


async def test_who_keeps_up_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = LiveResult(tmp_path / "aa" / "cmd_1", 1_000, 100_000_000)
    result.begin(RowSetBegins("cmd_1", 1, 0, 0, [ColumnInfo("a", "string")]))
    disk = threading.Event()
    write = result._write

    def stuck(data: bytes) -> None:
        assert disk.wait(30.0)
        write(data)

    monkeypatch.setattr(result, "_write", stuck)
    pieces = result.chunks(0)
    first = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)  # it waits from now on
    result.append(b"x" * 5_000, 1, lambda _: None)
    try:
        assert await asyncio.wait_for(first, 10.0) == b"x" * 5_000
        assert result.stored == 0
    finally:
        disk.set()
    await result.complete([RowSetDone(5_000, 1, hashlib.sha256(b"x" * 5_000).hexdigest())])
    result.end()
    assert [piece async for piece in pieces] == []
