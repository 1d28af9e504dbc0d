"""What follows a failed attempt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cloud_broker.retries import Again, Schedule, after
from cloud_broker.store.commands import Effect
from protocol.messages import Completed
from protocol.states import CommandState
from tests.contracts.records import command

NOW = 1_000.0
COMMAND = command(expires_at=NOW + 3_600.0, state=CommandState.RUNNING, epoch=1)


def completed(**told: Any) -> Completed:
    said = {"outcome": "failed", "error_kind": "technical", "error_code": "timed_out", "retryable": True}
    return Completed(COMMAND.id, 1, **{**said, **told})


def decided(message: Completed, *, chance: float = 0.0, schedule: Schedule | None = None, **of: Any) -> Again | None:
    return after(replace(COMMAND, **of), message, schedule or Schedule(), NOW, lambda: chance)


CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("a technical error that may not be there next time", {}, True),
    ("a system that was not reached", {"error_code": "source_unavailable", "touched": False}, True),
    ("a technical error that will be there next time", {"error_code": "source_failed", "retryable": False}, False),
    ("the ERP said no", {"outcome": "rejected", "error_kind": "business", "error_code": "source_rejected"}, False),
    ("it may have happened", {"outcome": "in_doubt", "error_kind": "unknown", "error_code": "outcome_unknown"}, False),
    ("in doubt, and the agent calls it technical", {"outcome": "in_doubt"}, False),
    (
        "a policy forbids it, whatever the agent thinks of it",
        {"error_kind": "policy", "error_code": "not_allowed"},
        False,
    ),
    ("its time was up", {"outcome": "expired", "error_kind": "deadline", "error_code": "deadline_passed"}, False),
    ("its caller wants it no more", {"outcome": "cancelled", "error_code": "cancelled"}, False),
    ("it was done", {"outcome": "succeeded", "error_kind": "", "error_code": "", "retryable": False}, False),
]


@pytest.mark.parametrize("effect", ["read", "idempotent", "once", "at-most-once"])
@pytest.mark.parametrize(("about", "told", "again"), CASES, ids=[case[0] for case in CASES])
def test_what_is_tried_again(about: str, told: dict[str, Any], again: bool, effect: Effect) -> None:
    assert (decided(completed(**told), effect=effect) is not None) is again


def test_tries_are_used_up() -> None:
    message = completed()
    assert [again and again.failures for again in (decided(message, failures=n) for n in range(6))] == [
        1,
        2,
        3,
        4,
        None,
        None,
    ]
    assert decided(message, schedule=Schedule(attempts=1)) is None


def test_a_system_that_can_not_be_reached_uses_up_no_try_and_is_asked_ever_less_often() -> None:
    message = completed(error_code="source_unavailable", touched=False)
    told = [decided(message, failures=4, epoch=epoch) for epoch in (1, 2, 3, 100)]
    assert [again and (again.failures, again.not_before - NOW) for again in told] == [(4, 1), (4, 2), (4, 4), (4, 60)]


def test_a_wait_is_drawn_from_the_whole_of_a_range_that_doubles() -> None:
    for failures, ceiling in ((0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0)):
        for chance, part in ((0.0, 1.0), (0.5, 0.5), (0.75, 0.25)):
            assert decided(completed(), failures=failures, chance=chance) == Again(failures + 1, NOW + ceiling * part)


def test_a_try_that_would_come_too_late_is_none() -> None:
    assert decided(completed(), expires_at=NOW + 1.0) is None
    assert decided(completed(), expires_at=NOW + 1.1) == Again(1, NOW + 1.0)


@given(
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.01, 3_600),
    st.floats(0.01, 86_400),
)
def test_no_wait_is_longer_than_the_longest_or_none_at_all(
    failures: int, epoch: int, chance: float, first_s: float, most_s: float
) -> None:
    schedule = Schedule(attempts=20_000, first_s=first_s, most_s=most_s)
    again = decided(completed(), chance=chance, schedule=schedule, failures=failures, epoch=epoch, expires_at=NOW + 1e9)
    assert again is not None
    assert NOW <= again.not_before <= NOW + most_s
