"""Commands over HTTP: submit, repeat, wait, look, list, cancel."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from cloud_broker.store.commands import CommandError, Finish, RowSetInfo
from cloud_broker.tenants import Scope
from protocol.states import CommandState
from tests.cloud_broker.api.broker import COLUMNS, COMMAND_BYTES, Broker

ACME = Scope("acme")
BODY = {"agent": "plant-1", "operation": "echo", "params": {"a": 1}, "correlation_id": "order-1", "ttl": 60}
MEMBERS = [
    "id",
    "tenant",
    "agent",
    "group",
    "operation",
    "state",
    "waiting_for",
    "not_before",
    "outcome",
    "attempts",
    "correlation_id",
    "idempotency_key",
    "created_at",
    "started_at",
    "finished_at",
    "expires_at",
    "outputs",
    "row_sets",
    "error",
    "warnings",
    "replay_of",
    "replayed_by",
    "resolution",
    "sealed",
    "seal_to",
    "rows_as",
    "signed",
    "signature_sha256",
    "proof",
    "links",
]
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")


async def test_a_submitted_command_is_answered_202_with_its_place(acme: httpx2.AsyncClient) -> None:
    answer = await acme.post("/v1/commands", json=BODY)

    command = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/commands/{command['id']}"
    assert answer.headers["content-type"] == "application/json"
    assert list(command) == MEMBERS
    assert command["state"] == "queued"
    assert command["waiting_for"] == "agent"
    assert command["outcome"] is None
    assert command["correlation_id"] == "order-1"
    assert TIME.match(command["created_at"])
    assert TIME.match(command["expires_at"])
    here = answer.headers["location"]
    assert command["links"] == {
        "self": here,
        "rows": f"{here}/rows",
        "cancel": f"{here}/cancel",
        "timeline": f"{here}/timeline",
    }
    assert (await acme.get(here)).json() == command


async def test_parameters_reach_the_store_byte_for_byte(acme: httpx2.AsyncClient, broker: Broker) -> None:
    params = b'{"n": 0.10000000000000000000001, "big": 123456789012345678901234567890, "t": "\\u00e9\xc3\xa9"}'
    body = b'{"agent":"plant-1","operation":"echo","params":' + params + b"}"

    await acme.post("/v1/commands", content=body, headers={"Content-Type": "application/json"})

    assert broker.commands.submissions[0].params == params


async def test_outputs_come_back_digit_for_digit(acme: httpx2.AsyncClient, broker: Broker) -> None:
    place = (await acme.post("/v1/commands", json=BODY)).headers["location"]
    command_id = place.rpartition("/")[2]
    outputs = b'{"total":"1.10","big":123456789012345678901234567890,"x":1.50}'
    info = RowSetInfo(COLUMNS, 0, 10, 3)
    finish = Finish(CommandState.SUCCEEDED, time.time(), outputs=outputs, row_sets=(info,))
    await broker.commands.finish(ACME, command_id, finish)

    answer = await acme.get(place)

    assert outputs in answer.content
    command = answer.json()
    assert command["outcome"] == command["state"] == "succeeded"
    assert command["waiting_for"] is None
    columns = [{"name": "no", "type": "string"}, {"name": "total", "type": "decimal"}]
    assert command["row_sets"] == [{"columns": columns, "rows": 3}]


async def test_a_failed_command_says_why(acme: httpx2.AsyncClient, broker: Broker) -> None:
    place = (await acme.post("/v1/commands", json=BODY)).headers["location"]
    error = CommandError("business", "source_rejected", "no such customer", "P0001")
    await broker.commands.finish(
        ACME, place.rpartition("/")[2], Finish(CommandState.REJECTED, time.time(), error=error)
    )

    command = (await acme.get(place)).json()

    assert command["state"] == "rejected"
    assert command["error"] == {
        "kind": "business",
        "code": "source_rejected",
        "message": "no such customer",
        "source_code": "P0001",
    }


async def test_prefer_wait_answers_200_as_soon_as_the_command_ended(acme: httpx2.AsyncClient, broker: Broker) -> None:
    waiting = asyncio.create_task(acme.post("/v1/commands", json=BODY, headers={"Prefer": "wait=20"}))
    async with asyncio.timeout(10):
        while not (found := (await acme.get("/v1/commands")).json()["items"]):
            pass
    await broker.commands.finish(ACME, found[0]["id"], Finish(CommandState.SUCCEEDED, time.time()))

    answer = await waiting

    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.json()["state"] == "succeeded"


async def test_prefer_wait_answers_202_when_time_is_up(acme: httpx2.AsyncClient) -> None:
    answer = await acme.post("/v1/commands", json=BODY, headers={"Prefer": "respond-async, wait=1"})

    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"


async def test_looking_may_wait_for_the_end(acme: httpx2.AsyncClient, broker: Broker) -> None:
    place = (await acme.post("/v1/commands", json=BODY)).headers["location"]
    waiting = asyncio.create_task(acme.get(place, params={"wait": "20"}))
    await broker.commands.finish(ACME, place.rpartition("/")[2], Finish(CommandState.FAILED, time.time()))

    assert (await waiting).json()["state"] == "failed"


async def test_the_same_idempotency_key_gives_the_same_command(acme: httpx2.AsyncClient, broker: Broker) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = await acme.post("/v1/commands", json=BODY, headers=headers)
    again = await acme.post("/v1/commands", json=BODY, headers={"Idempotency-Key": '"k-1"'})
    await broker.commands.finish(ACME, first.json()["id"], Finish(CommandState.SUCCEEDED, time.time()))
    later = await acme.post("/v1/commands", json=BODY, headers=headers)

    assert again.status_code == 202
    assert again.json() == first.json()
    assert later.status_code == 200
    assert later.json()["id"] == first.json()["id"]


async def test_the_same_key_with_another_body_is_refused(acme: httpx2.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k-1"}
    await acme.post("/v1/commands", json=BODY, headers=headers)

    answer = await acme.post("/v1/commands", json=BODY | {"params": {"a": 2}}, headers=headers)

    assert answer.status_code == 422
    assert answer.json()["code"] == "idempotency_key_reused"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",) * 2,
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", ""),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""),
        ("hello", ""),
    ],
)
async def test_a_malformed_traceparent_is_as_good_as_none(
    acme: httpx2.AsyncClient, broker: Broker, given: str, kept: str
) -> None:
    await acme.post("/v1/commands", json=BODY, headers={"traceparent": given})

    assert broker.commands.submissions[0].traceparent == kept


async def test_a_list_goes_on_where_the_part_before_ended(acme: httpx2.AsyncClient) -> None:
    made = [(await acme.post("/v1/commands", json=BODY)).json()["id"] for _ in range(5)]

    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = (await acme.get("/v1/commands", params={"limit": "2"} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break

    assert seen == sorted(made, reverse=True)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 2),
        ({"state": "queued"}, 1),
        ({"state": "cancelled"}, 1),
        ({"state": "failed"}, 0),
        ({"operation": "echo"}, 2),
        ({"operation": "other"}, 0),
        ({"agent": "plant-1"}, 2),
        ({"agent": "plant-2"}, 0),
        ({"correlation_id": "order-1"}, 2),
        ({"correlation_id": "order-2"}, 0),
        ({"since": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}, 2),
        ({"since": (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")}, 0),
    ],
)
async def test_a_list_can_be_narrowed(acme: httpx2.AsyncClient, query: dict[str, str], count: int) -> None:
    await acme.post("/v1/commands", json=BODY)
    place = (await acme.post("/v1/commands", json=BODY)).headers["location"]
    await acme.post(f"{place}/cancel")

    assert len((await acme.get("/v1/commands", params=query)).json()["items"]) == count


async def test_cancelling_gives_the_command(acme: httpx2.AsyncClient) -> None:
    place = (await acme.post("/v1/commands", json=BODY)).headers["location"]

    answer = await acme.post(f"{place}/cancel")

    assert answer.status_code == 200
    assert answer.json()["state"] == "cancelled"


async def test_a_repeat_with_a_fresh_signature_is_the_same_command(acme: httpx2.AsyncClient) -> None:
    key = {"Idempotency-Key": "order-4711"}
    first = await acme.post("/v1/commands", json=BODY | {"signature": "a.b.c"}, headers=key)
    again = await acme.post("/v1/commands", json=BODY | {"signature": "a.b.d"}, headers=key)
    without = await acme.post("/v1/commands", json=BODY, headers=key)

    assert (first.status_code, first.json()["signed"], first.json()["proof"]) == (202, True, None)
    assert again.json()["id"] == first.json()["id"]
    assert (without.status_code, without.json()["code"]) == (422, "idempotency_key_reused")


BAD_BODIES = [
    (b"", "operation"),
    (b"nonsense", "not JSON"),
    (b"[]", "does not fit"),
    (b"\xff\xfe", "UTF-8"),
    (b'{"agent":"a","operation":"o","params":"\xff"}', "UTF-8"),
    (b'{"agent":"a","operation":"o","colour":1}', "colour"),
    (b'{"agent":"a","operation":1}', "operation"),
    (b'{"agent":"a"}', "operation"),
    (b'{"operation":"o"}', "neither"),
    (b'{"agent":"a","group":"g","operation":"o"}', "both"),
    (b'{"agent":"a","operation":"o","params":[1]}', "params: wants an object"),
    (b'{"agent":"a","operation":"o","params":null}', "params: wants an object"),
    (b'{"agent":"a","operation":"o","params":{"a":}}', "not JSON"),
    (b'{"agent":"a","operation":"o","params":{"a":NaN}}', "not JSON"),
    (b'{"agent":"a","operation":"o","ttl":0}', "ttl"),
    (b'{"agent":"a","operation":"o","ttl":1e300}', "ttl"),
    (b'{"agent":"a","operation":"o","ttl":"60"}', "ttl"),
    (b'{"agent":"a","operation":"o","priority":101}', "priority"),
    (b'{"agent":"a","operation":"o","signature":"x"}', "signature: wants a compact JWS"),
    (b'{"agent":"a","operation":"o","signature":"a.b.c"}', "signature: wants an idempotency key"),
    (b'{"agent":"a","operation":"o","signature":{}}', "signature"),
    (b'{"agent":"a","operation":"o","signature":"a.b.' + b"c" * 4096 + b'"}', "signature: wants at most 4096"),
    (b'{"agent":"a","operation":"o","seal_to":{}}', "seal_to"),
    (b'{"agent":"a","operation":"","params":{}}', "operation"),
]


@pytest.mark.parametrize(("body", "said"), BAD_BODIES)
async def test_a_bad_body_is_refused_by_name(acme: httpx2.AsyncClient, body: bytes, said: str) -> None:
    answer = await acme.post("/v1/commands", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code in (400, 413)
    assert re.search(said, answer.json()["detail"])


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é", '""'])
async def test_a_bad_idempotency_key_is_refused(acme: httpx2.AsyncClient, key: str) -> None:
    answer = await acme.post("/v1/commands", json=BODY, headers={b"Idempotency-Key": key.encode("latin-1")})

    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["detail"]


async def test_a_body_that_is_not_called_json_is_refused(acme: httpx2.AsyncClient) -> None:
    answer = await acme.post("/v1/commands", data={"a": "b"})

    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_beyond_the_limit_is_refused_while_it_is_read(acme: httpx2.AsyncClient, chunked: bool) -> None:
    size = COMMAND_BYTES + 200_000
    sent = 0

    async def parts() -> object:
        nonlocal sent
        for _ in range(size // 1000):
            sent += 1000
            yield b" " * 1000

    content = parts() if chunked else b" " * size
    answer = await acme.post("/v1/commands", content=content, headers={"Content-Type": "application/json"})  # type: ignore[arg-type]  # both are bodies

    assert answer.status_code == 413
    assert answer.json()["code"] == "request_too_large"


async def test_parameters_beyond_their_limit_are_refused(acme: httpx2.AsyncClient) -> None:
    fits = BODY | {"params": {"a": "x" * (COMMAND_BYTES - 100)}}
    beyond = BODY | {"params": {"a": "x" * COMMAND_BYTES}}

    assert (await acme.post("/v1/commands", json=fits)).status_code == 202
    answer = await acme.post("/v1/commands", json=beyond)
    assert answer.status_code == 413
    assert answer.json()["limit"] == COMMAND_BYTES


@pytest.mark.parametrize(
    "query",
    [
        "stat=failed",
        "state=asleep",
        "state=failed&state=queued",
        "cursor=abc",
        "cursor=cmd_1",
        "cursor=",
        "limit=0",
        "limit=201",
        "limit=x",
        "since=yesterday",
        "since=2026-01-01T00:00",
    ],
)
async def test_a_bad_filter_is_refused_by_name(acme: httpx2.AsyncClient, query: str) -> None:
    answer = await acme.get(f"/v1/commands?{query}")

    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["detail"]


async def test_nothing_of_a_command_passes_through_floats(acme: httpx2.AsyncClient) -> None:
    body = json.dumps(BODY).replace('"ttl": 60', '"ttl": 60.5')

    answer = await acme.post("/v1/commands", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 202
