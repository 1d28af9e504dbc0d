"""Results at the broker: stored as they arrive, read while they arrive."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from cloud_broker import results
from cloud_broker.errors import ResultGone
from cloud_broker.results import LiveResult
from cloud_broker.tenants import Scope
from protocol.messages import ColumnInfo, RowSetBegins, RowSetDone

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
