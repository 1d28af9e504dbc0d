"""A signature that was shown belongs to one command, whatever dies, until its validity ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import tracemalloc
from pathlib import Path

import pytest

from agent.errors import JournalUnavailable, OutcomeUnknown, SignatureExpired, SignatureMemoryFull, SignatureReplayed
from agent.journal import writer
from agent.journal.base import Shown
from agent.journal.file import FileJournal
from agent.journal.memory import MemoryJournal
from agent.journal.signatures import MAX_SHOWN, PRUNE_FROM, Shows
from tests.agent.journal.commands import AT, claim, command_id, succeeded
from tests.agent.journal.disks import MemoryDisk

UNTIL = int(AT) + 600


def shown(number: int, *, key: bytes = b"k", until: int = UNTIL, at: float = AT, signer: str = "") -> Shown:
    return Shown(key, command_id(number), until, at, signer)


async def test_another_command_with_it_is_refused_and_the_same_one_is_not(tmp_path: Path) -> None:
    for journal in (await FileJournal.open(tmp_path), MemoryJournal()):
        await journal.begin(claim(1), shown(1))
        await journal.begin(claim(1, epoch=2), shown(1))
        with pytest.raises(SignatureReplayed, match=command_id(1)):
            await journal.begin(claim(2), shown(2))
        assert journal.find(command_id(2)) is None
        await journal.begin(claim(2), shown(2, key=b"another"))
        await journal.close()


async def test_of_two_that_come_together_one_has_it(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path)
    found = await asyncio.gather(
        *(journal.begin(claim(number), shown(number)) for number in range(1, 9)), return_exceptions=True
    )
    assert [type(one) for one in found if one is not None] == [SignatureReplayed] * 7
    assert len(journal.unacknowledged()) == 1
    await journal.close()


async def test_a_restart_forgets_none(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path)
    await journal.begin(claim(1), shown(1))
    await journal.show(shown(3, key=b"of a read"))
    await journal.close()
    journal = await FileJournal.open(tmp_path)
    for key, number in ((b"k", 2), (b"of a read", 4)):
        with pytest.raises(SignatureReplayed):
            await journal.begin(claim(number), shown(number, key=key))
    await journal.show(shown(3, key=b"of a read"))
    await journal.close()


async def test_a_journal_written_anew_forgets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SEGMENTS", 1)
    for number in range(1, 5):
        journal = await FileJournal.open(tmp_path)
        await journal.begin(claim(number), shown(number, key=bytes([number])))
        await journal.end(command_id(number), succeeded(number), b"{}", AT)
        await journal.close()
    journal = await FileJournal.open(tmp_path)
    assert journal.damages == ()
    assert len(list((tmp_path / "journal").glob("*.log"))) == 1
    for number in range(1, 5):
        with pytest.raises(SignatureReplayed):
            await journal.begin(claim(9), shown(9, key=bytes([number])))
    await journal.close()


async def test_a_command_that_the_journal_has_forgotten_is_not_run_again(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path, remembers=2)
    await journal.begin(claim(1), shown(1))
    await journal.end(command_id(1), succeeded(1), b"{}", AT)
    journal.acknowledge(command_id(1))
    for number in range(2, 5):
        await journal.begin(claim(number))
        await journal.end(command_id(number), succeeded(number), b"{}", AT)
        journal.acknowledge(command_id(number))
    assert journal.find(command_id(1)) is None
    with pytest.raises(OutcomeUnknown, match="so long ago"):
        await journal.begin(claim(1, epoch=2), shown(1))
    await journal.close()


async def test_what_could_not_be_kept_may_come_again(tmp_path: Path) -> None:
    disk = MemoryDisk()
    journal = await FileJournal.open(tmp_path, disk=disk)
    disk.failing = lambda step: errno.ENOSPC if step in ("write", "sync") else None
    with pytest.raises(JournalUnavailable):
        await journal.begin(claim(1), shown(1))
    disk.failing = lambda step: None
    await journal.begin(claim(2), shown(2))
    await journal.close()


@pytest.mark.parametrize("seed", range(20))
async def test_a_power_cut_leaves_the_command_and_its_signature_or_neither(tmp_path: Path, seed: int) -> None:
    disk = MemoryDisk()
    journal = await FileJournal.open(tmp_path, disk=disk)
    left = []
    disk.watch = lambda: left.append(disk.content.after_power_cut(random.Random(seed)))  # noqa: S311 - what a power cut leaves is no secret
    await journal.begin(claim(1), shown(1))
    assert left
    for content in left:
        after = await FileJournal.open(tmp_path / "after", disk=MemoryDisk(content))
        begun = after.find(command_id(1)) is not None
        refused = False
        try:
            await after.begin(claim(2), shown(2))
        except SignatureReplayed:
            refused = True
        assert refused == begun
        await after.close()
    await journal.close()


def test_one_that_has_ended_makes_room() -> None:
    shows = Shows(most=8)
    for number in range(4):
        shows.take(shown(number, key=bytes([number]), until=UNTIL + number), known=False)
    with pytest.raises(SignatureMemoryFull, match="shorter time"):
        shows.take(shown(9, key=b"c"), known=False)
    shows.take(shown(9, key=b"c", until=UNTIL + 9, at=UNTIL + 0.5), known=False)
    assert len(shows) == 4


def fill(shows: Shows, signer: str) -> int:
    """Show all that a signer may, and return how many those were."""
    count = 0
    with contextlib.suppress(SignatureMemoryFull):
        while True:
            shows.take(shown(count, key=f"{signer} {count}".encode(), signer=signer), known=False)
            count += 1
    return count


def test_one_signer_that_shows_all_it_may_locks_no_other_out() -> None:
    shows = Shows(most=1_000)
    counts = [fill(shows, signer) for signer in ("greedy", "web-shop", "edi", "crm")]
    assert counts == [500, 250, 125, 63]
    # Nor does it once the journal was written anew.
    again = Shows(most=1_000)
    for one in shows.all():
        again.add(one)
    with pytest.raises(SignatureMemoryFull, match="of 'greedy' 500"):
        again.take(shown(9, key=b"one more", signer="greedy"), known=False)
    again.take(shown(9, key=b"one more", signer="late"), known=False)


def test_what_was_given_back_or_has_ended_counts_no_more() -> None:
    shows = Shows(most=10)
    given_back = shown(1, key=b"a", signer="web-shop")
    for _ in range(20):
        shows.take(given_back, known=False)
        shows.release(given_back)
    assert fill(shows, "web-shop") == 5
    later = shown(2, key=b"b", signer="web-shop", until=UNTIL + 900, at=UNTIL + 1.0)
    shows.take(later, known=False)
    assert len(shows) == 1


def test_a_clock_set_back_brings_none_to_life_again() -> None:
    shows = Shows()
    shows.take(shown(1, key=b"a"), known=False)
    for number in range(PRUNE_FROM):
        shows.take(shown(2, key=number.to_bytes(4), until=UNTIL + 900, at=UNTIL + 1.0), known=False)
    assert len(shows) == PRUNE_FROM
    with pytest.raises(SignatureExpired, match="set back"):
        shows.take(shown(3, key=b"a"), known=False)
    again = Shows()
    for one in shows.all():
        again.add(one)
    with pytest.raises(SignatureExpired):
        again.take(shown(3, key=b"a"), known=False)


def test_a_full_memory_is_small() -> None:
    tracemalloc.start()
    try:
        shows = Shows()
        for number in range(MAX_SHOWN):
            shows.add(shown(number, key=number.to_bytes(16), until=UNTIL + number, signer=f"caller-{number % 20}"))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 24 * 1_048_576
