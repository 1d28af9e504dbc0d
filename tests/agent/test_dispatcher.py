"""Commands on the agent: when they start, when they do not, and what is left of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.connectors.base import Call, Column, Connector, Outputs, Piece, Remark, RowSet
from agent.dispatcher import Dispatcher
from agent.inquiry import Inquiry
from agent.journal.base import Claim, Resolution, Shown
from agent.journal.memory import MemoryJournal
from agent.settings import Settings
from agent.settings_reader import read
from agent.spool import SpoolFolder
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.messages import Completed, Run
from tests.waiting import until

FILE: dict[str, Any] = {
    "agent": "plant-1",
    "state_dir": "state",
    "max_running": 4,
    "connections": {
        "one": {"type": "synthetic", "max_concurrent": 1},
        "two": {"type": "synthetic"},
        "edi": {"type": "file", "root": "."},
    },
    "operations": {
        "act": {"connection": "one", "synthetic": "sleep", "effect": "at-most-once"},
        "read": {"connection": "two", "synthetic": "sleep"},
        "drop": {
            "connection": "edi",
            "drop": "A.bin",
            "format": {"type": "raw"},
            "effect": "once",
        },
    },
}


class Held(Connector):
    """Every run waits until it is let go, also when it is cancelled; then it gives what it was told to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.go = asyncio.Event()
        self.pieces: list[Piece] = []
        self.settled: list[Call] = []

    async def run(self, call: Call) -> AsyncGenerator[Piece, None]:
        self.begun.append(call.command_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go.wait()
            for piece in self.pieces:
                yield piece
        finally:
            self.at_once -= 1

    async def settle(self, call: Call, outputs: Mapping[str, Any]) -> None:
        self.settled.append(call)


class Plant:
    """A dispatcher without a link."""

    def __init__(self, folder: Path) -> None:
        self.connectors = {"one": Held(), "two": Held(), "edi": Held()}
        self.journal = MemoryJournal()
        self.dispatcher = Dispatcher(read(FILE, Settings), self.connectors, self.journal, SpoolFolder(folder))

    def offer(self, name: str, operation: str = "act", expires_in_s: float = 60.0, epoch: int = 1) -> None:
        run = Run(id=name, epoch=epoch, operation=operation, expires_in_s=expires_in_s, credit=0)
        self.dispatcher.offer(run, b'{"content": "QQ=="}' if operation == "drop" else b'{"seconds": 1}')

    async def outcome(self, name: str) -> Completed:
        running = self.dispatcher._commands[name]
        await until(lambda: running.result.ended)
        assert running.result.last is not None
        return running.result.last


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    made = Plant(tmp_path)
    yield made
    made.dispatcher.close()


async def test_a_command_whose_time_was_up_on_its_way_does_not_start(plant: Plant) -> None:
    plant.offer("late", expires_in_s=-0.1)
    ended = await plant.outcome("late")
    assert (ended.outcome, ended.touched) == ("expired", False)
    assert plant.connectors["one"].begun == []


async def test_a_command_cancelled_before_its_task_began_ends(plant: Plant) -> None:
    plant.offer("a")
    plant.dispatcher.cancel("a")
    assert (await plant.outcome("a")).outcome == "cancelled"


async def test_a_command_that_is_forgotten_while_it_waits_never_starts(plant: Plant) -> None:
    plant.offer("first")
    plant.offer("second")
    plant.offer("third")
    await until(lambda: plant.connectors["one"].begun == ["first"])
    plant.dispatcher.forget("second")
    plant.connectors["one"].go.set()
    assert (await plant.outcome("third")).outcome == "succeeded"
    assert plant.connectors["one"].begun == ["first", "third"]


async def test_a_new_attempt_waits_for_the_end_of_the_one_before_it(plant: Plant) -> None:
    plant.offer("a", "read")
    await until(lambda: plant.connectors["two"].begun == ["a"])
    plant.dispatcher.forget("a")
    plant.offer("a", "read", epoch=2)
    for _ in range(20):
        await asyncio.sleep(0)
    plant.connectors["two"].go.set()
    assert (await plant.outcome("a")).outcome == "succeeded"
    assert plant.connectors["two"].begun == ["a", "a"]
    assert plant.connectors["two"].most_at_once == 1


async def test_an_agent_that_stops_starts_nothing_that_waits(plant: Plant) -> None:
    plant.offer("first")
    plant.offer("second")
    await until(lambda: plant.connectors["one"].begun == ["first"])
    stopping = asyncio.create_task(plant.dispatcher.stop())
    refused = await plant.outcome("second")
    assert (refused.error_code, refused.touched) == ("agent_stopping", False)
    plant.connectors["one"].go.set()
    await stopping
    assert (await plant.outcome("first")).outcome == "succeeded"


async def test_an_agent_that_stops_waits_for_what_was_forgotten(plant: Plant) -> None:
    plant.offer("a")
    await until(lambda: plant.connectors["one"].begun == ["a"])
    plant.dispatcher.forget("a")
    stopping = asyncio.create_task(plant.dispatcher.stop())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not stopping.done()
    plant.connectors["one"].go.set()
    await stopping
    assert not plant.dispatcher._leaving


BEYOND: list[tuple[str, list[Piece]]] = [
    ("outputs of", [Outputs({"text": "x" * limits.MAX_OUTPUT_BYTES})]),
    ("row sets", [RowSet((Column("a", "string"),))] * (limits.MAX_ROW_SETS + 1)),
    ("names of columns", [RowSet((Column("a" * (limits.MAX_COLUMN_BYTES + 1), "string"),))]),
]


@pytest.mark.parametrize(("complaint", "pieces"), BEYOND, ids=[row[0] for row in BEYOND])
@pytest.mark.parametrize(("operation", "outcome"), [("act", "in_doubt"), ("read", "failed")])
async def test_what_no_link_can_carry_is_told_as_such(
    plant: Plant, complaint: str, pieces: list[Piece], operation: str, outcome: str
) -> None:
    for connector in plant.connectors.values():
        connector.pieces = pieces
        connector.go.set()
    plant.offer("a", operation)
    ended = await plant.outcome("a")
    assert ended.outcome == outcome
    assert complaint in ended.error_message


async def test_warnings_are_not_without_end(plant: Plant) -> None:
    plant.connectors["one"].pieces = [Remark("x" * 10_000)] * 1_000
    plant.connectors["one"].go.set()
    plant.offer("a")
    assert len(msgspec.json.encode(await plant.outcome("a"))) < limits.MAX_HEADER_BYTES / 2


async def test_a_broker_that_sends_far_too_much_is_stopped(plant: Plant) -> None:
    for number in range(8):
        plant.offer(str(number))
    with pytest.raises(RemoteProtocolError, match="too many"):
        plant.offer("8")
    plant.connectors["one"].go.set()
    await plant.dispatcher.stop()


async def test_what_somebody_found_out_of_a_command_under_way_is_not_believed(plant: Plant) -> None:
    plant.offer("a")
    await until(lambda: plant.connectors["one"].begun == ["a"])
    await plant.dispatcher.resolve("a", Resolution(True, "anna", "it is there", 1.0))
    entry = plant.journal.find("a")
    assert entry is not None
    assert entry.resolution is None
    plant.connectors["one"].go.set()
    assert (await plant.outcome("a")).outcome == "succeeded"


async def test_a_source_is_told_which_attempt_the_broker_has(plant: Plant) -> None:
    plant.connectors["edi"].go.set()
    plant.offer("a", "drop", epoch=3)
    assert (await plant.outcome("a")).outcome == "succeeded"
    plant.dispatcher.forget("a")
    await until(lambda: bool(plant.connectors["edi"].settled))
    assert [(call.command_id, call.epoch) for call in plant.connectors["edi"].settled] == [("a", 3)]


async def test_a_cancel_while_the_claim_is_on_its_way_to_the_disk_is_no_stop_of_the_agent(plant: Plant) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    class Slow(MemoryJournal):
        async def begin(self, claim: Claim, shown: Shown | None = None) -> None:
            reached.set()
            await go.wait()
            await super().begin(claim, shown)

    plant.dispatcher._journal = plant.dispatcher._attempts._journal = Slow()
    plant.offer("a")
    await reached.wait()
    plant.dispatcher.cancel("a")
    go.set()
    ended = await plant.outcome("a")
    assert (ended.outcome, ended.error_code) == ("cancelled", "cancelled")
    assert plant.connectors["one"].begun == []


async def test_an_outcome_that_waits_for_the_disk_holds_up_no_stop(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.dispatcher.STOP_GRACE_S", 0.05)
    monkeypatch.setattr("agent.dispatcher.LATE_GRACE_S", 0.05)
    plant.offer("a")
    await until(lambda: plant.connectors["one"].begun == ["a"])
    plant.journal.full = True
    async with asyncio.timeout(10):
        await plant.dispatcher.stop()
    entry = plant.journal.find("a")
    assert entry is not None
    assert entry.state == "started"


async def test_an_inquiry_that_breaks_leaves_no_command_without_an_end(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Inquiry) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(Inquiry, "answer", broken)
    plant.connectors["one"].pieces = [RowSet((Column("a", "string"),))] * (limits.MAX_ROW_SETS + 1)
    plant.connectors["one"].go.set()
    plant.offer("a")
    ended = await plant.outcome("a")
    assert (ended.outcome, ended.touched) == ("in_doubt", True)
