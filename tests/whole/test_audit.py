"""Both sides' chains, each anchored in the other: neither is cut or written anew without the other one showing it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.conversation import Conversation
from agent.journal.file import FOLDER, FileJournal
from agent.journal.witnesses import Comparison, compare, of_export
from cloud_broker.audit import anchors
from cloud_broker.audit import lines as audit_lines
from cloud_broker.audit.check import by_chain
from cloud_broker.audit.trail import Record
from cloud_broker.audit.verify import of_store
from tests.agent.journal.commands import claim, reading
from tests.waiting import until
from tests.whole.ring import Ring, Site, ring

FILE: dict[str, Any] = {
    "agent": "plant-1",
    "state_dir": "state",
    "connections": {"erp": {"type": "synthetic"}},
    "operations": {"order": {"connection": "erp", "synthetic": "echo", "effect": "once"}},
}


@dataclass
class Pair:
    """A broker and an agent whose journal is in a folder."""

    broker: Ring
    folder: Path
    journal: FileJournal

    async def linked(self) -> None:
        await self.broker.link(Site(file=FILE, journal=self.journal))

    async def again(self) -> None:
        """The agent's process ends, and another one begins."""
        await self.broker.cut()
        await self.journal.close()
        self.journal = await FileJournal.open(self.folder)

    async def records(self) -> list[Record]:
        return await self.broker.store.audit_after("acme", 0, 10_000)

    async def actions(self) -> list[str]:
        return [record.action for record in await self.records()]

    async def export(self) -> list[bytes]:
        return [audit_lines.encode(record) for record in await self.records()]

    async def compared(self) -> Comparison:
        return compare(reading(self.folder), of_export(await self.export(), "acme", "plant-1"))


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Pair]:
    async with ring(tmp_path) as broker:
        made = Pair(broker, tmp_path / "agent", await FileJournal.open(tmp_path / "agent"))
        yield made
        await broker.cut()
        await made.journal.close()


async def test_a_command_leaves_a_trail_on_both_sides_that_fits(both: Pair) -> None:
    await both.linked()
    done = await both.broker.run("order", params={"n": 1}, correlation_id="c1")
    trail = {record.action: record for record in await both.records() if record.target == f"command:{done.id}"}
    ended = json.loads(trail["command_ended"].detail)
    assert trail["command_ended"].actor == "agent:plant-1"
    assert {record.correlation_id for record in trail.values()} == {"c1"}
    told, _, digest = ended["head"].partition(":")
    assert 0 < int(told) <= both.journal.position
    assert reading(both.folder).heads[int(told)].hex() == digest
    assert ended["journal"] == both.journal.mark
    await both.broker.cut()
    await until(lambda: both.broker.router.links() == [])
    compared = await both.compared()
    assert (compared.misfit, compared.compared >= 2) == ("", True)


async def test_an_agent_keeps_where_the_trail_stood_when_it_linked_and_later(
    both: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.anchors.KEEP_S", 0.0)
    await both.linked()
    await until(lambda: len(both.journal.anchors()) == 1)
    await both.broker.run("order")
    await both.broker.desk.tell_audit()
    await until(lambda: len(both.journal.anchors()) == 2)
    await both.broker.desk.tell_audit()
    first, later = both.journal.anchors()
    assert first.number < later.number
    lines = [msgspec.json.encode(one) for one in both.journal.anchors()]
    kept = by_chain(audit_lines.kept(lines))
    assert [chain.misfit for chain in await of_store(both.broker.store, kept)] == [None]
    forged = by_chain(audit_lines.kept([lines[0], lines[1].replace(later.hash.encode(), b"0" * 64)]))
    (chain,) = await of_store(both.broker.store, forged)
    assert chain.misfit is not None
    assert chain.misfit.number == later.number


async def test_a_journal_that_was_put_back_is_noted_and_shown(both: Pair) -> None:
    await both.linked()
    await both.broker.run("order")
    await both.again()
    shutil.copytree(both.folder / FOLDER, both.folder / "before")
    await both.linked()
    await both.broker.run("order")
    await both.again()
    await both.journal.close()
    shutil.rmtree(both.folder / FOLDER)
    shutil.move(both.folder / "before", both.folder / FOLDER)
    both.journal = await FileJournal.open(both.folder)
    assert "is missing: the broker knows" in (await both.compared()).misfit
    assert "journal_misfit" not in await both.actions()
    await both.linked()
    assert "journal_misfit" in await both.actions()


async def test_a_journal_that_was_written_anew_behind_the_agents_back_is_shown(both: Pair) -> None:
    await both.linked()
    await both.broker.run("order")
    await both.again()
    position, mark = both.journal.position, both.journal.mark
    await both.journal.close()
    shutil.rmtree(both.folder / FOLDER)
    both.journal = await FileJournal.open(both.folder)
    for number in range(position):
        await both.journal.begin(claim(number))
    await both.journal.close()
    path = both.folder / FOLDER / "000001.log"
    found = reading(both.folder)
    assert (found.position, found.damages) == (position, [])
    assert "it was begun anew" in (await both.compared()).misfit
    found.mark = mark  # as somebody writes it who knows how
    told = compare(found, of_export(await both.export(), "acme", "plant-1"))
    assert "was written anew" in told.misfit
    assert path.exists()
    both.journal = await FileJournal.open(both.folder)


async def test_a_head_is_told_once_a_minute_also_where_nothing_ends(
    both: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchors, "KEEP_S", 0.0)
    monkeypatch.setattr("agent.anchors.TELL_S", 0.0)
    site = Site(file=FILE, journal=both.journal)
    made: list[Conversation] = []
    make = site.conversation

    def remembered(*words: Any) -> Conversation:
        made.append(make(*words))
        return made[-1]

    monkeypatch.setattr(site, "conversation", remembered)
    await both.broker.link(site)
    await both.journal.begin(claim(99))
    made[0].tell_head()
    async with asyncio.timeout(20):
        while json.loads((await both.records())[-1].detail).get("head") != both.journal.head:
            pass
    made[0].tell_head()
    assert (await both.records())[-1].action == "journal_anchor"
