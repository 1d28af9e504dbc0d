"""The two paths joined, under chance: an ERP that fails in every way, links, agents and brokers that are lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from agent.errors import LinkError
from cloud_broker.retries import Schedule
from cloud_broker.store.commands import Command
from protocol.messages import Accepted, Ack, Completed, Held, Resume, Run, Started
from tests.whole.ring import SCOPE, Ring, ring
from tests.whole.scripted import OPERATIONS, Scripted, document

ENDS = ("done", "done", "done", "failed", "unavailable", "rejected", "unknown", "nothing", "lost")


class Erp:
    """
    What really happened.

    Attributes:
        effects: by command, how often it took effect.
        began: commands in the order in which attempts at them began.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.effects: Counter[str] = Counter()
        self.began: list[str] = []
        self.held: dict[str, Completed] = {}
        self.mark = 0


async def work(agent: Scripted, erp: Erp) -> None:
    """Take commands and end each as chance has it, until the link is gone."""
    while True:
        message = (await agent.hear_any(Run, Resume, Ack)).message
        if isinstance(message, Ack):
            erp.held.pop(message.id, None)
        elif isinstance(message, Resume):
            await agent.say(erp.held[message.id])
        elif isinstance(message, Run):
            await attempt(agent, erp, message)


async def attempt(agent: Scripted, erp: Erp, run: Run) -> None:
    repeatable = OPERATIONS[run.operation] in ("read", "idempotent")
    end = erp.chance.choice(ENDS)
    if end == "lost":
        # It never came there.
        raise LinkError("lost with a command on its way")
    erp.began.append(run.id)
    erp.effects[run.id] += end == "done" or (end in ("unknown", "nothing") and erp.chance.random() < 0.5)
    if end == "nothing":
        # The agent dies, and its journal with it.
        erp.held.clear()
        erp.mark += 1
        await agent.say(Accepted(run.id, run.epoch), Started(run.id, run.epoch))
        raise LinkError("the agent died")
    told = {
        "done": Completed(run.id, run.epoch, "succeeded"),
        "rejected": Completed(run.id, run.epoch, "rejected", [], "business", "source_rejected"),
        "failed": Completed(run.id, run.epoch, "failed", [], "technical", "timed_out", retryable=True),
        "unavailable": Completed(
            run.id, run.epoch, "failed", [], "technical", "source_unavailable", touched=False, retryable=True
        ),
        "unknown": Completed(
            run.id,
            run.epoch,
            "failed" if repeatable else "in_doubt",
            [],
            "technical" if repeatable else "unknown",
            "driver_crashed",
            retryable=repeatable,
        ),
    }[end]
    # What it has in its journal before it says a word.
    erp.held[run.id] = told
    await agent.say(Accepted(run.id, run.epoch), Started(run.id, run.epoch), told)


async def life(broker: Ring, agent: Scripted, erp: Erp) -> None:
    """Link again whenever the link is gone, for good."""
    while True:
        agent.journal = f"j{erp.mark}"
        try:
            await agent.link(*(Held(one.id, one.epoch, ended=True) for one in erp.held.values()))
            async with asyncio.timeout(erp.chance.random() * 0.2):
                await work(agent, erp)
        except (TimeoutError, LinkError, AssertionError):
            await agent.cut()


@pytest.mark.parametrize("seed", range(10))
async def test_each_command_ends_once_in_order_and_as_it_was(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a schedule that can be repeated, not a secret
    erp = Erp(chance)
    catalogue = document(breaker={"failures": 3, "cool_down_s": 0.05})
    async with ring(tmp_path) as broker:
        broker.router.schedule = Schedule(attempts=4, first_s=0.01, most_s=0.05)
        agent = Scripted(broker, catalogue=catalogue)
        await agent.link()
        living = asyncio.create_task(life(broker, agent, erp))
        commands: list[Command] = []
        ended: dict[str, Command] = {}
        keys: dict[str, list[str]] = defaultdict(list)
        for number in range(60):
            key = chance.choice((None, "a", "b", "c"))
            command = await broker.submit(chance.choice(list(OPERATIONS)), ordering_key=key, ttl_s=60.0)
            commands.append(command)
            if key is not None:
                keys[key].append(command.id)
            if chance.random() < 0.1:
                entry = broker.router.entry(SCOPE, chance.choice(commands).id)
                if entry is not None:
                    broker.router.cancel(entry)
            if number in (20, 40):
                living.cancel()
                await asyncio.gather(living, return_exceptions=True)
                await agent.cut()
                await broker.restart()
                broker.router.schedule = Schedule(attempts=4, first_s=0.01, most_s=0.05)
                living = asyncio.create_task(life(broker, agent, erp))
            await asyncio.sleep(chance.random() * 0.01)
        for command in commands:
            ending = asyncio.create_task(broker.final(command, 30))
            await asyncio.wait((ending, living), return_when=asyncio.FIRST_COMPLETED)
            assert not living.done(), living.exception()
            ended[command.id] = await ending
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        await agent.cut()
        assert not broker.router._entries
        assert not broker.router._order._keys
    for command in ended.values():
        happened = erp.effects[command.id]
        about = f"{command.operation}: {command.state} after {command.epoch} attempts, {happened} effects"
        if command.effect in ("once", "at-most-once"):
            assert happened <= 1, about
            if command.state in ("failed", "rejected", "expired", "cancelled"):
                assert happened == 0, about
        if command.state == "succeeded":
            assert happened >= 1, about
    for line in keys.values():
        places = [line.index(command_id) for command_id in erp.began if command_id in line]
        assert places == sorted(places), "one overtook another"
