"""A command's lane: filled by the dispatcher, emptied by one link after another."""

from __future__ import annotations

import asyncio
import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.connectors.base import Column
from agent.results import Result, rows_lost
from agent.spool import HIGH_BYTES, KEPT_BYTES
from protocol import limits
from protocol.codec import Record
from protocol.errors import RemoteProtocolError
from protocol.messages import Chunk, Completed, RowSetBegins, RowSetDone

COLUMNS = (Column("a", "string"),)


def result() -> Result:
    return Result("cmd_1", 1, lambda: None)


def send_all(lane: Result) -> list[Record]:
    sent = []
    while (record := lane.head()) is not None:
        sent.append(record)
        lane.sent()
    return sent


def body(records: list[Record]) -> bytes:
    return b"".join(bytes(record.payload) for record in records if isinstance(record.message, Chunk))


async def test_rows_larger_than_a_chunk_are_cut_and_counted_where_they_end() -> None:
    lane = result()
    await lane.begin(COLUMNS)
    await lane.rows(b"x" * (limits.CHUNK_BYTES + 10), 3)
    _, first, second = send_all(lane)
    assert first.message == Chunk("cmd_1", 1, 0, 0, zlib.crc32(first.payload))
    assert second.message == Chunk("cmd_1", 1, limits.CHUNK_BYTES, 3, zlib.crc32(second.payload))


async def test_the_manifest_tells_each_row_set() -> None:
    lane = result()
    await lane.begin(COLUMNS)
    await lane.rows(b"one\n", 1)
    await lane.begin(COLUMNS)
    assert lane.manifest() == [
        RowSetDone(4, 1, hashlib.sha256(b"one\n").hexdigest()),
        RowSetDone(0, 0, hashlib.sha256(b"").hexdigest()),
    ]


async def test_the_source_waits_while_too_much_is_unsent() -> None:
    lane = result()
    await lane.begin(COLUMNS)
    waiting = asyncio.ensure_future(lane.rows(b"x" * (HIGH_BYTES + 1), 1))
    await asyncio.wait((waiting,), timeout=0.01)
    assert not waiting.done()
    send_all(lane)
    await waiting


async def test_what_may_be_on_its_way_without_credit_can_always_be_sent_again() -> None:
    lane = result()
    await lane.begin(COLUMNS)
    whole = b""
    for number in range(2 * KEPT_BYTES // 50_000):
        piece = bytes([number % 256]) * 50_000
        whole += piece
        await lane.rows(piece, 1)
        send_all(lane)
    assert lane.first <= lane.end - KEPT_BYTES
    lane.resume(lane.first)
    assert body(send_all(lane)) == whole[lane.first :]
    assert lane.held().sent == len(whole)


async def test_what_the_broker_has_for_sure_is_let_go() -> None:
    lane = result()
    await lane.begin(COLUMNS)
    whole = b""
    for number in range(4):
        piece = bytes([number]) * 50_000
        whole += piece
        await lane.rows(piece, 1)
        send_all(lane)
    lane.granted(120_000)
    assert lane.first == 100_000, "chunks are kept whole"
    lane.resume(150_000)
    assert body(send_all(lane)) == whole[150_000:]
    lane.granted(50_000)
    assert lane.first == lane.end


async def test_bytes_that_wait_to_be_sent_take_no_room_from_those_that_may_be_lost() -> None:
    lane = result()
    await lane.begin(COLUMNS)
    filling = asyncio.ensure_future(_fill(lane, KEPT_BYTES // 25_000))
    sent = 0
    while not filling.done():
        await asyncio.sleep(0)
        record = lane.head()
        if record is not None and lane.end - sent > HIGH_BYTES:
            lane.sent()
            sent += len(record.payload)
            assert lane.first <= max(0, sent - KEPT_BYTES)
        elif record is not None and filling.done():
            break
    await filling


async def _fill(lane: Result, pieces: int) -> None:
    for _ in range(pieces):
        await lane.rows(b"x" * 50_000, 1)


@pytest.mark.parametrize("offset", [-1, 1, 49_999, 150_001])
async def test_a_broker_that_asks_for_what_it_was_not_told_of_is_told_so(offset: int) -> None:
    lane = result()
    await lane.begin(COLUMNS)
    await _fill(lane, 3)
    with pytest.raises(RemoteProtocolError, match=f"byte {offset}"):
        lane.resume(offset)


@given(st.lists(st.integers(0, 150_000), min_size=1, max_size=12), st.data())
def test_a_resumed_result_is_the_rest_of_the_first(sizes: list[int], data: st.DataObject) -> None:
    async def story() -> None:
        lane = result()
        whole = b""
        for number, size in enumerate(sizes):
            await lane.begin(COLUMNS)
            piece = bytes([number]) * size
            whole += piece
            filling = asyncio.ensure_future(lane.rows(piece, 1))
            while not filling.done():
                await asyncio.sleep(0)
                if data.draw(st.booleans()):
                    send_all(lane)
                elif not filling.done() and lane.head() is None:
                    break
                else:
                    send_all(lane)
            await filling
        lane.complete(Completed("cmd_1", 1, "succeeded", row_sets=lane.manifest()), b"{}")
        boundaries = [0]
        for record in send_all(lane):
            if isinstance(record.message, Chunk):
                boundaries.append(record.message.offset + len(record.payload))
        have = data.draw(st.sampled_from([b for b in boundaries if b >= lane.first] or [lane.first]))
        lane.resume(have)
        again = send_all(lane)
        assert body(again) == whole[have:]
        assert isinstance(again[-1].message, Completed)
        begun = [r.message.index for r in again if isinstance(r.message, RowSetBegins) and r.message.offset > have]
        assert begun == [i for i in range(len(sizes)) if sum(sizes[:i]) > have]

    asyncio.run(story())


async def test_a_result_shows_its_state() -> None:
    lane = result()
    await lane.begin(COLUMNS)
    await lane.rows(b"x\n", 1)
    assert repr(lane) == "<Result cmd_1 open, 0 to 2>"


@pytest.mark.parametrize("offset", [0, 5])
async def test_row_sets_at_the_offset_are_told_again(offset: int) -> None:
    lane = result()
    await lane.begin(COLUMNS)
    await lane.rows(b"12345", 1)
    await lane.begin(COLUMNS)
    send_all(lane)
    lane.resume(offset)
    again = send_all(lane)
    assert isinstance(again[0].message, RowSetBegins)
    assert again[0].message.index == (0 if offset == 0 else 1)


async def test_an_abandoned_result_never_makes_its_source_wait() -> None:
    lane = result()
    await lane.begin(COLUMNS)
    waiting = asyncio.ensure_future(lane.rows(b"x" * (HIGH_BYTES + 1), 1))
    await asyncio.sleep(0)
    lane.abandon()
    await waiting
    await lane.rows(b"x" * (HIGH_BYTES + 1), 1)
    assert lane.head() is None


def test_a_success_whose_rows_are_lost_is_not_proved_to_be_one() -> None:
    lost = rows_lost(Completed("cmd_1", 1, "succeeded", proof="a.b.c"), "the disk")
    assert (lost.outcome, lost.error_code, lost.proof) == ("in_doubt", "result_lost", "")
