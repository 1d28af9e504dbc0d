"""A record is told from garbage by itself, and found again behind garbage."""

from __future__ import annotations

import pytest

from agent.journal.frames import HEADER_BYTES, MAGIC, Bad, Frame, at, encode, scan, size

CHAIN = bytes(range(32))
BODIES = [b"first", b"", b"\0" * 40, b"last of all"]
DATA = b"".join(encode(7 + number, body, 3, CHAIN) for number, body in enumerate(BODIES))
ENDS = [piece.end for piece in scan(DATA, 3)]


def frames(data: bytes, segment: int = 3) -> list[tuple[int, bytes]]:
    return [(piece.sequence, piece.body) for piece in scan(data, segment) if isinstance(piece, Frame)]


def bad(data: bytes) -> list[Bad]:
    return [piece for piece in scan(data, 3) if isinstance(piece, Bad)]


def test_records_come_back_in_order() -> None:
    assert frames(DATA) == [(7 + number, body) for number, body in enumerate(BODIES)]
    assert bad(DATA) == []
    assert size(DATA[:HEADER_BYTES], 3) == ENDS[0]
    assert at(DATA, ENDS[0], 3) == Frame(ENDS[0], ENDS[1], 8, CHAIN, b"")


def test_a_record_of_another_file_is_none() -> None:
    assert frames(DATA, segment=4) == []


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_costs_the_record_it_is_in_and_is_never_taken_for_a_torn_end(bit: int) -> None:
    whole = frames(DATA)
    for offset in range(len(DATA)):
        flipped = bytearray(DATA)
        flipped[offset] ^= 1 << bit
        hit = next(number for number, end in enumerate(ENDS) if offset < end)
        assert frames(bytes(flipped)) == whole[:hit] + whole[hit + 1 :]
        begin = ENDS[hit - 1] if hit else 0
        assert bad(bytes(flipped)) == [Bad(begin, ENDS[hit], torn=False)]


@pytest.mark.parametrize("zeros", [0, 1, 5, 512, 4096])
def test_an_end_that_was_never_written_is_torn_and_nothing_before_it_is_lost(zeros: int) -> None:
    whole = frames(DATA)
    for length in range(len(DATA)):
        there = sum(end <= length for end in ENDS)
        data = DATA[:length] + bytes(zeros)
        assert frames(data) == whole[:there]
        begin = ENDS[there - 1] if there else 0
        assert bad(data) == ([Bad(begin, len(data), torn=True)] if len(data) > begin else [])


@pytest.mark.parametrize(
    "garbage", [b"x", MAGIC, MAGIC * 3, bytes(30), DATA[:20], encode(1, b"of another file", 9, CHAIN)]
)
def test_garbage_between_records_is_passed_over(garbage: bytes) -> None:
    data = DATA[: ENDS[1]] + garbage + DATA[ENDS[1] :]
    assert frames(data) == frames(DATA)
    assert bad(data) == [Bad(ENDS[1], ENDS[1] + len(garbage), torn=False)]


def test_a_hole_costs_the_records_it_touches() -> None:
    data = DATA[: ENDS[1] + HEADER_BYTES + 3] + DATA[ENDS[2] :]
    assert [sequence for sequence, _ in frames(data)] == [7, 8, 10]
    assert [piece.torn for piece in bad(data)] == [False]
