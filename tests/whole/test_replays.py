"""Dead letters from end to end: replayed by a real router, also by a broker that dies in the middle."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.dead_letters import DeadLetters
from cloud_broker.errors import Conflict, OperationNotFound, ParametersInvalid
from cloud_broker.replays import ReplayRuns
from cloud_broker.store.commands import Command, CommandFilter
from cloud_broker.store.dead_letters import ReplayRun
from protocol.states import CommandState
from tests.whole.ring import FILE, SCOPE, Ring, Site, ring
from tests.whole.site import AgentSite, Broker, Caller, agent, broker

MANY = 40
REFUSE = {"connection": "probe", "synthetic": "fail", "effect": "at-most-once"}
PROBE = """
[link]
proxy = "none"
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
"""


class Desk:
    """What people have: dead letters and runs over the ring of the moment."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.letters = DeadLetters(ring.store, ring.commands)
        self.runs = ReplayRuns(ring.store, self.letters)

    async def died(self) -> Desk:
        """Return what there is after the broker's process died in the middle of its runs, and was started again."""
        for worker in list(self.runs._workers.values()):
            assert worker.task is not None
            worker.task.cancel()
            await asyncio.gather(worker.task, return_exceptions=True)
        await self.ring.restart()
        again = Desk(self.ring)
        await again.runs.start()
        return again

    async def until(self, run: ReplayRun, replayed: int) -> ReplayRun:
        """Wait until a run has replayed so many, or has ended."""
        async with asyncio.timeout(30):
            while run.state == "running" and run.replayed < replayed:
                run = await self.runs.get(SCOPE, run.id)
        return run


@pytest.fixture
async def linked(tmp_path: Path) -> AsyncIterator[Ring]:
    """A broker with an agent."""
    async with ring(tmp_path) as made:
        await made.link(Site())
        yield made


@pytest.fixture
async def desk(linked: Ring) -> AsyncIterator[Desk]:
    """What people have."""
    made = Desk(linked)
    yield made
    await made.runs.stop()


async def failures(desk: Desk, count: int) -> list[Command]:
    """Let commands fail, one after another."""
    return [await desk.ring.run("fail", params={"message": f"number {number}"}) for number in range(count)]


async def replays(desk: Desk) -> list[Command]:
    """Return every command that does another one again, oldest first."""
    page = await desk.ring.store.commands(SCOPE, CommandFilter(), None, 200)
    assert page.next is None
    return [one for one in reversed(page.items) if one.replay_of is not None]


def site(**operations: dict[str, Any] | None) -> Site:
    """Return an agent whose operator has changed some operations, or taken them out."""
    changed = {name: what for name, what in (FILE["operations"] | operations).items() if what is not None}
    return Site(file={**FILE, "operations": changed})


async def test_what_failed_is_done_once_the_cause_is_removed(desk: Desk) -> None:
    dead = [
        await desk.ring.run("fail", params={"message": f"number {number}"}, ordering_key="one") for number in range(5)
    ]
    assert {one.state for one in dead} == {CommandState.FAILED}
    await desk.ring.cut()
    await desk.ring.link(site(fail={"connection": "probe", "synthetic": "echo", "effect": "at-most-once"}))

    run = await desk.runs.begin(SCOPE, CommandFilter(), 100, 1000.0, by="k")
    assert (await desk.until(run, MANY)).state == "done"

    again = [await desk.ring.final(one) for one in await replays(desk)]
    assert [one.state for one in again] == [CommandState.SUCCEEDED] * 5
    assert [json.loads(one.outputs or b"") for one in again] == [{"message": f"number {n}"} for n in range(5)]
    started = [one.started_at for one in again if one.started_at is not None]
    assert started == sorted(started)
    assert (await desk.ring.store.commands(SCOPE, CommandFilter(dead_letters=True), None, 10)).items == []


async def test_a_broker_that_dies_in_the_middle_of_a_run_replays_each_once(desk: Desk) -> None:
    dead = await failures(desk, MANY)
    run = await desk.runs.begin(SCOPE, CommandFilter(), 1000, 100.0, by="k")

    for replayed in (5, 15, 30):
        run = await desk.until(run, replayed)
        assert run.state == "running"
        desk = await desk.died()
    run = await desk.until(run, MANY + 1)

    assert (run.state, run.total, run.replayed, run.skipped_count) == ("done", MANY, MANY, 0)
    again = await replays(desk)
    assert [one.replay_of for one in again] == [one.id for one in dead]
    marks = [await desk.ring.commands.get(SCOPE, one.id) for one in dead]
    assert [one.replayed_by for one in marks] == [one.id for one in again]
    await desk.runs.stop()


