"""The swarm that stands for agents: its frames, and what each of it says may be run."""

from __future__ import annotations

import hashlib

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from bench.swarm import _frame, _masked


@pytest.mark.parametrize("size", [0, 1, 125, 126, 4_000, 65_535])
def test_its_frames_are_those_of_a_client(size: int) -> None:
    payload = hashlib.sha256(b"x").digest() * (size // 32 + 1)
    reader = StreamReader()
    reader.feed_data(_masked(payload[:size]))
    parsed = Frame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as told:
        next(parsed)
    assert told.value.value == Frame(Opcode.BINARY, payload[:size])


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 70_000])
def test_it_reads_the_frames_of_a_server(size: int) -> None:
    data = Frame(Opcode.BINARY, b"y" * size).serialize(mask=False)
    assert _frame(data + b"more") == (Opcode.BINARY, b"y" * size, len(data))
    assert _frame(data[:-1]) is None
    assert _frame(data[:1]) is None
