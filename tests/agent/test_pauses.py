"""Pauses: what files say, what the dispatcher makes of it, and how a stopped command ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent import errors, pauses
from agent.connectors.base import DriverSetup
from agent.connectors.synthetic import SyntheticConnector
from agent.dispatcher import Dispatcher
from agent.gate import Gate
from agent.journal.memory import MemoryJournal
from agent.local_control import LocalControl
from agent.pauses import EVERY, Pause
from agent.policy import Verdict, judge
from agent.settings import Effect, Settings, SyntheticConnection
from agent.settings_reader import read
from agent.spool import SpoolFolder
from agent.status import ConnectionStatus, Status
from protocol.messages import Completed, Run
from tests.waiting import until

ERP = Pause("erp", "stocktaking", "maria", 1.0)
ERP_NOW = Pause("erp", "", "maria", 2.0, stop=True)
ALL = Pause(EVERY, "", "root", 3.0)


def test_what_was_said_is_there_until_it_is_taken_back(tmp_path: Path) -> None:
    assert pauses.said(tmp_path) == ()
    pauses.pause(tmp_path, ERP)
    pauses.pause(tmp_path, ALL)
    assert set(pauses.said(tmp_path)) == {ERP, ALL}
    pauses.pause(tmp_path, ERP_NOW)
    assert set(pauses.said(tmp_path)) == {ERP_NOW, ALL}
    assert pauses.resume(tmp_path, "erp")
    assert not pauses.resume(tmp_path, "erp")
    assert pauses.said(tmp_path) == (ALL,)
    pauses.pause(tmp_path, ERP)
    assert pauses.resume(tmp_path, EVERY), "all of them, whatever paused them"
    assert pauses.said(tmp_path) == ()


@pytest.mark.parametrize("name", ["CON", "nul.", "a.b", "ERP", "erp", "x" * 64])
def test_any_name_of_a_connection_can_be_paused(tmp_path: Path, name: str) -> None:
    pauses.pause(tmp_path, Pause(name, "", "maria", 1.0))
    pauses.pause(tmp_path, Pause("other", "", "maria", 1.0))
    assert {one.connection for one in pauses.said(tmp_path)} == {name, "other"}
    assert {path.suffix for path in (tmp_path / pauses.FOLDER).iterdir()} == {".json"}


def test_a_file_that_can_not_be_read_pauses_everything(tmp_path: Path) -> None:
    pauses.pause(tmp_path, ERP)
    (tmp_path / pauses.FOLDER / "half.json").write_bytes(b'{"connection": "e')
    (unreadable,) = (one for one in pauses.said(tmp_path) if one.unreadable)
    assert pauses.in_force(pauses.said(tmp_path), ["erp", "edi"]).keys() == {"erp", "edi"}
    assert unreadable.connection == EVERY
    pauses.resume(tmp_path, EVERY)
    assert pauses.said(tmp_path) == ()


@pytest.mark.parametrize(
    ("said", "paused"),
    [
        ((), {}),
        ((ERP,), {"erp": ERP}),
        ((ALL,), {"erp": ALL, "edi": ALL}),
        ((ERP, ALL), {"erp": ERP, "edi": ALL}),
        ((ALL, ERP_NOW), {"erp": ERP_NOW, "edi": ALL}),
        ((Pause("gone", "", "x", 1.0),), {}),
    ],
)
def test_what_is_said_of_one_and_of_all_goes_together(said: tuple[Pause, ...], paused: dict[str, Pause]) -> None:
    assert pauses.in_force(said, ["erp", "edi"]) == paused


@pytest.mark.parametrize(("pause", "ends"), [(ERP, "resume erp"), (ALL, "outhaul-agent resume")])
def test_a_caller_is_told_who_paused_it_and_what_an_operator_would_do(pause: Pause, ends: str) -> None:
    text = pauses.refusal("erp", pause)
    assert pause.by in text
    assert pause.reason in text
    assert text.endswith(ends)


@pytest.mark.skipif(os.name == "nt", reason="on Windows the folder has an access list, which files inherit")
def test_what_is_said_belongs_to_the_agents_account(tmp_path: Path) -> None:
    agents = 12345 if os.geteuid() == 0 else os.geteuid()
    os.chown(tmp_path, agents, -1)
    pauses.pause(tmp_path, ERP)
    made = [tmp_path / pauses.FOLDER, *(tmp_path / pauses.FOLDER).iterdir()]
    assert {path.stat().st_uid for path in made} == {agents}


@pytest.mark.skipif(os.name == "nt", reason="Windows lets administrators only make links")
def test_root_is_not_led_elsewhere_by_a_link_of_the_agents_account(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / pauses.FOLDER).symlink_to(tmp_path / "etc")
    before = (tmp_path / "etc").stat()
    with pytest.raises(OSError, match="is a link"):
        pauses.pause(tmp_path / "state", ERP)
    assert not list((tmp_path / "etc").iterdir())
    assert (tmp_path / "etc").stat().st_uid == before.st_uid


# --- what it means --------------------------------------------------------------------------------

STOPPED = Verdict("failed", "technical", "paused")


@pytest.mark.parametrize(
    ("error", "effect", "verdict"),
    [
        (errors.Paused("x", touched=False), "once", STOPPED),
        (errors.Cancelled("x"), "once", STOPPED),
        (errors.TimedOut("x"), "read", STOPPED),
        (errors.DriverCrashed("x"), "idempotent", STOPPED),
        (errors.NotHappened("x", touched=False), "at-most-once", STOPPED),
        (errors.OutcomeUnknown("x"), "at-most-once", Verdict("in_doubt", "unknown", "outcome_unknown")),
        (errors.DriverCrashed("x"), "once", Verdict("in_doubt", "unknown", "driver_crashed")),
        (errors.SourceRejected("x"), "once", Verdict("rejected", "business", "source_rejected")),
    ],
)
def test_a_pause_stops_as_honestly_as_a_cancel(error: errors.CommandError, effect: Effect, verdict: Verdict) -> None:
    assert judge(error, effect, cancelled=False, paused=True) == verdict


async def test_a_paused_gate_lets_nobody_through_and_holds_questions() -> None:
    gate = Gate(SyntheticConnection(type="synthetic"))
    gate.pause("not now")
    with pytest.raises(errors.Paused, match="not now"):
        await gate.enter()

    async def ask() -> str:
        async with gate.slot():
            return "asked"

    asking = asyncio.create_task(ask())
    done, _ = await asyncio.wait((asking,), timeout=0.05)
    assert not done
    gate.pause("")
    assert await asking == "asked"
    await gate.enter()


# --- the dispatcher -------------------------------------------------------------------------------

FILE: dict[str, Any] = {
    "agent": "plant-1",
    "state_dir": "state",
    "connections": {
        "erp": {"type": "synthetic", "max_concurrent": 1},
        "edi": {"type": "synthetic"},
    },
    "operations": {
        "act": {"connection": "erp", "synthetic": "sleep", "effect": "at-most-once"},
        "once": {"connection": "erp", "synthetic": "sleep", "effect": "once"},
        "look": {"connection": "erp", "synthetic": "sleep"},
        "other": {"connection": "edi", "synthetic": "echo"},
    },
}


class Plant:
    """A dispatcher over synthetic connections, without a link."""

    def __init__(self, folder: Path) -> None:
        settings = read(FILE, Settings)
        connectors = {
            name: SyntheticConnector(
                DriverSetup(
                    name, one, {key: each for key, each in settings.operations.items() if each.connection == name}
                )
            )
            for name, one in settings.connections.items()
        }
        self.dispatcher = Dispatcher(settings, connectors, MemoryJournal(), SpoolFolder(folder))

    def offer(self, name: str, operation: str, seconds: float = 30, epoch: int = 1) -> None:
        params = b"{}" if operation == "other" else b'{"seconds": %g}' % seconds
        self.dispatcher.offer(Run(id=name, epoch=epoch, operation=operation, expires_in_s=60, credit=1 << 20), params)

    async def outcome(self, name: str) -> Completed:
        running = self.dispatcher._commands[name]
        await until(lambda: running.result.ended)
        assert running.result.last is not None
        return running.result.last

    async def at_work(self, name: str) -> None:
        await until(lambda: self.dispatcher._commands[name].started)


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    made = Plant(tmp_path)
    yield made
    made.dispatcher.close()


async def test_what_comes_to_a_paused_connection_is_turned_away_and_may_come_again(plant: Plant) -> None:
    plant.dispatcher.obey({"erp": ERP})
    plant.offer("a", "act", seconds=0)
    plant.offer("b", "other")
    ended = await plant.outcome("a")
    assert (ended.outcome, ended.error_code, ended.touched, ended.retryable) == ("failed", "paused", False, True)
    assert "stocktaking" in ended.error_message
    assert (await plant.outcome("b")).outcome == "succeeded"
    assert plant.dispatcher.condition().paused == {"erp": "stocktaking"}
    plant.dispatcher.obey({})
    plant.dispatcher.forget("a")
    plant.offer("a", "act", seconds=0, epoch=2)
    assert (await plant.outcome("a")).outcome == "succeeded"


async def test_what_waits_is_turned_away_and_what_runs_runs_on(plant: Plant) -> None:
    plant.offer("runs", "act", seconds=0.3)
    await plant.at_work("runs")
    plant.offer("waits", "act")
    await until(lambda: plant.dispatcher._commands["waits"].waiting)
    plant.dispatcher.obey({"erp": ERP})
    assert (await plant.outcome("waits")).error_code == "paused"
    assert (await plant.outcome("runs")).outcome == "succeeded"


@pytest.mark.parametrize("operation", ["look", "act", "once"])
async def test_now_stops_what_runs_and_it_may_be_sent_again(plant: Plant, operation: str) -> None:
    plant.offer("runs", operation, seconds=0.5)
    await plant.at_work("runs")
    assert plant.dispatcher.connections()["erp"] == ConnectionStatus(running=1)
    plant.dispatcher.obey({"erp": ERP_NOW})
    ended = await plant.outcome("runs")
    assert (ended.outcome, ended.error_code, ended.touched, ended.retryable) == ("failed", "paused", False, True)
    assert plant.dispatcher.connections()["erp"] == ConnectionStatus(paused=True)
    plant.dispatcher.forget("runs")
    plant.dispatcher.obey({})
    plant.offer("runs", operation, seconds=0.5, epoch=2)
    assert (await plant.outcome("runs")).outcome == "succeeded"


async def test_a_pause_becomes_one_that_stops_what_runs(plant: Plant) -> None:
    plant.offer("runs", "act")
    await plant.at_work("runs")
    plant.dispatcher.obey({"erp": ERP})
    assert plant.dispatcher.connections()["erp"] == ConnectionStatus(paused=True, running=1)
    plant.dispatcher.obey({"erp": ERP_NOW})
    assert (await plant.outcome("runs")).error_code == "paused"


async def test_a_cancel_by_the_caller_is_still_a_cancel(plant: Plant) -> None:
    plant.offer("runs", "act")
    await plant.at_work("runs")
    plant.dispatcher.cancel("runs")
    plant.dispatcher.obey({"erp": ERP_NOW})
    assert (await plant.outcome("runs")).outcome == "cancelled"


# --- files and the agent that looks at them --------------------------------------------------------


async def test_a_running_agent_obeys_within_a_second_and_writes_down_how_it_is(tmp_path: Path) -> None:
    heard: list[dict[str, Pause]] = []
    facts = Status(0.0, 1, "x", 0.0, "waiting", None, "", "", [], {})
    control = LocalControl(tmp_path, ("erp", "edi"), lambda paused: heard.append(dict(paused)), lambda: facts)
    pauses.pause(tmp_path, ERP)
    await control.look()
    assert heard == [{"erp": ERP}], "said before it began to run"
    looking = asyncio.create_task(control.run())
    try:
        pauses.pause(tmp_path, ALL)
        await until(lambda: heard[-1] == {"erp": ERP, "edi": ALL}, 1.0)
        pauses.resume(tmp_path, EVERY)
        await until(lambda: heard[-1] == {}, 1.0)
        await until(lambda: (tmp_path / "status.json").exists())
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def test_a_file_that_is_held_for_a_moment_pauses_nothing(tmp_path: Path) -> None:
    heard: list[dict[str, Pause]] = []
    facts = Status(0.0, 1, "x", 0.0, "waiting", None, "", "", [], {})
    control = LocalControl(tmp_path, ("erp",), lambda paused: heard.append(dict(paused)), lambda: facts)
    await control.look()
    (tmp_path / pauses.FOLDER).mkdir()
    half = tmp_path / pauses.FOLDER / "half.json"
    half.write_bytes(b"{")
    await control.look()
    assert heard == [{}]
    await control.look()
    assert heard[-1].keys() == {"erp"}, "it was not for a moment"
    half.unlink()
    await control.look()
    assert heard[-1] == {}


async def test_a_mistake_of_ours_keeps_no_later_pause_from_being_obeyed(tmp_path: Path) -> None:
    heard: list[dict[str, Pause]] = []

    def obey(paused: Mapping[str, Pause]) -> None:
        heard.append(dict(paused))
        if len(heard) == 1:
            raise RuntimeError("a mistake of ours")

    facts = Status(0.0, 1, "x", 0.0, "waiting", None, "", "", [], {})
    control = LocalControl(tmp_path, ("erp",), obey, lambda: facts)
    pauses.pause(tmp_path, ERP)
    looking = asyncio.create_task(control.run())
    try:
        await until(lambda: heard == [{"erp": ERP}, {"erp": ERP}], 5.0)
        pauses.resume(tmp_path, EVERY)
        await until(lambda: heard[-1] == {}, 5.0)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
