"""The chain through the journal: whatever is done to its records is noticed, and the place is named."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import JournalUnavailable
from agent.journal import frames, writer
from agent.journal.base import Anchor
from agent.journal.disk import Disk
from agent.journal.file import FOLDER, FileJournal
from agent.journal.frames import BEGINNING, Bad, Frame
from agent.journal.reading import HEAD, Reading
from agent.journal.records import ANCHORS
from agent.journal.witnesses import Witness, compare, contradiction, of_export
from tests.agent.journal.commands import AT, claim, command_id, reading, succeeded
from tests.agent.journal.disks import MemoryDisk

SEGMENT = 1
A, B = "a" * 64, "b" * 64


class OtherDisk(Disk):
    """What is read from it is not what was written."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        return self._data[offset:] if size < 0 else self._data[offset : offset + size]


Written = tuple[Path, list[Frame], list[tuple[int, str]]]


async def _write(folder: Path) -> list[tuple[int, str]]:
    journal = await FileJournal.open(folder)
    stands = [journal.stand()]
    for number in range(4):
        await journal.begin(claim(number))
        stands.append(journal.stand())
        await journal.end(command_id(number), succeeded(number), b'{"no":1}', AT)
        stands.append(journal.stand())
    await journal.close()
    return stands


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A journal of one segment: its folder, its records, and how it stood after each."""
    folder = tmp_path_factory.mktemp("journal")
    stands = asyncio.run(_write(folder))
    pieces = list(frames.scan((folder / FOLDER / "000001.log").read_bytes(), SEGMENT))
    assert not any(isinstance(piece, Bad) for piece in pieces)
    return folder, [piece for piece in pieces if isinstance(piece, Frame)], stands


def joined(records: list[Frame]) -> bytes:
    return b"".join(frames.encode(one.sequence, one.body, SEGMENT, one.chain) for one in records)


def rechained(records: list[Frame], *, from_: int = 0) -> list[Frame]:
    """The records with chains that fit, from a place on, as somebody writes them who knows how."""
    found = records[:from_]
    chain = BEGINNING if not found else found[-1].chain
    for one in records[from_:]:
        chain = frames.follow(chain, one.sequence, one.body)
        found.append(like(one, chain=chain))
    return found


def like(frame: Frame, **changes: Any) -> Frame:
    return Frame(
        **{"offset": 0, "end": 0, **{name: getattr(frame, name) for name in ("sequence", "chain", "body")}} | changes
    )


def read(folder: Path, records: list[Frame]) -> Reading:
    return reading(folder, OtherDisk(joined(records)))


def witnesses(found: Reading, stands: list[tuple[int, str]]) -> list[Witness]:
    return [Witness(9, "t", found.mark, position, head) for position, head in stands]


def test_the_chain_is_what_the_manual_says(written: Written) -> None:
    folder, records, stands = written
    chain = BEGINNING
    for one in records:
        chain = frames.follow(chain, one.sequence, one.body)
        assert chain == one.chain
    found = reading(folder)
    assert (found.damages, found.position, found.head) == ([], 8, chain)
    assert stands[0] == (0, BEGINNING.hex())
    assert stands[-1] == (8, chain.hex())
    assert {position: head.hex() for position, head in found.heads.items()} == dict(stands)
    assert compare(found, witnesses(found, stands)).misfit == ""


EVENTS = range(2, 10)  # places of the events in the segment, after its head and what was known before


@pytest.mark.parametrize("place", EVENTS)
def test_an_event_that_was_removed_is_named(written: Written, place: int) -> None:
    folder, records, stands = written
    found = read(folder, records[:place] + records[place + 1 :])
    if place < max(EVENTS):
        assert "1 records before it are missing" in str(found.damages[0])
    else:
        assert compare(found, witnesses(found, stands)).misfit.startswith("record 8 is missing")


@pytest.mark.parametrize("place", EVENTS)
@pytest.mark.parametrize("renumbered", [False, True])
def test_an_event_that_was_removed_without_a_gap_is_named(written: Written, place: int, renumbered: bool) -> None:
    folder, records, stands = written
    left = records[:place] + [like(one, sequence=one.sequence - 1) for one in records[place + 1 :]]
    if renumbered:  # with chains that fit
        found = read(folder, rechained(left, from_=place))
        assert found.damages == []
        misfit = compare(found, witnesses(found, stands)).misfit
        assert misfit.startswith(f"record {place - 1} ")
    elif place < max(EVENTS):
        found = read(folder, left)
        assert "does not follow the one before it" in found.damages[0].what


@pytest.mark.parametrize("place", EVENTS)
def test_a_record_that_was_changed_is_named_and_costs_itself_only(written: Written, place: int) -> None:
    folder, records, _ = written
    body = records[place].body.replace(b"create-order", b"delete-order")
    found = read(folder, [*records[:place], like(records[place], body=body), *records[place + 1 :]])
    (damage,) = found.damages
    assert "does not follow the one before it" in damage.what
    assert damage.offset == records[place].offset
    assert damage.ids
    assert (found.position, found.count) == (8, 7)


def test_another_mark_in_the_first_record_is_named(written: Written) -> None:
    folder, records, _ = written
    mark = reading(folder).mark.encode()
    found = read(folder, [like(records[0], body=records[0].body.replace(mark, mark[::-1])), *records[1:]])
    assert found.damages[0].offset == 0


@pytest.mark.parametrize("place", EVENTS)
def test_a_record_that_was_changed_with_its_chain_is_found_by_the_next_one(written: Written, place: int) -> None:
    folder, records, stands = written
    changed = [*records]
    body = records[place].body.replace(b"create-order", b"delete-order")
    chain = frames.follow(records[place - 1].chain, records[place].sequence, body)
    changed[place] = like(records[place], body=body, chain=chain)
    found = read(folder, changed)
    if place < max(EVENTS):
        assert found.damages[0].offset == records[place + 1].offset
    else:
        assert found.damages == []
    assert compare(found, witnesses(found, stands)).misfit.startswith(f"record {place - 1} ")


@pytest.mark.parametrize("place", list(EVENTS)[:-1])
def test_events_that_were_swapped_are_named_with_or_without_their_numbers(written: Written, place: int) -> None:
    folder, records, _ = written
    one, other = records[place], records[place + 1]
    for swapped in (
        [other, one],
        [like(other, sequence=one.sequence), like(one, sequence=other.sequence)],
    ):
        found = read(folder, [*records[:place], *swapped, *records[place + 2 :]])
        assert found.damages[0].offset == records[place].offset


@pytest.mark.parametrize("place", range(10))
def test_a_record_that_is_there_twice_is_named(written: Written, place: int) -> None:
    folder, records, _ = written
    for behind in range(place, 10):
        found = read(folder, [*records[: behind + 1], records[place], *records[behind + 1 :]])
        assert found.damages[0].offset == records[behind].end


@pytest.mark.parametrize("place", EVENTS)
def test_a_journal_that_was_cut_fits_by_itself_and_not_what_the_broker_noted(written: Written, place: int) -> None:
    folder, records, stands = written
    found = read(folder, records[:place])
    assert found.damages == []
    assert compare(found, witnesses(found, stands[-1:])).misfit.startswith(f"record {place - 1} is missing")


def test_a_journal_that_was_written_anew_fits_by_itself_and_not_what_the_broker_noted(written: Written) -> None:
    folder, records, stands = written
    forged = [like(one, body=one.body.replace(b"create-order", b"delete-order")) for one in records]
    found = read(folder, rechained(forged))
    assert found.damages == []
    for place in range(1, 9):
        told = compare(found, witnesses(found, stands[place : place + 1]))
        assert told.misfit.startswith(f"record {place} or one before it was written anew")


def test_another_journal_in_its_place_is_told(written: Written) -> None:
    found = reading(written[0])
    told = compare(found, [Witness(9, "t", "another mark", 5, A)])
    assert "it was begun anew" in told.misfit


@given(st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=500, deadline=None)
def test_whoever_moves_records_about_is_noticed(written: Written, rng: random.Random, times: int) -> None:
    folder, records, stands = written
    left = [*records]
    for _ in range(times):
        place = rng.randrange(1, len(left))
        match rng.randrange(4):
            case 0:
                del left[place]
            case 1:
                left.insert(place, rng.choice(records))
            case 2:
                other = rng.randrange(1, len(left))
                left[place], left[other] = left[other], left[place]
            case _:
                left[place] = like(left[place], sequence=rng.randrange(12), chain=rng.choice(records).chain)
        if len(left) < 2:
            break
    found = read(folder, left)
    same = [(one.sequence, one.chain, one.body) for one in left] == [
        (one.sequence, one.chain, one.body) for one in records
    ]
    assert same or found.damages or compare(found, witnesses(found, stands)).misfit


# --- over segments --------------------------------------------------------------------------------


async def test_the_chain_goes_on_over_restarts_and_when_the_journal_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEGMENTS", 4)
    stands: list[tuple[int, str]] = []
    for number in range(11):
        journal = await FileJournal.open(tmp_path)
        assert journal.damages == ()
        if stands:
            assert journal.stand() == stands[-1]
        await journal.begin(claim(number))
        stands.append(journal.stand())
        await journal.close()
    assert [position for position, _ in stands] == list(range(1, 12))
    assert len({head for _, head in stands}) == 11
    found = reading(tmp_path)
    assert found.damages == []
    assert 0 < found.base < 11
    told = compare(found, witnesses(found, stands))
    assert told.misfit == ""
    assert (told.compared, told.older) == (11 - found.base + 1, found.base - 1)


async def test_a_segment_of_another_journal_does_not_go_on_with_the_chain(tmp_path: Path) -> None:
    for name in ("here", "there"):
        for number in range(3):
            journal = await FileJournal.open(tmp_path / name)
            await journal.begin(claim(number, epoch=1 if name == "here" else 2))
            await journal.close()
    (tmp_path / "here" / FOLDER / "000003.log").write_bytes((tmp_path / "there" / FOLDER / "000003.log").read_bytes())
    found = reading(tmp_path / "here")
    assert "does not go on with the chain of the segment before it" in str(found.damages[0])


async def test_what_was_not_synced_before_a_fault_is_no_part_of_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PROBE_S", 0.01)
    disk = MemoryDisk()
    journal = await FileJournal.open(tmp_path, disk=disk)
    await journal.begin(claim(1))
    before = journal.stand()
    for step in ("write", "sync"):
        disk.failing = lambda done, step=step: 5 if done == step else None  # type: ignore[misc]  # bound now, on purpose
        with pytest.raises(JournalUnavailable):
            await journal.begin(claim(2))
        assert journal.stand() == before
        disk.failing = lambda done: None
    while journal.stand() == before:
        try:
            await journal.begin(claim(2))
        except JournalUnavailable:
            continue
    position, head = journal.stand()
    await journal.close()
    found = reading(tmp_path, disk)
    assert (found.damages, found.position, found.head.hex()) == ([], position, head)


# --- anchors --------------------------------------------------------------------------------------


async def test_anchors_are_there_after_restarts_and_rewrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SEGMENTS", 2)
    kept: list[Anchor] = []
    for number in range(9):
        journal = await FileJournal.open(tmp_path)
        assert list(journal.anchors()) == kept
        kept.append(Anchor("acme", number, f"{number:064x}", AT))
        journal.anchor(kept[-1])
        journal.anchor(msgspec.structs.replace(kept[-1], at=AT + 1))  # nothing new
        if number % 2:
            await journal.begin(claim(number))
        await journal.close()
    assert reading(tmp_path).index.anchors == kept
    assert reading(tmp_path).damages == []


async def test_of_very_many_anchors_the_first_the_last_and_some_between_are_kept(tmp_path: Path) -> None:
    journal = await FileJournal.open(tmp_path)
    for number in range(3 * ANCHORS):
        journal.anchor(Anchor("acme", number, f"{number:064x}", AT))
    there = [one.number for one in journal.anchors()]
    await journal.close()
    assert len(there) <= ANCHORS
    assert (there[0], there[-1]) == (0, 3 * ANCHORS - 1)
    assert there == sorted(there)
    found = reading(tmp_path)
    assert [one.number for one in found.index.anchors] == there


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ([(1, A), (2, B), (9, A)], ""),
        ([(1, A), (1, B)], "its record 1 had two hashes"),
        ([(5, A), (4, B)], "it had 5 records and then 4"),
    ],
)
def test_a_broker_that_contradicts_itself_is_told(told: list[tuple[int, str]], found: str) -> None:
    anchors = [Anchor("acme", number, digest, AT) for number, digest in told]
    assert contradiction(anchors).startswith(found)
    assert bool(contradiction(anchors)) == bool(found)


LINE: Callable[..., bytes] = lambda action, **detail: msgspec.json.encode(  # noqa: E731 - one expression, used as data
    {"tenant": "acme", "number": 7, "at": "t", "actor": "agent:plant-1", "action": action, "detail": detail}
)


@pytest.mark.parametrize(
    ("line", "count"),
    [
        (LINE("journal_anchor", journal="m", position=5, head=A), 1),
        (LINE("command_ended", journal="m", head=f"5:{A}"), 1),
        (LINE("journal_misfit", journal="m", had="", has=f"5:{A}"), 1),
        (LINE("command_ended", outcome="expired"), 0),
        (LINE("agent_linked", head=f"5:{A}"), 0),
        (LINE("journal_anchor", journal="m", position=5, head=[A]), 0),
        (LINE("command_ended", journal="m", head=5), 0),
        (b"", 0),
    ],
)
def test_what_an_export_says_of_a_journal(line: bytes, count: int) -> None:
    assert of_export([line], "acme", "plant-1") == [Witness(7, "t", "m", 5, A)] * count
    assert of_export([line], "", "plant-1") == [Witness(7, "t", "m", 5, A)] * count
    assert of_export([line], "acme", "plant-2") == []
    assert of_export([line], "other", "plant-1") == []


def test_the_first_record_of_a_segment_is_no_event(written: Written) -> None:
    assert written[1][0].sequence == HEAD
