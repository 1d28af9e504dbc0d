"""Where agents' journals stand is noted, and agents hear where the audit trail stands."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.audit.anchors import KEEP_S, Anchors, head_of
from cloud_broker.audit.notary import Notary
from cloud_broker.audit.trail import Act
from cloud_broker.link.base import Peer
from cloud_broker.store.sqlite import SqliteStore
from protocol.messages import Completed
from tests.cloud_broker.test_store_sqlite import opened

A, B, C = "a" * 64, "b" * 64, "c" * 64
PEER = Peer("acme", "plant-1", "01", "127.0.0.1")


@dataclass
class Desk:
    """Anchors with a clock of their own, and what they noted."""

    store: SqliteStore
    time: float = 0.0
    noted: list[Act] = field(default_factory=list)

    def __post_init__(self) -> None:
        notary = Notary(self.noted.append, clock=lambda: self.time)
        self.anchors = Anchors(self.store, notary, clock=lambda: self.time, now=lambda: 1_790_000_000.0 + self.time)

    def hear(self, position: int, head: str, mark: str = "m", *, put_back: bool = False, after: float = KEEP_S) -> None:
        self.time += after
        self.anchors.heard(PEER, mark, position, head, put_back=put_back)

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        return [(act.action, dict(act.detail)) for act in self.noted]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = await opened(tmp_path / "broker.db")
    yield Desk(store)
    await store.close()


async def test_a_head_is_noted_when_it_is_new_and_once_a_minute_at_most(desk: Desk) -> None:
    desk.hear(5, A)
    desk.hear(5, A)
    desk.hear(6, B)
    desk.hear(7, C, after=1.0)
    desk.hear(8, A)
    assert desk.told() == [
        ("journal_anchor", {"journal": "m", "position": 5, "head": A}),
        ("journal_anchor", {"journal": "m", "position": 6, "head": B}),
        ("journal_anchor", {"journal": "m", "position": 8, "head": A}),
    ]
    assert {(act.tenant, act.actor, act.target) for act in desk.noted} == {("acme", "agent:plant-1", "agent:plant-1")}


async def test_another_journal_is_noted_at_once(desk: Desk) -> None:
    desk.hear(5, A)
    desk.hear(0, B, mark="n", after=0.0)
    assert [detail["journal"] for _, detail in desk.told()] == ["m", "n"]


@pytest.mark.parametrize(("position", "head", "had"), [(4, B, f"5:{A}"), (5, B, f"5:{A}"), (0, "0" * 64, f"5:{A}")])
async def test_a_journal_that_was_cut_or_written_anew_is_noted_at_once(
    desk: Desk, position: int, head: str, had: str, caplog: pytest.LogCaptureFixture
) -> None:
    desk.hear(5, A)
    with caplog.at_level(logging.ERROR):
        desk.hear(position, head, after=0.0)
    assert desk.told()[1] == ("journal_misfit", {"journal": "m", "had": had, "has": f"{position}:{head}"})
    assert "its journal is not what it was" in caplog.text
    desk.hear(position + 1, C)
    assert desk.told()[2][0] == "journal_anchor"


async def test_one_that_the_store_knew_to_be_longer_is_noted_too(desk: Desk) -> None:
    desk.hear(5, A, put_back=True)
    assert desk.told() == [("journal_misfit", {"journal": "m", "had": "", "has": f"5:{A}"})]


@pytest.mark.parametrize("told", ["", "5", f"5:{A}0", f"-5:{A}", f"5:{A.upper()}", f"{10**15}:{A}"])
async def test_what_is_no_head_is_passed_over(desk: Desk, told: str) -> None:
    desk.anchors.beat(PEER, "m", told)
    desk.hear(5, told)
    assert desk.noted == []
    assert head_of(Completed("cmd_1", 1, "succeeded", head=told)) == ""


async def test_an_agent_that_says_another_thing_each_time_fills_no_disk(desk: Desk) -> None:
    for number in range(1_000):
        desk.hear(5, f"{number:064x}", after=0.0)
    assert len(desk.noted) < 20


async def test_the_head_of_the_trail_is_told_as_number_and_hash(desk: Desk) -> None:
    number, digest = await desk.store.audit_head("acme")
    assert await desk.anchors.head("acme") == f"{number}:{digest.hex()}" == f"1:{digest.hex()}"
    assert await desk.anchors.head("nobody") == ""
