"""An agent with a good certificate that lies: the broker cuts it off, keeps nothing of it, and serves the others."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import LinkError
from cloud_broker.store.commands import Command
from protocol import limits
from protocol.messages import (
    Beat,
    Catalogue,
    Chunk,
    ColumnInfo,
    Completed,
    Condition,
    Enrol,
    Held,
    Hello,
    Holding,
    Limits,
    RowSetBegins,
    RowSetDone,
    Run,
    Welcome,
)
from protocol.states import FINAL
from tests.waiting import until
from tests.whole.ring import SCOPE, Ring, ring
from tests.whole.scripted import Scripted, document, scripted

HUGE = 2**80
Lie = Callable[[Scripted, Run], Awaitable[None]]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Ring]:
    """A broker with a liar and an honest agent enrolled."""
    async with ring(tmp_path) as made:
        await made.enrol("honest")
        yield made


def raw(kind: str, payload: bytes = b"", **members: Any) -> bytes:
    """Return a record as bytes, whatever stands in it."""
    header = json.dumps({"kind": kind, **members}).encode()
    return struct.pack(">II", len(header), len(payload)) + header + payload


def says(*messages: Any, payload: bytes = b"") -> Lie:
    """A lie that is the same for every command."""

    async def lie(agent: Scripted, run: Run) -> None:
        await agent.say(*messages, payload=payload)

    return lie


def sends(data: bytes) -> Lie:
    """Bytes that are no message."""

    async def lie(agent: Scripted, run: Run) -> None:
        await agent.send(data)

    return lie


def tells(make: Callable[[Run], bytes]) -> Lie:
    """A record about the command that is under way."""

    async def lie(agent: Scripted, run: Run) -> None:
        await agent.send(make(run))

    return lie


def catalogue(data: bytes, digest: str | None = None) -> Lie:
    """Another catalogue."""
    return says(Catalogue(digest if digest is not None else hashlib.sha256(data).hexdigest()), payload=data)


def begun(run: Run, index: int = 0) -> bytes:
    """A row set that begins."""
    columns = [{"name": "n", "type": "integer"}]
    return raw("RowSetBegins", id=run.id, epoch=run.epoch, index=index, offset=0, columns=columns)


def chunk(run: Run, data: bytes, **other: Any) -> bytes:
    """Some rows."""
    return raw("Chunk", data, **{"id": run.id, "epoch": run.epoch, "offset": 0, "rows": 1} | other)


async def more_than_its_credit(agent: Scripted, run: Run) -> None:
    piece = b"1" * limits.CHUNK_BYTES
    pieces = [chunk(run, piece, offset=number * len(piece)) for number in range(run.credit // len(piece) + 1)]
    await agent.send(begun(run) + b"".join(pieces))  # at once, or some of it would be stored and granted again


CUT_OFF: dict[str, Lie] = {
    "no frame at all": sends(b"\xff" * 40),
    "an empty message": sends(b""),
    "a header of four gigabytes": sends(struct.pack(">II", 0xFFFFFFFF, 0) + b"{}"),
    "a payload of four gigabytes": sends(struct.pack(">II", 2, 0xFFFFFFFF) + b"{}"),
    "a record that is cut": sends(raw("Beat")[:-1]),
    "a header that is no JSON": sends(struct.pack(">II", 3, 0) + b"{,}"),
    "a header nested a million deep": sends(struct.pack(">II", 1_000_000, 0) + b"[" * 1_000_000),
    "a kind that nobody knows": sends(raw("Sudo")),
    "no kind": sends(struct.pack(">II", 2, 0) + b"{}"),
    "a payload where none belongs": sends(raw("Beat", b"x")),
    "the broker's word": says(Welcome(1, "0", [], Limits(), "acme", "plant-1", 0.0)),
    "a second greeting": says(Hello([1], "0", [], Limits(), "j", 0.0)),
    "a second holding": says(Holding([])),
    "an enrolment in the middle of a link": says(Enrol("secret", "request", "0"), payload=b"csr"),
    "a result of nobody's command": says(Completed("cmd_of_somebody", 1, "succeeded")),
    "rows of nobody's command": says(Chunk("cmd_of_somebody", 1, 0, 1), payload=b"1"),
    "rows before their row set": tells(lambda run: chunk(run, b"{}\n")),
    "a chunk that is too large": tells(lambda run: begun(run) + chunk(run, b"1" * (limits.CHUNK_BYTES + 1))),
    "an empty chunk": tells(lambda run: begun(run) + chunk(run, b"")),
    "a gap": tells(lambda run: begun(run) + chunk(run, b"1", offset=7)),
    "a place before the first": tells(lambda run: begun(run) + chunk(run, b"1", offset=-1)),
    "a checksum that does not fit": tells(lambda run: begun(run) + chunk(run, b"1", crc32=7)),
    "more than its credit": more_than_its_credit,
    "another attempt": tells(lambda run: raw("Completed", id=run.id, epoch=run.epoch + 1, outcome="succeeded")),
    "a number beyond all numbers": tells(lambda run: raw("Completed", id=run.id, epoch=HUGE, outcome="succeeded")),
    "an outcome that is none": tells(lambda run: raw("Completed", id=run.id, epoch=run.epoch, outcome="paid")),
    "outputs that are no JSON": tells(
        lambda run: raw("Completed", b"{", id=run.id, epoch=run.epoch, outcome="succeeded")
    ),
    "outputs that are no object": tells(
        lambda run: raw("Completed", b"[1]", id=run.id, epoch=run.epoch, outcome="succeeded")
    ),
    "outputs that are no UTF-8": tells(
        lambda run: raw("Completed", b'{"a":"\x9b"}', id=run.id, epoch=run.epoch, outcome="succeeded")
    ),
    "outputs nested a million deep": tells(
        lambda run: raw("Completed", b"[" * 1_000_000, id=run.id, epoch=run.epoch, outcome="succeeded")
    ),
    "a catalogue with another digest": catalogue(b"{}", "00" * 32),
    "a catalogue that is no JSON": catalogue(b"\x00"),
    "a catalogue that is no UTF-8": catalogue(b'{"operations":[{"name":"\x9b"}]}'),
    "a catalogue that is too large": catalogue(b" " * (limits.MAX_CATALOGUE_BYTES + 1)),
    "a catalogue nested too deep": catalogue(b'{"operations":' + b"[" * 500_000),
}


@pytest.mark.parametrize("lie", CUT_OFF)
async def test_who_breaks_the_rules_is_cut_off_and_nobody_else_notices(broker: Ring, lie: str) -> None:
    async with scripted(broker) as liar, scripted(broker, name="honest") as honest:
        asked = await broker.submit("read", ttl_s=30.0)
        run = await liar.begin()

        await CUT_OFF[lie](liar, run)

        assert liar.conversation is not None
        async with asyncio.timeout(20):
            await liar.conversation.gone()
        found = await broker.commands.get(SCOPE, asked.id)
        assert found.state not in FINAL or found.state == "failed", "a lie is no success"
        await serves(broker, honest)


async def serves(broker: Ring, honest: Scripted) -> None:
    """See that another agent's command runs as ever."""
    asked = await broker.submit("read", agent="honest")
    await honest.succeed(await honest.begin(), b'{"n":1}')
    ended = await broker.final(asked, 5)
    assert (ended.state, ended.outputs) == ("succeeded", b'{"n":1}')
    assert await broker.store.healthy()


