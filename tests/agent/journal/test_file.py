"""The journal in a folder: what it keeps, for how long, and what that costs."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from agent.errors import ConfigError, JournalUnavailable
from agent.journal import writer
from agent.journal.base import Entry, Resolution
from agent.journal.file import FOLDER, FileJournal
from agent.journal.records import SMALL_OUTPUT_BYTES
from protocol.limits import REMEMBERS
from tests.agent.journal.commands import AT, claim, command_id, reading, succeeded
from tests.agent.journal.disks import MemoryDisk


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[FileJournal]:
    opened = await FileJournal.open(tmp_path)
    yield opened
    await opened.close()


class Syncs:
    """Counts what is asked of the system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._real = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, descriptor: int) -> None:
        self.count += 1
        self._real(descriptor)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


async def until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(20):
        await condition.wait()


# --- one command ----------------------------------------------------------------------------------


async def test_a_command_from_its_beginning_until_the_broker_has_it(journal: FileJournal) -> None:
    assert journal.find(command_id(1)) is None
    await journal.begin(claim(1))
    assert journal.find(command_id(1)) == Entry(claim(1))
    await journal.keep_rows(command_id(1), b'{"n":1}\n', 0)
    await journal.end(command_id(1), succeeded(1), b'{"order_no":"A1"}', AT)
    ended = Entry(claim(1), succeeded(1), outputs=b'{"order_no":"A1"}', rows=b'{"n":1}\n', ended_at=AT)
    assert journal.find(command_id(1)) == ended
    assert list(journal.unacknowledged()) == [ended]
    journal.acknowledge(command_id(1))
    assert list(journal.unacknowledged()) == []
    kept = msgspec.structs.replace(ended, claim=claim(1, params=b""), rows=None, acknowledged=True)
    assert journal.find(command_id(1)) == kept
    assert kept.state == "acknowledged"


async def test_another_attempt_takes_the_place_of_the_one_before(journal: FileJournal) -> None:
    await journal.begin(claim(1))
    await journal.begin(claim(2))
    await journal.end(command_id(1), succeeded(1), b"{}", AT)
    await journal.begin(claim(1, epoch=2))
    assert list(journal.unacknowledged()) == [Entry(claim(2)), Entry(claim(1, epoch=2))]


async def test_an_end_after_the_brokers_word_is_known_but_not_told_again(journal: FileJournal) -> None:
    await journal.begin(claim(1))
    journal.acknowledge(command_id(1))
    await journal.end(command_id(1), succeeded(1), b"{}", AT)
    assert list(journal.unacknowledged()) == []
    found = journal.find(command_id(1))
    assert found is not None
    assert (found.state, found.completed) == ("acknowledged", succeeded(1))


@pytest.mark.parametrize("acknowledged", [False, True])
async def test_a_persons_word_stays_with_the_command(tmp_path: Path, acknowledged: bool) -> None:
    word = Resolution(True, "alice", "order 4711 is there", AT)
    journal = await FileJournal.open(tmp_path)
    await journal.begin(claim(1))
    if acknowledged:
        journal.acknowledge(command_id(1))
    await journal.resolve(command_id(1), word)
    await journal.close()
    journal = await FileJournal.open(tmp_path)
    found = journal.find(command_id(1))
    assert found is not None
    assert (found.resolution, found.acknowledged) == (word, acknowledged)
    await journal.close()


async def test_what_was_never_begun_has_no_end(journal: FileJournal) -> None:
    with pytest.raises(KeyError):
        await journal.end(command_id(1), succeeded(1), b"{}", AT)
    with pytest.raises(KeyError):
        await journal.keep_rows(command_id(1), b"", 1)
    with pytest.raises(KeyError):
        await journal.resolve(command_id(1), Resolution(True, "alice", "", AT))
    journal.acknowledge(command_id(1))
    assert journal.find(command_id(1)) is None
    assert journal.trouble is None


async def test_a_beginning_nobody_waits_for_any_more_can_be_ended(journal: FileJournal) -> None:
    beginning = asyncio.ensure_future(journal.begin(claim(1)))
    await asyncio.sleep(0)  # lets it ask
    beginning.cancel()
    await journal.end(command_id(1), succeeded(1), b"{}", AT)
    assert [entry.state for entry in journal.unacknowledged()] == ["ended"]


