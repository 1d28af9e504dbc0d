"""What an error amounts to."""

from __future__ import annotations

import pytest

from agent import errors
from agent.journal.base import Claim, Entry
from agent.policy import Verdict, judge, permitted, told_before
from agent.settings import Effect, Settings
from agent.settings_reader import read
from protocol.messages import Completed

CASES: list[tuple[errors.CommandError, Effect, bool, Verdict]] = [
    (errors.SourceRejected("x"), "once", False, Verdict("rejected", "business", "source_rejected")),
    (errors.SourceRejected("x"), "once", True, Verdict("rejected", "business", "source_rejected")),
    (errors.SourceFailed("x"), "once", False, Verdict("failed", "technical", "source_failed")),
    (errors.SourceFailed("x"), "once", True, Verdict("cancelled", "technical", "cancelled")),
    (errors.OutcomeUnknown("x"), "once", False, Verdict("in_doubt", "unknown", "outcome_unknown")),
    (errors.OutcomeUnknown("x"), "at-most-once", True, Verdict("in_doubt", "unknown", "outcome_unknown")),
    (errors.OutcomeUnknown("x"), "read", False, Verdict("failed", "technical", "outcome_unknown")),
    (errors.OutcomeUnknown("x"), "read", True, Verdict("cancelled", "technical", "cancelled")),
    (errors.OutcomeUnknown("x", touched=False), "once", False, Verdict("failed", "technical", "outcome_unknown")),
    (errors.DriverCrashed("x"), "at-most-once", False, Verdict("in_doubt", "unknown", "driver_crashed")),
    (errors.DriverCrashed("x"), "idempotent", False, Verdict("failed", "technical", "driver_crashed")),
    (errors.DeadlinePassed("x"), "read", False, Verdict("expired", "deadline", "deadline_passed")),
    (errors.ParametersInvalid("x"), "once", False, Verdict("failed", "policy", "parameters_invalid")),
    (errors.NotAllowed("x"), "once", False, Verdict("failed", "policy", "not_allowed")),
    (errors.Cancelled("x"), "once", True, Verdict("cancelled", "technical", "cancelled")),
    (errors.Cancelled("x"), "once", False, Verdict("failed", "technical", "cancelled")),
    (errors.NotHappened("x", touched=False), "once", False, Verdict("failed", "technical", "not_happened")),
    (errors.NotHappened("x", touched=False), "once", True, Verdict("cancelled", "technical", "cancelled")),
    (errors.AgentStopping("x"), "once", False, Verdict("failed", "technical", "agent_stopping")),
    (errors.FileExists("x"), "once", False, Verdict("failed", "technical", "file_exists")),
]


@pytest.mark.parametrize(
    ("error", "effect", "cancelled", "verdict"),
    CASES,
    ids=[f"{type(error).__name__}-{effect}-{cancelled}" for error, effect, cancelled, _ in CASES],
)
def test_each_error_has_its_verdict(
    error: errors.CommandError, effect: Effect, cancelled: bool, verdict: Verdict
) -> None:
    assert judge(error, effect, cancelled=cancelled) == verdict


SETTINGS = read(
    {
        "agent": "a",
        "state_dir": "s",
        "connections": {"p": {"type": "synthetic"}},
        "operations": {
            "open": {"connection": "p", "synthetic": "echo"},
        },
    },
    Settings,
)


def test_only_what_the_file_names_may_run() -> None:
    assert permitted(SETTINGS, "open") is SETTINGS.operations["open"]
    with pytest.raises(errors.OperationUnknown):
        permitted(SETTINGS, "other")


def entry(outcome: str | None, *, epoch: int = 1, fingerprint: str = "f", effect: str = "once") -> Entry:
    completed = None if outcome is None else Completed("c", epoch, outcome)  # type: ignore[arg-type]  # from a table
    return Entry(claim(epoch, fingerprint, effect), completed)


def claim(epoch: int, fingerprint: str = "f", effect: str = "once") -> Claim:
    return Claim("c", epoch, fingerprint, "op", effect, b"{}", "", 0.0)  # type: ignore[arg-type]  # from a table


@pytest.mark.parametrize(
    ("about", "earlier", "runs"),
    [
        ("nothing is known of it", None, True),
        ("it succeeded", entry("succeeded"), False),
        ("the ERP refused it", entry("rejected"), False),
        ("it is in doubt", entry("in_doubt"), False),
        ("an earlier attempt had no effect", entry("failed"), True),
        ("an earlier attempt was cancelled", entry("cancelled"), True),
        ("this very attempt had no effect", entry("failed", epoch=2), False),
        ("a later attempt had no effect", entry("failed", epoch=3), False),
        ("it may run any number of times", entry("succeeded", effect="read"), True),
        ("it may run any number of times, and had not ended", entry(None, effect="idempotent"), True),
    ],
)
def test_what_had_its_outcome_is_not_run_again(about: str, earlier: Entry | None, runs: bool) -> None:
    assert (told_before(claim(2), earlier) is None) is runs


def test_what_began_and_never_ended_is_not_run() -> None:
    with pytest.raises(errors.OutcomeUnknown):
        told_before(claim(2), entry(None))


@pytest.mark.parametrize("effect", ["read", "once"])
def test_an_id_that_was_used_for_other_work_is_a_conflict(effect: str) -> None:
    with pytest.raises(errors.JournalConflict):
        told_before(claim(1, "other", effect), entry("succeeded"))
