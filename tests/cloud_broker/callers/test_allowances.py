"""Rates and numbers at once, by a clock that the test sets."""

from __future__ import annotations

import pytest

from cloud_broker.callers.allowances import MAX_NAMES, Allowances, Buckets, WrongKeys
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


@pytest.mark.parametrize(("per_s", "size"), [(10.0, 20.0), (0.1, 1.0)])
def test_a_bucket_that_is_full_again_is_forgotten_and_none_before(per_s: float, size: float) -> None:
    buckets = Buckets(per_s, size)
    for n in range(100):
        buckets.take(f"gone-{n}", 0.0)
    while buckets.take("busy", 0.0)[0] == 0:
        pass
    full_s = size / per_s

    for n in range(100):
        buckets.take("busy", full_s * 0.9 + n / 1_000)
    assert len(buckets) == 101
    for n in range(100):
        buckets.take("busy", full_s + n / 1_000)
    assert len(buckets) == 1


def test_however_many_names_come_so_many_are_kept_and_the_busy_one_is_among_them() -> None:
    buckets = Buckets(0.001, 2)
    for n in range(MAX_NAMES * 2):
        buckets.take(f"name-{n}", 0.0)
        wait_s, _ = buckets.take("busy", 0.0)

    assert len(buckets) == MAX_NAMES
    assert wait_s > 0