# --- lies that break no rule: they are taken for what they are worth ----------------------------------

STRANGE: dict[str, Lie] = {
    "a thousand problems of a megabyte": says(Condition(problems=["x" * 1_000] * 1_000)),
    "windows that open never, before and nowhere": sends(
        raw("Condition", shut={"erp": 1e308, "nowhere": 5.0, "x": -1e308})
    ),
    "pauses of connections that are not there": sends(raw("Condition", paused={"nowhere": "x" * 500_000})),
    "a beat from the end of time": says(Beat(time=1e308)),
    "keys that nobody knows": sends(raw("Beat", sudo=True, tenant="other")),
}


@pytest.mark.parametrize("lie", STRANGE)
async def test_what_is_strange_but_allowed_harms_nobody(broker: Ring, lie: str) -> None:
    async with scripted(broker) as liar, scripted(broker, name="honest") as honest:
        asked = await broker.submit("read")
        run = await liar.begin()
        await STRANGE[lie](liar, run)
        await liar.succeed(run)
        assert (await broker.final(asked)).state == "succeeded"
        await serves(broker, honest)


@pytest.mark.parametrize(
    "told",
    [
        {"position": -5},
        {"position": 2**62},
        {"time": 1e300},
        {"journal": "x" * 100_000},
        {"release": "\x00\x1b[2J" * 1_000},
        {"system": "S" * 500_000},
        {"head": "not hex"},
        {"lineage": "x" * 100_000},
        {"trusts": ["x"] * 10_000},
        {"features": ["sudo"] * 10_000},
        {"limits": {"max_running": 2**50}},
        {"limits": {"max_running": -1}},
        {"limits": {"silence_s": 0.0}},
        {"limits": {"silence_s": -1e308}},
    ],
    ids=str,
)
async def test_a_greeting_full_of_nonsense_ends_as_a_link_or_as_none(broker: Ring, told: dict[str, Any]) -> None:
    liar = Scripted(broker)
    async with scripted(broker, name="honest") as honest:
        hello: dict[str, Any] = {
            "versions": [1],
            "release": "0",
            "features": [],
            "limits": {},
            "journal": "j",
            "time": time.time(),
        }
        await liar.dial(greeting=raw("Hello", **hello | told))
        await serves(broker, honest)
        await liar.cut()
        agent = await broker.store.agent(SCOPE, "plant-1")
        assert agent is not None
        assert len(agent.release) + len(agent.system) + len(agent.journal) < 2_000


