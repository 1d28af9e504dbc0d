"""The two paths joined: commands out, results back, over links that come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloud_broker.errors import (
    AgentNotFound,
    CommandNotFound,
    IdempotencyKeyReused,
    OperationNotFound,
    ParametersInvalid,
    ResultGone,
    RowSetNotFound,
    Unavailable,
)
from cloud_broker.tenants import Scope
from protocol.states import CommandState
from tests.whole.ring import FILE, SCOPE, Ring, Site, ring

LARGE = 120_000  # rows of some 100 bytes: many windows of credit


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Ring]:
    async with ring(tmp_path) as made:
        yield made


@pytest.fixture
async def site(broker: Ring) -> Site:
    made = Site()
    await broker.link(made)
    return made


async def test_a_command_comes_back_with_its_outputs(broker: Ring, site: Site) -> None:
    ended = await broker.run("echo", params={"a": 1})
    assert ended.state is CommandState.SUCCEEDED
    assert json.loads(ended.outputs or b"") == {"a": 1}
    assert ended.epoch == 1
    assert ended.started_at is not None


@pytest.mark.parametrize("count", [0, 1, 10, LARGE])
async def test_rows_come_back_whole_and_in_order(broker: Ring, site: Site, count: int) -> None:
    command = await broker.submit("rows", params={"count": count})
    streamed = await broker.rows(command)
    ended = await broker.final(command)
    assert ended.row_sets[0].rows == count
    assert [json.loads(line)["n"] for line in streamed.splitlines()] == list(range(count))
    assert await broker.rows(ended) == streamed, "what is kept is what was streamed"


async def test_rows_can_be_read_while_the_command_runs(broker: Ring, site: Site) -> None:
    command = await broker.submit("rows", params={"count": 2_000_000})
    reader = await broker.commands.open_rows(SCOPE, command.id, 0)
    async for piece in reader.chunks():
        assert piece.startswith(b'{"n":0,')
        break
    assert (await broker.commands.get(SCOPE, command.id)).state == "running"
    await broker.commands.cancel(SCOPE, command.id)
    assert (await broker.final(command)).state == "cancelled"


async def test_a_cut_link_in_the_middle_of_a_result_costs_nothing(broker: Ring, site: Site) -> None:
    command = await broker.submit("rows", params={"count": LARGE})
    reader = await broker.commands.open_rows(SCOPE, command.id, 0)
    received = b""
    cuts = 0
    async for piece in reader.chunks():
        received += piece
        if len(received) > cuts * 2_000_000 and cuts < 5:
            cuts += 1
            await broker.cut()
            await broker.link(site)
    ended = await broker.final(command)
    assert cuts == 5
    assert ended.epoch == 1, "the result went on where it was, the command did not run again"
    assert [json.loads(line)["n"] for line in received.splitlines()] == list(range(LARGE))


async def test_an_outcome_that_the_broker_never_had_is_told_to_the_next_one(broker: Ring, site: Site) -> None:
    command = await broker.submit("write", params={"seconds": 0.3})
    await broker.state(command, "running")
    await broker.restart()
    await broker.link(site)
    ended = await broker.final(command)
    assert ended.state is CommandState.SUCCEEDED
    assert ended.epoch == 1


async def test_rows_of_an_effect_survive_a_broker_that_restarts(broker: Ring, site: Site) -> None:
    command = await broker.submit("write-rows", params={"count": 5_000})
    reader = await broker.commands.open_rows(SCOPE, command.id, 0)
    async for _ in reader.chunks():
        break
    await broker.restart()
    await broker.link(site)
    ended = await broker.final(command)
    assert ended.state is CommandState.SUCCEEDED
    assert ended.epoch == 1
    assert (await broker.rows(ended)).count(b"\n") == 5_000


async def test_a_read_whose_rows_are_lost_with_the_broker_runs_again(broker: Ring, site: Site) -> None:
    command = await broker.submit("rows", params={"count": LARGE * 10})
    reader = await broker.commands.open_rows(SCOPE, command.id, 0)
    received = 0
    async for piece in reader.chunks():
        received += len(piece)
        if received > 8_000_000:
            break
    await broker.restart()
    await broker.link(site)
    ended = await broker.final(command, 60)
    assert ended.state is CommandState.SUCCEEDED
    assert ended.epoch == 2
    assert ended.row_sets[0].rows == LARGE * 10


async def test_a_reader_of_an_attempt_that_is_lost_is_not_told_that_it_ended_well(broker: Ring, site: Site) -> None:
    command = await broker.submit("rows", params={"count": LARGE * 10})
    reader = await broker.commands.open_rows(SCOPE, command.id, 0)
    chunks = reader.chunks()
    await anext(chunks)
    await broker.cut()
    await broker.link(Site())

    async def read_on() -> None:
        async for _ in chunks:
            pass

    with pytest.raises(ResultGone, match="attempt 1"):
        await read_on()
    assert (await broker.final(command, 60)).epoch == 2


@pytest.mark.parametrize(("operation", "state", "attempts"), [("sleep", "succeeded", 2), ("write", "in_doubt", 1)])
async def test_what_an_agent_that_died_was_doing(
    broker: Ring, site: Site, operation: str, state: str, attempts: int
) -> None:
    command = await broker.submit(operation, params={"seconds": 0.2})
    await broker.state(command, "running")
    await broker.cut()
    await broker.link(Site())
    ended = await broker.final(command)
    assert (ended.state, ended.epoch) == (state, attempts)
    if ended.state is CommandState.IN_DOUBT:
        assert ended.error is not None
        assert ended.error.code == "agent_lost"


async def test_a_command_waits_for_its_agent(broker: Ring, site: Site) -> None:
    await broker.cut()
    command = await broker.submit("echo", params={"a": 1})
    assert broker.commands.waiting_for(SCOPE, command) == "agent"
    await broker.link(site)
    assert (await broker.final(command)).state is CommandState.SUCCEEDED


async def test_a_command_queued_before_a_restart_is_run_after_it(broker: Ring, site: Site) -> None:
    await broker.cut()
    command = await broker.submit("echo", params={"a": 1})
    await broker.restart()
    await broker.link(site)
    assert (await broker.final(command)).state is CommandState.SUCCEEDED


async def test_a_command_whose_time_is_up_before_its_agent_comes_expires(broker: Ring, site: Site) -> None:
    await broker.cut()
    command = await broker.submit("echo", ttl_s=0.1)
    ended = await broker.final(command)
    assert ended.state is CommandState.EXPIRED
    await broker.link(site)
    assert (await broker.run("echo", params={"b": 2})).state is CommandState.SUCCEEDED


@pytest.mark.parametrize(("operation", "state"), [("sleep", "expired"), ("write", "in_doubt")])
async def test_a_running_command_whose_agent_never_comes_back_ends(
    broker: Ring, site: Site, operation: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_broker.deadlines.AWAY_S", 0.5)
    command = await broker.submit(operation, params={"seconds": 30}, ttl_s=1.0)
    await broker.state(command, "running")
    await broker.cut()
    ended = await broker.final(command)
    assert ended.state == state
    assert ended.error is not None
    assert "may have" in ended.error.message


async def test_an_agent_that_comes_back_after_the_deadline_tells_what_became_of_it(broker: Ring, site: Site) -> None:
    command = await broker.submit("write", params={"seconds": 0.3}, ttl_s=0.5)
    await broker.state(command, "running")
    await broker.cut()
    other = await broker.submit("echo", ttl_s=1.0)
    assert (await broker.final(other)).state is CommandState.EXPIRED
    await broker.link(site)
    assert (await broker.final(command)).state is CommandState.SUCCEEDED


async def test_a_queued_command_is_cancelled_at_once(broker: Ring, site: Site) -> None:
    await broker.cut()
    command = await broker.submit("echo")
    assert (await broker.commands.cancel(SCOPE, command.id)).state is CommandState.CANCELLED


@pytest.mark.parametrize("operation", ["sleep", "write"])
async def test_a_running_command_is_cancelled_when_it_stops_without_effect(
    broker: Ring, site: Site, operation: str
) -> None:
    command = await broker.submit(operation, params={"seconds": 30})
    await broker.state(command, "running")
    await broker.commands.cancel(SCOPE, command.id)
    assert (await broker.final(command)).state is CommandState.CANCELLED


async def test_a_command_that_waits_at_the_agent_is_cancelled(broker: Ring) -> None:
    file = {**FILE, "connections": {**FILE["connections"], "slow": {"type": "synthetic", "rate": "1/h"}}}
    await broker.link(Site(file=file))
    assert (await broker.run("sleep", params={"seconds": 0})).state is CommandState.SUCCEEDED
    line = broker.router.line(SCOPE, "plant-1")
    assert line is not None
    line._buckets.clear()  # a broker that does not keep to the rate
    command = await broker.submit("sleep", params={"seconds": 0})
    await broker.state(command, "dispatched")
    await broker.commands.cancel(SCOPE, command.id)
    assert (await broker.final(command)).state is CommandState.CANCELLED


async def test_a_cancel_while_the_link_is_away_is_not_forgotten(broker: Ring, site: Site) -> None:
    command = await broker.submit("write", params={"seconds": 30})
    await broker.state(command, "running")
    await broker.cut()
    await broker.commands.cancel(SCOPE, command.id)
    await broker.restart()
    await broker.link(site)
    assert (await broker.final(command)).state is CommandState.CANCELLED


FAILURES = [
    ("rejected", "rejected", "business", "source_rejected"),
    ("failed", "failed", "technical", "source_failed"),
    ("unavailable", "failed", "technical", "source_unavailable"),
    ("unknown", "in_doubt", "unknown", "outcome_unknown"),
]


@pytest.mark.parametrize(("kind", "state", "error_kind", "code"), FAILURES)
async def test_each_way_to_fail_has_its_state(
    broker: Ring, site: Site, kind: str, state: str, error_kind: str, code: str
) -> None:
    ended = await broker.run("fail", params={"kind": kind, "message": "because"})
    assert ended.state == state
    assert ended.error is not None
    assert (ended.error.kind, ended.error.code) == (error_kind, code)
    assert ended.error.message.startswith("because")


async def test_an_operation_that_wants_a_signature_is_refused(broker: Ring, site: Site) -> None:
    ended = await broker.run("signed")
    assert ended.state is CommandState.FAILED
    assert ended.error is not None
    assert (ended.error.kind, ended.error.code) == ("policy", "signature_missing")


async def test_a_busy_connection_keeps_no_other_waiting(broker: Ring, site: Site) -> None:
    blocked = [await broker.submit("sleep", params={"seconds": 30}) for _ in range(100)]
    assert (await broker.run("echo", params={"a": 1})).state is CommandState.SUCCEEDED
    states = [(await broker.commands.get(SCOPE, command.id)).state for command in blocked]
    assert states.count(CommandState.QUEUED) == 99, "the broker keeps to the connection's limit"
    for command in blocked:
        await broker.commands.cancel(SCOPE, command.id)


async def test_a_large_result_delays_no_small_one(broker: Ring, site: Site) -> None:
    large = await broker.submit("rows", params={"count": 2_000_000})
    reader = await broker.commands.open_rows(SCOPE, large.id, 0)
    await anext(reader.chunks())
    for _ in range(20):
        assert (await broker.run("echo")).state is CommandState.SUCCEEDED
    assert (await broker.commands.get(SCOPE, large.id)).state == "running"
    await broker.commands.cancel(SCOPE, large.id)
    await broker.final(large)


async def test_commands_with_one_ordering_key_run_one_after_another(broker: Ring, site: Site) -> None:
    await broker.cut()
    first = [await broker.submit("echo", params={"n": n}, ordering_key="4711") for n in range(5)]
    assert broker.commands.waiting_for(SCOPE, first[1]) == "order"
    await broker.link(site)
    ended = [await broker.final(command) for command in first]
    starts = [command.started_at or 0.0 for command in ended]
    ends = [command.finished_at or 0.0 for command in ended]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


async def test_an_ordering_key_is_not_blocked_by_one_that_was_cancelled(broker: Ring, site: Site) -> None:
    await broker.cut()
    first, second, third = [await broker.submit("echo", ordering_key="k") for _ in range(3)]
    await broker.commands.cancel(SCOPE, first.id)
    await broker.commands.cancel(SCOPE, second.id)
    await broker.link(site)
    assert (await broker.final(third)).state is CommandState.SUCCEEDED


async def test_a_higher_priority_goes_first(broker: Ring, site: Site) -> None:
    await broker.cut()
    low = await broker.submit("write", params={"seconds": 0.05}, priority=0)
    high = await broker.submit("write", params={"seconds": 0.05}, priority=5)
    await broker.link(site)
    assert ((await broker.final(high)).started_at or 0) < ((await broker.final(low)).started_at or 0)


async def test_the_same_key_is_the_same_command(broker: Ring, site: Site) -> None:
    first = await broker.submit("echo", params={"a": 1, "b": 2}, idempotency_key="k")
    again = await broker.submit("echo", params={"b": 2, "a": 1}, idempotency_key="k")
    assert again.id == first.id
    with pytest.raises(IdempotencyKeyReused):
        await broker.submit("echo", params={"a": 2}, idempotency_key="k")


async def test_the_same_key_is_the_same_command_when_the_operation_is_gone(broker: Ring, site: Site) -> None:
    first = await broker.run("rows", params={"count": 1}, idempotency_key="k")
    await broker.cut()
    operations = {name: body for name, body in FILE["operations"].items() if name != "rows"}
    await broker.link(Site(file={**FILE, "operations": operations}))
    again = await broker.submit("rows", params={"count": 1}, idempotency_key="k")
    assert (again.id, again.state) == (first.id, CommandState.SUCCEEDED)
    with pytest.raises(IdempotencyKeyReused):
        await broker.submit("rows", params={"count": 2}, idempotency_key="k")
    with pytest.raises(OperationNotFound):
        await broker.submit("rows", params={"count": 1}, idempotency_key="other")


async def test_a_second_link_of_an_agent_replaces_the_first_at_once(broker: Ring, site: Site) -> None:
    await broker.link(site)
    assert (await broker.run("echo")).state is CommandState.SUCCEEDED


async def test_an_agent_that_stops_finishes_what_it_does_and_the_rest_waits(broker: Ring, site: Site) -> None:
    running = await broker.submit("write", params={"seconds": 0.3})
    await broker.state(running, "running")
    stopping = asyncio.create_task(site.dispatcher.stop())
    await asyncio.sleep(0)
    later = await broker.submit("echo", params={"a": 1})
    assert (await broker.final(running)).state is CommandState.SUCCEEDED
    await broker.cut()
    await stopping
    await broker.link(Site())
    ended = await broker.final(later)
    assert ended.state is CommandState.SUCCEEDED


async def test_a_group_is_served_by_any_of_its_agents(broker: Ring) -> None:
    await broker.enrol("north", "plants")
    await broker.enrol("south", "plants")
    south = Site("south")
    await broker.link(south)
    ended = await broker.run("echo", agent=None, group="plants")
    assert (ended.state, ended.agent) == ("succeeded", "south")


async def test_a_result_beyond_the_limit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async with ring(tmp_path, max_bytes=1_000_000) as broker:
        await broker.link(Site())
        ended = await broker.run("rows", params={"count": LARGE})
        assert ended.state is CommandState.FAILED
        assert ended.error is not None
        assert "1000000 bytes" in ended.error.message
        with pytest.raises(ResultGone):
            await broker.rows(ended)
        assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


async def test_refusals_name_what_there_is(broker: Ring, site: Site) -> None:
    with pytest.raises(OperationNotFound, match="echo, fail, rows"):
        await broker.submit("nope")
    with pytest.raises(AgentNotFound, match="there are plant-1"):
        await broker.submit("echo", agent="plant-2")
    with pytest.raises(AgentNotFound):
        await broker.submit("echo", agent=None, group="nope")
    with pytest.raises(ParametersInvalid, match="count"):
        await broker.submit("rows", params={"count": "many"})
    with pytest.raises(RowSetNotFound, match="has row set 0 only; asked for 1"):
        await broker.rows(await broker.run("rows", params={"count": 1}), 1)
    with pytest.raises(RowSetNotFound, match="has no row sets; asked for 0"):
        await broker.rows(await broker.run("echo"))


async def test_an_agent_that_was_never_linked_takes_no_commands(broker: Ring) -> None:
    with pytest.raises(Unavailable, match="has not been connected yet"):
        await broker.submit("echo")


async def test_another_tenants_command_is_no_command(broker: Ring, site: Site) -> None:
    command = await broker.submit("sleep", params={"seconds": 5})
    other = Scope("other")
    for asking in (
        broker.commands.get(other, command.id),
        broker.commands.wait(other, command.id, 0),
        broker.commands.cancel(other, command.id),
        broker.commands.open_rows(other, command.id, 0),
    ):
        with pytest.raises(CommandNotFound):
            await asking
    await broker.commands.cancel(SCOPE, command.id)


async def test_a_frozen_link_is_given_up_by_both_sides(broker: Ring) -> None:
    site = Site()
    end = await broker.link(site, silence_s=0.5)
    _, serving, dialled = broker._links[0]
    # Beats keep an idle link: nothing is said here for longer than the silence that would end it.
    await asyncio.wait((serving, dialled), timeout=1.2)
    assert not serving.done()
    assert not dialled.done()
    end.freeze()
    async with asyncio.timeout(5):
        await asyncio.wait((serving, dialled), return_when=asyncio.ALL_COMPLETED)
    line = broker.router.line(SCOPE, "plant-1")
    assert line is not None
    assert line.link is None
