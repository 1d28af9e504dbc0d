"""Agents of one group: which of them has a command, and what becomes of it when that one is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cloud_broker import members
from cloud_broker.catalogues import Operation, read
from cloud_broker.store.commands import Command
from protocol.messages import GROUPS, Accepted, Cancel, Completed, Condition, Held, Resume, Run, Started
from tests.waiting import until
from tests.whole.ring import SCOPE, Ring, ring
from tests.whole.scripted import Scripted, document


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds that are minutes at a site."""
    for name, seconds in {
        "BACK_S": 0.05,
        "LEASE_S": 0.3,
        "MARGIN_S": 0.05,
        "LOOK_S": 0.01,
        "ASK_AGAIN_S": 0.05,
    }.items():
        monkeypatch.setattr(members, name, seconds)


@pytest.fixture
async def broker(tmp_path: Path, soon: None) -> AsyncIterator[Ring]:
    async with ring(tmp_path) as made:
        for name in ("a", "b", "c"):
            await made.enrol(name, "plants")
        yield made


def catalogue(settled_by: str = "ledger", place: str = "", **about: Any) -> dict[str, Any]:
    """Return what a member's file says; ``place`` is its word for where its connection leads."""
    return document(about={"settled_by": settled_by, **about}, place=place)


@contextlib.asynccontextmanager
async def group(broker: Ring, *names: str, settled_by: str = "ledger", **about: Any) -> AsyncIterator[list[Scripted]]:
    """Members that are linked."""
    made = [
        Scripted(broker, name, f"j-{name}", catalogue(settled_by, f"place-{name}", **about), features=[GROUPS])
        for name in names
    ]
    try:
        for member in made:
            await member.link()
        yield made
    finally:
        for member in made:
            await member.cut()


async def ask(broker: Ring, operation: str, **asked: Any) -> Command:
    return await broker.submit(operation, agent=None, group="plants", **asked)


async def first(members_: Sequence[Scripted]) -> tuple[Scripted, Run]:
    """Return who has the next command, and it."""
    async with asyncio.timeout(5):
        while True:
            for member in members_:
                for number, (message, _) in enumerate(member.heard):
                    if isinstance(message, Run):
                        del member.heard[number]
                        return member, message
            await asyncio.sleep(0.002)  # between two looks at them all


async def gone(broker: Ring, *names: str) -> None:
    """Wait until the broker has noticed that members are lost."""
    lines = [line for name in names if (line := broker.router.line(SCOPE, name)) is not None]
    await until(lambda: all(line.link is None for line in lines))


async def held_back_by(broker: Ring, member: Scripted, condition: Condition) -> None:
    """Let a member say why it takes nothing, and wait until the broker knows."""
    line = broker.router.line(SCOPE, member.name)
    assert line is not None
    await member.say(condition)
    await until(lambda: bool(line.paused or line.shut or line.problems))


async def drain(broker: Ring, member: Scripted, *, drained: bool) -> None:
    await broker.store.drain_agent(SCOPE, member.name, time.time() if drained else None, time.time())
    broker.router.drain(SCOPE, member.name, drained=drained)


def waiting_for(broker: Ring, command: Command) -> str | None:
    return broker.commands.waiting_for(SCOPE, command)


async def begun(
    broker: Ring, there: list[Scripted], operation: str, **asked: Any
) -> tuple[Command, Scripted, Scripted]:
    """Let a member begin a command; return it, that member and another one."""
    command = await ask(broker, operation, **asked)
    member, run = await first(there)
    await member.say(Accepted(run.id, run.epoch), Started(run.id, run.epoch))
    await broker.state(command, "running")
    return command, member, next(other for other in there if other is not member)


# --- who has it ------------------------------------------------------------------------------------


async def test_commands_go_to_the_member_with_the_least_to_do(broker: Ring) -> None:
    async with group(broker, "a", "b", "c") as there:
        for _ in range(6):
            await ask(broker, "read")
        await until(lambda: sum(member.kinds().count("Run") for member in there) == 6)
        assert [member.kinds().count("Run") for member in there] == [2, 2, 2]


