"""Waits between two dials: bounds that hold for any history."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.link.backoff import BASE_S, CAP_S, FLOOR_CAP_S, REFUSED_CAP_S, RETRY_AFTER_CAP_S, Backoff
from agent.link.failures import TROUBLES

HISTORY = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0, 1e6)), st.booleans(), st.one_of(st.just(0.0), st.floats(allow_nan=True))
    ),
    max_size=60,
)
# A machine that does much else is no reason to fail.
PATIENT = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


@PATIENT
@given(HISTORY, st.randoms(use_true_random=False))
def test_a_wait_is_never_negative_nor_endless(history: list[tuple[float, bool, float]], chance: random.Random) -> None:
    backoff = Backoff(chance.random)
    for up_s, refused, retry_after_s in history:
        delay = backoff.next_delay(up_s, refused=refused, retry_after_s=retry_after_s)
        assert 0 <= delay <= RETRY_AFTER_CAP_S * 1.2
        if not retry_after_s > 0:
            assert delay < (REFUSED_CAP_S if refused else CAP_S)


@PATIENT
@given(st.randoms(use_true_random=False), st.integers(0, 200))
def test_the_ceiling_doubles_up_to_its_cap_and_the_draw_is_from_the_whole_range(
    chance: random.Random, tries: int
) -> None:
    drawn: list[float] = []

    def rng() -> float:
        drawn.append(chance.random())
        return drawn[-1]

    backoff = Backoff(rng)
    for _ in range(tries):
        backoff.next_delay()
    assert backoff.next_delay() == drawn[-1] * min(CAP_S, BASE_S * 2.0**tries)


def test_a_refused_agent_slows_down_to_the_longer_cap_and_never_stops() -> None:
    backoff = Backoff(lambda: 0.999)
    delays = [backoff.next_delay(refused=True) for _ in range(2_000)]
    assert max(delays) == delays[-1] == 0.999 * REFUSED_CAP_S


def test_a_link_that_stayed_up_starts_anew() -> None:
    backoff = Backoff(lambda: 0.5)
    for _ in range(8):
        backoff.next_delay()
    assert backoff.next_delay(up_s=3_600) == 0.5 * BASE_S
    assert backoff.tries == 1


def test_a_link_that_comes_up_and_dies_at_once_is_dialled_ever_more_slowly() -> None:
    backoff = Backoff(lambda: 0.5)
    delays = [backoff.next_delay(up_s=0.1) for _ in range(8)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]


@given(st.floats(0.1, RETRY_AFTER_CAP_S), st.randoms(use_true_random=False))
def test_the_brokers_wish_is_obeyed_within_a_fifth(wish_s: float, chance: random.Random) -> None:
    delay = Backoff(chance.random).next_delay(retry_after_s=wish_s)
    assert 0.8 * wish_s <= delay <= 1.2 * wish_s * (1 + 1e-9)


def test_what_locks_accounts_waits_for_minutes_each_time_and_never_for_ever() -> None:
    """A directory locks an account after some five wrong passwords in half an hour."""
    backoff = Backoff(lambda: 0.0)
    floor_s = TROUBLES["proxy-refused-login"].floor_s
    assert sum(backoff.next_delay(refused=True, floor_s=floor_s) for _ in range(5)) >= 1_500
    assert Backoff(lambda: 0.999).next_delay(floor_s=1e9) < FLOOR_CAP_S + BASE_S


def test_a_day_of_trouble_of_each_kind_is_dialled_seldom() -> None:
    """On a clock of its own: how often an agent dials in a day in which nothing is mended."""
    for name, trouble in TROUBLES.items():
        backoff, now, dials = Backoff(lambda: 0.5), 0.0, 0
        while now < 86_400:
            now += backoff.next_delay(refused=trouble.refused, floor_s=trouble.floor_s)
            dials += 1
        least, most = (150, 400) if trouble.refused else (1_500, 3_500)
        assert (least <= dials <= most) or (trouble.floor_s >= 300 and dials >= 80), (name, dials)
