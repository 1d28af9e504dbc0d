"""What callers of the benchmarks take for an answer."""

from __future__ import annotations

import pytest

from bench.callers import Answer, read

GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"state":"succeeded"}'


@pytest.mark.parametrize("cut", range(len(GOOD)))
def test_a_part_of_an_answer_is_not_whole(cut: int) -> None:
    assert not read(GOOD[:cut]).whole


@pytest.mark.parametrize(
    ("heard", "good"),
    [(GOOD, True), (GOOD.replace(b"200", b"202"), False), (GOOD.replace(b"succeeded", b"cancelled"), False)],
)
def test_only_a_success_is_good(heard: bytes, good: bool) -> None:
    assert read(heard) == Answer(True, good)