async def test_runs_at_the_same_time_replay_each_once(desk: Desk) -> None:
    dead = await failures(desk, MANY)
    await desk.ring.cut()  # or the replays would fail too, and a later run would take them up
    runs = [await desk.runs.begin(SCOPE, CommandFilter(), 1000, 1000.0, by="k") for _ in range(5)]

    ended = [await desk.until(run, MANY + 1) for run in runs]

    assert {run.state for run in ended} == {"done"}
    assert sum(run.replayed for run in ended) == MANY
    assert Counter(one.replay_of for one in await replays(desk)) == Counter(one.id for one in dead)


async def test_a_replay_wants_what_the_operators_file_says_now(desk: Desk) -> None:
    await desk.ring.cut()
    await desk.ring.link(site(refuse=REFUSE))
    gone, changed = await desk.ring.run("fail"), await desk.ring.run("refuse", params={"message": "too long"})
    await desk.ring.cut()
    short = {"message": {"type": "string", "max_length": 3}}
    await desk.ring.link(site(fail=None, refuse=REFUSE | {"params": short}))

    with pytest.raises(OperationNotFound):
        await desk.letters.replay(SCOPE, gone.id, by="k")
    with pytest.raises(ParametersInvalid):
        await desk.letters.replay(SCOPE, changed.id, by="k")
    run = await desk.runs.begin(SCOPE, CommandFilter(operation="fail"), 10, 1000.0, by="k")
    run = await desk.until(run, 10)
    assert [skipped.id for skipped in run.skipped] == [gone.id]
    assert "no operation 'fail'" in run.skipped[0].why
    assert await replays(desk) == []


async def test_a_revoked_agent_is_sent_no_replays(desk: Desk) -> None:
    (one,) = await failures(desk, 1)
    await desk.ring.cut()
    await desk.ring.store.revoke_agent(SCOPE, "plant-1", time.time())

    with pytest.raises(Conflict, match="revoked"):
        await desk.letters.replay(SCOPE, one.id, by="k")


async def test_a_wish_to_cancel_stands_in_the_timeline(desk: Desk) -> None:
    await desk.ring.cut()
    one = await desk.ring.submit("echo")
    for _ in range(2):
        await desk.ring.commands.cancel(SCOPE, one.id)

    _, steps = await desk.letters.timeline(SCOPE, one.id)

    assert [(step.step, step.outcome) for step in steps] == [
        ("submitted", ""),
        ("cancel_requested", ""),
        ("finished", "cancelled"),
    ]


# --- as processes -------------------------------------------------------------------------------


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[tuple[Broker, Caller]]:
    """A broker of the test's own, and a tenant."""
    with broker(tmp_path) as made, made.tenant("acme") as caller:
        yield made, caller


def test_a_killed_broker_goes_on_with_its_replay(platform: tuple[Broker, Caller], tmp_path: Path) -> None:
    made, caller = platform
    site = AgentSite(tmp_path / "agent", PROBE)
    with agent(site, made, caller):
        pass  # its operations are known now
    dead = [caller.submit("echo", {"n": number}, ttl=0.5).json()["id"] for number in range(MANY)]
    assert {caller.final({"id": one})["state"] for one in dead} == {"expired"}

    run = caller.post("/v1/dead-letters/replay", json={"rate": 20}).json()
    for replayed in (5, 20):
        run = _until(caller, run, replayed)
        made.kill()
        made.start()
    run = _until(caller, run, MANY + 1)

    assert (run["state"], run["replayed"], run["skipped_count"]) == ("done", MANY, 0)
    listed = caller.get("/v1/commands", params={"limit": 200}).json()["items"]
    assert Counter(one["replay_of"] for one in listed if one["replay_of"]) == Counter(dead)
    by_id = {one["id"]: one for one in listed}
    assert all(by_id[by_id[one]["replayed_by"]]["replay_of"] == one for one in dead)


def _until(caller: Caller, run: dict[str, Any], replayed: int) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while run["state"] == "running" and run["replayed"] < replayed:
        assert time.monotonic() < deadline
        run = caller.get(run["links"]["self"]).json()
    return run
