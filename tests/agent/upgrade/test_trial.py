"""Whether a release came up: told from what the agent writes of itself, second by second."""

from __future__ import annotations

import pytest

from agent.status import STALE_S, Status
from agent.upgrade.trial import CRASHES, Trial, Verdict

START = 1_000.0


def said(
    at: float,
    *,
    pid: int = 7,
    linked: bool = True,
    started_at: float = START + 1,
    error: str = "",
    release: str = "0.3.0",
) -> Status:
    return Status(
        at=at,
        pid=pid,
        release=release,
        started_at=started_at,
        link="connected" if linked else "waiting",
        linked_since=at if linked else None,
        broker="wss://broker",
        link_error=error,
        problems=[],
        connections={},
    )


def trial(*, linked_before: bool = True) -> Trial:
    return Trial("0.3.0", START, linked_before, grace_s=60.0, steady_s=10.0)


def test_a_release_that_stays_linked_comes_up() -> None:
    one = trial()
    assert one.judge(None, START + 1) is None
    assert one.judge(said(START + 5, linked=False), START + 5) is None
    assert one.judge(said(START + 20), START + 20) is None
    assert one.judge(said(START + 29), START + 29) is None
    assert one.judge(said(START + 30), START + 30) == Verdict(True)


def test_running_is_enough_where_the_one_before_was_not_linked() -> None:
    one = trial(linked_before=False)
    assert one.judge(said(START + 2, linked=False), START + 2) is None
    assert one.judge(said(START + 12, linked=False), START + 12) == Verdict(True)


def test_a_link_that_comes_and_goes_is_no_link() -> None:
    one = trial()
    for second in range(0, 60, 4):
        now = START + second
        assert one.judge(said(now, linked=second % 8 == 0), now) is None
    verdict = one.judge(said(START + 61, linked=False, error="the broker says no"), START + 61)
    assert verdict == Verdict(False, "it was not linked within 60 s, as the one before was: the broker says no")


def test_what_the_one_before_wrote_says_nothing() -> None:
    one = trial()
    for now in (START, START + 30):
        assert one.judge(said(now, started_at=START - 5_000), now) is None
    assert one.judge(said(START + 60, started_at=START - 5_000), START + 60) == Verdict(
        False, "it did not start within 60 s"
    )


def test_the_old_release_in_its_place_is_not_the_new_one() -> None:
    one = trial()
    for now in (START + 5, START + 30):
        assert one.judge(said(now, release="0.2.0"), now) is None
    verdict = one.judge(said(START + 60, release="0.2.0"), START + 60)
    assert verdict is not None
    assert verdict.why.startswith("0.2.0 was started in its place")


def test_who_ended_after_its_last_word_is_not_up() -> None:
    one = trial()
    assert one.judge(said(START + 2), START + 2) is None
    assert one.judge(said(START + 2), START + 13, runs=False) is None
    assert one.judge(said(START + 14), START + 14) is None


def test_words_of_long_ago_are_none() -> None:
    one = trial()
    assert one.judge(said(START + 2), START + 2) is None
    verdict = one.judge(said(START + 2), START + 2 + STALE_S + one.grace_s)
    assert verdict is not None
    assert not verdict.up


@pytest.mark.parametrize("linked", [True, False])
def test_one_that_ends_again_and_again_is_given_up_before_its_time(linked: bool) -> None:
    one = trial()
    for number in range(CRASHES):
        assert one.judge(said(START + number, pid=number, linked=linked), START + number) is None
    verdict = one.judge(said(START + 9, pid=99, linked=linked), START + 9)
    assert verdict == Verdict(False, f"it ended {CRASHES} times within 9 s")
