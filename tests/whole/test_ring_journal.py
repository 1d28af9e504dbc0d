"""What is left of a command when the agent's process dies, wherever it stood; the ERP here only counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.connectors.base import Call, Column, Connector, DriverSetup, Outputs, Piece, Ready, Rows, RowSet
from agent.errors import OutcomeUnknown, SourceUnavailable
from agent.journal.base import Resolution
from agent.journal.memory import MemoryJournal
from agent.settings import Settings
from agent.settings_reader import read
from cloud_broker.store.commands import Command
from protocol import limits
from protocol.messages import Run
from protocol.states import CommandState
from tests.waiting import until
from tests.whole.ring import SCOPE, Ring, Site, ring

FILE: dict[str, Any] = {
    "agent": "plant-1",
    "state_dir": "state",
    "connections": {"erp": {"type": "synthetic", "max_concurrent": 4}},
    "operations": {
        "order": {"connection": "erp", "synthetic": "echo", "effect": "once"},
        "post": {"connection": "erp", "synthetic": "echo", "effect": "at-most-once"},
        "pay": {
            "connection": "erp",
            "synthetic": "echo",
            "effect": "at-most-once",
            "verify": "find-payment",
            "timeout": "1s",
        },
        "find-payment": {"connection": "erp", "synthetic": "echo"},
        "read": {"connection": "erp", "synthetic": "echo"},
    },
}
STEPS = ("before", "ready", "after")  # of one run: nothing is kept; rows are out; it is kept and nobody has heard of it


class Erp:
    """
    A system that keeps what was done, whoever asks.

    Attributes:
        done: how often each command had its effect.
        stop_at: the step at which a run stops until ``go`` is set.
        stopped: set when one did.
        rows: bytes of rows of each run.
        unreachable: nothing can be asked.
        forgets: it has no record of anything.
        answers_lost: so many of the next questions lose their answer.
    """

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.outputs: dict[str, bytes] = {}
        self.asked = 0
        self.stop_at = ""
        self.stopped = asyncio.Event()
        self.go = asyncio.Event()
        self.rows = 0
        self.unreachable = False
        self.forgets = False
        self.answers_lost = 0

    def __call__(self, setup: DriverSetup) -> Connector:
        return ErpConnector(self)

    async def reach(self, step: str) -> None:
        if step == self.stop_at:
            self.stopped.set()
            await self.go.wait()

    def die(self) -> None:
        """From here on nothing stops."""
        self.stop_at = ""
        self.stopped.clear()


class ErpConnector(Connector):
    def __init__(self, erp: Erp) -> None:
        self._erp = erp

    async def run(self, call: Call) -> AsyncGenerator[Piece, None]:
        erp = self._erp
        if call.operation == "find-payment":
            erp.asked += 1
            if erp.unreachable:
                raise SourceUnavailable("down", touched=False)
            if erp.answers_lost:
                erp.answers_lost -= 1
                raise OutcomeUnknown("contact was lost after the request was sent")
            command_id = call.command_id.removesuffix(".verify")
            yield Outputs({"payment": 7 if erp.done[command_id] else None})
            return
        await erp.reach("before")
        if erp.rows:
            yield RowSet((Column("x", "string"),))
            for start in range(0, erp.rows, 50_000):
                yield Rows(b"x" * min(50_000, erp.rows - start), 1)
            if call.operation == "order":
                yield Ready()
        await erp.reach("ready")
        erp.done[call.command_id] += 1
        erp.outputs[call.command_id] = call.params
        await erp.reach("after")
        yield Outputs(msgspec.json.decode(call.params, type=dict[str, Any]))

    async def find(self, call: Call) -> Outputs | None:
        self._erp.asked += 1
        if self._erp.unreachable:
            raise SourceUnavailable("down", touched=False)
        if self._erp.forgets or not self._erp.done[call.command_id]:
            return None
        return Outputs(msgspec.json.decode(self._erp.outputs[call.command_id], type=dict[str, Any]))


@pytest.fixture
def erp() -> Erp:
    return Erp()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Ring]:
    async with ring(tmp_path) as made:
        yield made


async def crashed(broker: Ring, erp: Erp, operation: str, step: str) -> tuple[Command, Site]:
    """Submit a command, let the agent die at a step of it, and return what is left."""
    site = Site(file=FILE, connector=erp)
    await broker.link(site)
    erp.stop_at = step
    command = await broker.submit(operation, params={"no": 4711})
    await erp.stopped.wait()
    erp.die()
    await broker.cut()
    return command, await site.restarted()


@pytest.mark.parametrize("restart_broker", [False, True])
@pytest.mark.parametrize("rows", [0, 100, 3_000_000])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("operation", ["order", "pay", "read"])
async def test_a_crash_anywhere_makes_no_second_effect_and_is_settled(
    broker: Ring, erp: Erp, operation: str, step: str, rows: int, restart_broker: bool
) -> None:
    erp.rows = rows
    command, again = await crashed(broker, erp, operation, step)
    if restart_broker:
        await broker.restart()
    await broker.link(again)
    ended = await broker.final(command)
    assert ended.state is CommandState.SUCCEEDED, ended.error
    if operation != "read":
        assert erp.done[command.id] == 1
    if operation == "order":
        assert ended.outputs == b'{"no":4711}'
    if rows and operation == "order":
        assert await broker.rows(ended) == b"x" * rows
    await until(lambda: again.dispatcher.held() == [])


@pytest.mark.parametrize("step", STEPS)
async def test_what_nobody_can_tell_is_in_doubt_and_not_run_again(broker: Ring, erp: Erp, step: str) -> None:
    command, again = await crashed(broker, erp, "post", step)
    await broker.link(again)
    ended = await broker.final(command)
    assert ended.state is CommandState.IN_DOUBT
    assert ended.error is not None
    assert "look in the ERP" in ended.error.message
    assert erp.done[command.id] == (step == "after")


async def test_an_outcome_that_was_kept_is_told_by_the_next_process(broker: Ring, erp: Erp) -> None:
    site = Site(file=FILE, connector=erp)
    await broker.link(site)
    erp.rows, erp.stop_at = 200_000, "after"
    command = await broker.submit("post", params={"no": 1})
    await erp.stopped.wait()
    await broker.cut()
    erp.go.set()
    await until(lambda: [held.ended for held in site.dispatcher.held()] == [True])
    again = await (await site.restarted()).restarted()
    assert [held.ended for held in again.dispatcher.held()] == [True]
    await broker.link(again)
    ended = await broker.final(command)
    assert ended.state is CommandState.SUCCEEDED
    assert await broker.rows(ended) == b"x" * 200_000
    assert erp.done[command.id] == 1


async def test_an_erp_that_can_not_be_asked_is_asked_until_it_can(broker: Ring, erp: Erp) -> None:
    command, again = await crashed(broker, erp, "order", "after")
    erp.unreachable = True
    await broker.link(again)
    await until(lambda: erp.asked >= 2)
    assert (await broker.commands.get(SCOPE, command.id)).finished_at is None
    erp.unreachable = False
    assert (await broker.final(command)).state is CommandState.SUCCEEDED
    assert erp.done[command.id] == 1


async def test_a_person_beside_the_erp_can_tell(broker: Ring, erp: Erp) -> None:
    command, again = await crashed(broker, erp, "order", "after")
    erp.unreachable = True
    await broker.link(again)
    await until(lambda: erp.asked >= 1)
    await again.dispatcher.resolve(command.id, Resolution(True, "anna", "order 4711 is there", 1.0))
    ended = await broker.final(command)
    assert ended.state is CommandState.SUCCEEDED
    assert "anna" in ended.warnings[0]


async def test_what_a_person_found_out_is_believed_after_another_crash(broker: Ring, erp: Erp) -> None:
    command, again = await crashed(broker, erp, "post", "after")
    await again.kill()
    await again.journal.resolve(command.id, Resolution(True, "anna", "order 4711 is there", 1.0))
    again = await again.restarted()
    await broker.link(again)
    ended = await broker.final(command)
    assert ended.state is CommandState.SUCCEEDED
    assert "anna" in ended.warnings[0]


@pytest.mark.parametrize("effect", ["once", "read"])
async def test_a_file_that_says_otherwise_now_does_not_change_what_a_run_was(
    broker: Ring, erp: Erp, effect: str
) -> None:
    site = Site(file=FILE, connector=erp)
    await broker.link(site)
    erp.stop_at = "after"
    command = await broker.submit("post", params={"no": 1})
    await erp.stopped.wait()
    erp.die()
    erp.forgets = True  # what ran without a ledger stands in none
    await broker.cut()
    post = {"connection": "erp", "synthetic": "echo", "effect": effect}
    site.settings = read({**FILE, "operations": {**FILE["operations"], "post": post}}, Settings)
    await broker.link(await site.restarted())
    assert (await broker.final(command)).state is CommandState.IN_DOUBT
    assert erp.done[command.id] == 1


async def test_a_question_whose_answer_was_lost_is_asked_again(broker: Ring, erp: Erp) -> None:
    command, again = await crashed(broker, erp, "pay", "after")
    erp.answers_lost = 2
    await broker.link(again)
    assert (await broker.final(command)).state is CommandState.SUCCEEDED
    assert (erp.done[command.id], erp.answers_lost) == (1, 0)


async def test_a_cancel_while_nobody_can_be_asked_is_answered_in_doubt(
    broker: Ring, erp: Erp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.inquiry.CANCELLED_S", 0.5)
    command, again = await crashed(broker, erp, "order", "after")
    erp.unreachable = True
    await broker.link(again)
    await until(lambda: erp.asked >= 1)
    await broker.commands.cancel(SCOPE, command.id)
    assert (await broker.final(command)).state is CommandState.IN_DOUBT


async def test_a_journal_that_can_not_be_written_begins_nothing_and_says_why(broker: Ring, erp: Erp) -> None:
    journal = MemoryJournal()
    site = Site(file=FILE, connector=erp, journal=journal)
    await broker.link(site)
    journal.full = True
    command = await broker.submit("order", params={"no": 1})
    await until(lambda: journal.trouble is not None)
    assert site.dispatcher.condition().problems == ["the disk is full"]
    assert not erp.done
    journal.full, journal.trouble = False, None
    await broker.cut()
    await broker.link(site)
    assert (await broker.final(command)).state is CommandState.SUCCEEDED
    assert erp.done[command.id] == 1


async def test_an_outcome_waits_for_room_in_the_journal(broker: Ring, erp: Erp) -> None:
    journal = MemoryJournal()
    await broker.link(Site(file=FILE, connector=erp, journal=journal))
    erp.stop_at = "after"
    command = await broker.submit("post", params={"no": 1})
    await erp.stopped.wait()
    journal.full = True
    erp.go.set()
    await until(lambda: journal.trouble is not None)
    assert (await broker.commands.get(SCOPE, command.id)).finished_at is None, "told before it was kept"
    journal.full = False
    assert (await broker.final(command)).state is CommandState.SUCCEEDED


async def test_a_command_that_the_broker_forgot_is_answered_and_not_run_again(broker: Ring, erp: Erp) -> None:
    """Such as by a broker that was restored from a backup."""
    site = Site(file=FILE, connector=erp)
    await broker.link(site)
    first = await broker.run("order", params={"no": 1})
    await until(lambda: site.dispatcher.held() == [])
    await broker.cut()
    site.dispatcher.offer(msgspec.structs.replace(_run(first), epoch=1), b'{"no": 1}')
    await until(lambda: [held.ended for held in site.dispatcher.held()] == [True])
    told = site.dispatcher._commands[first.id].result.last
    assert told is not None
    assert (told.outcome, erp.done[first.id]) == ("succeeded", 1)
    site.dispatcher.forget(first.id)
    site.dispatcher.offer(msgspec.structs.replace(_run(first), epoch=2), b'{"no": 2}')
    await until(lambda: [held.ended for held in site.dispatcher.held()] == [True])
    told = site.dispatcher._commands[first.id].result.last
    assert told is not None
    assert (told.error_code, erp.done[first.id]) == ("journal_conflict", 1)


def _run(command: Command) -> Run:
    return Run(command.id, 1, command.operation, 60.0, limits.STREAM_WINDOW_BYTES)


async def test_a_spool_without_room_holds_the_source_back(broker: Ring, erp: Erp) -> None:
    site = Site(file={**FILE, "operations": {**FILE["operations"]}}, connector=erp)
    site.dispatcher._spool._most = 1_000_000
    erp.rows = 3_000_000
    await broker.link(site)
    ended = await broker.run("post", params={"no": 1})
    assert ended.state is CommandState.IN_DOUBT
    assert ended.error is not None
    assert "larger than" in ended.error.message
    await until(lambda: site.dispatcher.held() == [])
    assert site.dispatcher._spool.used == 0


class Unsure(ErpConnector):
    """Loses its session at the last step, before or after it was kept."""

    async def run(self, call: Call) -> AsyncGenerator[Piece, None]:
        if call.operation == "find-payment":
            async for piece in super().run(call):
                yield piece
            return
        if self._erp.stop_at == "after":
            self._erp.done[call.command_id] += 1
            self._erp.outputs[call.command_id] = call.params
        self._erp.stop_at = "after"
        raise OutcomeUnknown("the session was lost while its work was being committed")


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("operation", ["order", "pay"])
async def test_a_lost_reply_is_settled_by_asking(broker: Ring, erp: Erp, operation: str, kept: bool) -> None:
    erp.stop_at = "after" if kept else ""
    await broker.link(Site(file=FILE, connector=lambda _: Unsure(erp)))
    ended = await broker.run(operation, params={"no": 1})
    # What certainly did not happen is tried again, and at that second time it does.
    assert (ended.state, ended.epoch) == (CommandState.SUCCEEDED, 1 if kept else 2)
    assert erp.done[ended.id] == 1
