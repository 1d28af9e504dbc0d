"""A broker that was broken into: the agent refuses what the operator's file does not allow, and lives on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.connectors.base import Call
from agent.connectors.synthetic import SyntheticConnector
from agent.errors import LinkError
from agent.link.base import Ended
from agent.link.memory import MemoryTransport, pair
from protocol import codec, limits
from protocol.codec import Record
from protocol.messages import (
    Ack,
    AnyMessage,
    Cancel,
    Completed,
    Credit,
    Goodbye,
    Hello,
    Holding,
    Limits,
    Resume,
    Run,
    Trust,
    Welcome,
)
from tests.waiting import until
from tests.whole.ring import FILE, Site, ring

HUGE = 2**80
ran: list[str] = []


class Watched(SyntheticConnector):
    """Notes what is run."""

    def run(self, call: Call) -> Any:
        ran.append(call.operation)
        return super().run(call)


class Liar:
    """The broker's end of one link."""

    def __init__(self, site: Site) -> None:
        ours, theirs = pair()
        self.heard: list[Record] = []
        self._transport: MemoryTransport = ours
        self.conversation = site.conversation(theirs)
        self._changed = asyncio.Event()
        self.agent = asyncio.create_task(self._agent(theirs), name="agent")
        self._listening = asyncio.create_task(self._listen(), name="liar")

    async def say(self, *messages: AnyMessage, payload: bytes = b"") -> None:
        """Say something, whether or not the rules allow it."""
        for message in messages:
            await self.send(codec.encode(Record(message, payload)))

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        with contextlib.suppress(LinkError):
            await self._transport.send(data)

    async def welcome(self, **other: Any) -> None:
        """Greet as an honest broker does, but for what is given."""
        await self.hear(Hello)
        said: dict[str, Any] = {
            "version": 1,
            "release": "0",
            "features": [],
            "tenant": "acme",
            "agent": "plant-1",
            "time": time.time(),
            "limits": Limits(
                stream_window_bytes=limits.STREAM_WINDOW_BYTES, link_window_bytes=limits.LINK_WINDOW_BYTES
            ),
        }
        await self.say(Welcome(**said | other))

    async def hear(self, kind: type[Any]) -> Record:
        """Return the first record of a kind."""
        async with asyncio.timeout(5):
            while True:
                for record in self.heard:
                    if isinstance(record.message, kind):
                        self.heard.remove(record)
                        return record
                self._changed.clear()
                await self._changed.wait()

    async def run(self, operation: str, params: bytes = b"{}", **other: Any) -> Completed:
        """Ask for a command and return how it ended."""
        said: dict[str, Any] = {
            "id": "cmd_1",
            "epoch": 1,
            "operation": operation,
            "expires_in_s": 30.0,
            "credit": 65_536,
        }
        await self.say(Run(**said | other), payload=params)
        message = (await self.hear(Completed)).message
        assert isinstance(message, Completed)
        return message

    async def ended(self) -> str:
        """Return why the agent ended the link."""
        async with asyncio.timeout(5):
            try:
                return (await self.agent).reason
            except LinkError as exc:
                return str(exc)

    async def close(self) -> None:
        """Go away."""
        await self._transport.close()
        self._listening.cancel()
        await asyncio.gather(self.agent, self._listening, return_exceptions=True)

    async def _agent(self, transport: MemoryTransport) -> Ended:
        try:
            return await self.conversation.serve()
        finally:
            await transport.close()  # as the supervisor does

    async def _listen(self) -> None:
        with contextlib.suppress(LinkError):
            while True:
                self.heard.extend(codec.decode(await self._transport.receive()))
                self._changed.set()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """An agent, not linked."""
    ran.clear()
    made = Site(connector=Watched)
    yield made
    await made.kill()
    shutil.rmtree(made._spool, ignore_errors=True)


@pytest.fixture
async def liar(site: Site) -> AsyncIterator[Liar]:
    """A broker that has welcomed the agent."""
    made = Liar(site)
    await made.welcome()
    await made.hear(Holding)
    yield made
    await made.close()


async def lives(site: Site, folder: Path) -> None:
    """See that an honest broker gets its work done by the same process."""
    async with ring(folder) as broker:
        await broker.link(site)
        assert (await broker.run("echo", params={"n": 1})).outputs == b'{"n":1}'


