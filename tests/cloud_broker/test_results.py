"""Results at the broker: stored as they arrive, read while they arrive."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from cloud_broker import results
from cloud_broker.errors import ResultGone
from cloud_broker.results import LiveResult
from cloud_broker.tenants import Scope
from protocol.messages import ColumnInfo, RowSetBegins, RowSetDone
from tests.waiting import until

INLINE = 1_000


def live(folder: Path, max_bytes: int = 1_000_000) -> LiveResult:
    return LiveResult(folder / "aa" / "cmd_1", INLINE, max_bytes)


def begins(index: int, offset: int) -> RowSetBegins:
    return RowSetBegins("cmd_1", 1, index, offset, [ColumnInfo("a", "string")])


def done(data: bytes, rows: int) -> RowSetDone:
    return RowSetDone(len(data), rows, hashlib.sha256(data).hexdigest())


def ignored(size: int) -> None:
    """Nobody counts."""


async def read(result: LiveResult, index: int = 0) -> bytes:
    return b"".join([piece async for piece in result.chunks(index)])


@pytest.mark.parametrize("size", [0, 10, INLINE, INLINE + 1, 300_000])
async def test_what_is_read_while_it_arrives_is_what_is_kept(tmp_path: Path, size: int) -> None:
    result = live(tmp_path)
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    result.begin(begins(0, 0))
    reading = asyncio.ensure_future(read(result))
    for start in range(0, size, 7_000):
        result.append(data[start : start + 7_000], 1, ignored)
        await asyncio.sleep(0)
    rows = len(range(0, size, 7_000))
    row_sets, inline = await result.complete([done(data, rows)])
    result.end()
    assert await reading == data
    assert row_sets[0].bytes == size
    assert inline == (data if size <= INLINE else None)
    assert result.path.exists() is (size > INLINE)
    if inline is None:
        assert result.path.read_bytes() == data


def test_a_type_that_no_column_has_costs_little(tmp_path: Path) -> None:
    result = live(tmp_path)
    result.begin(RowSetBegins("cmd_1", 1, 0, 0, [ColumnInfo("a", "x" * 1_000_000)]))
    assert len(result.row_sets()[0].columns[0]["type"]) == results.MAX_TYPE_CHARS


async def test_row_sets_are_kept_apart(tmp_path: Path) -> None:
    result = live(tmp_path)
    parts = [b"a" * 600, b"", b"c" * 900]
    offset = 0
    for index, part in enumerate(parts):
        result.begin(begins(index, offset))
        if part:
            result.append(part, 1, ignored)
        offset += len(part)
    await result.complete([done(part, int(bool(part))) for part in parts])
    result.end()
    assert [await read(result, index) for index in range(3)] == parts
    assert await result.set_begun(3) is None


async def test_a_row_set_told_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    result = live(tmp_path)
    result.begin(begins(0, 0))
    result.begin(begins(0, 0))
    assert len(result.row_sets()) == 1


LIES = [
    ("a byte less", lambda d: RowSetDone(len(d) - 1, 1, hashlib.sha256(d).hexdigest())),
    ("a row more", lambda d: RowSetDone(len(d), 2, hashlib.sha256(d).hexdigest())),
    ("other bytes", lambda d: RowSetDone(len(d), 1, hashlib.sha256(b"other").hexdigest())),
]


@pytest.mark.parametrize(("about", "lie"), LIES, ids=[about for about, _ in LIES])
@pytest.mark.parametrize("size", [10, 5_000])
async def test_rows_that_do_not_agree_with_the_manifest_are_no_success(
    tmp_path: Path, about: str, lie: object, size: int
) -> None:
    assert callable(lie)
    result = live(tmp_path)
    result.begin(begins(0, 0))
    result.append(b"x" * size, 1, ignored)
    with pytest.raises(ResultGone, match="not those that were sent"):
        await result.complete([lie(b"x" * size)])


async def test_bytes_are_granted_again_once_they_are_stored(tmp_path: Path) -> None:
    result = live(tmp_path)
    granted = 0

    def stored(size: int) -> None:
        nonlocal granted
        granted += size
        assert granted <= result.taken

    result.begin(begins(0, 0))
    for _ in range(20):
        result.append(b"x" * 10_000, 1, stored)
    await result.flushed()
    assert granted == 200_000
    result.cut("over")


async def test_a_result_beyond_its_limit_is_cut_and_lets_the_rest_pass(tmp_path: Path) -> None:
    result = live(tmp_path, max_bytes=50_000)
    told = 0

    def on_cut() -> None:
        nonlocal told
        told += 1

    result.on_cut = on_cut
    granted: list[int] = []
    result.begin(begins(0, 0))
    for _ in range(10):
        result.append(b"x" * 10_000, 1, granted.append)
        await result.flushed()
    assert told == 1
    assert sum(granted) == 100_000, "the agent is never left without credit"
    with pytest.raises(ResultGone, match="larger than 50000"):
        await result.complete([])


async def test_a_folder_that_can_not_be_written_cuts_the_result(tmp_path: Path) -> None:
    (tmp_path / "aa").write_text("a file where a folder should be")
    result = live(tmp_path)
    result.begin(begins(0, 0))
    result.append(b"x" * 5_000, 1, ignored)
    await result.flushed()
    with pytest.raises(ResultGone, match="could not keep"):
        await result.complete([])


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A disk that takes half of each write, and then no more, until it is told that there is room."""
    room = threading.Event()
    write_all = results._write_all

    def writes(file: BinaryIO, data: bytes | bytearray) -> None:
        if not room.is_set():
            write_all(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(file, data)

    monkeypatch.setattr(results, "_write_all", writes)
    monkeypatch.setattr(results, "FULL_RETRY_S", 0.01)
    return room


async def test_a_full_disk_holds_a_result_up_and_loses_nothing_of_it(
    tmp_path: Path, full: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    result = live(tmp_path)
    granted: list[int] = []
    result.begin(begins(0, 0))
    reading = asyncio.ensure_future(read(result))
    parts = [bytes([65 + number]) * 800 for number in range(20)]
    for part in parts:
        result.append(part, 1, granted.append)
    await until(lambda: any(getattr(record, "event", "") == "results_full" for record in caplog.records))
    assert granted == [800], "what is not stored is not granted again"
    completing = asyncio.ensure_future(result.complete([done(b"".join(parts), 20)]))
    full.set()
    await completing
    result.end()
    assert await reading == result.path.read_bytes() == b"".join(parts)
    assert sum(granted) == 16_000
    assert len([record for record in caplog.records if getattr(record, "event", "") == "results_full"]) == 1


async def test_a_command_that_ends_meanwhile_waits_for_no_room(tmp_path: Path, full: threading.Event) -> None:
    result = live(tmp_path)
    granted: list[int] = []
    told: list[None] = []
    result.on_cut = lambda: told.append(None)
    result.begin(begins(0, 0))
    result.append(b"x" * 5_000, 1, granted.append)
    await until(lambda: result.path.exists())
    result.cut("it was cancelled")
    await result.flushed()
    assert (granted, told) == ([5_000], [])
    with pytest.raises(ResultGone, match="it was cancelled"):
        await result.complete([])


@pytest.mark.parametrize("lost", [False, True])
async def test_what_a_sync_could_not_keep_is_written_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    result = live(tmp_path)
    sync, syncs = results._sync, 0

    def full_at_first(file: BinaryIO, folder: Path) -> None:
        nonlocal syncs
        syncs += 1
        if syncs == 1:
            if lost:
                os.truncate(result.path, 1_000)
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        sync(file, folder)

    monkeypatch.setattr(results, "_sync", full_at_first)
    monkeypatch.setattr(results, "FULL_RETRY_S", 0.01)
    rows = bytes(range(256)) * 3_500
    result.begin(begins(0, 0))
    result.append(rows[:600_000], 1, ignored)
    result.begin(begins(1, 600_000))
    result.append(rows[600_000:], 1, ignored)
    manifest = [done(rows[:600_000], 1), done(rows[600_000:], 1)]
    if lost:
        with pytest.raises(ResultGone, match="no longer whole"):
            await result.complete(manifest)
        return
    await result.complete(manifest)
    result.end()
    assert syncs == 2
    assert await read(result, 0) + await read(result, 1) == rows


async def test_readers_of_a_cut_result_hear_why(tmp_path: Path) -> None:
    result = live(tmp_path)
    result.begin(begins(0, 0))
    result.append(b"x" * 10, 1, ignored)
    reading = asyncio.ensure_future(read(result))
    await asyncio.sleep(0)
    result.cut("the link was lost")
    with pytest.raises(ResultGone, match="the link was lost"):
        await reading


async def test_a_result_shows_its_state(tmp_path: Path) -> None:
    result = live(tmp_path)
    result.begin(begins(0, 0))
    result.append(b"x" * 10, 1, ignored)
    assert repr(result) == "<LiveResult open, 1 row sets, 10 of 10 bytes stored>"


async def test_an_attempt_writes_nothing_while_the_one_before_it_still_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = threading.Event(), threading.Event()

    def slow(file: BinaryIO, data: bytes | bytearray) -> None:
        if data.startswith(b"a"):
            begun.set()
            go.wait(10)
        file.write(data)

    monkeypatch.setattr(results, "_write_all", slow)
    first = live(tmp_path)
    first.begin(begins(0, 0))
    first.append(b"a" * 300_000, 1, ignored)
    await asyncio.to_thread(begun.wait, 10)
    first.cut("the link was lost")
    second = LiveResult(first.path, INLINE, 1_000_000, first.writing)
    second.begin(begins(0, 0))
    second.append(b"b" * 5_000, 1, ignored)
    completing = asyncio.ensure_future(second.complete([done(b"b" * 5_000, 1)]))
    await asyncio.wait((completing,), timeout=0.05)
    go.set()
    await completing
    await first.flushed()
    second.end()
    assert await read(second) == second.path.read_bytes() == b"b" * 5_000


def test_a_file_that_can_not_be_removed_stops_nobody(tmp_path: Path) -> None:
    kept = results.Results(tmp_path, INLINE, 1_000_000)
    kept.path(Scope("acme"), "cmd_1").mkdir(parents=True)
    kept.remove(Scope("acme"), "cmd_1")
