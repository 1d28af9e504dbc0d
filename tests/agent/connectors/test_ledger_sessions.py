"""Runs with ``once`` through driver processes: waiting for leave to commit, and finding out."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import msgspec
import pytest

from agent import errors
from agent.connectors import CONNECTORS
from agent.connectors.base import Call, Outputs, Piece, Ready
from agent.connectors.sessions import DriverConnector
from config.dev.databases import Postgres
from tests.agent.connectors.ledger_cases import PostgresErp, call
from tests.waiting import until_seen

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills and freezes by POSIX signals")


@pytest.fixture
async def erp(postgres: Postgres) -> PostgresErp:
    return await asyncio.to_thread(PostgresErp, postgres)


@pytest.fixture
async def connector(erp: PostgresErp) -> AsyncIterator[DriverConnector]:
    made = DriverConnector(erp.setup(), CONNECTORS["odbc"])
    yield made
    await made.close()


async def all_of(connector: DriverConnector, wanted: Call) -> list[Piece]:
    return [piece async for piece in connector.run(wanted)]


async def when_ready(connector: DriverConnector, wanted: Call, act: Callable[[], Awaitable[object]]) -> None:
    """Run it to its end, and do something when its rows are out and nothing is kept yet."""
    async for piece in connector.run(wanted):
        if isinstance(piece, Ready):
            await act()


async def orders(erp: PostgresErp) -> list[int]:
    return await asyncio.to_thread(erp.orders)


def outputs_of(pieces: list[Piece]) -> object:
    (last,) = pieces
    assert isinstance(last, Outputs)
    return msgspec.json.decode(msgspec.json.encode(last.values))


def at_work(erp: PostgresErp) -> bool:
    sql = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CALL test_slow%'"
    return bool(erp.ask(sql))


async def test_nothing_is_committed_before_the_next_piece_is_asked_for(
    connector: DriverConnector, erp: PostgresErp
) -> None:
    seen: list[str] = []
    async for piece in connector.run(call("order-rows")):
        seen.append(type(piece).__name__)
        assert await orders(erp) == ([1] if isinstance(piece, Outputs) else [])
    assert seen == ["RowSet", "Rows", "Ready", "Outputs"]


async def test_a_consumer_that_leaves_before_that_rolls_back(connector: DriverConnector, erp: PostgresErp) -> None:
    async with aclosing(connector.run(call("order-rows"))) as pieces:
        async for piece in pieces:
            if isinstance(piece, Ready):
                break
    assert await orders(erp) == []
    assert await connector.find(call("order-rows")) is None
    assert await all_of(connector, call("order-rows", epoch=2))
    assert await orders(erp) == [1]


async def test_a_cancel_before_that_rolls_back(connector: DriverConnector, erp: PostgresErp) -> None:
    async def cancel() -> None:
        connector.cancel("cmd_1")

    with pytest.raises(errors.Cancelled):
        await when_ready(connector, call("order-rows"), cancel)
    assert await orders(erp) == []


async def test_the_deadline_holds_while_the_agent_keeps_the_rows(connector: DriverConnector, erp: PostgresErp) -> None:
    def rolled_back() -> bool:
        return not erp.ask("SELECT 1 FROM pg_locks WHERE mode = 'RowExclusiveLock'")

    with pytest.raises(errors.TimedOut, match="1 s"):
        await when_ready(connector, call("order-rows", timeout_s=1.0), lambda: until_seen(rolled_back))
    assert await orders(erp) == []


async def test_a_process_that_dies_while_it_waits_has_done_nothing(
    connector: DriverConnector, erp: PostgresErp
) -> None:
    async def kill() -> None:
        os.kill(next(iter(connector._running.values())).pid, signal.SIGKILL)

    with pytest.raises(errors.DriverCrashed):
        await when_ready(connector, call("order-rows"), kill)
    assert await connector.find(call("order-rows")) is None
    assert await orders(erp) == []


async def test_what_became_of_a_run_is_asked_of_another_process(connector: DriverConnector, erp: PostgresErp) -> None:
    running = asyncio.ensure_future(all_of(connector, call("slow-order", seconds=30)))
    await until_seen(lambda: at_work(erp))
    os.kill(next(iter(connector._running.values())).pid, signal.SIGKILL)
    with pytest.raises(errors.DriverCrashed):
        await running
    with pytest.raises(errors.SourceUnavailable, match="can't tell yet"):
        await connector.find(call("slow-order", timeout_s=1.0, seconds=30))
    await asyncio.to_thread(
        erp.ask, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL test_slow%'"
    )
    assert await connector.find(call("slow-order", seconds=30)) is None
    assert await orders(erp) == []


async def test_a_command_is_not_looked_for_while_it_runs(connector: DriverConnector, erp: PostgresErp) -> None:
    running = asyncio.ensure_future(all_of(connector, call("slow-order", seconds=1)))
    await until_seen(lambda: at_work(erp))
    # With a timeout that is shorter than the run: it would not be known yet.
    found = await connector.find(call("slow-order", timeout_s=0.5, seconds=1))
    assert running.done()
    assert found == Outputs({})


async def test_one_command_twice_at_once_is_run_one_after_the_other(
    connector: DriverConnector, erp: PostgresErp
) -> None:
    first, second = await asyncio.gather(all_of(connector, call()), all_of(connector, call()))
    assert [repr(outputs_of(one)) for one in (first, second)] == ["{'order_no': 'PÖ-1'}"] * 2
    assert await orders(erp) == [1]


async def test_one_that_waits_for_the_other_can_be_cancelled(connector: DriverConnector, erp: PostgresErp) -> None:
    running = asyncio.ensure_future(all_of(connector, call("slow-order", seconds=1)))
    await until_seen(lambda: at_work(erp))
    second = asyncio.ensure_future(all_of(connector, call("slow-order", seconds=1, epoch=2)))
    await asyncio.sleep(0)  # lets it come as far as where it waits
    connector._starting.clear()  # what cancel does to those that wait, without stopping the one that runs
    await running
    with pytest.raises(errors.Cancelled):
        await second
    assert await orders(erp) == [1]


async def test_how_many_rows_are_gone_crosses_the_pipe(connector: DriverConnector) -> None:
    await all_of(connector, call("order-rows"))
    found = await connector.find(call("order-rows"))
    assert found is not None
    assert found.rows == 1


async def test_a_failure_that_may_work_later_crosses_the_pipe(connector: DriverConnector, erp: PostgresErp) -> None:
    await asyncio.to_thread(
        erp.script,
        "CREATE OR REPLACE PROCEDURE test_order(n int, OUT order_no text) LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END $$;",
    )
    with pytest.raises(errors.SourceFailed) as caught:
        await all_of(connector, call())
    assert caught.value.may_work_later
    with pytest.raises(errors.SourceFailed) as caught:
        await all_of(connector, msgspec.structs.replace(call(), params=b'{"n": 99999999999}'))
    assert not caught.value.may_work_later