@pytest.mark.parametrize(("size", "kept"), [(SMALL_OUTPUT_BYTES, True), (SMALL_OUTPUT_BYTES + 1, False)])
async def test_outputs_are_remembered_while_they_are_small(journal: FileJournal, size: int, kept: bool) -> None:
    await journal.begin(claim(1))
    await journal.end(command_id(1), succeeded(1), b"x" * size, AT)
    journal.acknowledge(command_id(1))
    found = journal.find(command_id(1))
    assert found is not None
    assert (found.outputs is not None) == kept


# --- restarts -------------------------------------------------------------------------------------


async def test_all_of_it_is_there_after_a_restart_under_the_same_mark(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path)
    mark = journal.mark
    for number in range(5):
        await journal.begin(claim(number))
    await journal.keep_rows(command_id(1), b"", 70_000)
    await journal.end(command_id(2), succeeded(2), b"{}", AT)
    await journal.end(command_id(3), succeeded(3), b"{}", AT)
    journal.acknowledge(command_id(3))
    journal.note(claim(9, effect="read"), succeeded(9), AT)
    before = [journal.find(command_id(number)) for number in range(10)]
    await journal.close()
    for _ in range(writer.SEGMENTS + 3):
        journal = await FileJournal.open(tmp_path)
        assert [journal.find(command_id(number)) for number in range(10)] == before
        assert (journal.mark, journal.damages) == (mark, ())
        await journal.begin(claim(4))  # makes a new segment each time
        assert journal.position > 10
        await journal.close()
    assert len(list((tmp_path / FOLDER).iterdir())) <= writer.SEGMENTS + 1


async def test_a_journal_that_is_gone_comes_back_under_another_mark(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path)
    mark = journal.mark
    await journal.begin(claim(1))
    await journal.close()
    for path in (tmp_path / FOLDER).iterdir():
        path.unlink()
    (tmp_path / FOLDER).rmdir()
    journal = await FileJournal.open(tmp_path)
    assert journal.mark not in ("", mark)
    assert journal.find(command_id(1)) is None
    await journal.close()


@pytest.mark.parametrize("harm", ["missing", "emptied", "cut in its beginning", "put in front"])
async def test_a_file_that_is_not_as_it_was_changes_the_mark_and_keeps_the_rest(tmp_path: Path, harm: str) -> None:
    for number in range(3):
        journal = await FileJournal.open(tmp_path)
        mark = journal.mark
        await journal.begin(claim(number))
        await journal.close()
    second = tmp_path / FOLDER / "000002.log"
    data = second.read_bytes()
    if harm == "missing":
        second.unlink()
    elif harm == "put in front":
        second.write_bytes(b"x" + data)
    else:
        second.write_bytes(data[: 0 if harm == "emptied" else 20])
    journal = await FileJournal.open(tmp_path)
    assert journal.mark != mark
    assert journal.damages
    assert journal.position == 3
    there = {command_id(0), command_id(2)} | ({command_id(1)} if harm == "put in front" else set())
    assert {entry.claim.id for entry in journal.unacknowledged()} == there
    mark = journal.mark
    await journal.close()
    journal = await FileJournal.open(tmp_path)
    assert (journal.mark, journal.damages) == (mark, ())
    await journal.close()


