"""A crowd of agents in the embedded store: what each tells can wait a moment for what others tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud_broker.audit.trail import Act
from cloud_broker.store import connections
from cloud_broker.store.agents import Agent, Arrival
from cloud_broker.store.sqlite import SqliteStore
from cloud_broker.tenants import Scope

ACME = Scope("acme")
AGENTS = 5


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteStore]:
    """A store with agents, in which what can wait waits until something comes that can't."""
    monkeypatch.setattr(connections, "PATIENCE_S", 600.0)
    store = SqliteStore(tmp_path / "broker.db")
    await store.open()
    await store.create_tenant("acme", 0.0)
    for number in range(AGENTS):
        await store.add_agent(Agent("acme", f"plant-{number}", None, "", 0.0, 0.0))
    yield store
    await store.close()


def arrival(name: str) -> Arrival:
    """An agent that greets and changes nothing but when it was seen."""
    return Arrival(
        "acme",
        name,
        time.time(),
        "0.1.0",
        "",
        "journal",
        1,
        change=lambda agent: agent,
        refusal=lambda tenant, agent: None,
        noted=lambda before, after: None,
    )


async def test_the_greetings_of_a_crowd_are_one_transaction_with_what_cannot_wait(store: SqliteStore) -> None:
    before = store.commits
    greetings = []
    for number in range(AGENTS):
        name = f"plant-{number}"
        greetings.append(asyncio.create_task(store.arrived(arrival(name))))
        store.note_soon(Act("acme", f"agent:{name}", "agent_linked", f"agent:{name}", time.time()))
        assert (await store.standing(ACME, name))[1] is not None  # it asks another thread, which takes a while
    assert not any(greeting.done() for greeting in greetings)
    assert await store.healthy()
    assert all(found is not None and found.refusal is None for found in await asyncio.gather(*greetings))
    assert store.commits == before + 1


async def test_what_can_wait_keeps_its_place_before_what_is_asked_later(store: SqliteStore) -> None:
    await store.healthy()
    for action in ("agent_linked", "agent_unlinked"):
        store.note_soon(Act("acme", "agent:plant-0", action, "agent:plant-0", time.time()))
    await store.note(Act("acme", "broker", "agent_revoked", "agent:plant-0", time.time()))
    noted = [record.action for record in await store.audit_after("acme", 0, 100)]
    assert noted[-3:] == ["agent_linked", "agent_unlinked", "agent_revoked"]


async def test_what_waits_when_the_store_is_closed_is_kept(store: SqliteStore) -> None:
    await store.healthy()
    store.note_soon(Act("acme", "agent:plant-0", "agent_linked", "agent:plant-0", time.time()))
    await store.close()
    await store.open()
    assert (await store.audit_after("acme", 0, 100))[-1].action == "agent_linked"


async def test_who_comes_alone_is_kept_waiting_for_nobody(store: SqliteStore) -> None:
    await store.close()
    await store.open()
    async with asyncio.timeout(60.0):
        assert await store.arrived(arrival("plant-0")) is not None