# --- commands that the file does not allow --------------------------------------------------------------

FORGED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an operation that is not in the file": ("rm -rf", {}, "operation_unknown"),
    "one with SQL in its name": ("echo'; DROP TABLE orders; --", {}, "operation_unknown"),
    "one with a path in its name": ("../echo", {}, "operation_unknown"),
    "one without a name": ("", {}, "operation_unknown"),
    "one that wants a signature": ("signed", {}, ""),
    "one that is signed by nobody": ("signed", {"signature": "e30.e30.e30"}, ""),
    "parameters that are no object": ("rows", {"params": b"[1]"}, "parameters_invalid"),
    "parameters that are no JSON": ("rows", {"params": b"{"}, "parameters_invalid"),
    "parameters doubled": ("rows", {"params": b'{"count":1,"count":2}'}, "parameters_invalid"),
    "parameters nested too deep": ("echo", {"params": b'{"a":' + b"[" * 100_000}, "parameters_invalid"),
    "a count beyond all numbers": ("rows", {"params": b'{"count":1e400}'}, "parameters_invalid"),
    "a deadline that has passed": ("echo", {"expires_in_s": -1.0}, "deadline_passed"),
    "a deadline that never was": ("echo", {"expires_in_s": -1e308}, "deadline_passed"),
}


@pytest.mark.parametrize("forged", FORGED)
async def test_a_forged_command_is_refused_and_runs_nothing(
    site: Site, liar: Liar, tmp_path: Path, forged: str
) -> None:
    operation, other, code = FORGED[forged]

    ended = await liar.run(operation, **other)

    assert ended.outcome in ("failed", "expired")
    assert not ended.touched
    if code:
        assert ended.error_code == code
    else:
        assert "signature" in ended.error_message
    assert ran == []
    await liar.close()
    await lives(site, tmp_path)


# --- words that break the rules ----------------------------------------------------------------------


def raw(kind: str, payload: bytes = b"", **members: Any) -> bytes:
    """Return a record as bytes, whatever stands in it."""
    header = json.dumps({"kind": kind, **members}).encode()
    return struct.pack(">II", len(header), len(payload)) + header + payload


def run(**other: Any) -> Run:
    """A command of no length."""
    said: dict[str, Any] = {"id": "cmd_1", "epoch": 1, "operation": "sleep", "expires_in_s": 30.0, "credit": 65_536}
    return Run(**said | other)


Lie = Callable[[Liar], Awaitable[None]]


def sends(data: bytes) -> Lie:
    """Bytes that are no message."""
    return lambda liar: liar.send(data)


def says(*messages: AnyMessage, payload: bytes = b'{"seconds":60}') -> Lie:
    """Messages at the wrong time."""

    async def lie(liar: Liar) -> None:
        for message in messages:
            await liar.say(message, payload=payload if isinstance(message, Run) else b"")

    return lie


async def a_thousand_commands(liar: Liar) -> None:
    for number in range(1_000):
        await liar.say(run(id=f"cmd_{number}"), payload=b'{"seconds":60}')


BROKEN: dict[str, Lie] = {
    "no frame at all": sends(b"\xff" * 40),
    "an empty message": sends(b""),
    "a header of four gigabytes": sends(struct.pack(">II", 0xFFFFFFFF, 0) + b"{}"),
    "a payload of four gigabytes": sends(struct.pack(">II", 2, 0xFFFFFFFF) + b"{}"),
    "a header nested a million deep": sends(struct.pack(">II", 1_000_000, 0) + b"[" * 1_000_000),
    "a kind that nobody knows": sends(raw("Exec", sql="DROP TABLE orders")),
    "the agent's word": sends(raw("Completed", id="cmd_1", epoch=1, outcome="succeeded")),
    "a second welcome": says(Welcome(1, "0", [], Limits(), "acme", "plant-1", 0.0)),
    "the same command twice": says(run(), run()),
    "an attempt beyond all numbers": sends(
        raw("Run", b"{}", id="cmd_1", epoch=HUGE, operation="echo", expires_in_s=1.0, credit=1)
    ),
    "credit that takes away": says(run(), Credit("cmd_1", -1)),
    "an end of what has not ended": says(run(), Ack("cmd_1", 1)),
    "the rest of what never was": says(Resume("cmd_of_somebody", 1, 0, 65_536)),
    "the end of what never was": says(Ack("cmd_of_somebody", 1)),
    "to cancel what never was": says(Cancel("cmd_of_somebody", 1)),
    "parameters of more than a command may have": says(run(), payload=b'"' + b"x" * limits.MAX_COMMAND_BYTES + b'"'),
    "more commands than it was told": a_thousand_commands,
    "trust in other authorities, unasked": says(Trust(["AAAA"])),
}