async def test_a_second_agent_is_told_that_there_is_one(journal: FileJournal, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another agent runs with this state_dir"):
        await FileJournal.open(tmp_path)
    script = (
        "import asyncio, pathlib, sys\nfrom agent.journal.file import FileJournal\n"
        "try:\n    asyncio.run(FileJournal.open(pathlib.Path(sys.argv[1])))\n"
        "except Exception as exc:\n    print(exc)"
    )
    there = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "another agent runs with this state_dir" in there.stdout
    await journal.close()
    again = await FileJournal.open(tmp_path)
    await again.close()


async def test_after_its_end_it_keeps_nothing(journal: FileJournal) -> None:
    await journal.close()
    with pytest.raises(JournalUnavailable, match="closed"):
        await journal.begin(claim(1))
    await journal.close()


# --- what it costs --------------------------------------------------------------------------------


async def test_each_step_of_a_command_is_synced_once(journal: FileJournal, syncs: Syncs) -> None:
    await journal.begin(claim(0))
    steps: list[Callable[[], Awaitable[None]]] = [
        lambda: journal.begin(claim(1)),
        lambda: journal.keep_rows(command_id(1), b"row\n", 0),
        lambda: journal.end(command_id(1), succeeded(1), b"{}", AT),
    ]
    for step in steps:
        before = syncs.count
        await step()
        assert syncs.count == before + 1


async def test_those_who_wait_together_are_synced_together(journal: FileJournal, syncs: Syncs, tmp_path: Path) -> None:
    await journal.begin(claim(0))
    before = syncs.count
    await asyncio.gather(*(journal.begin(claim(number)) for number in range(1, 301)))
    assert syncs.count - before <= 20
    assert len(reading(tmp_path).index.open) == 301


async def test_what_nobody_waits_for_is_written_soon_and_not_synced(
    journal: FileJournal, syncs: Syncs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SOON_S", 0.05)
    await journal.begin(claim(0))
    before = syncs.count
    journal.note(claim(1, effect="read"), succeeded(1), AT)
    async with asyncio.timeout(20):
        while command_id(1) not in (await asyncio.to_thread(reading, tmp_path)).index.remembered:
            pass
    assert syncs.count == before


async def test_the_newest_are_remembered_in_little_memory_and_few_bytes(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path)
    await journal.begin(claim(10**6))
    largest = 0
    for number in range(REMEMBERS * 2):
        journal.note(claim(number, effect="read"), succeeded(number), AT)
        if number % 1_000 == 0:
            await journal.begin(claim(10**6, epoch=number))  # what rides along is written with it
            largest = max(largest, sum(path.stat().st_size for path in (tmp_path / FOLDER).iterdir()))
    await journal.close()
    assert largest < 32 * 1_048_576
    tracemalloc.start()
    try:
        journal = await FileJournal.open(tmp_path)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 4 * 1_048_576
    assert journal.find(command_id(REMEMBERS - 1)) is None
    for number in (REMEMBERS, 2 * REMEMBERS - 1):
        found = journal.find(command_id(number))
        assert found is not None
        assert found.claim.fingerprint == claim(number).fingerprint
    assert [entry.claim.id for entry in journal.unacknowledged()] == [command_id(10**6)]
    assert journal.position == 2 * REMEMBERS + 21
    await journal.close()


# --- trouble --------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PROBE_S", 0.05)


@pytest.mark.usefixtures("impatient")
async def test_trouble_is_told_and_goes_by_itself_when_the_disk_has_space_again(tmp_path: Path) -> None:
    disk = MemoryDisk()
    changed = asyncio.Event()
    journal = await FileJournal.open(tmp_path, disk=disk, changed=changed.set)
    await journal.begin(claim(1))
    disk.failing = lambda step: errno.ENOSPC if step == "write" else None
    with pytest.raises(JournalUnavailable, match="No space left on device"):
        await journal.begin(claim(2))
    await until(changed)
    assert journal.trouble is not None
    assert "No space left on device" in journal.trouble
    changed.clear()
    disk.failing = lambda step: None
    await until(changed)
    assert journal.trouble is None
    await journal.begin(claim(2))
    assert len(journal.unacknowledged()) == 2
    await journal.close()


async def test_a_remembered_record_that_went_bad_is_refused_and_then_told_by_the_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await FileJournal.open(tmp_path)
    mark = journal.mark
    await journal.begin(claim(1))
    journal.acknowledge(command_id(1))
    await journal.begin(claim(2))
    path = tmp_path / FOLDER / "000001.log"
    data = bytearray(path.read_bytes())
    data[data.rindex(command_id(1).encode())] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(JournalUnavailable, match="can't be read any more"):
        journal.find(command_id(1))
    assert journal.mark != mark
    await journal.begin(claim(3))
    assert journal.find(command_id(1)) is None
    assert journal.mark != mark
    mark = journal.mark
    await journal.close()
    found = reading(tmp_path)
    assert (found.damages, found.mark) == ([], mark)
    assert found.index.open.keys() == {command_id(2), command_id(3)}


async def test_one_that_left_before_it_was_written_does_not_come_back(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path, remembers=2)
    await journal.begin(claim(1))
    journal.acknowledge(command_id(1))
    for number in (2, 3):
        journal.note(claim(number, effect="read"), succeeded(number), AT)
    assert journal.find(command_id(1)) is None
    await journal.close()
    journal = await FileJournal.open(tmp_path, remembers=2)
    assert list(journal.unacknowledged()) == []
    assert [journal.find(command_id(number)) is not None for number in (1, 2, 3)] == [False, True, True]
    await journal.close()
