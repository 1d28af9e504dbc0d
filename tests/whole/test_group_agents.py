"""Real agents of one group on one database, when one of them is lost."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.connectors import CONNECTORS
from agent.connectors.odbc.ledger_tables import script
from agent.connectors.sessions import DriverConnector
from cloud_broker import members
from cloud_broker.api.services import Services
from cloud_broker.commands import Submission
from cloud_broker.identity.lineage import Lineage
from cloud_broker.store.commands import Command
from protocol.messages import RENEWAL, Ack, Catalogue, Completed, Goodbye, Hello, Limits, Run
from tests.cloud_broker.plain_agent import ACME, Link, PlainAgent, broker
from tests.whole.ring import SCOPE, BrokerEnd, Ring, Site, ring
from tests.whole.scripted import document

LEDGER = "outhaul_ledger"
NUMBER = {"n": {"type": "integer"}}


class Erp:
    """One file with orders, of which nothing is unique."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript(f"{script('sqlite', LEDGER)} CREATE TABLE orders (n int);")

    def orders(self) -> list[int]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return [n for (n,) in connection.execute("SELECT n FROM orders ORDER BY n")]

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Let nobody write for a while: who begins something meanwhile waits in the middle of it."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield

    def file(self) -> dict[str, Any]:
        """What an operator says of it."""
        order = {"connection": "erp", "sql": "INSERT INTO orders VALUES (:n)", "params": NUMBER, "timeout": "2s"}
        found = "SELECT n FROM orders WHERE n = :n"
        connection = {"type": "odbc", "connection_string": f"Driver={{SQLite3}};Database={self.path}", "ledger": LEDGER}
        return {
            "agent": "a",
            "state_dir": "state",
            "connections": {"erp": connection},
            "operations": {
                "order": {**order, "effect": "once", "timeout": "20s"},
                "order-verified": {**order, "verify": "find"},
                "find": {"connection": "erp", "sql": found, "effect": "read", "params": NUMBER, "timeout": "20s"},
            },
        }


def member(name: str, erp: Erp) -> Site:
    return Site(
        name, erp.file(), lambda setup: DriverConnector(setup, CONNECTORS["odbc"]), places={"erp": f"at {name}"}
    )


@pytest.fixture
async def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ring]:
    """A broker that waits seconds, where a real one waits minutes."""
    for name, seconds in {"BACK_S": 0.1, "LEASE_S": 1.0, "MARGIN_S": 0.2, "LOOK_S": 0.05}.items():
        monkeypatch.setattr(members, name, seconds)
    monkeypatch.setattr("cloud_broker.deadlines.AWAY_S", 0.0)
    (tmp_path / "broker").mkdir()
    async with ring(tmp_path / "broker") as made:
        for name in ("a", "b"):
            await made.enrol(name, "plants")
        yield made


async def order(there: Ring, n: int, operation: str = "order", **asked: Any) -> Command:
    return await there.submit(operation, agent=None, group="plants", params={"n": n}, **asked)


async def only(there: Ring, site: Site, n: int) -> BrokerEnd:
    """Link a member while it is the only one, and let it do something, so that it has its sessions."""
    end = await there.link(site)
    assert (await there.final(await order(there, n))).state == "succeeded"
    return end


async def lose(there: Ring, end: BrokerEnd) -> None:
    """Lose the link of one member; what was said on it since it froze never came."""
    await end.close()


async def done(erp: Erp, *orders: int) -> None:
    async with asyncio.timeout(20):
        while erp.orders() != list(orders):  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.02)


async def test_what_a_lost_member_did_is_told_by_the_ledger_and_not_done_again(there: Ring, tmp_path: Path) -> None:
    erp = Erp(tmp_path / "erp.db")
    lost, other = member("a", erp), member("b", erp)
    end = await only(there, lost, 1)
    with erp.busy():
        command = await order(there, 2)
        await there.state(command, "running")
        end.freeze()
    await done(erp, 1, 2)
    await there.link(other)
    await lose(there, end)
    ended = await there.final(command)
    assert (ended.state, ended.agent, erp.orders()) == ("succeeded", "b", [1, 2])
    assert any("it did happen" in warning for warning in ended.warnings)
    # It comes back, and tells what it did: nothing changes.
    await there.link(lost)
    assert (await there.final(await order(there, 3))).state == "succeeded"
    assert (await there.commands.get(SCOPE, command.id)).agent == "b"
    assert erp.orders() == [1, 2, 3]


