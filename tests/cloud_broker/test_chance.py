"""Chance for names: as much as is wanted, and never the same twice."""

from __future__ import annotations

from cloud_broker.chance import DRAWN_BYTES, Chance


def test_no_bytes_are_given_twice() -> None:
    chance = Chance()
    given = [chance(10) for _ in range(3 * DRAWN_BYTES // 10)]
    assert {len(one) for one in given} == {10}
    assert len(set(given)) == len(given)
