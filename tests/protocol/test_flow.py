"""Windows and ids: small things that everything stands on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.flow import Window
from protocol.ids import new_id


@given(st.integers(0, 1000), st.lists(st.tuples(st.booleans(), st.integers(0, 300))))
def test_a_window_never_lets_more_through_than_was_given(start: int, steps: list[tuple[bool, int]]) -> None:
    window, given_bytes, taken = Window(start), start, 0
    for give, size in steps:
        if give:
            window.give(size)
            given_bytes += size
        elif window.covers(size):
            window.take(size)
            taken += size
        else:
            with pytest.raises(ValueError, match="in a window of"):
                window.take(size)
        assert taken <= given_bytes
        assert window.left == given_bytes - taken


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=20))
def test_ids_sort_by_time(times: list[int]) -> None:
    ids = [new_id("cmd", time, lambda size: b"\x7f" * size) for time in times]
    assert [new_id("cmd", time, lambda size: b"\x7f" * size) for time in sorted(times)] == sorted(ids)


def test_an_id_is_a_word_and_26_unmistakable_characters() -> None:
    prefix, _, rest = new_id("cmd", 1_700_000_000_000, lambda size: b"\xff" * size).partition("_")
    assert prefix == "cmd"
    assert len(rest) == 26
    assert not set(rest) & set("ilouILOU")
