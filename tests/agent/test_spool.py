"""What a command left is there again: after a lost link, after a crash, and on a disk that was full for a while."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import sys
from pathlib import Path

import pytest

from agent import spool as spooling
from agent.connectors.base import Column
from agent.errors import OutcomeUnknown
from agent.results import Result
from agent.spool import SMALL_BYTES, Spool, SpoolFolder
from protocol.codec import Record
from protocol.errors import RemoteProtocolError
from protocol.messages import Chunk, Completed, RowSetBegins, RowSetDone

COLUMNS = (Column("a", "string"),)
SIZES = [
    pytest.param([10, 0, 20], id="small"),
    pytest.param([200_000], id="one large"),
    pytest.param([30_000, 30_000, 300_000, 5], id="grows large"),
]


@pytest.fixture
def folder(tmp_path: Path) -> SpoolFolder:
    made = SpoolFolder(tmp_path / "spool", 4_000_000)
    made.open(set())
    return made


async def filled(folder: SpoolFolder, sizes: list[int]) -> tuple[Result, Spool, bytes]:
    """Return a result of one row set for each size, its spool, and all its bytes."""
    result = Result("cmd_1", 1, lambda: None)
    spool = result.spool(folder)
    whole = b""
    for number, size in enumerate(sizes):
        await result.begin(COLUMNS)
        whole += (piece := bytes([65 + number]) * size)
        if piece:
            await result.rows(piece, 1)
    return result, spool, whole


def ended(result: Result) -> Completed:
    completed = Completed("cmd_1", 1, "succeeded", row_sets=result.manifest())
    result.complete(completed, b"{}")
    return completed


def send_all(result: Result) -> list[Record]:
    sent = []
    while (record := result.head()) is not None:
        sent.append(record)
        result.sent()
    return sent


def body(records: list[Record]) -> bytes:
    return b"".join(bytes(record.payload) for record in records if isinstance(record.message, Chunk))


@pytest.mark.parametrize("sizes", SIZES)
async def test_all_of_it_can_be_sent_again_from_every_place(folder: SpoolFolder, sizes: list[int]) -> None:
    result, spool, whole = await filled(folder, sizes)
    completed = ended(result)
    first = send_all(result)
    assert body(first) == whole
    assert first[-1].message == completed
    ends = [r.message.offset + len(r.payload) for r in first if isinstance(r.message, Chunk)]
    for offset in [0, *ends]:
        result.resume(offset)
        again = send_all(result)
        assert body(again) == whole[offset:]
        assert again[-1].message == completed
        begun = [r.message.index for r in again if isinstance(r.message, RowSetBegins)]
        assert begun == [i for i in range(len(sizes)) if sum(sizes[:i]) >= offset]
    assert result.first == 0
    spool.close()


async def test_it_may_be_sent_while_it_grows(folder: SpoolFolder) -> None:
    result = Result("cmd_1", 1, lambda: None)
    spool = result.spool(folder)
    await result.begin(COLUMNS)
    sent, whole = [], b""
    for number in range(40):
        whole += (piece := bytes([number]) * 7_000)
        await result.rows(piece, 1)
        sent += send_all(result)
        if number == 20:
            result.resume(0)
            sent.clear()
    ended(result)
    assert body(sent + send_all(result)) == whole
    spool.close()


@pytest.mark.parametrize("sizes", SIZES)
async def test_another_process_finds_it_whole(folder: SpoolFolder, sizes: list[int]) -> None:
    result, spool, whole = await filled(folder, sizes)
    rows, spooled = await spool.keep()
    assert (spooled > 0) == (sum(sizes) > SMALL_BYTES)
    spool.close()
    later = SpoolFolder(folder.path, 4_000_000)
    later.open({"cmd_1"})
    again = Result("cmd_1", 1, lambda: None)
    again.restore(Spool.restored(later, "cmd_1", rows, spooled))
    assert later.used == spooled
    assert again.held().sent == sum(sizes)
    assert again.manifest() == result.manifest()
    ended(again)
    assert body(send_all(again)) == whole
    again.abandon()
    assert later.used == 0
    assert list(later.path.iterdir()) == []


async def test_what_came_after_it_was_kept_is_cut_off(folder: SpoolFolder) -> None:
    _, spool, whole = await filled(folder, [200_000])
    rows, spooled = await spool.keep()
    spool.close()
    with folder.file("cmd_1").open("ab") as file:
        file.write(b"half a record")
    again = Result("cmd_1", 1, lambda: None)
    again.restore(Spool.restored(folder, "cmd_1", rows, spooled))
    ended(again)
    assert body(send_all(again)) == whole
    again.abandon()


@pytest.mark.parametrize("harm", ["gone", "short", "flipped"])
async def test_a_file_that_is_not_what_it_was_is_named(folder: SpoolFolder, harm: str) -> None:
    _, spool, _ = await filled(folder, [200_000])
    rows, spooled = await spool.keep()
    spool.close()
    path = folder.file("cmd_1")
    if harm == "gone":
        path.unlink()
    elif harm == "short":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.write_bytes(b"\xff" + path.read_bytes()[1:])
    again = Result("cmd_1", 1, lambda: None)
    with pytest.raises(OutcomeUnknown, match="cmd_1"):
        again.restore(Spool.restored(folder, "cmd_1", rows, spooled))


async def test_files_that_nobody_wants_are_removed_at_the_start(folder: SpoolFolder) -> None:
    for name in ("cmd_1", "cmd_2"):
        folder.file(name).write_bytes(b"x")
    SpoolFolder(folder.path).open({"cmd_2"})
    assert [file.name for file in folder.path.iterdir()] == ["cmd_2"]


async def test_sources_wait_for_each_other_s_room(tmp_path: Path) -> None:
    folder = SpoolFolder(tmp_path, 300_000)
    first, _, _ = await filled(folder, [200_000])
    second = Result("cmd_2", 1, lambda: None)
    second.spool(folder)
    await second.begin(COLUMNS)
    filling = asyncio.create_task(second.rows(b"x" * 200_000, 1))
    await asyncio.wait((filling,), timeout=0.05)
    assert not filling.done()
    first.abandon()
    await filling
    second.abandon()
    assert folder.used == 0


async def test_a_result_larger_than_all_the_room_is_refused(tmp_path: Path) -> None:
    result = Result("cmd_1", 1, lambda: None)
    result.spool(SpoolFolder(tmp_path, 100_000))
    await result.begin(COLUMNS)
    with pytest.raises(OutcomeUnknown, match="larger than the 100000 bytes"):
        await result.rows(b"x" * 200_000, 1)
    result.abandon()


async def test_a_full_disk_is_waited_for(folder: SpoolFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "ROOM_S", 0.01)
    tried = 0
    append = Spool._append

    def full(self: Spool, data: bytes) -> None:
        nonlocal tried
        tried += 1
        if tried in (2, 3):
            append(self, data[: len(data) // 2])
            assert self._writer is not None
            self._writer.truncate(self._size)
            self._writer.seek(self._size)
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, data)

    monkeypatch.setattr(Spool, "_append", full)
    result, _, whole = await filled(folder, [200_000])
    ended(result)
    assert tried > 3
    assert body(send_all(result)) == whole
    result.abandon()


async def test_a_broken_disk_is_told(folder: SpoolFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Spool, data: bytes) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Spool, "_append", broken)
    with pytest.raises(OutcomeUnknown, match="Input/output error"):
        await filled(folder, [200_000])
    assert folder.used == 0


async def test_what_is_dropped_in_the_middle_of_a_write_leaves_nothing(folder: SpoolFolder) -> None:
    result = Result("cmd_1", 1, lambda: None)
    result.spool(folder)
    await result.begin(COLUMNS)
    filling = asyncio.create_task(result.rows(b"x" * 1_000_000, 1))
    await asyncio.sleep(0)  # lets the write begin
    result.abandon()
    await filling
    await result.rows(b"more", 1)
    assert folder.used == 0
    assert list(folder.path.iterdir()) == []


async def test_a_place_where_no_chunk_begins_is_refused(folder: SpoolFolder) -> None:
    result, _, _ = await filled(folder, [200_000])
    with pytest.raises(RemoteProtocolError, match="byte 5"):
        result.resume(5)
    result.abandon()


async def test_the_manifest_is_that_of_the_bytes(folder: SpoolFolder) -> None:
    result, _, _ = await filled(folder, [200_000, 3])
    assert result.manifest() == [
        RowSetDone(200_000, 1, hashlib.sha256(b"A" * 200_000).hexdigest()),
        RowSetDone(3, 1, hashlib.sha256(b"BBB").hexdigest()),
    ]
    result.abandon()


@pytest.mark.parametrize("place", [5, 100_000, 230_000])
async def test_a_bit_that_flips_in_the_file_is_told_and_costs_the_rows_only(folder: SpoolFolder, place: int) -> None:
    result, _, _ = await filled(folder, [200_000, 40_000])
    ended(result)
    path = folder.file("cmd_1")
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
    last = send_all(result)[-1].message
    assert isinstance(last, Completed)
    assert (last.outcome, last.error_code) == ("in_doubt", "result_lost")
    result.resume(0)
    assert [record.message for record in send_all(result)] == [last]
    result.abandon()


async def test_a_result_that_outgrew_its_room_can_go_on_at_its_last_whole_byte(folder: SpoolFolder) -> None:
    result, _, whole = await filled(folder, [200_000])
    with pytest.raises(OutcomeUnknown, match="larger than"):
        await result.rows(b"x" * 8_000_000, 1)
    result.complete(Completed("cmd_1", 1, "in_doubt"), b"")
    sent = sum(len(record.payload) for record in send_all(result) if isinstance(record.message, Chunk))
    assert len(whole) <= sent == result.held().sent < result.came
    result.resume(sent)
    assert [type(record.message) for record in send_all(result)] == [Completed]
    result.abandon()


async def test_a_file_of_rows_that_is_gone_ends_its_command_in_doubt_and_not_the_link(folder: SpoolFolder) -> None:
    for step in ("sent", "resumed"):
        result, _, _ = await filled(folder, [200_000])
        ended(result)
        if sys.platform == "win32":
            with pytest.raises(PermissionError):
                folder.file("cmd_1").unlink()  # Windows keeps it while it is in use
            result.abandon()
            return
        folder.file("cmd_1").unlink()
        if step == "resumed":
            result.resume(0)
        assert [type(record.message) for record in send_all(result)] == [Completed]
        assert result.last is not None
        assert (result.last.outcome, result.last.error_code) == ("in_doubt", "result_lost")
        result.abandon()


async def test_what_can_not_be_removed_keeps_no_agent_from_starting(folder: SpoolFolder) -> None:
    (folder.path / "somebody").mkdir()
    (folder.path / "old").touch()
    folder.open(set())
    assert not (folder.path / "old").exists()