@pytest.mark.parametrize("lie", BROKEN)
async def test_who_breaks_the_rules_is_left_and_the_agent_lives(
    site: Site, liar: Liar, tmp_path: Path, lie: str
) -> None:
    await BROKEN[lie](liar)

    await liar.ended()

    await liar.close()
    await lives(site, tmp_path)


GREETINGS: dict[str, dict[str, Any]] = {
    "a version before the first": {"version": 0},
    "a version that nobody speaks": {"version": 99},
    "one who may send again what is forgotten": {"limits": Limits(sends_again=10**9)},
}


@pytest.mark.parametrize("greeting", GREETINGS)
async def test_a_downgrade_is_refused(site: Site, tmp_path: Path, greeting: str) -> None:
    liar = Liar(site)
    await liar.welcome(**GREETINGS[greeting])

    await liar.ended()

    assert not any(isinstance(record.message, Holding) for record in liar.heard), "it was told what is held"
    await liar.close()
    await lives(site, tmp_path)


STRANGE: dict[str, dict[str, Any]] = {
    "beats without a pause": {"beat_s": 0.0},
    "beats before they are due": {"beat_s": -1e308},
    "beats that never come": {"beat_s": 1e308},
    "features of another world": {"features": ["sudo"] * 10_000},
    "an audit chain that is none": {"audit": "x" * 100_000},
    "a lineage without end": {"lineage": "x" * 500_000},
    "a clock of another age": {"time": -1e300},
    "endless windows": {"limits": Limits(stream_window_bytes=2**50, link_window_bytes=2**50)},
    "no windows": {"limits": Limits(stream_window_bytes=0, link_window_bytes=0)},
    "a silence that is over at once": {"limits": Limits(silence_s=0.0)},
}


@pytest.mark.parametrize("greeting", STRANGE)
async def test_a_strange_greeting_does_no_harm(site: Site, tmp_path: Path, greeting: str) -> None:
    liar = Liar(site)
    await liar.welcome(**STRANGE[greeting])
    await until(lambda: liar.agent.done() or any(isinstance(r.message, Holding) for r in liar.heard))
    for _ in range(100):
        await asyncio.sleep(0)  # a turn for who would talk without end
    assert len(liar.heard) < 50, "it talks without end"
    await liar.close()
    await lives(site, tmp_path)


async def test_endless_credit_makes_it_send_no_faster_than_it_is_read(site: Site, liar: Liar) -> None:
    await liar.say(run(operation="rows", credit=2**50), payload=b'{"count":2000000,"width":8}')
    await liar.say(*(Credit("cmd_1", 2**50) for _ in range(100)))
    liar._listening.cancel()  # it reads nothing
    (running,) = site.dispatcher._commands.values()
    await until(lambda: running.started)
    for _ in range(200):
        await asyncio.sleep(0)  # a turn for who would fill its memory
    assert running.result.end - running.result.first <= 4 * limits.STREAM_WINDOW_BYTES, "it fills its memory"


@pytest.mark.parametrize("seconds", [1e308, -1.0, 0.0])
async def test_a_goodbye_can_not_send_it_away_for_ever(site: Site, seconds: float, tmp_path: Path) -> None:
    liar = Liar(site)
    await liar.welcome()
    await liar.say(Goodbye("stopping", "\x1b[2J" * 1_000, seconds))
    async with asyncio.timeout(5):
        ended = await liar.agent
    assert ended.code == "stopping"
    await liar.close()
    await lives(site, tmp_path)


def test_the_file_names_what_these_tests_ask_for() -> None:
    assert {"echo", "rows", "sleep", "signed"} <= set(FILE["operations"])