async def test_what_a_lost_member_never_got_is_done_by_another(there: Ring, tmp_path: Path) -> None:
    erp = Erp(tmp_path / "erp.db")
    lost, other = member("a", erp), member("b", erp)
    end = await only(there, lost, 1)
    end.freeze()
    command = await order(there, 2)
    await there.state(command, "dispatched")
    await there.link(other)
    await lose(there, end)
    ended = await there.final(command)
    assert (ended.state, ended.agent, ended.epoch, erp.orders()) == ("succeeded", "b", 3, [1, 2])


async def test_a_member_that_works_with_another_database_is_no_witness(there: Ring, tmp_path: Path) -> None:
    erp, elsewhere = Erp(tmp_path / "erp.db"), Erp(tmp_path / "elsewhere.db")
    lost, other = member("a", erp), member("b", elsewhere)
    end = await only(there, lost, 1)
    end.freeze()
    command = await order(there, 2, ttl_s=8.0)
    await there.state(command, "dispatched")
    await there.link(other)
    await lose(there, end)
    ended = await there.final(command)
    assert (ended.state, erp.orders(), elsewhere.orders()) == ("in_doubt", [1], [])
    assert ended.error is not None
    assert "a was lost while it was under way" in ended.error.message
    assert f"the other agent has left no word in this agent's ledger {LEDGER}" in ended.error.message


@pytest.mark.parametrize("happened", [True, False])
async def test_a_verify_is_asked_through_another_member(there: Ring, tmp_path: Path, happened: bool) -> None:
    erp = Erp(tmp_path / "erp.db")
    lost, other = member("a", erp), member("b", erp)
    end = await only(there, lost, 1)
    if happened:
        with erp.busy():
            command = await order(there, 2, "order-verified")
            await there.state(command, "running")
            end.freeze()
        await done(erp, 1, 2)
    else:
        end.freeze()
        command = await order(there, 2, "order-verified")
        await there.state(command, "dispatched")
    await there.link(other)
    await lose(there, end)
    ended = await there.final(command)
    assert (ended.state, ended.agent, ended.epoch, erp.orders()) == ("succeeded", "b", 2 if happened else 3, [1, 2])


async def test_a_member_that_slept_begins_nothing_that_was_said_long_ago(tmp_path: Path) -> None:
    erp = Erp(tmp_path / "erp.db")
    site = member("a", erp)
    run = Run("cmd_1", 1, "order", expires_in_s=30.0, credit=1_000_000)
    site.dispatcher.offer(run, b'{"n":1}', age_s=31.0)
    [running] = site.dispatcher._commands.values()
    assert running.task is not None
    await running.task
    assert running.result.ended
    assert erp.orders() == []
    await site.kill()


# --- two of one ------------------------------------------------------------------------------------------


async def kept(there: Services, name: str) -> Lineage:
    """What is known of an agent's texts once it is known to have the last one."""
    async with asyncio.timeout(10):
        while True:
            agent = await there.store.agent(ACME, name)
            if agent is not None and agent.lineage.confirmed:
                return agent.lineage


async def two_of(agent: PlainAgent, there: Services) -> None:
    """Let two machines be there with one identity, until both are stopped."""
    async with agent.link() as (link, copied):
        await link.hold()
        await kept(there, "a")
    async with agent.link(lineage=copied.lineage) as (first, welcome):
        await first.hold()
        await kept(there, "a")
        async with agent.link(lineage=copied.lineage) as (copy, _):
            await copy.hold()
            async with agent.dial() as connection:
                again = Link(connection)
                own = Limits(remembers=10_000)
                await again.say(Hello([1], "0", [RENEWAL], own, "journal", time.time(), lineage=welcome.lineage))
                assert (await again.hear(Goodbye))[0].code == "revoked"


async def test_two_machines_with_one_identity_are_stopped_and_the_others_of_the_group_go_on(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    data = json.dumps(document()).encode()
    async with broker(tmp_path / "broker") as there:
        cloned = await PlainAgent.enrolled(tmp_path / "a", there, "a", group="plants")
        well = await PlainAgent.enrolled(tmp_path / "b", there, "b", group="plants")
        async with well.link(features=()) as (link, _):
            await link.say(Catalogue(hashlib.sha256(data).hexdigest()), data)
            await link.hold()
            await two_of(cloned, there)
            revoked = {agent.name: agent.revoked_at is not None for agent in await there.store.agents(ACME)}
            assert revoked == {"a": True, "b": False}
            for _ in range(2):
                command, _ = await there.commands.submit(ACME, Submission("read", b"{}", group="plants"))
                run, _ = await link.hear(Run)
                assert run.id == command.id
                await link.say(Completed(run.id, run.epoch, "succeeded"))
                await link.hear(Ack)
