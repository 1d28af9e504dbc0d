"""The two paths joined, when things happen at the worst moment and peers do not keep their word."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.connectors.base import Call, Piece
from agent.connectors.synthetic import SyntheticConnector
from cloud_broker.errors import StoreUnavailable
from cloud_broker.store.commands import Command
from cloud_broker.tenants import Scope
from protocol import limits
from protocol.messages import (
    Ack,
    Cancel,
    Catalogue,
    Chunk,
    ColumnInfo,
    Completed,
    Goodbye,
    Held,
    RowSetBegins,
    Run,
)
from protocol.states import CommandState
from tests.contracts import records
from tests.waiting import until
from tests.whole.ring import FILE, SCOPE, Ring, Site, ring
from tests.whole.scripted import Scripted, scripted

MANY: dict[str, Any] = copy.deepcopy(FILE)
MANY["connections"]["probe"]["max_concurrent"] = 64
MANY["operations"]["act"] = {"connection": "probe", "synthetic": "sleep", "effect": "at-most-once"}
MANY["operations"]["nap"] = {"connection": "probe", "synthetic": "sleep"}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Ring]:
    async with ring(tmp_path) as made:
        yield made


@pytest.fixture
async def site(broker: Ring) -> Site:
    made = Site(file=MANY)
    await broker.link(made)
    return made


@contextlib.contextmanager
def slow_disk(broker: Ring) -> Iterator[None]:
    """What is written meanwhile is kept when the context is left."""
    go = threading.Event()
    writer = broker.store._writer
    assert writer is not None
    writer.send(lambda _: go.wait(30))
    try:
        yield
    finally:
        go.set()


def entry_of(broker: Ring, command: Command) -> Any:
    entry = broker.router.entry(SCOPE, command.id)
    assert entry is not None
    return entry


# --- credit ---------------------------------------------------------------------------------------


async def test_many_results_at_once_do_not_stop_the_link(broker: Ring, site: Site) -> None:
    await broker.cut()
    commands = [await broker.submit("rows", params={"count": 4_000}) for _ in range(64)]
    await broker.link(site)
    for command in commands:
        assert (await broker.final(command, 30)).state is CommandState.SUCCEEDED


async def test_whole_windows_are_there_again_when_results_that_failed_are_over(tmp_path: Path) -> None:
    async with ring(tmp_path, max_bytes=400_000) as broker:
        await broker.link(Site(file=MANY))
        for _ in range(3):
            commands = [await broker.submit("rows", params={"count": 20_000}) for _ in range(20)]
            for command in commands:
                assert (await broker.final(command)).state is CommandState.FAILED
        line = broker.router.line(SCOPE, "plant-1")
        assert line is not None
        assert line.link is not None
        assert (line.uncredited, line.link._session._link_window.left) == (0, limits.LINK_WINDOW_BYTES)


# --- what is durable before what -------------------------------------------------------------------


async def test_an_agent_forgets_nothing_before_its_outcome_is_kept(broker: Ring, site: Site) -> None:
    command = await broker.submit("act", params={"seconds": 0.05})
    await broker.state(command, "running")
    with slow_disk(broker):
        await until(lambda: entry_of(broker, command).finishing)
        await broker.cut()
        linking = asyncio.create_task(broker.link(site))
        await until(lambda: broker.router.links() != [] and broker.router.links()[0].ready)
        assert [held.id for held in site.dispatcher.held()] == [command.id]
    await linking
    assert (await broker.final(command)).state is CommandState.SUCCEEDED
    await until(lambda: site.dispatcher.held() == [])


async def test_an_agent_that_lost_rows_forgets_nothing_before_the_doubt_is_kept(broker: Ring, liar: Scripted) -> None:
    command = await broker.submit("post")
    run = await liar.begin()
    await broker.state(command, "running")
    await liar.cut()
    with slow_disk(broker):
        await liar.link(Held(run.id, run.epoch, ended=True, first=50, sent=100))
        assert entry_of(broker, command).finishing
        assert "Ack" not in liar.kinds(), "or it might run again after a crash"
    await liar.hear(Ack)
    assert (await broker.final(command)).state is CommandState.IN_DOUBT


async def test_a_store_that_can_not_note_it_loses_no_command(
    broker: Ring, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(scope: Scope, command_id: str) -> None:
        raise StoreUnavailable("the disk is full")

    command = await broker.submit("nap", params={"seconds": 0.1})
    await broker.state(command, "running")
    monkeypatch.setattr(broker.store, "requeue", full)
    await broker.cut()
    await broker.link(Site(file=MANY))
    ended = await broker.final(command)
    assert (ended.state, ended.epoch) == ("succeeded", 2)


# --- cancel, order and expiry at the worst moment ---------------------------------------------------


async def test_a_command_cancelled_on_its_way_back_into_the_queue_harms_no_other(broker: Ring, site: Site) -> None:
    command = await broker.submit("nap", params={"seconds": 30})
    await broker.state(command, "running")
    await broker.cut()
    entry = entry_of(broker, command)
    with slow_disk(broker):
        restarted = Site(file=MANY)
        restarted.key = site.key  # with another key its catalogue would be another, and wait for the disk
        linking = asyncio.create_task(broker.link(restarted))
        await until(lambda: entry.command.epoch == 2 or entry.line is None)
        broker.router.cancel(entry)
    await linking
    assert (await broker.final(command)).state is CommandState.CANCELLED
    assert (await broker.run("echo", params={"a": 1})).state is CommandState.SUCCEEDED
    await until(lambda: restarted.dispatcher.held() == [])


@pytest.mark.parametrize("linked", [True, False])
async def test_commands_of_one_order_that_are_cancelled_together_are_not_run(
    broker: Ring, site: Site, linked: bool
) -> None:
    if not linked:
        await broker.cut()
    blocker = await broker.submit("nap", params={"seconds": 30}, ordering_key="k")
    others = [await broker.submit("act", params={"seconds": 0}, ordering_key="k") for _ in range(3)]
    for command in (blocker, *others):
        broker.router.cancel(entry_of(broker, command))
    for command in (blocker, *others):
        ended = await broker.final(command)
        assert ended.state is CommandState.CANCELLED
        assert ended.epoch == (1 if linked and command is blocker else 0)
    if not linked:
        await broker.link(site)
    assert (await broker.run("echo", params={"a": 1}, ordering_key="k")).state is CommandState.SUCCEEDED


@pytest.mark.parametrize("operation", ["nap", "act"])
async def test_a_cancel_in_the_same_breath_as_the_command_ends_it(broker: Ring, site: Site, operation: str) -> None:
    command = await broker.submit(operation, params={"seconds": 30})
    entry = entry_of(broker, command)
    await until(lambda: entry.sent)
    broker.router.cancel(entry)
    assert (await broker.final(command)).state is CommandState.CANCELLED


async def test_a_command_that_was_never_sent_expires_without_doubt(broker: Ring, site: Site) -> None:
    with slow_disk(broker):
        given = records.command(SCOPE, operation="act", effect="at-most-once", expires_at=0.0)
        adding = asyncio.create_task(broker.store.add_command(SCOPE, given))
        await asyncio.sleep(0)
        broker.router.submit(given)
        entry = entry_of(broker, given)
        assert entry.line is not None
        await broker.cut()
        await until(lambda: entry.finishing)
    await adding
    assert (await broker.final(given)).state is CommandState.EXPIRED


async def test_who_waits_for_a_command_that_has_just_ended_is_told_its_end(broker: Ring, site: Site) -> None:
    command = await broker.submit("nap", params={"seconds": 0.05})
    entry = entry_of(broker, command)
    await broker.final(command)
    async with asyncio.timeout(1):
        assert (await broker.router.wait(entry, 30)).state is CommandState.SUCCEEDED


async def test_who_waited_in_vain_leaves_nothing_behind(broker: Ring, site: Site) -> None:
    command = await broker.submit("nap", params={"seconds": 30})
    for _ in range(3):
        await broker.commands.wait(SCOPE, command.id, 0.001)
    assert not entry_of(broker, command).waiters
    await broker.commands.cancel(SCOPE, command.id)


async def test_ended_commands_leave_nothing_behind(broker: Ring, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_broker.deadlines.SPARE", 10)
    for _ in range(50):
        await broker.run("echo", params={"a": 1})
    await until(lambda: len(broker.router.deadlines) <= 10)


async def test_commands_of_a_group_that_waited_through_a_restart_are_run(broker: Ring) -> None:
    await broker.enrol("north", "plants")
    north = Site("north")
    await broker.link(north)
    await broker.cut()
    command = await broker.submit("echo", agent=None, group="plants", params={"a": 1})
    await broker.restart()
    await broker.link(north)
    assert (await broker.final(command)).state is CommandState.SUCCEEDED


async def test_an_agent_that_is_stopping_is_not_asked_again_and_again(broker: Ring, site: Site) -> None:
    running = await broker.submit("nap", params={"seconds": 0.5})
    await broker.state(running, "running")
    stopping = asyncio.create_task(site.dispatcher.stop())
    later = await broker.submit("echo", params={"a": 1})
    await broker.final(running)
    await stopping
    assert (await broker.commands.get(SCOPE, later.id)).epoch == 1
    await broker.cut()
    await broker.link(Site(file=MANY))
    assert (await broker.final(later)).epoch == 2


# --- rows and their files --------------------------------------------------------------------------


async def test_the_rows_of_an_attempt_that_was_lost_leave_no_file(broker: Ring, site: Site, tmp_path: Path) -> None:
    command = await broker.submit("rows", params={"count": 1_000_000})
    reader = await broker.commands.open_rows(SCOPE, command.id, 0)
    await until(lambda: any(path.is_file() for path in (tmp_path / "results").rglob("*")))
    await broker.cut()
    operations = {name: body for name, body in MANY["operations"].items() if name != "rows"}
    await broker.link(Site(file={**MANY, "operations": operations}))
    assert (await broker.final(command)).state is CommandState.FAILED
    assert reader.columns
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


async def test_a_line_on_which_nothing_moves_is_given_up_in_the_middle_of_rows(broker: Ring) -> None:
    site = Site(file=MANY)
    end = await broker.link(site, silence_s=0.5)
    command = await broker.submit("rows", params={"count": 1_000_000})
    await broker.state(command, "running")
    _, serving, dialled = broker._links[0]
    end.freeze()
    async with asyncio.timeout(5):
        await asyncio.wait((serving, dialled), return_when=asyncio.ALL_COMPLETED)
    await broker.cut()
    await broker.link(site)
    assert (await broker.final(command, 60)).epoch == 1


# --- an agent that does not keep its word ----------------------------------------------------------


@pytest.fixture
async def liar(broker: Ring) -> AsyncIterator[Scripted]:
    async with scripted(broker) as made:
        yield made


async def begun(broker: Ring, liar: Scripted) -> Run:
    """Return a command that the agent says it has started."""
    await broker.submit("read")
    return await liar.begin()


async def test_an_agent_is_told_which_rule_it_broke(broker: Ring, liar: Scripted) -> None:
    run = await begun(broker, liar)
    await liar.say(Chunk(run.id, run.epoch, 0, 1), payload=b"{}\n")
    goodbye = await liar.hear(Goodbye)
    assert (goodbye.code, goodbye.reason) == ("protocol", f"{run.id}: rows before their row set")


@pytest.mark.parametrize(
    ("index", "name", "count", "why"),
    [(0, "a", 1_100, "more than 1000 row sets"), (0, "a" * 500_000, 5, "names of columns"), (7, "a", 1, "row set 7")],
)
async def test_an_agent_can_not_fill_the_broker_with_row_sets(
    broker: Ring, liar: Scripted, index: int, name: str, count: int, why: str
) -> None:
    run = await begun(broker, liar)
    for number in range(index, index + count):
        await liar.say(RowSetBegins(run.id, run.epoch, number, 0, [ColumnInfo(name, "string")]))
    await liar.hear(Cancel)
    await liar.say(Completed(run.id, run.epoch, "cancelled"))
    await liar.hear(Ack)
    ended = await broker.commands.get(SCOPE, run.id)
    assert ended.state is CommandState.FAILED
    assert ended.error is not None
    assert why in ended.error.message


async def test_a_catalogue_makes_the_broker_ask_nobody(broker: Ring, liar: Scripted) -> None:
    asked = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        operation = {
            "name": "o",
            "connection": "c",
            "effect": "read",
            "params": {"$ref": f"http://127.0.0.1:{port}/schema"},
        }
        document = json.dumps({"operations": [operation], "connections": []}).encode()
        await liar.say(Catalogue(hashlib.sha256(document).hexdigest()), payload=document)
        assert "outside of itself" in (await liar.hear(Goodbye)).reason
    assert not asked.is_set()


# --- any order of things ---------------------------------------------------------------------------


class Counted(SyntheticConnector):
    """Counts how often each command ran."""

    runs: Counter[str]

    async def run(self, call: Call) -> AsyncGenerator[Piece, None]:
        self.runs[call.command_id] += 1
        async with contextlib.aclosing(super().run(call)) as pieces:
            async for piece in pieces:
                yield piece


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_each_command_ends_once_and_no_effect_is_doubled(broker: Ring, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a schedule that can be repeated, not a secret
    runs: Counter[str] = Counter()

    def new_site() -> Site:
        made = Site(file=MANY, connector=Counted)
        for connector in made.connectors.values():
            assert isinstance(connector, Counted)
            connector.runs = runs
        return made

    site = new_site()
    await broker.link(site)
    commands: list[Command] = []
    for _ in range(80):
        step = chance.choices(("submit", "cancel", "cut", "broker", "agent", "wait"), (40, 8, 6, 2, 3, 8))[0]
        if step == "submit":
            operation = chance.choice(("nap", "act", "rows", "write-rows", "echo", "fail"))
            params = {
                "nap": {"seconds": chance.random() * 0.05},
                "act": {"seconds": chance.random() * 0.05},
                "rows": {"count": chance.choice((0, 10, 5_000, 30_000))},
                "write-rows": {"count": chance.choice((0, 10, 5_000, 30_000))},
            }.get(operation, {})
            commands.append(
                await broker.submit(
                    operation,
                    params=params,
                    ttl_s=chance.choice((0.05, 30.0, 30.0)),
                    ordering_key=chance.choice((None, None, "k")),
                    priority=chance.randrange(3),
                )
            )
        elif step == "cancel" and commands:
            entry = broker.router.entry(SCOPE, chance.choice(commands).id)
            if entry is not None:
                broker.router.cancel(entry)
        elif step == "cut":
            await broker.cut()
            await broker.link(site)
        elif step == "broker":
            await broker.restart()
            await broker.link(site)
        elif step == "agent":
            await broker.cut()
            site = new_site()
            await broker.link(site)
        elif step == "wait":
            await asyncio.sleep(chance.random() * 0.02)
    for command in commands:
        ended = await broker.final(command, 45)
        if command.effect == "at-most-once":
            assert runs[command.id] <= 1, f"{command.operation} ran {runs[command.id]} times, {ended.state}"
            assert runs[command.id] == 1 or ended.state is not CommandState.SUCCEEDED
        if ended.state is CommandState.SUCCEEDED and ended.row_sets:
            rows = await broker.rows(ended)
            assert [json.loads(line)["n"] for line in rows.splitlines()] == list(range(ended.row_sets[0].rows))
    await until(lambda: site.dispatcher.held() == [])
    assert (await broker.run("echo", ordering_key="k")).state is CommandState.SUCCEEDED
    line = broker.router.line(SCOPE, "plant-1")
    assert line is not None
    assert (len(line.flying), line.busy.total(), len(line.queue), len(broker.router._entries)) == (0, 0, 0, 0)
    assert line.link is not None
    await until(lambda: line.link is not None and not line.link._session._talks)
