"""Sealed commands from the caller to the agent and back, over everything that can break on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.client.sealing import SealedCall
from cloud_broker.dead_letters import DeadLetters
from cloud_broker.errors import Conflict, IdempotencyKeyReused
from cloud_broker.store.commands import Command
from protocol import sealing
from protocol.sealing import SealBroken
from protocol.states import CommandState
from tests.waiting import until
from tests.whole.ring import FILE as RING_FILE
from tests.whole.ring import SCOPE, Ring, Site, ring
from tests.whole.sealed import end_of, frames, opened, sealed_call, submit
from tests.whole.test_ring_journal import FILE as ERP_FILE
from tests.whole.test_ring_journal import Erp

LARGE = 60_000  # rows of some 100 bytes: many windows of credit, many frames
FILE: dict[str, Any] = {
    **RING_FILE,
    "operations": {
        **RING_FILE["operations"],
        "masked": {"connection": "probe", "synthetic": "rows", "mask": ["c1"], "columns": ["n", "c1"]},
        "typed": {"connection": "probe", "synthetic": "echo", "params": {"customer": {"type": "integer"}}},
    },
}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Ring]:
    async with ring(tmp_path) as made:
        yield made


@pytest.fixture
async def site(broker: Ring) -> Site:
    made = Site(file=FILE)
    await broker.link(made)
    return made


async def read(broker: Ring, command: Command, index: int = 0) -> AsyncIterator[bytes]:
    reader = await broker.commands.open_rows(SCOPE, command.id, index)
    assert reader.sealed
    assert reader.columns == ()
    async for piece in reader.chunks():
        yield bytes(piece)


async def test_outputs_come_back_and_the_broker_can_not_read_them(broker: Ring, site: Site) -> None:
    call = sealed_call(site, "echo", b'{"customer": "C042-CANARY", "total": 12.50}')
    ended = await broker.final(await submit(broker, call))
    assert ended.state is CommandState.SUCCEEDED
    end = end_of(call, ended)
    assert bytes(end.outputs) == b'{"customer":"C042-CANARY","total":12.50}'
    assert (end.outcome, end.error, end.row_sets) == ("succeeded", None, [])
    assert ended.params == call.text.encode()
    assert set(json.loads(ended.outputs or b"")) == {"sealed"}
    assert b"CANARY" not in (ended.outputs or b"") + ended.params


@pytest.mark.parametrize("count", [0, 1, 600, LARGE])
async def test_rows_come_back_whole_and_in_order(broker: Ring, site: Site, count: int) -> None:
    call = sealed_call(site, "rows", {"count": count})
    command = await submit(broker, call)
    pieces = [piece async for piece in read(broker, command)]
    ended = await broker.final(command)
    columns, rows = opened(call, command.id, pieces)
    assert [json.loads(line)["n"] for line in rows.splitlines()] == list(range(count))
    assert [column["name"] for column in columns][:2] == ["n", "c1"]
    assert ([info.rows for info in ended.row_sets], end_of(call, ended).row_sets) == ([count], [count])
    assert b"value" not in b"".join(pieces)
    assert b"".join([piece async for piece in read(broker, ended)]) == b"".join(pieces)


async def test_only_the_answer_may_be_sealed(broker: Ring, site: Site) -> None:
    call = replace(sealed_call(site, "rows", b"{}"), _secret=b"")
    command = await submit(broker, call, params={"count": 10}, sealed=False)
    pieces = [piece async for piece in read(broker, command)]
    assert opened(call, command.id, pieces)[1].count(b"\n") == 10
    assert end_of(call, await broker.final(command)).row_sets == [10]


async def test_what_must_not_leave_the_site_does_not_leave_it_sealed_either(broker: Ring, site: Site) -> None:
    call = sealed_call(site, "masked", {"count": 3})
    command = await submit(broker, call)
    columns, rows = opened(call, command.id, [piece async for piece in read(broker, command)])
    assert [column["name"] for column in columns] == ["n", "c1"]
    assert [json.loads(line) for line in rows.splitlines()] == [{"n": n, "c1": "***"} for n in range(3)]


async def test_what_the_erp_says_is_for_the_caller_alone(broker: Ring, site: Site) -> None:
    call = sealed_call(site, "fail", {"kind": "rejected", "message": "customer C042 is blocked"})
    ended = await broker.final(await submit(broker, call))
    assert ended.state is CommandState.REJECTED
    assert ended.error is not None
    assert (ended.error.kind, ended.error.code, ended.error.source_code) == ("business", "source_rejected", "")
    assert "C042" not in ended.error.message
    assert end_of(call, ended).error == {
        "code": "source_rejected",
        "message": "customer C042 is blocked",
        "source_code": "SYNTH",
    }


async def test_parameters_that_do_not_fit_are_not_shown_to_the_broker(broker: Ring, site: Site) -> None:
    call = sealed_call(site, "typed", {"customer": "C042"})
    ended = await broker.final(await submit(broker, call))
    assert (ended.state, ended.error and ended.error.code) == (CommandState.FAILED, "parameters_invalid")
    assert "C042" not in str(ended.error)
    assert "C042" in str(end_of(call, ended).error)


@pytest.mark.parametrize("changed", ["operation", "seal_to", "params", "agent"])
async def test_a_broker_can_not_turn_a_sealed_command_into_another(broker: Ring, site: Site, changed: str) -> None:
    call = sealed_call(site, "echo", {"customer": "C042"})
    other = sealed_call(site, "rows", {"count": 1})
    asked: dict[str, Any] = {
        "operation": replace(call, operation="rows"),
        "seal_to": replace(call, seal_to=other.seal_to),
        "params": replace(call, text=other.text),
        "agent": sealed_call(replace_name(site, "plant-2"), "echo", {}),
    }
    ended = await broker.final(await submit(broker, replace(asked[changed], agent="plant-1")))
    assert ended.error is not None
    assert (ended.state, ended.error.kind, ended.error.code) == (CommandState.FAILED, "policy", "cannot_unseal")
    assert ended.started_at is None, "nothing was begun"


def replace_name(site: Site, name: str) -> Site:
    """The same agent under another name."""
    other = Site.__new__(Site)
    other.__dict__ = {**site.__dict__, "name": name}
    return other


async def test_the_same_text_is_the_same_command_and_another_one_is_not(broker: Ring, site: Site) -> None:
    call = sealed_call(site, "echo", {"a": 1})
    first = await submit(broker, call, idempotency_key="k")
    assert (await submit(broker, call, idempotency_key="k")).id == first.id
    with pytest.raises(IdempotencyKeyReused):
        await submit(broker, sealed_call(site, "echo", {"a": 1}), idempotency_key="k")


class Keyless(Site):
    """An agent of a release that has no keys."""

    public = ""


async def test_an_agent_without_keys_is_sent_nothing_that_is_sealed(broker: Ring) -> None:
    await broker.link(Keyless(file=FILE))
    with pytest.raises(Conflict, match="no keys of its own"):
        await submit(broker, sealed_call(Site(file=FILE), "echo", {}))


# --- links, attempts, restarts --------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["rows", "write-rows"])
async def test_a_cut_link_in_the_middle_costs_nothing(broker: Ring, site: Site, operation: str) -> None:
    call = sealed_call(site, operation, {"count": LARGE})
    command = await submit(broker, call)
    pieces, cuts, seen = [], 0, 0
    async for piece in read(broker, command):
        pieces.append(piece)
        seen += len(piece)
        if seen > cuts * 1_000_000 and cuts < 4:
            cuts += 1
            await broker.cut()
            await broker.link(site)
    assert opened(call, command.id, pieces)[1].count(b"\n") == LARGE
    assert (await broker.final(command)).epoch == 1
    assert cuts == 4


async def test_another_attempt_is_sealed_anew(broker: Ring, site: Site) -> None:
    call = sealed_call(site, "rows", {"count": 2_000_000})
    command = await submit(broker, call)
    head = b""
    async for piece in read(broker, command):
        head += piece
        if len(head) > sealing.HEAD.size:
            break
    await broker.cut()
    # An agent that knows nothing of it, but has the same keys: the read is sent again.
    again = Site(file=FILE)
    again.key = site.key
    again._run()
    await broker.link(again)
    async with asyncio.timeout(20):
        async for piece in read(broker, command):
            second = piece
            break
    await broker.commands.cancel(SCOPE, command.id)
    await broker.final(command)
    attempts = [sealing.HEAD.unpack_from(data)[1] for data in (head, second)]
    wrapped = [sealing.HEAD.unpack_from(data)[3] for data in (head, second)]
    assert attempts == [1, 2]
    assert wrapped[0] != wrapped[1]
    with pytest.raises(SealBroken):
        opened(call, command.id, [second[: sealing.HEAD.size], *frames(head)[1:]])


@pytest.mark.parametrize("rows", [0, 100, 3_000_000])
@pytest.mark.parametrize("operation", ["order", "pay", "post"])
async def test_a_sealed_result_survives_the_agents_process(broker: Ring, operation: str, rows: int) -> None:
    erp = Erp()
    erp.rows = rows
    site = Site(file=ERP_FILE, connector=erp)
    await broker.link(site)
    call = sealed_call(site, operation, {"no": 4711})
    erp.stop_at = "before"
    command = await submit(broker, call)
    await erp.stopped.wait()
    await broker.cut()
    erp.die()
    erp.go.set()
    await until(lambda: site.dispatcher._commands[command.id].result.ended)
    again = await site.restarted()
    await broker.link(again)
    ended = await broker.final(command)
    assert ended.state is CommandState.SUCCEEDED, ended
    assert bytes(end_of(call, ended).outputs) == b'{"no":4711}'
    assert erp.done[command.id] == 1
    if rows:
        assert opened(call, command.id, [piece async for piece in read(broker, ended)])[1] == b"x" * rows


@pytest.mark.parametrize(("operation", "found"), [("order", {"no": 4711}), ("pay", {"payment": 7})])
@pytest.mark.parametrize("step", ["ready", "after"])
async def test_what_became_of_it_is_found_out_with_sealed_parameters(
    broker: Ring, operation: str, found: dict[str, Any], step: str
) -> None:
    erp = Erp()
    site = Site(file=ERP_FILE, connector=erp)
    await broker.link(site)
    erp.stop_at = step
    call = sealed_call(site, operation, {"no": 4711})
    command = await submit(broker, call)
    await erp.stopped.wait()
    erp.die()
    await broker.cut()
    assert all(b"4711" not in entry.claim.params for entry in site.journal.unacknowledged())
    await broker.link(await site.restarted())
    ended = await broker.final(command)
    assert ended.state is CommandState.SUCCEEDED, ended
    assert erp.done[command.id] == 1
    end = end_of(call, ended)
    # One that had not happened ran again, as another attempt, and gave its own outputs.
    assert json.loads(bytes(end.outputs)) == (found if step == "after" else {"no": 4711})
    assert ended.warnings == ()
    assert bool(end.warnings) == (step == "after")


async def test_an_agent_with_other_keys_leaves_it_to_a_person(broker: Ring) -> None:
    erp = Erp()
    site = Site(file=ERP_FILE, connector=erp)
    await broker.link(site)
    erp.stop_at = "after"
    command = await submit(broker, sealed_call(site, "order", {"no": 4711}))
    await erp.stopped.wait()
    erp.die()
    await broker.cut()
    other = Site(file=ERP_FILE)
    site.key = other.key
    await broker.link(await site.restarted())
    ended = await broker.final(command)
    assert ended.state is CommandState.IN_DOUBT
    assert ended.error is not None
    assert "can't be opened" in ended.error.message


async def test_a_dead_letter_is_replayed_sealed_as_it_is(broker: Ring, site: Site) -> None:
    call = sealed_call(site, "fail", {"kind": "failed", "message": "C042"})
    dead = await broker.final(await submit(broker, call, idempotency_key="k"))
    assert dead.state is CommandState.FAILED
    again, new = await DeadLetters(broker.store, broker.commands).replay(SCOPE, dead.id, by="key_1")
    assert new
    ended = await broker.final(again)
    assert (ended.sealed, ended.seal_to) == (True, call.seal_to)
    assert "C042" in str(end_of(call, ended).error)


# --- a broker that changes it -----------------------------------------------------------------------------


@pytest.fixture
async def three_frames(broker: Ring, site: Site) -> tuple[SealedCall, str, list[bytes]]:
    call = sealed_call(site, "rows", {"count": 1_500})
    command = await submit(broker, call)
    data = b"".join([piece async for piece in read(broker, command)])
    found = frames(data)
    assert len(found) >= 5
    assert opened(call, command.id, [data])[1].count(b"\n") == 1_500
    return call, command.id, found


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a frame left out": lambda f: [*f[:2], *f[3:]],
    "the columns left out": lambda f: [f[0], *f[2:]],
    "two frames the other way round": lambda f: [*f[:2], f[3], f[2], *f[4:]],
    "a frame twice": lambda f: [*f[:3], f[2], *f[3:]],
    "the end cut off": lambda f: f[:-1],
    "cut inside a frame": lambda f: [*f[:-2], f[-2][:-5]],
    "nothing but the head": lambda f: f[:1],
    "nothing": lambda f: [],
    "an earlier frame called the last": lambda f: [*f[:2], bytes([f[2][0] | 0x80]) + f[2][1:]],
    "the last one called none": lambda f: [*f[:-1], bytes([f[-1][0] & 0x7F]) + f[-1][1:]],
    "something behind the end": lambda f: [*f, f[-1]],
    "a byte changed": lambda f: [*f[:2], f[2][:-1] + bytes([f[2][-1] ^ 1]), *f[3:]],
    "another attempt in the head": lambda f: [f[0][:7] + b"\x02" + f[0][8:], *f[1:]],
    "another row set in the head": lambda f: [f[0][:11] + b"\x01" + f[0][12:], *f[1:]],
    "rows in clear": lambda f: [b'{"n":0}\n'],
}


@pytest.mark.parametrize("change", CHANGES)
async def test_every_change_is_noticed(three_frames: tuple[SealedCall, str, list[bytes]], change: str) -> None:
    call, command_id, found = three_frames
    with pytest.raises(SealBroken):
        opened(call, command_id, CHANGES[change](found) or [b""])


async def test_rows_of_another_command_are_noticed(
    broker: Ring, site: Site, three_frames: tuple[SealedCall, str, list[bytes]]
) -> None:
    call, command_id, found = three_frames
    # The very same call, submitted by the broker once more.
    again = await submit(broker, call)
    other = [piece async for piece in read(broker, again)]
    with pytest.raises(SealBroken, match="of another command"):
        opened(call, command_id, other)
    with pytest.raises(SealBroken):
        opened(call, command_id, [found[0], *frames(b"".join(other))[1:]])
    with pytest.raises(SealBroken, match="row set 0, where row set 1 was wanted"):
        opened(call, command_id, found, number=1)


async def test_a_broker_can_not_make_a_result(broker: Ring, site: Site) -> None:
    call = sealed_call(site, "rows", {"count": 1})
    command = await submit(broker, call)
    ended = await broker.final(command)
    # It knows the caller's public key, the command and all names, and has its own agent seal something.
    forger = Site(file=FILE)
    forged = forger.dispatcher._attempts._seals
    assert forged is not None
    from agent.journal.base import Claim

    claim = Claim(command.id, ended.epoch, "", "rows", "read", b"{}", "", 0.0, False, call.seal_to)
    seal = forged.open(claim).seal
    assert seal is not None
    first, sealer = seal.row_set(0, [])
    with pytest.raises(SealBroken):
        opened(call, command.id, [first, sealer.frames(b'{"n":666}\n'), sealer.frame(b"", last=True)])


async def test_nothing_of_it_is_in_any_file_of_either_side(tmp_path: Path, broker: Ring, site: Site) -> None:
    call = sealed_call(site, "write-rows", b'{"count": 30000, "width": 8}')
    echo = sealed_call(site, "echo", {"customer": "C042-CANARY"})
    for sealed in (call, echo):
        await broker.final(await submit(broker, sealed))
    site.dispatcher.close()
    written = [path for folder in (tmp_path, site._spool) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in written) > 1_000_000
    for path in written:
        data = path.read_bytes()
        for word in (b"C042-CANARY", b'"c1":"value', b'{"n":'):
            assert word not in data, path
