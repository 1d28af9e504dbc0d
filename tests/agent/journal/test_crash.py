"""Whatever dies when: what was answered for is there afterwards, or its loss is noticed."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.errors import JournalUnavailable
from agent.journal import writer
from agent.journal.base import Entry
from agent.journal.disk import Disk
from agent.journal.file import FOLDER, FileJournal
from agent.journal.reading import Reading
from agent.journal.records import Kept, encode
from tests.agent.journal.commands import AT, claim, command_id, reading, succeeded
from tests.agent.journal.disks import Content, MemoryDisk, cuts


async def a_day(journal: FileJournal, told: Callable[[], None] = lambda: None) -> None:
    """Some of each kind; ``told`` is called after everything that is answered for."""
    for number in range(6):
        await journal.begin(claim(number))
        told()
        if number % 3 == 0:
            await journal.keep_rows(command_id(number), b'{"n":1}\n' * 5, 0)
            told()
        if number % 2 == 0:
            await journal.end(command_id(number), succeeded(number), b'{"order_no":"A1"}', AT)
            told()
        if number == 2:
            journal.acknowledge(command_id(number))
    journal.note(claim(90, effect="read"), succeeded(90), AT)
    await journal.begin(claim(1, epoch=2))
    told()


def entries(found: dict[str, Entry]) -> dict[str, bytes]:
    return {command: encode(Kept(entry)) for command, entry in found.items()}


async def test_a_log_cut_off_anywhere_holds_what_was_before_or_tells(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path)
    path = tmp_path / FOLDER / "000001.log"
    marks: list[tuple[int, int, dict[str, bytes]]] = []  # size of the file, position, what was there
    await a_day(
        journal, lambda: marks.append((path.stat().st_size, journal.position, entries(reading(tmp_path).index.open)))
    )
    mark = journal.mark
    await journal.close()
    data = path.read_bytes()
    for size in range(len(data), -1, -1):
        found = reading(tmp_path, OtherDisk(data[:size]))
        before = [moment for moment in marks if moment[0] <= size]
        if not found.damages and found.mark == mark:
            assert found.position >= (before[-1][1] if before else 0)
            if before and before[-1][0] == size:
                assert entries(found.index.open) == before[-1][2]
        else:
            assert not before, "only what stands before the first event is needed whole"
    assert [size for size, _, _ in marks] == sorted(size for size, _, _ in marks)


async def test_any_flipped_bit_costs_one_record_and_is_noticed(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path)
    await a_day(journal)
    await journal.close()
    path = tmp_path / FOLDER / "000001.log"
    data = path.read_bytes()
    whole = reading(tmp_path)
    good = entries(whole.index.open) | entries({k: v for k, v in whole.index.remembered.items() if type(v) is Entry})
    for offset in range(len(data)):
        flipped = bytearray(data)
        flipped[offset] ^= 1 << offset % 8
        disk = OtherDisk(bytes(flipped))
        found = reading(tmp_path, disk)
        assert found.damages, offset
        # One record less: the entries of all other commands are as they were.
        left = entries(found.index.open) | entries(
            {k: v for k, v in found.index.remembered.items() if type(v) is Entry}
        )
        wrong = {command for command in good | left if left.get(command) != good.get(command)}
        assert len(wrong) <= 1, offset


class OtherDisk(Disk):
    """What is read from it is not what was written."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        return self._data[offset:] if size < 0 else self._data[offset : offset + size]


async def test_after_a_damage_the_journal_goes_on_under_another_mark_with_what_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = await FileJournal.open(tmp_path)
    mark = journal.mark
    await a_day(journal)
    position = journal.position
    await journal.close()
    path = tmp_path / FOLDER / "000001.log"
    data = bytearray(path.read_bytes())
    data[data.index(command_id(3).encode())] ^= 1
    path.write_bytes(bytes(data))
    with caplog.at_level(logging.ERROR):
        journal = await FileJournal.open(tmp_path)
    assert journal.mark != mark
    assert journal.position == position
    assert journal.find(command_id(3)) is None
    assert {entry.claim.id for entry in journal.unacknowledged()} == {command_id(number) for number in (0, 1, 4, 5)}
    (aside,) = (tmp_path / FOLDER).glob("set-aside-*")
    assert b"create-order" in aside.read_bytes()
    assert [record.__dict__["event"] for record in caplog.records] == ["journal_damaged", "journal_damaged"]
    assert caplog.records[0].__dict__["file"] == "000001.log"
    assert caplog.records[0].__dict__["offset"] > 0
    renewed = journal.mark
    await journal.close()
    journal = await FileJournal.open(tmp_path)
    assert (journal.mark, journal.damages) == (renewed, ())
    await journal.close()


@dataclass
class Moment:
    """
    Attributes:
        content: of the disk.
        answers: how many things had been answered for.
    """

    content: Content
    answers: int


@dataclass
class Past:
    """
    What happened, and what was answered for.

    Attributes:
        known: after each answer, all entries that the broker still wants, and the position.
    """

    mark: str
    moments: list[Moment]
    known: list[tuple[dict[str, bytes], int]]

    def check(self, found: Reading, moment: Moment) -> None:
        """What was answered for is there, with at most what was asked for next besides."""
        assert found.damages == []
        assert found.mark == self.mark
        now, position = self.known[moment.answers]
        soon, _ = self.known[min(moment.answers + 1, len(self.known) - 1)]
        assert found.position >= position
        there = entries(found.index.open)
        for command, entry in now.items():
            if command not in found.index.remembered:  # the broker's word was on its way to the disk
                assert there[command] in (entry, soon.get(command))
            else:
                assert command not in soon


