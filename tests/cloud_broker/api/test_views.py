"""What callers see of times."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from cloud_broker.api.views import time_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1_790_000_000.000001, "2026-09-21T14:13:20.000001Z"),
        (1_790_000_000.25, "2026-09-21T14:13:20.250000Z"),
        (1_790_000_000.9999998, "2026-09-21T14:13:21.000000Z"),
        (1_798_761_599.9999998, "2027-01-01T00:00:00.000000Z"),
    ],
)
def test_a_time_is_told_to_the_microsecond(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_any_time_is_told_as_python_tells_it() -> None:
    draw = random.Random(7)  # noqa: S311 - the same times in each run, and nothing secret
    for seconds in (draw.uniform(0, 4e9) for _ in range(1_000)):
        whole = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
        assert time_text(seconds) == whole.replace("+00:00", "Z")
