"""What becomes of a command whose link, agent or broker was lost."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from cloud_broker.settlement import Decision, ended, gave_up, lost, settle, silent
from cloud_broker.store.commands import Command, CommandError, Effect
from protocol.messages import Held
from protocol.states import CommandState

RESUME, AGAIN, IN_DOUBT = Decision.RESUME, Decision.AGAIN, Decision.IN_DOUBT


def command(effect: Effect) -> Command:
    return Command(
        id="cmd_1",
        tenant="acme",
        agent="plant-1",
        group=None,
        operation="o",
        connection="c",
        effect=effect,
        params=b"{}",
        fingerprint="",
        created_at=0.0,
        expires_at=60.0,
        state=CommandState.RUNNING,
        epoch=2,
        journal="journal-1",
    )


def held(*, epoch: int = 2, first: int = 0, sent: int = 100) -> Held:
    return Held(id="cmd_1", epoch=epoch, ended=False, first=first, sent=sent)


TABLE = [
    # what the agent holds, its journal, the bytes we have → a read, an effect
    ("it holds all, we have nothing", held(), "journal-1", 0, RESUME, RESUME),
    ("it holds all, we have some", held(), "journal-1", 70, RESUME, RESUME),
    ("it holds all, we have all", held(), "journal-1", 100, RESUME, RESUME),
    ("it holds the rest of what we have", held(first=50), "journal-1", 60, RESUME, RESUME),
    ("it let go of what we lost", held(first=50), "journal-1", 0, AGAIN, IN_DOUBT),
    ("it began anew, and has less than we", held(sent=10), "journal-1", 60, RESUME, RESUME),
    ("it never sent what we have", held(first=5, sent=10), "journal-1", 60, AGAIN, IN_DOUBT),
    ("it holds an older attempt", held(epoch=1), "journal-1", 0, AGAIN, AGAIN),
    ("it holds an older attempt, elsewhere", held(epoch=1), "journal-2", 0, AGAIN, IN_DOUBT),
    ("the same journal has nothing of it", None, "journal-1", 0, AGAIN, AGAIN),
    ("another journal has nothing of it", None, "journal-2", 0, AGAIN, IN_DOUBT),
]


@pytest.mark.parametrize(("about", "held_", "journal", "have", "read", "effect"), TABLE, ids=[row[0] for row in TABLE])
def test_each_case_has_its_decision(
    about: str, held_: Held | None, journal: str, have: int, read: Decision, effect: Decision
) -> None:
    assert settle(command("read"), held_, journal=journal, have=have) is read
    assert settle(command("idempotent"), held_, journal=journal, have=have) is read
    assert settle(command("at-most-once"), held_, journal=journal, have=have) is effect
    assert settle(command("once"), held_, journal=journal, have=have) is effect


def test_a_journal_without_a_mark_says_nothing() -> None:
    assert settle(replace(command("once"), journal=""), None, journal="", have=0) is IN_DOUBT


QUIET = [
    # state, seconds since the last word of it (timeout 30 s), the time now (its own is up at 60) → given up
    (CommandState.RUNNING, 629.0, 0.0, False),
    (CommandState.RUNNING, 631.0, 0.0, True),
    (CommandState.RUNNING, 5.0, 10_000.0, False),
    (CommandState.DISPATCHED, 5_000.0, 659.0, False),
    (CommandState.DISPATCHED, 5_000.0, 661.0, True),
    (CommandState.DISPATCHED, 5.0, 10_000.0, False),
]


@pytest.mark.parametrize(("state", "quiet_s", "now", "given_up"), QUIET)
def test_an_attempt_is_given_up_when_nothing_was_said_about_it_for_too_long(
    state: CommandState, quiet_s: float, now: float, given_up: bool
) -> None:
    assert silent(replace(command("once"), state=state), 30.0, quiet_s, now) is given_up


def test_what_is_given_up_may_have_happened_if_it_has_an_effect() -> None:
    assert gave_up(command("idempotent"), 1.0).state is CommandState.FAILED
    assert gave_up(command("once"), 1.0).state is CommandState.IN_DOUBT


def test_an_expired_command_tells_why_its_last_attempt_failed() -> None:
    last = CommandError("technical", "source_unavailable", "the host is down")
    for error, said in ((last, "source_unavailable: the host is down"), (None, "before it could start")):
        finish = ended(CommandState.EXPIRED, 1.0, error)
        assert finish.error is not None
        assert finish.error.message.endswith(said)


def test_a_command_whose_agent_never_came_back_is_in_doubt_if_it_may_have_had_an_effect() -> None:
    assert lost(command("read")) is AGAIN
    assert lost(command("at-most-once")) is IN_DOUBT
