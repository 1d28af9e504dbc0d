"""The two paths joined, when an attempt fails and another may do better."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cloud_broker import results
from cloud_broker.errors import StoreUnavailable
from cloud_broker.retries import Schedule
from cloud_broker.store.commands import Command
from protocol import limits
from protocol.messages import Ack, Chunk, ColumnInfo, Credit, Held, RowSetBegins, Run
from protocol.states import CommandState
from tests.waiting import until
from tests.whole.ring import SCOPE, Ring, Site, ring
from tests.whole.scripted import Scripted, document, scripted

AT_ONCE = Schedule(first_s=0.01, most_s=0.02)
LATER = Schedule(first_s=60.0, most_s=60.0)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Ring]:
    async with ring(tmp_path) as made:
        made.router.schedule = AT_ONCE
        yield made


@pytest.fixture
async def agent(broker: Ring) -> AsyncIterator[Scripted]:
    async with scripted(broker) as made:
        yield made


async def waits_for(broker: Ring, command: Command, why: str | None) -> Command:
    await until(lambda: broker.commands.waiting_for(SCOPE, command) == why)
    return await broker.commands.get(SCOPE, command.id)


@pytest.mark.parametrize("operation", ["read", "set", "post", "book"])
async def test_an_attempt_that_certainly_failed_is_followed_by_another(
    broker: Ring, agent: Scripted, operation: str
) -> None:
    command = await broker.submit(operation)
    for epoch in (1, 2, 3):
        run = await agent.begin()
        assert (run.id, run.epoch) == (command.id, epoch)
        await agent.fail(run)
        assert (await agent.hear(Ack)).epoch == epoch
    await agent.succeed(await agent.begin(), b'{"done":true}')
    ended = await broker.final(command)
    assert (ended.state, ended.epoch, ended.failures, ended.error) == ("succeeded", 4, 3, None)
    steps = await broker.store.steps(SCOPE, command.id)
    assert [(step.step, step.attempt, step.phase, step.outcome) for step in steps] == [
        ("attempt_failed", epoch, "running", "failed") for epoch in (1, 2, 3)
    ]
    assert all(step.error is not None and step.error.code == "timed_out" for step in steps)


async def test_tries_that_are_used_up_end_the_command_with_the_last_error(broker: Ring, agent: Scripted) -> None:
    command = await broker.submit("post")
    for number in range(5):
        await agent.fail(await agent.begin(), error_message=f"because {number}")
    ended = await broker.final(command)
    assert (ended.state, ended.epoch) == ("failed", 5)
    assert ended.error is not None
    assert ended.error.message == "because 4"


@pytest.mark.parametrize("told", [{"outcome": "in_doubt"}, {"retryable": False}, {"error_kind": "policy"}])
async def test_what_may_not_be_repeated_is_not(broker: Ring, agent: Scripted, told: dict[str, Any]) -> None:
    command = await broker.submit("post")
    await agent.fail(await agent.begin(), **told)
    assert (await broker.final(command)).state == told.get("outcome", "failed")
    assert not [kind for kind in agent.kinds() if kind == "Run"]


async def test_a_command_that_waits_for_its_next_try_says_so_and_why(broker: Ring, agent: Scripted) -> None:
    broker.router.schedule = LATER
    command = await broker.submit("read")
    await agent.fail(await agent.begin())
    waiting = await waits_for(broker, command, "retry")
    assert (waiting.state, waiting.failures) == ("queued", 1)
    assert waiting.error is not None
    assert (waiting.error.code, waiting.error.message) == ("timed_out", "because")
    assert waiting.not_before is not None
    assert 0 < waiting.not_before - time.time() <= 60
    cancelled = await broker.commands.cancel(SCOPE, command.id)
    assert cancelled.state is CommandState.CANCELLED


async def test_a_restarted_broker_waits_on_and_counts_on(broker: Ring, agent: Scripted) -> None:
    broker.router.schedule = LATER
    command = await broker.submit("post")
    await agent.fail(await agent.begin())
    before = await waits_for(broker, command, "retry")
    await agent.cut()
    await broker.restart()
    after = await waits_for(broker, command, "retry")
    assert (after.state, after.failures, after.not_before, after.error, after.epoch) == (
        before.state,
        before.failures,
        before.not_before,
        before.error,
        1,
    )
    await agent.link()
    assert "Run" not in agent.kinds()
    await broker.commands.cancel(SCOPE, command.id)


async def test_a_try_that_was_due_while_the_broker_was_away_is_made_when_it_is_back(
    broker: Ring, agent: Scripted
) -> None:
    broker.router.schedule = Schedule(first_s=2.0, most_s=2.0)
    command = await broker.submit("read")
    await agent.fail(await agent.begin())
    await waits_for(broker, command, "retry")
    await agent.cut()
    await broker.restart()
    await agent.link()
    await agent.succeed(await agent.begin())
    assert (await broker.final(command)).epoch == 2


async def test_a_try_that_would_come_too_late_is_the_end_at_once(broker: Ring, agent: Scripted) -> None:
    broker.router.schedule = Schedule(first_s=1e6, most_s=1e6)
    command = await broker.submit("post", ttl_s=30)
    await agent.fail(await agent.begin())
    ended = await broker.final(command, 2)
    assert (ended.state, ended.epoch) == ("failed", 1)
    assert ended.error is not None
    assert ended.error.code == "timed_out"


async def test_a_command_whose_time_is_up_between_two_tries_expires_and_says_why_it_waited(
    broker: Ring, agent: Scripted
) -> None:
    command = await broker.submit("read", ttl_s=1.0)
    await agent.fail(await agent.begin(), error_message="the host is down")
    await agent.cut()
    ended = await broker.final(command)
    assert ended.state is CommandState.EXPIRED
    assert ended.error is not None
    assert "timed_out: the host is down" in ended.error.message


async def test_an_end_that_was_told_twice_is_counted_once(broker: Ring, agent: Scripted) -> None:
    broker.router.schedule = LATER
    command = await broker.submit("post")
    run = await agent.begin()
    await agent.fail(run)
    await waits_for(broker, command, "retry")
    # Its Ack was lost with the link.
    await agent.link(Held(run.id, run.epoch, ended=True))
    assert (await agent.hear(Ack)).id == command.id
    assert len(await broker.store.steps(SCOPE, command.id)) == 1
    assert (await broker.commands.get(SCOPE, command.id)).failures == 1
    await broker.commands.cancel(SCOPE, command.id)


async def test_a_store_that_can_not_keep_a_failure_loses_neither_it_nor_the_command(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = await broker.submit("post")
    run = await agent.begin()
    requeue, refused = broker.store.requeue, asyncio.Event()

    async def full(*args: object, **options: object) -> None:
        refused.set()
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr("cloud_broker.background.STORE_RETRY_S", 0.01)
    monkeypatch.setattr(broker.store, "requeue", full)
    await agent.fail(run)
    async with asyncio.timeout(5):
        await refused.wait()
    assert "Ack" not in agent.kinds()
    monkeypatch.setattr(broker.store, "requeue", requeue)
    await agent.hear(Ack)
    await agent.succeed(await agent.begin())
    assert (await broker.final(command)).failures == 1


async def test_a_full_disk_costs_a_command_that_is_to_be_sent_no_attempts(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatched, refusals, is_full = broker.store.dispatched, 0, True

    async def sometimes(*args: Any, **options: Any) -> None:
        nonlocal refusals
        if is_full:
            refusals += 1
            raise StoreUnavailable("the disk is full")
        await dispatched(*args, **options)

    monkeypatch.setattr("cloud_broker.background.STORE_RETRY_S", 0.01)
    monkeypatch.setattr(broker.store, "dispatched", sometimes)
    command = await broker.submit("post", ordering_key="in line")  # one that is sent after it was kept
    await until(lambda: refusals > 5)
    assert "Run" not in agent.kinds()
    is_full = False
    await agent.succeed(await agent.begin())
    assert (await broker.final(command)).epoch == 1


@pytest.mark.parametrize("kept", [True, False])
async def test_rows_of_an_attempt_that_failed_are_granted_again(broker: Ring, agent: Scripted, kept: bool) -> None:
    command = await broker.submit("read")
    entry = broker.router.entry(SCOPE, command.id)
    assert entry is not None
    for _ in range(3):
        run = await agent.begin()
        await agent.say(RowSetBegins(run.id, run.epoch, 0, 0, [ColumnInfo("a", "integer")]))
        size = limits.CHUNK_BYTES
        for number in range(3):
            await agent.say(Chunk(run.id, run.epoch, number * size, 1), payload=b"\n" * size)
        if kept:
            await until(lambda: entry.result is not None and entry.result.stored == 3 * size)  # noqa: B023 - as large in each round
        await agent.fail(run)
        await agent.hear(Ack)
        assert sum(message.bytes for message, _ in agent.heard if isinstance(message, Credit)) == 3 * size
        agent.heard[:] = [record for record in agent.heard if not isinstance(record.message, Credit)]
    await agent.succeed(await agent.begin())
    assert (await broker.final(command)).failures == 3


# --- order ----------------------------------------------------------------------------------------


async def test_a_command_that_waits_for_its_next_try_keeps_its_key(broker: Ring, agent: Scripted) -> None:
    broker.router.schedule = LATER
    first = await broker.submit("post", ordering_key="4711")
    second = await broker.submit("read", ordering_key="4711")
    other = await broker.submit("read", ordering_key="4712")
    run = await agent.begin()
    assert run.id == first.id
    await agent.fail(run)
    assert (await agent.begin()).id == other.id
    await waits_for(broker, first, "retry")
    assert broker.commands.waiting_for(SCOPE, second) == "order"
    await broker.restart()
    await agent.link()
    assert broker.commands.waiting_for(SCOPE, first) == "retry"
    assert broker.commands.waiting_for(SCOPE, second) == "order"
    await broker.commands.cancel(SCOPE, first.id)
    sent = {(await agent.begin()).id for _ in range(2)}
    assert sent == {second.id, other.id}


@pytest.mark.parametrize("ends", ["failed", "in_doubt", "rejected", "expired"])
async def test_a_final_state_of_any_kind_lets_the_next_one_go(broker: Ring, agent: Scripted, ends: str) -> None:
    first = await broker.submit("post", ordering_key="k")
    second = await broker.submit("post", ordering_key="k")
    await agent.fail(await agent.begin(), outcome=ends, retryable=False)
    run = await agent.begin()
    assert run.id == second.id
    assert (await broker.final(first)).state == ends


async def test_order_is_kept_through_failures_cuts_and_restarts(broker: Ring, agent: Scripted) -> None:
    commands = [await broker.submit("post", ordering_key="k", params={"n": number}) for number in range(6)]
    await agent.cut()
    await broker.restart()
    broker.router.schedule = AT_ONCE
    done: list[str] = []
    await agent.link()
    for number, command in enumerate(commands):
        run = await agent.begin()
        assert run.id == command.id
        if number % 3 == 0:
            await agent.fail(run)
            run = await agent.begin()
        elif number % 3 == 1:
            await agent.link(Held(run.id, run.epoch, ended=False))
            run = Run(run.id, run.epoch, run.operation, run.expires_in_s, run.credit)
        else:
            await agent.cut()
            await broker.restart()
            broker.router.schedule = AT_ONCE
            # It never came there.
            await agent.link()
            run = await agent.begin()
        assert run.id == command.id, "nothing else may leave before it has its final state"
        assert "Run" not in agent.kinds()
        done.append(run.id)
        await agent.succeed(run)
    assert done == [command.id for command in commands]
    for command in commands:
        assert (await broker.final(command)).state is CommandState.SUCCEEDED


@pytest.mark.parametrize("sent", ["dispatched", "waiting for its next try"])
async def test_a_restarted_broker_lets_nothing_overtake_what_was_sent_before(
    broker: Ring, agent: Scripted, sent: str
) -> None:
    # The store numbers commands as they were kept, which need not be how they were taken.
    await agent.cut()
    later = await broker.submit("post", ordering_key="k")
    first = await broker.submit("post", ordering_key="k")
    await broker.store.dispatched(SCOPE, first.id, 1, "plant-1", "j", time.time(), durable=True)
    if sent != "dispatched":
        await broker.store.requeue(SCOPE, first.id, failures=1, not_before=time.time() + 0.2)
    await broker.restart()
    await agent.link()
    for command in (first, later):
        run = await agent.begin()
        assert run.id == command.id
        assert "Run" not in agent.kinds()
        await agent.succeed(run)


# --- what spares a connection ----------------------------------------------------------------------


async def test_a_system_that_is_down_is_not_asked_and_costs_no_tries(
    broker: Ring, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    catalogue = document(max_concurrent=1, breaker={"failures": 3, "cool_down_s": 0.5})
    async with scripted(broker, catalogue=catalogue) as agent:
        commands = [await broker.submit("post") for _ in range(6)]
        for _ in range(3):
            await agent.fail(await agent.begin(), "source_unavailable", touched=False)
            await agent.hear(Ack)
        opened = time.monotonic()
        for command in commands:
            await waits_for(broker, command, "breaker")
        assert "Run" not in agent.kinds()
        probe = await agent.begin()
        assert 0.3 < time.monotonic() - opened < 2.0
        assert "Run" not in agent.kinds(), "one command looks whether it is back"
        await agent.succeed(probe)
        for _ in range(5):
            await agent.succeed(await agent.begin())
        for command in commands:
            ended = await broker.final(command)
            assert (ended.state, ended.failures) == ("succeeded", 0)
    told = [getattr(record, "event", "") for record in caplog.records]
    assert [event for event in told if event.startswith("breaker")] == ["breaker_opened", "breaker_closed"]


async def test_a_probe_that_fails_spares_it_for_another_while(broker: Ring) -> None:
    catalogue = document(breaker={"failures": 1, "cool_down_s": 0.2})
    async with scripted(broker, catalogue=catalogue) as agent:
        command = await broker.submit("read")
        for _ in range(3):
            await agent.fail(await agent.begin(), "source_unavailable", touched=False)
            await waits_for(broker, command, "breaker")
        await agent.succeed(await agent.begin())
        assert (await broker.final(command)).epoch == 4


async def test_a_probe_that_is_lost_with_its_link_is_followed_by_another(broker: Ring) -> None:
    catalogue = document(breaker={"failures": 1, "cool_down_s": 0.05})
    async with scripted(broker, catalogue=catalogue) as agent:
        await broker.submit("post")
        await agent.fail(await agent.begin(), "source_unavailable", touched=False)
        await agent.begin()
        await agent.link()
        await agent.succeed(await agent.begin())


async def test_in_a_group_another_member_takes_what_one_can_not_do(broker: Ring) -> None:
    catalogue = document(max_concurrent=1, breaker={"failures": 1, "cool_down_s": 60.0})
    await broker.enrol("north", "plants")
    await broker.enrol("south", "plants")
    async with scripted(broker, name="north", catalogue=catalogue) as north:
        command = await broker.submit("post", agent=None, group="plants")
        await north.fail(await north.begin(), "source_unavailable", touched=False)
        await waits_for(broker, command, "breaker")
        async with scripted(broker, name="south", catalogue=catalogue) as south:
            await south.succeed(await south.begin())
            ended = await broker.final(command)
            assert (ended.state, ended.agent, ended.epoch) == ("succeeded", "south", 2)


async def test_a_rate_is_kept_by_the_broker_too(broker: Ring) -> None:
    async with scripted(broker, catalogue=document(max_concurrent=64, rate_per_s=10.0)) as agent:
        commands = [await broker.submit("read") for _ in range(13)]
        began = time.monotonic()
        for _ in range(10):
            await agent.begin()
        await waits_for(broker, commands[12], "rate")
        assert "Run" not in agent.kinds()
        for _ in range(3):
            await agent.begin()
        assert 0.2 < time.monotonic() - began < 2.0


# --- a full disk ----------------------------------------------------------------------------------


async def test_a_full_disk_holds_results_up_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, write_all = threading.Event(), results._write_all

    def writes(file: BinaryIO, data: bytes | bytearray) -> None:
        if not room.is_set():
            write_all(file, data[: len(data) // 3])
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(file, data)

    monkeypatch.setattr(results, "_write_all", writes)
    monkeypatch.setattr(results, "FULL_RETRY_S", 0.01)
    async with ring(tmp_path) as broker:
        site = Site()
        await broker.link(site)
        commands = [await broker.submit(operation, params={"count": 40_000}) for operation in ("rows", "write-rows")]
        for command in commands:
            await broker.state(command, "running")
        # What is small needs no room of its own, and is not kept waiting.
        assert (await broker.run("sleep", params={"seconds": 0})).state is CommandState.SUCCEEDED
        await broker.cut()
        await broker.link(site)
        room.set()
        for command in commands:
            ended = await broker.final(command)
            assert (ended.state, ended.epoch) == ("succeeded", 1)
            assert (await broker.rows(ended)).count(b"\n") == 40_000
