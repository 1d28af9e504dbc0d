"""Sparing a system that does not answer."""

from __future__ import annotations

from math import inf

import pytest

from cloud_broker.breakers import Breaker, Guard

DEAD = "source_unavailable"


def opened(failures: int = 3, cool_down_s: float = 30.0) -> Breaker:
    breaker = Breaker(Guard(failures, cool_down_s))
    for number in range(failures):
        assert breaker.closed
        breaker.sent(str(number))
        breaker.ended(str(number), DEAD, 0.0)
    assert not breaker.closed
    return breaker


@pytest.mark.parametrize("code", ["source_unavailable", "timed_out", "driver_crashed", "outcome_unknown"])
def test_so_many_in_a_row_that_nobody_answered_open_it(code: str) -> None:
    breaker = Breaker(Guard(2, 30.0))
    breaker.ended("a", code, 100.0)
    assert breaker.wait(100.0) == 0.0
    breaker.ended("b", code, 100.0)
    assert breaker.wait(100.0) == 30.0
    assert breaker.wait(129.0) == 1.0


@pytest.mark.parametrize("code", ["", "source_rejected", "source_failed"])
def test_any_answer_in_between_begins_the_row_anew(code: str) -> None:
    breaker = Breaker(Guard(2, 30.0))
    for number in range(10):
        breaker.ended(str(number), DEAD, 0.0)
        breaker.ended(str(number), code, 0.0)
    assert breaker.closed


@pytest.mark.parametrize("code", [None, "parameters_invalid", "cancelled", "file_exists", "content_invalid"])
def test_an_end_that_says_nothing_about_the_system_changes_nothing(code: str | None) -> None:
    breaker = Breaker(Guard(2, 30.0))
    breaker.ended("a", DEAD, 0.0)
    breaker.ended("b", code, 0.0)
    assert breaker.closed
    breaker.ended("c", DEAD, 0.0)
    assert not breaker.closed


def test_after_the_cool_down_one_goes_and_the_others_wait_for_what_it_finds() -> None:
    breaker = opened()
    assert breaker.wait(30.0) == 0.0
    breaker.sent("probe")
    assert breaker.wait(1_000.0) == inf


@pytest.mark.parametrize(
    ("code", "wait"), [("", 0.0), ("source_rejected", 0.0), (DEAD, 30.0), ("timed_out", 30.0), (None, 0.0)]
)
def test_what_the_probe_finds(code: str | None, wait: float) -> None:
    breaker = opened()
    breaker.sent("probe")
    breaker.ended("probe", code, 50.0)
    assert breaker.wait(50.0) == wait
    assert breaker.closed is (code in ("", "source_rejected"))


def test_a_probe_that_was_lost_is_followed_by_another() -> None:
    breaker = opened()
    breaker.sent("probe")
    breaker.ended("probe", None, 31.0)
    breaker.sent("second")
    assert breaker.wait(31.0) == inf


def test_what_was_sent_before_it_opened_prolongs_nothing_but_its_success_counts() -> None:
    breaker = opened()
    breaker.ended("slow", DEAD, 20.0)
    assert breaker.wait(20.0) == 10.0
    breaker.sent("probe")
    breaker.ended("slower", DEAD, 31.0)
    assert breaker.wait(31.0) == inf
    breaker.ended("slowest", "", 32.0)
    assert breaker.wait(32.0) == 0.0


def test_a_probe_that_ends_when_it_is_closed_already_is_one_like_any_other() -> None:
    breaker = opened()
    breaker.sent("probe")
    breaker.ended("slow", "", 31.0)
    breaker.ended("probe", DEAD, 32.0)
    assert breaker.closed
