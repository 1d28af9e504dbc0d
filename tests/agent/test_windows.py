from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.windows import DAYS, Window, opens_in, parse_window

MONDAY = datetime(2026, 3, 2)


def at(day: str, clock: str) -> datetime:
    hours, minutes = map(int, clock.split(":"))
    return MONDAY + timedelta(days=DAYS.index(day), hours=hours, minutes=minutes)


@pytest.mark.parametrize(
    ("text", "day", "clock", "is_open"),
    [
        ("mon-fri 06:00-22:00", "mon", "05:59", False),
        ("mon-fri 06:00-22:00", "mon", "06:00", True),
        ("mon-fri 06:00-22:00", "fri", "21:59", True),
        ("mon-fri 06:00-22:00", "fri", "22:00", False),
        ("mon-fri 06:00-22:00", "sat", "12:00", False),
        ("fri-mon 00:00-24:00", "sun", "23:59", True),
        ("fri-mon 00:00-24:00", "tue", "00:00", False),
        ("sat,sun 22:00-04:00", "sat", "23:00", True),
        ("sat,sun 22:00-04:00", "sun", "03:59", True),
        ("sat,sun 22:00-04:00", "mon", "03:59", True),
        ("sat,sun 22:00-04:00", "mon", "04:00", False),
        ("sat,sun 22:00-04:00", "sat", "03:00", False),
        ("mon,wed-thu 08:00-09:00", "wed", "08:30", True),
        ("mon,wed-thu 08:00-09:00", "tue", "08:30", False),
        ("MON 08:00-09:00", "mon", "08:30", True),
    ],
)
def test_a_window_is_open_at_these_times(text: str, day: str, clock: str, is_open: bool) -> None:
    assert parse_window(text).is_open(at(day, clock)) is is_open


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("mon 06:00-07:00", 6 * 3600),
        ("tue 00:00-01:00", 24 * 3600),
        ("sun 23:00-24:00", (6 * 24 + 23) * 3600),
        ("sun 22:00-01:00", 0),
    ],
)
def test_the_time_until_a_window_opens_is_told_in_seconds(text: str, seconds: float) -> None:
    assert opens_in((parse_window(text),), MONDAY) == seconds


def test_no_window_means_always_open() -> None:
    assert opens_in((), MONDAY) == 0.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("06:00-22:00", "wants a window such as"),
        ("mon 6:00-22:00", "wants a window such as"),
        ("mon-fri", "wants a window such as"),
        ("mon-xyz 06:00-22:00", "'xyz' is no day"),
        ("mon 25:00-26:00", "no time of day"),
        ("mon 23:60-24:00", "no time of day"),
        ("mon 24:01-25:00", "no time of day"),
        ("mon 24:00-01:00", "can't open at 24:00"),
        ("mon 06:00-06:00", "never opens"),
    ],
)
def test_what_is_no_window_is_refused_in_words(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_window(text)


def clock(minute: int) -> str:
    return f"{minute % 1440 // 60:02}:{minute % 60:02}"


texts = st.builds(
    lambda days, start, length: f"{','.join(days)} {clock(start)}-{clock(start + length)}",
    st.lists(st.sampled_from(DAYS), min_size=1, max_size=7),
    st.integers(0, 1439),
    st.integers(1, 1439),
)
moments = st.datetimes(min_value=datetime(2026, 1, 1), max_value=datetime(2026, 2, 1))


@given(st.lists(texts, min_size=1, max_size=2), moments)
def test_a_window_opens_when_it_says_and_not_before(written: list[str], now: datetime) -> None:
    windows = tuple(map(parse_window, written))
    wait = opens_in(windows, now)

    def is_open(moment: datetime) -> bool:
        return any(window.is_open(moment) for window in windows)

    assert is_open(now + timedelta(seconds=wait))
    assert (wait == 0.0) is is_open(now)
    if wait > 0:
        assert not is_open(now + timedelta(seconds=wait / 2))
        assert not is_open(now + timedelta(seconds=wait, microseconds=-1))


@given(st.integers(0, 1439), st.integers(1, 1439), moments)
def test_a_window_of_all_days_is_open_for_its_length_each_day(start: int, length: int, now: datetime) -> None:
    window = Window(frozenset(range(7)), start, start + length)
    minute = now.hour * 60 + now.minute
    assert window.is_open(now) is ((minute - start) % 1440 < length)
