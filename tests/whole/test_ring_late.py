"""The two paths joined, when answers come late, journals are put back, and agents are not well or say nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.errors import StoreUnavailable
from cloud_broker.late_answers import MAX_ANSWERS, known
from cloud_broker.retries import Schedule
from cloud_broker.settlement import gave_up
from cloud_broker.store.commands import Command, Step
from protocol import limits
from protocol.messages import (
    Ack,
    Cancel,
    Chunk,
    ColumnInfo,
    Completed,
    Condition,
    Goodbye,
    Held,
    Holding,
    Resume,
    RowSetBegins,
    Run,
    Welcome,
)
from protocol.states import CommandState
from tests.waiting import until
from tests.whole.ring import SCOPE, Ring, begun, ring
from tests.whole.scripted import Scripted, document, scripted


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Ring]:
    async with ring(tmp_path) as made:
        yield made


@pytest.fixture
async def agent(broker: Ring) -> AsyncIterator[Scripted]:
    async with scripted(broker) as made:
        yield made


async def steps(broker: Ring, command: Command) -> list[Step]:
    return await broker.store.steps(SCOPE, command.id)


async def in_doubt(broker: Ring, agent: Scripted) -> Run:
    """Return the attempt at an effect whose agent was lost with its journal."""
    command = await broker.submit("post")
    run = await agent.begin()
    agent.journal = "another"
    await agent.link()
    assert (await broker.final(command)).state is CommandState.IN_DOUBT
    return run


# --- late answers ---------------------------------------------------------------------------------


async def test_what_came_of_a_command_in_doubt_is_kept_when_it_is_told_late(broker: Ring, agent: Scripted) -> None:
    run = await in_doubt(broker, agent)
    await agent.link(Held(run.id, run.epoch, ended=True, sent=500))
    resume = await agent.hear(Resume)
    assert (resume.id, resume.epoch, resume.offset) == (run.id, run.epoch, 500)
    await agent.succeed(run, b'{"order_no":"4711"}')
    assert (await agent.hear(Ack)).id == run.id
    command = await broker.commands.get(SCOPE, run.id)
    assert command.state is CommandState.IN_DOUBT, "it changes nothing"
    (late,) = await steps(broker, command)
    assert (late.step, late.attempt, late.agent, late.outcome) == ("late_answer", 1, "plant-1", "succeeded")
    assert late.outputs == b'{"order_no":"4711"}'


async def test_an_effect_that_still_runs_is_waited_for_and_a_read_is_not(broker: Ring, agent: Scripted) -> None:
    run = await in_doubt(broker, agent)
    read = await broker.submit("read", ttl_s=0.5)
    reading = await agent.begin()
    await agent.cut()
    assert (await broker.final(read)).state is CommandState.EXPIRED
    await agent.link(Held(run.id, run.epoch, ended=False), Held(reading.id, reading.epoch, ended=False))
    assert (await agent.hear(Ack)).id == reading.id
    assert (await agent.hear(Resume)).id == run.id
    rows = b'{"a":1}\n'
    await agent.say(RowSetBegins(run.id, run.epoch, 0, 0, [ColumnInfo("a", "integer")]))
    for number in range(2 * limits.STREAM_WINDOW_BYTES // limits.CHUNK_BYTES):
        data = rows * (limits.CHUNK_BYTES // len(rows))
        await agent.say(Chunk(run.id, run.epoch, number * len(data), 1), payload=data)
        if number % 8 == 7:
            await until(lambda: "Credit" in agent.kinds())
    await agent.fail(run, "outcome_unknown", outcome="in_doubt", error_kind="unknown")
    assert (await agent.hear(Ack)).id == run.id
    (late,) = await steps(broker, await broker.commands.get(SCOPE, run.id))
    assert late.error is not None
    assert (late.outcome, late.error.code) == ("in_doubt", "outcome_unknown")


async def test_a_late_answer_is_kept_before_the_agent_may_forget_it(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await in_doubt(broker, agent)
    add_step, refused, is_full = broker.store.add_step, asyncio.Event(), True

    async def sometimes(*args: Any) -> None:
        if is_full:
            refused.set()
            raise StoreUnavailable("the disk is full")
        await add_step(*args)

    monkeypatch.setattr("cloud_broker.background.STORE_RETRY_S", 0.01)
    monkeypatch.setattr(broker.store, "add_step", sometimes)
    await agent.link(Held(run.id, run.epoch, ended=True))
    await agent.hear(Resume)
    await agent.succeed(run)
    async with asyncio.timeout(5):
        await refused.wait()
    assert "Ack" not in agent.kinds()
    is_full = False
    await agent.hear(Ack)


async def test_an_answer_that_is_known_is_not_kept_again(broker: Ring, agent: Scripted) -> None:
    done = await broker.submit("post")
    run = await agent.begin()
    await agent.succeed(run)
    assert (await broker.final(done)).state is CommandState.SUCCEEDED
    doubtful = await in_doubt(broker, agent)
    for _ in range(2):
        await agent.link(Held(run.id, run.epoch, ended=True), Held(doubtful.id, doubtful.epoch, ended=True))
        acked: set[str] = set()
        async with asyncio.timeout(5):
            while len(acked) < 2:
                said = (await agent.hear_any(Ack, Resume)).message
                if isinstance(said, Resume):
                    await agent.succeed(doubtful)
                else:
                    assert isinstance(said, Ack)
                    acked.add(said.id)
        assert acked == {run.id, doubtful.id}
    assert await steps(broker, done) == []
    assert len(await steps(broker, await broker.commands.get(SCOPE, doubtful.id))) == 1


async def test_a_failure_that_ended_its_command_is_no_late_answer_when_it_is_told_again(
    broker: Ring, agent: Scripted
) -> None:
    command = await broker.submit("post")
    run = await agent.begin()
    await agent.fail(run, "source_failed", retryable=False)
    assert (await broker.final(command)).state is CommandState.FAILED
    await agent.link(Held(run.id, run.epoch, ended=True))
    await agent.hear(Resume)
    await agent.fail(run, "source_failed", retryable=False)
    await agent.hear(Ack)
    assert await steps(broker, command) == []


async def test_large_outputs_of_a_late_answer_are_told_of_and_not_kept(broker: Ring, agent: Scripted) -> None:
    run = await in_doubt(broker, agent)
    await agent.link(Held(run.id, run.epoch, ended=True))
    await agent.hear(Resume)
    await agent.succeed(run, b'{"a":"' + b"x" * 70_000 + b'"}')
    await agent.hear(Ack)
    (late,) = await steps(broker, await broker.commands.get(SCOPE, run.id))
    assert late.outputs is None
    assert "70008 bytes" in late.detail


async def test_the_end_of_an_older_attempt_is_told_before_the_next_one_is_sent(broker: Ring, agent: Scripted) -> None:
    command = await broker.submit("set")
    first = await agent.begin()
    agent.journal = "another"
    await agent.link()
    second = await agent.begin()
    assert second.epoch == 2
    # A machine that was put back: it holds the first attempt only.
    agent.journal = "j"
    await agent.dial()
    holding = asyncio.create_task(agent.holds(Held(first.id, first.epoch, ended=True)))
    assert (await agent.hear(Resume)).epoch == 1
    assert "Run" not in agent.kinds()
    await agent.fail(first, "source_unavailable")
    assert (await agent.hear(Ack)).epoch == 1
    await holding
    third = await agent.begin()
    assert (third.id, third.epoch) == (command.id, 3)
    await agent.succeed(third)
    ended = await broker.final(command)
    assert (ended.state, ended.failures) == ("succeeded", 0)
    assert [(step.step, step.attempt) for step in await steps(broker, command) if step.step == "late_answer"] == [
        ("late_answer", 1)
    ]


async def test_an_agent_that_does_not_tell_what_it_says_has_ended_is_sent_away(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_broker.late_answers.TELL_S", 0.05)
    await broker.submit("set")
    first = await agent.begin()
    agent.journal = "another"
    await agent.link()
    await agent.begin()
    agent.journal = "j"
    await agent.dial()
    holding = asyncio.create_task(agent.holds(Held(first.id, first.epoch, ended=True)))
    assert (await agent.hear(Goodbye)).code == "protocol"
    holding.cancel()


async def test_a_command_of_nobody_is_forgotten(broker: Ring, agent: Scripted) -> None:
    await agent.link(Held("cmd_of_another_tenant", 3, ended=True))
    assert (await agent.hear(Ack)).id == "cmd_of_another_tenant"


async def test_of_a_command_that_another_agent_was_sent_an_agent_s_word_is_no_evidence(
    broker: Ring, agent: Scripted
) -> None:
    run = await in_doubt(broker, agent)
    await broker.enrol("plant-2")
    async with scripted(broker, name="plant-2") as other:
        await other.link(Held(run.id, run.epoch, ended=True))
        await other.hear(Ack)
        assert "Resume" not in other.kinds()
    assert await steps(broker, await broker.commands.get(SCOPE, run.id)) == []


async def test_an_agent_of_the_same_group_may_answer_late(broker: Ring) -> None:
    for name in ("a", "b"):
        await broker.enrol(name, group="site")
    async with scripted(broker, name="a") as first:
        command = await broker.submit("set", agent=None, group="site")
        run = await first.begin()
        first.journal = "another"
        await first.cut()
        async with scripted(broker, name="b") as second:
            await first.dial()
            await first.holds()
            await first.cut()
            again = await second.begin()
            assert (again.id, again.epoch) == (command.id, 2)
            await second.succeed(again)
            await broker.final(command)
        await first.link(Held(run.id, run.epoch, ended=True))
        await first.hear(Resume)
        await first.fail(run, "source_failed")
        await first.hear(Ack)
    late = [step for step in await steps(broker, command) if step.step == "late_answer"]
    assert [(step.agent, step.attempt) for step in late] == [("a", 1)]


async def test_an_answer_to_what_is_being_given_up_is_forgotten_only_once_that_is_kept(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, refused, is_full = broker.store.finish, asyncio.Event(), True

    async def sometimes(*args: Any) -> bool:
        if is_full:
            refused.set()
            raise StoreUnavailable("the disk is full")
        return await finish(*args)

    command = await broker.submit("post")
    run = await agent.begin()
    await broker.state(command, "running")
    entry = broker.router.entry(SCOPE, command.id)
    assert entry is not None
    monkeypatch.setattr("cloud_broker.background.STORE_RETRY_S", 0.01)
    monkeypatch.setattr(broker.store, "finish", begun(sometimes))
    broker.router.end(entry, gave_up(entry.command, time.time()))
    await refused.wait()
    await agent.succeed(run)
    line = broker.router.line(SCOPE, "plant-1")
    assert line is not None
    await until(lambda: run.id in line.strays)
    refused.clear()
    await refused.wait()
    assert "Ack" not in agent.kinds()
    assert await steps(broker, command) == []
    is_full = False
    await agent.hear(Ack)
    ended = await broker.final(command)
    assert ended.state is CommandState.IN_DOUBT
    assert [step.outcome for step in await steps(broker, command)] == ["succeeded"]


async def test_a_cancel_that_meets_the_end_of_an_older_attempt_is_answered(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = broker.store.finish

    async def meanwhile(*args: Any) -> bool:
        entry = broker.router.entry(SCOPE, command.id)
        assert entry is not None
        broker.router.cancel(entry)
        return await finish(*args)

    monkeypatch.setattr(broker.router, "schedule", Schedule(first_s=0.01, most_s=0.02))
    command = await broker.submit("post")
    first = await agent.begin()
    await agent.fail(first)
    second = await agent.begin()
    assert (second.id, second.epoch) == (first.id, 2)
    monkeypatch.setattr(broker.store, "finish", begun(meanwhile))
    # The Ack of the first was lost with the link, the second with a part of the journal.
    agent.journal = "another"
    await agent.link(Held(first.id, 1, ended=True))
    assert (await agent.hear(Ack)).epoch == 1
    assert (await broker.final(command)).state is CommandState.IN_DOUBT


def test_failed_attempts_leave_room_for_late_answers() -> None:
    command = Command("c", "acme", "a", None, "o", "e", "once", b"{}", "", 0.0, 1.0, CommandState.IN_DOUBT, 501)
    failed = [Step("c", 0.0, "attempt_failed", attempt=epoch) for epoch in range(1, 501)]
    assert not known(command, failed, 501)
    assert known(command, failed, 500)
    assert known(command, [Step("c", 0.0, "late_answer", attempt=-epoch) for epoch in range(MAX_ANSWERS)], 501)


# --- journals that are put back ---------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_journal_that_was_put_back_is_not_believed(
    broker: Ring, agent: Scripted, restarted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await agent.link(position=10)
    effect, read = await broker.submit("post"), await broker.submit("read")
    runs = [await agent.begin(position=12), await agent.begin(position=12)]
    await broker.desk.keep_positions()
    if restarted:
        await agent.cut()
        await broker.restart()
    # The machine's snapshot was taken before they came.
    await agent.link(position=11)
    assert (await broker.final(effect)).state is CommandState.IN_DOUBT
    again = await agent.begin(position=12)
    assert (again.id, again.epoch) == (read.id, 2)
    assert any(getattr(record, "event", "") == "journal_put_back" for record in caplog.records)
    await agent.succeed(again)
    assert {run.id for run in runs} == {effect.id, read.id}


async def test_a_journal_is_believed_again_for_what_came_after_it_was_put_back(broker: Ring, agent: Scripted) -> None:
    await agent.link(position=100)
    await agent.link(position=11)
    command = await broker.submit("post")
    run = await agent.hear(Run)
    # It was lost on its way, and never began there.
    await agent.link(position=11)
    again = await agent.begin()
    assert (again.id, again.epoch) == (run.id, 2)
    await agent.succeed(again)
    assert (await broker.final(command)).state is CommandState.SUCCEEDED


async def test_the_same_journal_with_as_many_records_is_believed(broker: Ring, agent: Scripted) -> None:
    command = await broker.submit("post")
    await agent.begin(position=7)
    await agent.link(position=7)
    assert (await agent.begin()).epoch == 2
    await broker.commands.cancel(SCOPE, command.id)


async def test_a_journal_may_have_any_number_of_records(broker: Ring, agent: Scripted) -> None:
    await agent.link(position=2**53 - 2)
    command = await broker.submit("post")
    await agent.succeed(await agent.begin(position=2**53 - 1))
    assert (await broker.final(command)).state is CommandState.SUCCEEDED
    await broker.desk.keep_positions()
    await agent.link(position=0)


async def test_an_agent_that_remembers_too_little_is_not_let_in(broker: Ring, agent: Scripted) -> None:
    await agent.dial(remembers=limits.SENDS_AGAIN)
    assert "could run twice" in (await agent.hear(Goodbye)).reason


# --- how an agent is ------------------------------------------------------------------------------


async def agent_state(broker: Ring) -> str:
    known = await broker.store.agent(SCOPE, "plant-1")
    assert known is not None
    return broker.commands.agent_condition(SCOPE, known).state


async def test_an_agent_with_a_problem_is_degraded_and_sent_nothing_until_it_is_well(
    broker: Ring, agent: Scripted
) -> None:
    assert await agent_state(broker) == "online"
    line = broker.router.line(SCOPE, "plant-1")
    assert line is not None
    await agent.say(Condition(problems=["the journal can't be written: no space left on device"] * 500))
    await until(lambda: len(line.problems) == limits.MAX_PROBLEMS)
    assert await agent_state(broker) == "degraded"
    command = await broker.submit("read")
    assert broker.commands.waiting_for(SCOPE, command) == "agent"
    assert "Run" not in agent.kinds()
    await agent.say(Condition())
    await agent.succeed(await agent.begin())
    assert await agent_state(broker) == "online"


async def test_a_new_link_is_well_until_it_says_otherwise(broker: Ring, agent: Scripted) -> None:
    await agent.say(Condition(problems=["the spool is full"]))
    await agent.link()
    assert await agent_state(broker) == "online"


async def test_an_agent_that_comes_back_unwell_is_sent_nothing_before_it_has_said_so(
    broker: Ring, agent: Scripted
) -> None:
    await agent.cut()
    command = await broker.submit("post")
    await agent.dial()
    await agent.say_together(Holding([]), Condition(problems=["the journal can't be written"]))
    line = broker.router.line(SCOPE, "plant-1")
    assert line is not None
    await until(lambda: bool(line.problems))
    assert (await broker.commands.get(SCOPE, command.id)).state == "queued"
    await agent.say(Condition())
    assert (await agent.begin()).epoch == 1


@pytest.mark.parametrize("opens", ["by itself", "when told"])
async def test_nothing_is_sent_to_a_connection_that_is_shut(broker: Ring, opens: str) -> None:
    both = document()
    both["operations"].append({"name": "other", "connection": "edi", "effect": "read", "params": {}})
    both["connections"].append({"name": "edi"})
    async with scripted(broker, catalogue=both) as agent:
        line = broker.router.line(SCOPE, "plant-1")
        assert line is not None
        await agent.say(Condition(shut={"erp": 0.3 if opens == "by itself" else 60.0, "unknown": 5.0}))
        await until(lambda: list(line.shut) == ["erp"])
        command, other = await broker.submit("read"), await broker.submit("other")
        began = time.monotonic()
        assert (await agent.begin()).id == other.id
        assert broker.commands.waiting_for(SCOPE, command) == "window"
        if opens == "when told":
            await agent.say(Condition())
        assert (await agent.begin()).id == command.id
        assert (time.monotonic() - began > 0.1) is (opens == "by itself")


async def test_what_was_turned_away_by_a_pause_waits_until_the_agent_says_that_it_is_over(broker: Ring) -> None:
    async with scripted(broker, catalogue=document()) as agent:
        line = broker.router.line(SCOPE, "plant-1")
        assert line is not None
        command = await broker.submit("post")
        run = await agent.begin()
        await agent.say(Condition(paused={"erp": "stock\ntaking", "unknown": "x"}))
        await until(lambda: line.paused == {"erp": "stock\\ntaking"})
        await agent.fail(run, "paused", touched=False)
        await until(lambda: broker.commands.waiting_for(SCOPE, command) == "paused")
        assert not line.resting, "its other connections go on"
        await agent.say(Condition())
        again = await agent.begin()
        assert (again.id, again.epoch) == (command.id, 2)


async def test_an_agent_that_turns_away_without_saying_why_is_not_asked_again_at_once(broker: Ring) -> None:
    async with scripted(broker, catalogue=document()) as agent:
        line = broker.router.line(SCOPE, "plant-1")
        assert line is not None
        await broker.submit("post")
        await agent.fail(await agent.begin(), "paused", touched=False)
        await until(lambda: line.resting)


# --- agents that say nothing ----------------------------------------------------------------------


@pytest.mark.parametrize(("operation", "state"), [("read", "failed"), ("set", "failed"), ("post", "in_doubt")])
async def test_what_an_agent_never_tells_the_end_of_is_given_up_after_it_was_told_to_stop(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch, operation: str, state: str
) -> None:
    monkeypatch.setattr("cloud_broker.deadlines.SILENT_S", -10.0)
    monkeypatch.setattr("cloud_broker.settlement.SILENT_S", -0.7)  # with the operation's timeout of 1 s
    monkeypatch.setattr("cloud_broker.deadlines.STOP_S", 0.5)
    command = await broker.submit(operation)
    run = await agent.begin()
    assert (await agent.hear(Cancel)).id == run.id
    assert (await broker.commands.get(SCOPE, command.id)).finished_at is None
    ended = await broker.final(command)
    assert ended.state == state
    assert ended.error is not None
    assert ended.error.code == "agent_silent"
    # And then it tells it after all.
    await agent.succeed(run)
    assert (await agent.hear(Ack)).id == run.id
    assert [step.outcome for step in await steps(broker, command)] == ["succeeded"]


async def test_what_an_agent_could_not_say_while_it_was_away_is_no_silence(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = await broker.submit("post")
    run = await agent.begin()
    await broker.state(command, "running")
    entry = broker.router.entry(SCOPE, command.id)
    assert entry is not None
    await agent.cut()
    entry.heard_at -= 10_000.0
    await agent.dial()
    await agent.hear(Welcome)
    # It is there, and has not yet said what it holds.
    broker.router.deadlines._give_up_silent(time.time())
    await agent.holds(Held(run.id, run.epoch, ended=True))
    await agent.hear(Resume)
    await agent.succeed(run)
    assert (await broker.final(command)).state is CommandState.SUCCEEDED


async def test_an_agent_s_words_of_itself_are_bounded(broker: Ring, agent: Scripted) -> None:
    command = await broker.submit("post")
    run = await agent.hear(Run)
    await agent.fail(run, "agent_stopping", error_kind="policy", touched=False, error_message="x" * 100_000)
    await agent.hear(Ack)
    await until(lambda: entry_state(broker, command) == "queued")
    await broker.commands.cancel(SCOPE, command.id)
    assert max(len(step.detail) for step in await steps(broker, command)) == limits.MAX_ERROR_CHARS
    agent.journal = "j" * 100_000
    await agent.dial()
    assert "mark of 100000 characters" in (await agent.hear(Goodbye)).reason


def entry_state(broker: Ring, command: Command) -> str:
    entry = broker.router.entry(SCOPE, command.id)
    return entry.command.state if entry is not None else ""


async def test_each_word_about_a_command_begins_its_silence_anew(broker: Ring, agent: Scripted) -> None:
    command = await broker.submit("read")
    entry = broker.router.entry(SCOPE, command.id)
    assert entry is not None
    run = await agent.begin()
    await broker.state(command, "running")
    for message, data in (
        (RowSetBegins(run.id, run.epoch, 0, 0, [ColumnInfo("a", "integer")]), b""),
        (Chunk(run.id, run.epoch, 0, 1), b'{"a":1}\n'),
    ):
        entry.heard_at = earlier = time.monotonic() - 100.0
        await agent.say(message, payload=data)
        await until(lambda: entry.heard_at > earlier)  # noqa: B023 - it has ended before the next round
    await agent.say(Completed(run.id, run.epoch, "cancelled"))