async def test_a_member_that_fails_everything_does_not_draw_all_commands(broker: Ring) -> None:
    failed = 0
    async with group(broker, "a", "b") as (sick, well):
        for _ in range(20):
            command = await ask(broker, "read")
            member, run = await first([sick, well])
            if member is well:
                await member.succeed(run)
                continue
            await member.fail(run, "source_failed", retryable=False)
            await broker.final(command)
            failed += 1
    assert failed <= 1


@pytest.mark.parametrize(
    "condition", [Condition(paused={"erp": "inventory"}), Condition(shut={"erp": 3600.0}), Condition(["no room"])]
)
async def test_a_member_that_can_not_is_passed_over_while_another_can(broker: Ring, condition: Condition) -> None:
    async with group(broker, "a", "b") as (held_back, other):
        await held_back_by(broker, held_back, condition)
        for _ in range(3):
            command = await ask(broker, "post")
            await other.succeed(await other.hear(Run))
            assert (await broker.final(command)).agent == "b"
        await held_back_by(broker, other, condition)
        command = await ask(broker, "post")
        wanted = "paused" if condition.paused else "window" if condition.shut else "agent"
        assert waiting_for(broker, command) == wanted


async def test_a_member_whose_breaker_is_open_is_passed_over(broker: Ring) -> None:
    async with group(broker, "a", "b") as (broken, other):
        line = broker.router.line(SCOPE, "a")
        assert line is not None
        breaker = line.breaker("erp")
        for number in range(breaker.guard.failures):
            breaker.ended(f"cmd_{number}", "source_unavailable", time.monotonic())
        for _ in range(3):
            command = await ask(broker, "post")
            assert waiting_for(broker, command) is None
            await other.succeed(await other.hear(Run))
            await broker.final(command)
        assert "Run" not in broken.kinds()


