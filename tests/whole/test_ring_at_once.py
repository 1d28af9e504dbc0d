"""Commands that can be sent at once: kept and marked as sent in one step of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.commands import Submission
from cloud_broker.errors import StoreUnavailable
from cloud_broker.store.commands import Command
from cloud_broker.tenants import Scope
from protocol.messages import Ack, Run
from protocol.states import CommandState
from tests.whole.ring import SCOPE, Ring, ring
from tests.whole.scripted import Scripted, scripted


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Ring]:
    async with ring(tmp_path) as made:
        yield made


@pytest.fixture
async def agent(broker: Ring) -> AsyncIterator[Scripted]:
    async with scripted(broker) as made:
        yield made


@pytest.mark.parametrize("operation", ["post", "read"])
async def test_the_store_gets_it_as_sent_before_the_agent_gets_it(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    add, kept = broker.store.add_command, list[Command]()

    async def noted(scope: Scope, command: Command) -> tuple[Command, bool]:
        assert "Run" not in agent.kinds()
        kept.append(command)
        return await add(scope, command)

    monkeypatch.setattr(broker.store, "add_command", noted)
    command = await broker.submit(operation)
    run = await agent.begin()
    assert [(one.state, one.epoch, one.agent) for one in kept] == [(CommandState.DISPATCHED, 1, "plant-1")]
    stored = await broker.store.command(SCOPE, command.id)
    assert stored is not None
    assert (stored.state, stored.journal, stored.dispatched_at) == (
        CommandState.DISPATCHED,
        kept[0].journal,
        kept[0].dispatched_at,
    )
    await agent.succeed(run)
    assert (await broker.final(command)).epoch == 1


async def test_one_that_is_not_kept_takes_no_place(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(broker.store, "add_command", full)
        for _ in range(70):  # more than an agent works on at once
            with pytest.raises(StoreUnavailable):
                await broker.submit("read")
    command = await broker.submit("read")
    await agent.succeed(await agent.begin())
    assert (await broker.final(command)).state is CommandState.SUCCEEDED
    assert "Run" not in agent.kinds()


async def test_the_same_key_again_takes_no_place_and_is_not_sent(broker: Ring, agent: Scripted) -> None:
    first = await broker.submit("read", idempotency_key="k")
    run = await agent.begin()
    again = [await broker.submit("read", idempotency_key="k") for _ in range(70)]
    assert {one.id for one in again} == {first.id}
    await agent.succeed(run)
    other = await broker.submit("read")
    await agent.succeed(await agent.begin())
    await broker.final(other)
    assert "Run" not in agent.kinds()


async def test_of_many_in_one_request_those_that_find_a_place_are_kept_as_sent(broker: Ring, agent: Scripted) -> None:
    answers = await broker.commands.submit_many(SCOPE, [Submission("read", b"{}", agent="plant-1")] * 10)
    found = [answer[0] for answer in answers if isinstance(answer, tuple)]
    assert [one.state for one in found] == [CommandState.DISPATCHED] * 4 + [CommandState.QUEUED] * 6
    stored = [await broker.store.command(SCOPE, one.id) for one in found]
    assert [one.epoch for one in stored if one is not None] == [1] * 4 + [0] * 6
    for one in found:
        run = await agent.begin()
        assert (run.id, run.epoch) == (one.id, 1), "in the order in which they came"
        await agent.succeed(run)
    assert {(await broker.final(one)).state for one in found} == {CommandState.SUCCEEDED}


@pytest.mark.parametrize("error", [StoreUnavailable("the disk is full"), RuntimeError("something else")])
async def test_many_that_are_not_kept_take_no_place(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def full(*_: Any) -> None:
        raise error

    asked = [Submission("read", b"{}", agent="plant-1")] * 70
    with monkeypatch.context() as patch:
        patch.setattr(broker.store, "add_commands", full)
        if isinstance(error, StoreUnavailable):
            assert await broker.commands.submit_many(SCOPE, asked) == [error] * 70
        else:
            with pytest.raises(RuntimeError):
                await broker.commands.submit_many(SCOPE, asked)
    command = await broker.submit("read")
    await agent.succeed(await agent.begin())
    assert (await broker.final(command)).state is CommandState.SUCCEEDED
    assert "Run" not in agent.kinds()


async def test_many_with_keys_that_were_used_take_no_place(broker: Ring, agent: Scripted) -> None:
    asked = [Submission("read", b"{}", agent="plant-1", idempotency_key=f"k{number}") for number in range(3)]
    first = [answer for answer in await broker.commands.submit_many(SCOPE, asked) if isinstance(answer, tuple)]
    for _ in range(30):
        again = await broker.commands.submit_many(SCOPE, asked)
        assert [(one[0].id, one[1]) for one in again if isinstance(one, tuple)] == [(one[0].id, False) for one in first]
    for one in [*first, (await broker.submit("read"), True)]:
        run = await agent.begin()
        assert run.id == one[0].id
        await agent.succeed(run)
        await broker.final(one[0])
    assert "Run" not in agent.kinds()


async def test_one_whose_link_is_lost_while_it_is_kept_is_sent_on_the_next(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, asked, may = broker.store.add_command, asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, command: Command) -> tuple[Command, bool]:
        asked.set()
        await may.wait()
        return await add(scope, command)

    monkeypatch.setattr(broker.store, "add_command", slow)
    submitting = asyncio.create_task(broker.submit("post"))
    await asked.wait()
    await agent.cut()
    may.set()
    command = await submitting
    await agent.link()
    run = await agent.hear(Run)
    assert (run.id, run.epoch) == (command.id, 2)


async def test_what_ended_soon_says_when_it_began(broker: Ring, agent: Scripted) -> None:
    command = await broker.submit("read")
    await agent.succeed(await agent.begin())
    await agent.hear(Ack)
    stored = await broker.store.command(SCOPE, command.id)
    assert stored is not None
    assert stored.dispatched_at is not None
    assert stored.started_at is not None
    assert stored.finished_at is not None
    assert stored.created_at <= stored.dispatched_at <= stored.started_at <= stored.finished_at


async def test_what_runs_for_long_is_noted_as_running(broker: Ring, agent: Scripted) -> None:
    command = await broker.submit("read")
    await agent.begin()

    async with asyncio.timeout(10):
        while True:
            stored = await broker.store.command(SCOPE, command.id)
            if stored is not None and stored.state is CommandState.RUNNING:
                break
            await asyncio.sleep(0.005)  # between two looks
    assert stored.started_at is not None
