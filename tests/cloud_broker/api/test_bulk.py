"""Many commands in one request: lines in, lines out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from cloud_broker.api.bulk import LINES_AT_ONCE, Lines
from cloud_broker.tenants import Scope
from protocol import sealing
from tests.cloud_broker.api.broker import COMMAND_BYTES, Broker

ACME = Scope("acme")
NDJSON = {"Content-Type": "application/x-ndjson"}
LINE = {"agent": "plant-1", "operation": "echo", "params": {"a": 1}}


def text_of(*lines: Mapping[str, Any] | bytes) -> bytes:
    """Return lines as a body."""
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)


async def sent(caller: httpx2.AsyncClient, *lines: Mapping[str, Any] | bytes) -> list[dict[str, Any]]:
    """Return what the lines of a body are answered."""
    answer = await caller.post("/v1/commands/bulk", content=text_of(*lines), headers=NDJSON)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert "content-length" not in answer.headers
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_each_line_is_answered_with_its_command_in_order(acme: httpx2.AsyncClient) -> None:
    count = 2 * LINES_AT_ONCE + 7
    answers = await sent(acme, *({**LINE, "params": {"n": n}, "idempotency_key": f"k{n}"} for n in range(count)))

    assert [one["line"] for one in answers] == list(range(1, count + 1))
    assert {one["status"] for one in answers} == {202}
    assert [one["command"]["idempotency_key"] for one in answers] == [f"k{n}" for n in range(count)]
    ids = [one["command"]["id"] for one in answers]
    assert len(set(ids)) == count
    looked = await acme.get(f"/v1/commands/{ids[-1]}")
    assert looked.json() == answers[-1]["command"]


async def test_the_same_lines_again_give_the_same_commands(acme: httpx2.AsyncClient, broker: Broker) -> None:
    lines = [{**LINE, "params": {"n": n}, "idempotency_key": f"k{n}"} for n in range(20)]
    first = await sent(acme, *lines)
    again = await sent(acme, *lines, {**LINE, "params": {"n": 99}, "idempotency_key": "k3"})

    assert [one["command"]["id"] for one in again[:-1]] == [one["command"]["id"] for one in first]
    assert again[-1]["status"] == 422
    assert again[-1]["problem"]["code"] == "idempotency_key_reused"


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        (b"{", 400, "The line is not JSON"),
        (b"[]", 400, "The line does not fit"),
        (b'"x"', 400, "The line does not fit"),
        (b"\xff", 400, "The line is not UTF-8"),
        (b'{"agent": "plant-1", "operation": "echo", "operaton": 1}', 400, "known members"),
        (b'{"agent": "plant-1"}', 400, "operation"),
        (b'{"operation": "echo"}', 400, "exactly one of agent and group"),
        (b'{"agent": "nobody", "operation": "echo"}', 404, "no agent"),
        (b'{"agent": "plant-1", "operation": "echo", "idempotency_key": ""}', 400, "idempotency_key wants"),
        (b'{"agent": "plant-1", "operation": "echo", "idempotency_key": "a b"}', 400, "idempotency_key wants"),
        (b'{"agent": "plant-1", "operation": "echo", "ttl": -1}', 400, "ttl"),
        (b'{"agent": "plant-1", "operation": "echo", "params": []}', 400, "params"),
        (b'{"agent": "plant-1", "operation": "echo", "signature": "a.b.c"}', 400, "signature"),
        (b'{"agent": "plant-1", "operation": "echo", "sealed": "x"}', 400, "seal_to"),
        (b"[" * 50_000, 400, "The line does not fit"),
        (b'{"params": "' + b"x" * (COMMAND_BYTES + 65_536) + b'"}', 413, "bytes that are taken here"),
        (
            b'{"agent": "plant-1", "operation": "echo", "params": {"a": "' + b"x" * COMMAND_BYTES + b'"}}',
            413,
            "params",
        ),
    ],
)
async def test_a_line_that_is_wrong_is_told_so_and_the_others_go_on(
    acme: httpx2.AsyncClient, line: bytes, status: int, told: str
) -> None:
    first, wrong, last = await sent(acme, LINE, line, LINE)

    assert (first["status"], last["status"]) == (202, 202)
    assert (wrong["line"], wrong["status"]) == (2, status)
    problem = wrong["problem"]
    assert problem["status"] == status
    assert problem["type"].startswith("urn:outhaul:problem:")
    assert told in problem["detail"]


async def test_blank_lines_are_counted_and_not_answered(acme: httpx2.AsyncClient) -> None:
    answers = await sent(acme, LINE, b"", b"  \r", LINE)
    assert [one["line"] for one in answers] == [1, 4]


async def test_a_body_without_a_line_is_answered_with_none(acme: httpx2.AsyncClient) -> None:
    assert await sent(acme) == []


async def test_the_last_line_needs_no_end(acme: httpx2.AsyncClient) -> None:
    answer = await acme.post("/v1/commands/bulk", content=json.dumps(LINE).encode(), headers=NDJSON)
    assert json.loads(answer.text)["status"] == 202


async def test_lines_are_answered_while_the_body_still_comes(broker: Broker) -> None:
    place = urlsplit(broker.url)
    # By hand: httpx2 reads nothing before it has sent everything.
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    key = await broker.key("acme")
    writer.write(
        f"POST /v1/commands/bulk HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    for piece, numbers in (
        (text_of(LINE, LINE) + b'{"agent": "pl', [1, 2]),
        (b'ant-1", "operation": "echo"}\n', [3]),
    ):
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        found: list[int] = []
        while len(found) < len(numbers):
            line = await reader.readline()
            assert line, "the answer ended"
            if line.startswith(b'{"line"'):
                found.append(json.loads(line)["line"])
        assert found == numbers
    writer.write(b"0\r\n\r\n")
    assert (await reader.readuntil(b"\r\n0\r\n\r\n")).strip().endswith(b"0")
    writer.close()


async def test_a_caller_that_leaves_in_the_middle_leaves_what_was_kept(broker: Broker) -> None:
    place = urlsplit(broker.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    key = await broker.key("acme")
    head = (
        f"POST /v1/commands/bulk HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/x-ndjson\r\nContent-Length: 10000\r\n\r\n"
    )
    writer.write(head.encode() + text_of(LINE) + b'{"agent": "plant-1", "operation": "echo"}')
    while not (await reader.readline()).startswith(b'{"line"'):
        pass
    writer.close()
    await writer.wait_closed()
    async with broker.client(key) as other:
        kept = (await other.get("/v1/commands")).json()["items"]
    assert len(kept) == 1, "a line that was cut is none"


async def test_a_body_of_another_kind_is_refused(acme: httpx2.AsyncClient) -> None:
    answer = await acme.post("/v1/commands/bulk", json=LINE)
    assert answer.status_code == 415


async def test_who_may_not_submit_may_not_in_bulk(broker: Broker) -> None:
    async with broker.client(await broker.key("acme", "commands:read")) as reader:
        answer = await reader.post("/v1/commands/bulk", content=text_of(LINE), headers=NDJSON)
    assert answer.status_code == 403


def test_lines_are_found_wherever_the_pieces_end() -> None:
    body = b'{"a":1}\n\n{"b":2}\r\n' + b"x" * 30 + b"\n{}"
    whole = [(1, b'{"a":1}'), (3, b'{"b":2}'), (4, None), (5, b"{}")]
    for size in range(1, len(body) + 1):
        lines = Lines(20)
        found = [one for start in range(0, len(body), size) for one in lines.feed(body[start : start + size])]
        assert [*found, *lines.end()] == whole, size


def test_a_line_without_end_holds_no_more_than_its_limit() -> None:
    lines = Lines(1_000)
    for _ in range(100):
        assert list(lines.feed(b"x" * 500)) == []
    assert sum(map(len, lines._parts)) <= 1_000  # what it holds is what is asked here
    assert list(lines.feed(b"\n{}\n")) == [(1, None), (2, b"{}")]


async def test_sealed_and_signed_lines_are_taken_as_they_are(acme: httpx2.AsyncClient, broker: Broker) -> None:
    text, key = sealing.params_text(bytes(range(200))), sealing.key_text(bytes(range(32)))
    sealed = {"agent": "plant-1", "operation": "echo", "sealed": text, "seal_to": key}
    signed = {**LINE, "signature": "a.b.c", "idempotency_key": "k1"}

    first, second = await sent(acme, sealed, signed)

    assert (first["command"]["sealed"], second["command"]["signed"]) == (True, True)
    one, other = broker.commands.submissions
    assert (one.params, one.sealed, one.seal_to) == (text.encode(), True, key)
    assert (other.signature, other.idempotency_key) == ("a.b.c", "k1")


async def test_many_lines_of_one_request_count_as_many_among_tenants(acme: httpx2.AsyncClient, broker: Broker) -> None:
    async with broker.client(await broker.key("other")) as other:
        assert (await other.get("/v1/commands")).status_code == 200
    await sent(acme, *[LINE] * (LINES_AT_ONCE // 2))
    assert not broker.usage.greedy("acme")
    await sent(acme, *[LINE] * (LINES_AT_ONCE + 1))
    assert broker.usage.greedy("acme")
    assert not broker.usage.greedy("other")