async def test_a_drained_member_ends_what_it_has_and_is_given_nothing_new(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command, drained, other = await begun(broker, there, "post")
        await drain(broker, drained, drained=True)
        for _ in range(3):
            next_one = await ask(broker, "post")
            await other.succeed(await other.hear(Run))
            await broker.final(next_one)
        await drained.say(Completed(command.id, 1, "succeeded"))
        assert (await broker.final(command)).agent == drained.name
        await drain(broker, other, drained=True)
        waits = await ask(broker, "post")
        assert waiting_for(broker, waits) == "drained"
        await drain(broker, drained, drained=False)
        await drained.succeed(await drained.hear(Run))
        await broker.final(waits)


async def test_a_drained_member_stays_so_when_it_comes_back(broker: Ring) -> None:
    await broker.store.drain_agent(SCOPE, "a", time.time(), time.time())
    async with group(broker, "a", "b") as (_, other):
        for _ in range(3):
            command = await ask(broker, "read")
            await other.succeed(await other.hear(Run))
            await broker.final(command)


# --- members whose files differ --------------------------------------------------------------------


async def test_a_command_goes_to_those_only_who_have_the_version_that_it_was_checked_against(broker: Ring) -> None:
    async with group(broker, "a", "b") as (one, two):
        newer = Scripted(broker, "c", "j-c", catalogue(place="place-c", version="2"), features=[GROUPS])
        await newer.link()
        for _ in range(6):
            command = await ask(broker, "post")
            member, run = await first([one, two, newer])
            assert member is not newer
            await member.succeed(run)
            await broker.final(command)
        await one.cut()
        await two.cut()
        await gone(broker, "a", "b")
        # Now the other version is the one that is there.
        command = await ask(broker, "post")
        await newer.succeed(await newer.hear(Run))
        await broker.final(command)
        await newer.cut()


async def test_what_waits_for_a_version_that_no_member_has_any_more_is_checked_again(broker: Ring) -> None:
    async with group(broker, "a", "b") as (one, two):
        await one.cut()
        await two.cut()
        await gone(broker, "a", "b")
        fits, changed = await ask(broker, "post"), await ask(broker, "book")
        await broker.store.revoke_agent(SCOPE, "c", time.time())
        newer = catalogue(place="p", version="2")
        newer["operations"][[o["name"] for o in newer["operations"]].index("book")]["effect"] = "at-most-once"
        one.catalogue = two.catalogue = newer
        await one.link()
        assert waiting_for(broker, fits) == "agent"  # the other member may still have it
        await two.link()
        member, run = await first([one, two])
        await member.succeed(run)
        assert (await broker.final(fits)).state == "succeeded"
        ended = await broker.final(changed)
        assert (ended.state, ended.error and ended.error.code) == ("failed", "operation_changed")


# --- one is lost -----------------------------------------------------------------------------------


async def test_a_read_runs_again_at_another_member(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command, lost, other = await begun(broker, there, "read")
        await lost.cut()
        run = await other.hear(Run)
        assert (run.id, run.epoch, run.settles) == (command.id, 2, 0)
        await other.succeed(run)
        assert (await broker.final(command)).agent == other.name


async def test_what_may_be_repeated_waits_until_the_lost_member_begins_nothing_any_more(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command, lost, other = await begun(broker, there, "set")
        began = time.monotonic()
        await lost.cut()
        await other.succeed(await other.hear(Run))
        # Its lease, what a greeting may take, and the operation's timeout.
        assert time.monotonic() - began >= 0.3 + 0.05 + 1.0 - 0.1
        assert (await broker.final(command)).agent == other.name


async def test_another_member_asks_the_ledger_for_what_a_lost_one_had(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command, lost, other = await begun(broker, there, "book")
        await lost.cut()
        run = await other.hear(Run)
        assert (run.id, run.epoch, run.settles, run.place) == (command.id, 2, 1, f"place-{lost.name}")
        await other.succeed(run, b'{"order_no":"A-1"}')
        ended = await broker.final(command)
        assert (ended.state, ended.agent, ended.epoch, ended.outputs) == (
            "succeeded",
            other.name,
            2,
            b'{"order_no":"A-1"}',
        )
        steps = await broker.store.steps(SCOPE, command.id)
        assert [(step.step, step.attempt, step.agent) for step in steps] == [("lost", 1, lost.name)]


async def test_what_did_not_happen_is_tried_again_at_another_member(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command, lost, other = await begun(broker, there, "book")
        await lost.cut()
        asked = await other.hear(Run)
        await other.fail(asked, "not_happened", touched=False)
        run = await other.hear(Run)
        assert (run.id, run.epoch, run.settles) == (command.id, 3, 0)
        await other.succeed(run)
        assert (await broker.final(command)).agent == other.name


async def test_a_verify_is_asked_only_once_the_lost_member_begins_nothing_any_more(broker: Ring) -> None:
    async with group(broker, "a", "b", settled_by="verify") as there:
        command, lost, other = await begun(broker, there, "post")
        began = time.monotonic()
        await lost.cut()
        run = await other.hear(Run)
        assert run.settles == 1
        assert time.monotonic() - began >= 0.3 + 0.05 - 0.1
        await other.succeed(run)
        assert (await broker.final(command)).state == "succeeded"


@pytest.mark.parametrize("settled_by", ["nobody", "folder", ""])
async def test_what_no_other_member_can_tell_waits_for_the_lost_one(
    broker: Ring, settled_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_broker.deadlines.AWAY_S", 0.0)
    async with group(broker, "a", "b", settled_by=settled_by) as there:
        command, lost, other = await begun(broker, there, "post", ttl_s=2.5)
        await lost.cut()
        ended = await broker.final(command)
        assert "Run" not in other.kinds()
        assert ended.state == "in_doubt"
        assert ended.error is not None
        assert lost.name in ended.error.message
        assert "look in the ERP" in ended.error.message


async def test_one_that_can_not_tell_is_asked_once_and_quoted(broker: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_broker.deadlines.AWAY_S", 0.0)
    async with group(broker, "a", "b") as there:
        command, lost, other = await begun(broker, there, "book", ttl_s=2.5)
        await lost.cut()
        run = await other.hear(Run)
        said = Completed(
            run.id, run.epoch, "in_doubt", error_kind="unknown", error_code="x", error_message="another one"
        )
        await other.say(said)
        ended = await broker.final(command)
        assert "Run" not in other.kinds()
        assert ended.error is not None
        assert f"{other.name} said: another one" in ended.error.message


async def test_one_that_could_not_be_asked_now_is_asked_again(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command, lost, other = await begun(broker, there, "book")
        await lost.cut()
        run = await other.hear(Run)
        await other.fail(run, "agent_stopping", touched=False)
        again = await other.hear(Run)
        assert (again.settles, again.epoch) == (1, run.epoch + 1)
        await other.succeed(again)
        await broker.final(command)


async def test_the_lost_member_that_is_back_first_ends_the_question(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command, lost, other = await begun(broker, there, "book")
        await lost.cut()
        asked = await other.hear(Run)
        await lost.link(Held(command.id, 1, False))
        assert (await other.hear(Cancel)).epoch == asked.epoch
        await lost.hear(Resume)
        await other.fail(asked, "cancelled", touched=False)
        await lost.say(Completed(command.id, 1, "succeeded"))
        ended = await broker.final(command)
        assert (ended.state, ended.agent, ended.epoch) == ("succeeded", lost.name, 1)


async def test_a_member_that_answers_after_the_lost_one_is_back_changes_nothing(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command, lost, other = await begun(broker, there, "book")
        await lost.cut()
        asked = await other.hear(Run)
        await lost.link()  # it knows nothing of it: it had not begun
        await other.succeed(asked)
        member, run = await first(there)
        assert (run.id, run.epoch, run.settles) == (command.id, 3, 0)
        await member.succeed(run)
        assert (await broker.final(command)).epoch == 3


async def test_the_one_that_is_asked_may_be_lost_too(broker: Ring) -> None:
    async with group(broker, "a", "b", "c") as there:
        command, lost, _ = await begun(broker, there, "book")
        rest = [member for member in there if member is not lost]
        await lost.cut()
        asked, run = await first(rest)
        await asked.cut()
        other, again = await first([member for member in rest if member is not asked])
        assert (again.settles, again.epoch) == (1, run.epoch + 1)
        await other.succeed(again)
        assert (await broker.final(command)).agent == other.name


async def test_a_broker_that_died_meanwhile_asks_again(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command, lost, other = await begun(broker, there, "book")
        await lost.cut()
        await other.hear(Run)
        await other.cut()
        await broker.restart()
        await other.link(Held(command.id, 2, False))
        run = await other.hear(Run)
        assert (run.settles, run.place) == (1, f"place-{lost.name}")
        await other.succeed(run)
        assert (await broker.final(command)).state == "succeeded"


async def test_a_member_of_another_version_is_not_asked(broker: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_broker.deadlines.AWAY_S", 0.0)
    async with group(broker, "a") as (lost,):
        command = await ask(broker, "book", ttl_s=2.5)
        await lost.begin()
        other = Scripted(broker, "b", "j-b", catalogue(version="2"), features=[GROUPS])
        await other.link()
        await lost.cut()
        assert (await broker.final(command)).state == "in_doubt"
        assert "Run" not in other.kinds()
        await other.cut()


async def test_a_cancelled_command_that_a_lost_member_had_is_still_found_out(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command, lost, other = await begun(broker, there, "book")
        await lost.cut()
        asking = await other.hear(Run)
        cancelling = asyncio.create_task(broker.commands.cancel(SCOPE, command.id))
        await other.fail(asking, "not_happened", touched=False)
        await cancelling
        assert (await broker.final(command)).state == "cancelled"
        assert "Run" not in other.kinds()


# --- the order, and the time to begin ---------------------------------------------------------------


async def test_the_next_of_an_ordering_key_waits_until_the_former_is_found_out(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        former, lost, other = await begun(broker, there, "book", ordering_key="k")
        following = await ask(broker, "book", ordering_key="k")
        await lost.cut()
        asked = await other.hear(Run)
        assert (asked.id, waiting_for(broker, following)) == (former.id, "order")
        await other.succeed(asked)
        await broker.final(former)
        run = await other.hear(Run)
        assert (run.id, run.settles) == (following.id, 0)
        await other.succeed(run)
        await broker.final(following)


async def test_the_next_of_an_ordering_key_goes_to_whichever_member_is_free(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        former = await ask(broker, "post", ordering_key="k")
        member, run = await first(there)
        following = await ask(broker, "post", ordering_key="k")
        other = next(other for other in there if other is not member)
        await held_back_by(broker, member, Condition(paused={"erp": "inventory"}))
        await member.succeed(run)
        await broker.final(former)
        await other.succeed(await other.hear(Run))
        assert (await broker.final(following)).agent == other.name


async def test_a_member_has_a_lease_to_begin_and_another_one_gets_what_it_could_not(broker: Ring) -> None:
    async with group(broker, "a", "b") as there:
        command = await ask(broker, "post", ttl_s=60)
        member, run = await first(there)
        assert run.expires_in_s == pytest.approx(0.3, abs=0.01)
        late = Completed(
            run.id, run.epoch, "expired", error_kind="deadline", error_code="deadline_passed", touched=False
        )
        await member.say(late)
        other, again = await first(there)
        assert again.epoch == 2
        await other.succeed(again)
        assert (await broker.final(command)).state == "succeeded"


async def test_a_read_and_a_command_for_one_agent_have_all_their_time(broker: Ring) -> None:
    async with group(broker, "a") as (member,):
        await ask(broker, "read", ttl_s=60)
        assert (await member.hear(Run)).expires_in_s > 50
        await broker.submit("post", agent="a", ttl_s=60)
        assert (await member.hear(Run)).expires_in_s > 50


# --- the table -------------------------------------------------------------------------------------

WAIT, MOVE, ASK = members.Elsewhere.WAIT, members.Elsewhere.MOVE, members.Elsewhere.ASK
GONE = 1_000.0  # seconds; longer than anything is waited for


def version(effect: str, settled_by: str) -> Operation:
    data = json.dumps(document(about={"settled_by": settled_by})).encode()
    return next(found for found in read(data).operations.values() if found.effect == effect)


@pytest.mark.parametrize(
    ("effect", "settled_by", "away_s", "said_s", "expected"),
    [
        ("read", "", 1.0, GONE, WAIT),
        ("read", "", GONE, 1.0, MOVE),
        ("idempotent", "nobody", GONE, 40.0, WAIT),
        ("idempotent", "nobody", GONE, 47.0, MOVE),
        ("idempotent", "", GONE, GONE, WAIT),
        ("once", "ledger", 1.0, GONE, WAIT),
        ("once", "ledger", GONE, 1.0, ASK),
        ("once", "folder", GONE, GONE, WAIT),
        ("once", "", GONE, GONE, WAIT),
        ("at-most-once", "verify", GONE, 40.0, WAIT),
        ("at-most-once", "verify", GONE, 46.0, ASK),
        ("at-most-once", "nobody", GONE, GONE, WAIT),
        ("at-most-once", "", GONE, GONE, WAIT),
    ],
)
def test_who_can_tell_and_when(
    effect: str, settled_by: str, away_s: float, said_s: float, expected: members.Elsewhere
) -> None:
    operation = version(effect, settled_by)
    command = Command(
        "cmd_1",
        "acme",
        "a",
        "plants",
        operation.name,
        "erp",
        operation.effect,
        b"{}",
        "",
        0.0,
        60.0,
        operation_digest=operation.digest,
    )
    assert members.elsewhere(command, operation, away_s=away_s, said_s=said_s) is expected
    newer = replace(command, operation_digest="of another version")
    assert members.elsewhere(newer, operation, away_s=away_s, said_s=said_s) in (
        WAIT,
        MOVE if effect == "read" else WAIT,
    )