async def powered(tmp_path: Path, days: int) -> Past:
    """Run for some days, with a look at the disk after each of its steps."""
    disk = MemoryDisk()
    journal = await FileJournal.open(tmp_path, disk=disk, remembers=4)
    past = Past(journal.mark, [], [({}, journal.position)])

    def told() -> None:
        known = entries({entry.claim.id: entry for entry in journal.unacknowledged()})
        past.known.append((known, journal.position))

    disk.watch = lambda: past.moments.append(Moment(deepcopy(disk.content), len(past.known) - 1))
    for _ in range(days):
        await a_day(journal, told)
    await journal.close()
    return past


@pytest.mark.parametrize("segments", [1, 100])
async def test_after_a_power_cut_at_any_moment_all_that_was_answered_for_is_there(
    tmp_path: Path, segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if segments == 1:  # then it is written anew all the time
        monkeypatch.setattr(writer, "REWRITE_BYTES", 500)
    past = await powered(tmp_path, 4)
    assert len(past.moments) > 80
    for number, moment in enumerate(past.moments):
        for left in cuts(moment.content, number, 6):
            past.check(reading(tmp_path, MemoryDisk(left)), moment)


async def test_a_journal_goes_on_after_a_power_cut_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "REWRITE_BYTES", 500)
    past = await powered(tmp_path, 2)
    for number, moment in enumerate(past.moments):
        for left in cuts(moment.content, number, 1):
            disk = MemoryDisk(left)
            journal = await FileJournal.open(tmp_path, disk=disk)
            assert journal.mark == past.mark
            assert journal.trouble is None
            there = entries({entry.claim.id: entry for entry in journal.unacknowledged()})
            position = journal.position
            await journal.begin(claim(50))
            assert journal.position == position + 1
            await journal.close()
            again = reading(tmp_path, MemoryDisk(next(iter(cuts(disk.content, number, 0)))))
            past.check(again, moment)
            assert entries(again.index.open) == there | entries({command_id(50): Entry(claim(50))})


@pytest.mark.parametrize("step", ["write", "sync", "create", "open", "rename", "sync folder", "folder"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_fails_refuses_and_works_again_when_it_does(
    tmp_path: Path, step: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PROBE_S", 3600.0)
    disk = MemoryDisk()
    journal = await FileJournal.open(tmp_path, disk=disk)
    mark = journal.mark
    await journal.begin(claim(1))
    await journal.close()
    journal = await FileJournal.open(tmp_path, disk=disk)  # so the first write makes a new file
    disk.failing = lambda asked: number if asked == step else None
    for attempt in range(3):
        with pytest.raises(JournalUnavailable) as caught:
            await journal.begin(claim(2 + attempt))
        assert not caught.value.touched
        assert journal.find(command_id(2 + attempt)) is None
        assert journal.trouble is not None
        assert "can't be written" in journal.trouble
    assert journal.position == 1
    disk.failing = lambda asked: None
    await journal.begin(claim(9))
    assert journal.trouble is None
    assert journal.position == 2
    await journal.close()
    found = reading(tmp_path, disk)
    assert (found.damages, found.mark, found.position) == ([], mark, 2)
    assert found.index.open.keys() == {command_id(1), command_id(9)}


@pytest.mark.parametrize("step", ["write", "sync"])
async def test_a_failure_in_the_middle_of_a_file_leaves_nothing_to_believe(tmp_path: Path, step: str) -> None:
    disk = MemoryDisk()
    journal = await FileJournal.open(tmp_path, disk=disk)
    await journal.begin(claim(1))
    # Not even the cutting off works then; what stands behind the last good record must be void by itself.
    disk.failing = lambda asked: errno.EIO if asked in (step, "cut") else None
    with pytest.raises(JournalUnavailable, match="Input/output"):
        await journal.begin(claim(2))
    disk.failing = lambda asked: None
    await journal.end(command_id(1), succeeded(1), b"{}", AT)
    await journal.close()
    for left in cuts(disk.content, 1, 3):
        found = reading(tmp_path, MemoryDisk(left))
        assert found.damages == []
        assert found.index.open.keys() == {command_id(1)}
        assert found.index.open[command_id(1)].state == "ended"


async def test_what_nobody_waited_for_is_kept_once_the_disk_works_again(tmp_path: Path) -> None:
    disk = MemoryDisk()
    journal = await FileJournal.open(tmp_path, disk=disk)
    await journal.begin(claim(1))
    await journal.end(command_id(1), succeeded(1), b"{}", AT)
    disk.failing = lambda asked: errno.ENOSPC if asked == "write" else None
    journal.acknowledge(command_id(1))
    journal.note(claim(2, effect="read"), succeeded(2), AT)
    with pytest.raises(JournalUnavailable):
        await journal.begin(claim(3))
    disk.failing = lambda asked: None
    await journal.begin(claim(4))
    await journal.close()
    found = reading(tmp_path, disk)
    assert list(found.index.remembered) == [command_id(1), command_id(2)]
    assert list(found.index.open) == [command_id(4)]


async def test_a_journal_that_can_not_renew_its_mark_offers_the_new_one_and_refuses_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PROBE_S", 3600.0)
    disk = MemoryDisk()
    disk.failing = lambda asked: errno.ENOSPC if asked == "write" else None
    journal = await FileJournal.open(tmp_path, disk=disk)
    mark = journal.mark
    assert mark
    assert journal.trouble is not None
    with pytest.raises(JournalUnavailable):
        await journal.begin(claim(1))
    disk.failing = lambda asked: None
    await journal.begin(claim(1))
    assert journal.mark == mark
    assert journal.trouble is None
    await journal.close()
    assert reading(tmp_path, disk).mark == mark
