"""A broker that stops in order: it takes nothing more, keeps what has come, says goodbye, and finds all of it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.errors import Unavailable
from protocol.messages import Ack, Goodbye, Held
from tests.whole.ring import SCOPE, Ring, begun, ring
from tests.whole.scripted import Scripted, scripted


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Ring]:
    async with ring(tmp_path) as made:
        yield made


@pytest.fixture
async def agent(broker: Ring) -> AsyncIterator[Scripted]:
    async with scripted(broker) as made:
        yield made


async def test_nothing_is_taken_and_nobody_waits_once_the_broker_stops(broker: Ring, agent: Scripted) -> None:
    command = await broker.submit("post")
    run = await agent.begin()
    await broker.state(command, "running")
    waiting = asyncio.create_task(broker.commands.wait(SCOPE, command.id, 30))
    await asyncio.sleep(0)  # lets it wait
    broker.router.stop_taking()
    async with asyncio.timeout(2):
        assert (await waiting).state == "running"
        assert (await broker.commands.wait(SCOPE, command.id, 30)).state == "running"
    with pytest.raises(Unavailable, match="stopping"):
        await broker.submit("post")
    await agent.succeed(run)
    await agent.hear(Ack)


async def test_an_end_that_has_come_is_kept_before_the_goodbye(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, failed = await broker.submit("post"), await broker.submit("read")
    runs = {run.id: run for run in (await agent.begin(), await agent.begin())}
    go = asyncio.Event()
    finish, requeue = broker.store.finish, broker.store.requeue

    async def slow_finish(*args: Any, **options: Any) -> bool:
        await go.wait()
        return await finish(*args, **options)

    async def slow_requeue(*args: Any, **options: Any) -> None:
        await go.wait()
        await requeue(*args, **options)

    monkeypatch.setattr(broker.store, "finish", begun(slow_finish))
    monkeypatch.setattr(broker.store, "requeue", slow_requeue)
    await agent.succeed(runs[ended.id])
    await agent.fail(runs[failed.id])
    async with asyncio.timeout(5):
        while broker.router.background.endings < 2:  # noqa: ASYNC110 - nobody tells it
            await asyncio.sleep(0.001)
    broker.router.stop_taking()
    leaving = asyncio.create_task(broker.router.farewell())
    await asyncio.wait((leaving,), timeout=0.05)
    assert "Goodbye" not in agent.kinds()
    go.set()
    await agent.hear(Goodbye)
    await leaving
    assert agent.kinds().count("Ack") == 2
    await broker.restart()
    assert (await broker.commands.get(SCOPE, ended.id)).state == "succeeded"
    assert (await broker.commands.get(SCOPE, failed.id)).failures == 1
    await broker.commands.cancel(SCOPE, failed.id)


async def test_what_can_not_be_kept_holds_up_no_stop_and_is_told_again(
    broker: Ring, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*args: Any, **options: Any) -> bool:
        await asyncio.Event().wait()
        return False

    monkeypatch.setattr("cloud_broker.router.FAREWELL_S", 0.1)
    command = await broker.submit("post")
    run = await agent.begin()
    monkeypatch.setattr(broker.store, "finish", begun(never))
    await agent.succeed(run)
    broker.router.stop_taking()
    async with asyncio.timeout(5):
        await broker.router.farewell()
    await agent.hear(Goodbye)
    assert "Ack" not in agent.kinds()
    await broker.restart()
    await agent.link(Held(run.id, run.epoch, ended=True))
    await agent.succeed(run)
    await agent.hear(Ack)
    assert (await broker.final(command)).state == "succeeded"


async def test_a_cancel_that_the_stop_overtook_is_kept(broker: Ring, agent: Scripted) -> None:
    await agent.cut()
    command = await broker.submit("post", ordering_key="k")
    following = await broker.submit("post", ordering_key="k")
    await broker.store.request_cancel(SCOPE, command.id)
    await broker.restart()
    await agent.link()
    assert (await agent.begin()).id == following.id
    assert (await broker.final(command)).state == "cancelled"


async def test_commands_that_wait_are_sent_to_nobody_any_more(broker: Ring, agent: Scripted) -> None:
    await agent.cut()
    command = await broker.submit("post")
    broker.router.stop_taking()
    await agent.link()
    assert "Run" not in agent.kinds()
    await broker.restart()
    await agent.link()
    await agent.succeed(await agent.begin())
    assert (await broker.final(command)).epoch == 1
