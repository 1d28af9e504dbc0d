"""When certificates are renewed and when somebody is warned."""

from __future__ import annotations

import pytest

from agent.identity.validity import DAY_S, Life, left_text

MONTH = Life(1_000_000.0, 1_000_000.0 + 30 * DAY_S)


def test_it_is_due_at_two_thirds_give_or_take_a_tenth_of_the_rest() -> None:
    assert MONTH.due(0.5) == MONTH.begin + 20 * DAY_S
    assert MONTH.due(0.0) == MONTH.begin + 19 * DAY_S
    assert MONTH.due(0.999999) == pytest.approx(MONTH.begin + 21 * DAY_S, abs=1)


def test_however_short_a_life_is_another_is_asked_for_once_a_minute_at_most() -> None:
    life = Life(1_000.0, 1_001.0)
    assert [life.rest_s(now) for now in (1_000.0, 1_001.0, 1_059.0, 1_060.0, 2_000.0)] == [60.0, 59.0, 1.0, 0.0, 0.0]
    # A clock that was set back says nothing of when it came.
    assert life.rest_s(999.0) == 0.0


def test_after_a_failure_it_is_tried_twenty_times_in_a_life() -> None:
    assert MONTH.pause_s == 1.5 * DAY_S


@pytest.mark.parametrize(
    ("days_left", "limit_days"),
    [(30, None), (10, None), (9.01, None), (9, 9), (8, 9), (7, 7), (2, 7), (1, 1), (0.1, 1), (0, 1), (-5, 1)],
)
def test_a_month_warns_when_the_renewal_should_be_over_then_at_7_and_1_days(
    days_left: float, limit_days: float | None
) -> None:
    assert MONTH.warning(MONTH.end - days_left * DAY_S) == (None if limit_days is None else limit_days * DAY_S)


@pytest.mark.parametrize(("days_left", "limit_days"), [(28, None), (27, 27), (14, 14), (13, 14), (6, 7), (1, 1)])
def test_ninety_days_warn_at_14_days_too(days_left: float, limit_days: float | None) -> None:
    life = Life(0.0, 90 * DAY_S)
    assert life.warning(life.end - days_left * DAY_S) == (None if limit_days is None else limit_days * DAY_S)


def test_a_short_life_warns_once() -> None:
    life = Life(0.0, 60.0)
    assert [life.warning(now) for now in (0.0, 41.0, 42.0, 59.0)] == [None, None, 18.0, 18.0]


def test_one_that_had_run_out_when_it_came_tells_of_a_wrong_clock() -> None:
    late = Life(2_000.0, 1_000.0)
    assert not late.over(3_000.0)
    assert late.due(0.5) == 1_000.0
    assert late.pause_s == 0.0


def test_it_is_over_at_its_end() -> None:
    assert not MONTH.over(MONTH.end - 1)
    assert MONTH.over(MONTH.end)


@pytest.mark.parametrize(
    ("left_s", "text"),
    [
        (-1, "has run out"),
        (30, "is good for 30 seconds more"),
        (600, "is good for 10 minutes more"),
        (3 * 3_600, "is good for 3 hours more"),
        (10 * DAY_S, "is good for 10 days more"),
    ],
)
def test_what_is_left_is_said_in_words(left_s: float, text: str) -> None:
    assert left_text(1_000_000.0 + left_s, 1_000_000.0) == text
