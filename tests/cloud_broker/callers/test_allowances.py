"""Rates and numbers at once, by a clock that the test sets."""

from __future__ import annotations

import pytest

from cloud_broker.callers.allowances import Allowances, WrongKeys
from cloud_broker.errors import TooManyAtOnce, TooManyRequests


def test_a_tenant_may_ask_so_often_and_twice_as_often_at_a_stroke() -> None:
    allowances = Allowances(10, 0)

    left = [standing.left for _ in range(20) if (standing := allowances.enter("a", 100.0)) is not None]
    with pytest.raises(TooManyRequests) as caught:
        allowances.enter("a", 100.0)

    assert left == list(range(19, -1, -1))
    assert caught.value.retry_after_s == pytest.approx(0.1)
    assert allowances.enter("b", 100.0) is not None
    assert allowances.enter("a", 100.11) is not None
    with pytest.raises(TooManyRequests):
        allowances.enter("a", 100.11)


def test_a_tenant_may_have_so_many_under_way() -> None:
    allowances = Allowances(0, 2)
    allowances.enter("a", 0.0)
    allowances.enter("a", 0.0)
    for _ in range(5):
        with pytest.raises(TooManyAtOnce):
            allowances.enter("a", 0.0)
    allowances.enter("b", 0.0)
    allowances.leave("a")
    assert allowances.enter("a", 0.0) is None


def test_nought_is_any_number() -> None:
    allowances = Allowances(0, 0)
    assert [allowances.enter("a", 0.0) for _ in range(10_000)] == [None] * 10_000
    assert not any(WrongKeys(0).note("10.0.0.1", 0.0) for _ in range(1_000))


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    allowances = Allowances(1, 0)
    for _ in range(2):
        allowances.enter("a", 100.0)
    with pytest.raises(TooManyRequests):
        allowances.enter("a", 50.0)


def test_wrong_keys_are_counted_by_address() -> None:
    wrong = WrongKeys(60)
    assert [wrong.note("10.0.0.1", 0.0) for _ in range(60)] == [0.0] * 60
    assert wrong.note("10.0.0.1", 0.0) == pytest.approx(1.0)
    assert wrong.note("10.0.0.2", 0.0) == 0.0
    assert wrong.note("10.0.0.1", 1.1) == 0.0