async def test_a_success_whose_rows_do_not_fit_is_none(broker: Ring) -> None:
    for sets in ([], [RowSetDone(3, 1, "00" * 32)], [RowSetDone(3, 2, hashlib.sha256(b"{}\n").hexdigest())]):
        async with scripted(broker) as liar:
            asked = await broker.submit("read")
            run = await liar.begin()
            await liar.say(RowSetBegins(run.id, run.epoch, 0, 0, [ColumnInfo("n", "integer")]))
            await liar.say(Chunk(run.id, run.epoch, 0, 1), payload=b"{}\n")
            await liar.say(Completed(run.id, run.epoch, "succeeded", row_sets=sets))
            ended = await broker.final(asked)
            assert ended.state == "failed", sets
            assert ended.error is not None
            assert ended.error.code == "result_lost"


async def test_an_agent_can_neither_end_nor_read_what_another_one_runs(broker: Ring) -> None:
    async with scripted(broker) as liar, scripted(broker, name="honest") as honest:
        asked = await broker.submit("post", agent="honest")
        run = await honest.begin()

        await liar.dial()
        await liar.holds(Held(run.id, run.epoch, ended=True, sent=5))
        await liar.say(Completed(run.id, run.epoch, "succeeded"), payload=b'{"order_no":"stolen"}')
        assert liar.conversation is not None
        async with asyncio.timeout(20):
            await liar.conversation.gone()

        found: Command = await broker.commands.get(SCOPE, asked.id)
        assert (found.state, found.outputs) == ("running", None)
        await honest.succeed(run, b'{"order_no":"1"}')
        ended = await broker.final(asked)
        assert (ended.state, ended.outputs, ended.agent) == ("succeeded", b'{"order_no":"1"}', "honest")


async def test_an_agent_that_asks_much_and_reads_nothing_is_cut_off(
    broker: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_UNSENT", 1_000)  # the rule, without the megabytes
    monkeypatch.setattr("agent.link.memory.ROOM", 1)  # and without what is on its way on the line
    async with scripted(broker) as liar:
        await liar.dial()
        liar.listen_no_more()
        data = json.dumps(liar.catalogue).encode()
        await liar.say(Catalogue(hashlib.sha256(data).hexdigest()), payload=data)
        await liar.say(Holding([Held(f"cmd_{number}", 1, ended=True) for number in range(8_000)]))
        conversation = liar.conversation
        assert conversation is not None
        with contextlib.suppress(LinkError):
            while not conversation.ended:
                await liar.say(Beat())
        async with scripted(broker, name="honest") as honest:
            await serves(broker, honest)


async def test_a_catalogue_of_many_operations_with_hostile_names_is_taken_or_refused_as_a_whole(broker: Ring) -> None:
    hostile = document()
    hostile["operations"] = [
        {"name": name, "connection": "erp", "effect": "read", "timeout_s": 1.0, "params": {}}
        for name in ("../../etc/passwd", "", "a\x00b", "'; DROP TABLE commands; --", "x" * 10_000)
    ]
    async with scripted(broker, name="honest") as honest:
        liar = Scripted(broker, catalogue=hostile)
        await liar.dial()
        data = json.dumps(hostile).encode()
        await liar.say(Catalogue(hashlib.sha256(data).hexdigest()), payload=data)
        await liar.say(Holding([]))
        conversation = liar.conversation
        assert conversation is not None
        await until(lambda: conversation.ended or conversation.ready)
        await serves(broker, honest)
        await liar.cut()
