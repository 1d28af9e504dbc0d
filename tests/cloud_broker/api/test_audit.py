"""The audit trail over HTTP: listed, filtered, exported; each tenant its own, the broker's for administrators."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from cloud_broker.api import audit as api
from cloud_broker.audit import lines as audit_lines
from cloud_broker.audit.check import by_chain
from cloud_broker.audit.trail import BROKER, Act
from cloud_broker.audit.verify import of_export
from cloud_broker.callers.keys import new_key, sha256_of
from tests.cloud_broker.api.broker import Broker

NDJSON = {"Accept": "application/x-ndjson"}


async def some(broker: Broker, count: int, tenant: str = "acme") -> None:
    for number in range(count):
        await broker.store.note(
            Act(tenant, "key:k1", "approval_asked", f"approval:{number}", time.time(), f"c{number}")
        )


async def items(broker: Broker, key: str, **query: Any) -> tuple[list[dict[str, Any]], str | None]:
    async with broker.client(key) as client:
        answer = await client.get("/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    return document["items"], document["next"]


async def test_it_is_listed_newest_first_by_pages(broker: Broker) -> None:
    key = await broker.key("acme", "audit:read")
    await some(broker, 7)
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page, cursor = await items(broker, key, limit=3, **({"cursor": cursor} if cursor else {}))
        found += page
        if cursor is None:
            break
    numbers = [one["number"] for one in found]
    assert numbers == list(range(len(numbers), 0, -1))
    assert [one["target"] for one in found[:7]] == [f"approval:{number}" for number in range(6, -1, -1)]
    assert found[-1]["action"] == "tenant_created"
    assert found[0]["previous"] == found[1]["hash"]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"action": "approval_asked"}, 4),
        ({"target": "approval:2"}, 1),
        ({"action": "approval_given"}, 0),
        ({"since": "2099-01-01T00:00:00Z"}, 0),
        ({"since": "2001-01-01T00:00:00+02:00", "action": "tenant_created"}, 1),
    ],
)
async def test_it_is_filtered_in_lists_and_exports_alike(broker: Broker, query: dict[str, str], count: int) -> None:
    key = await broker.key("acme", "audit:read")
    await some(broker, 4)
    assert len((await items(broker, key, **query))[0]) == count
    async with broker.client(key, **NDJSON) as client:
        lines = (await client.get("/v1/audit", params=query)).content.splitlines()
    assert len(lines) == count


async def test_an_export_can_be_verified_by_itself_and_against_what_was_kept(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "EXPORTED", 3)
    key = await broker.key("acme", "audit:read")
    await some(broker, 10)
    async with broker.client(key, **NDJSON) as client:
        earlier = await client.get("/v1/audit")
        assert earlier.headers["content-type"] == "application/x-ndjson"
        await some(broker, 5)
        later = (await client.get("/v1/audit")).content
    kept = by_chain(audit_lines.kept(earlier.content.splitlines()))
    (found,) = of_export(later.splitlines(), kept)
    assert (found.tenant, found.misfit) == ("acme", None)
    assert found.records == len(earlier.content.splitlines()) + 5
    assert json.loads(later.splitlines()[0])["number"] == 1


async def test_a_tenant_sees_its_own_and_the_broker_is_for_keys_that_span_tenants(broker: Broker) -> None:
    await some(broker, 2, tenant="other")
    mine = await broker.key("acme", "audit:read")
    assert {one["tenant"] for one in (await items(broker, mine))[0]} == {"acme"}
    async with broker.client(mine) as client:
        answer = await client.get("/v1/audit", params={"chain": "broker"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    admin = await broker.key(None, "audit:read")
    found, _ = await items(broker, admin, chain="broker")
    assert (found[0]["tenant"], found[0]["action"]) == (BROKER, "key_created")
    async with broker.client(admin, **{"Outhaul-Tenant": "other"}) as client:
        found = (await client.get("/v1/audit")).json()["items"]
    assert {one["tenant"] for one in found} == {"other"}


@pytest.mark.parametrize(
    ("query", "accept", "status"),
    [
        ({"action": "nothing"}, "*/*", 400),
        ({"cursor": "x"}, "*/*", 400),
        ({"cursor": "-1"}, "*/*", 400),
        ({"cursor": "²"}, "*/*", 400),
        ({"since": "2026-01-31T12:00:00"}, "*/*", 400),
        ({"chain": "other"}, "*/*", 400),
        ({"limit": "0"}, "*/*", 400),
        ({"kind": "x"}, "*/*", 400),
        ({"cursor": "5"}, "application/x-ndjson", 400),
        ({}, "text/html", 406),
    ],
)
async def test_what_can_not_be_answered_is_refused(
    broker: Broker, query: dict[str, str], accept: str, status: int
) -> None:
    async with broker.client(await broker.key("acme", "audit:read"), Accept=accept) as client:
        answer = await client.get("/v1/audit", params=query)
    assert answer.status_code in (status, 422 if status == 400 else status), answer.text


async def test_it_wants_a_scope_of_its_own(broker: Broker) -> None:
    async with broker.client(await broker.key("acme", "commands:read", "tenant:admin")) as client:
        assert (await client.get("/v1/audit")).status_code == 403


async def test_who_did_it_is_the_key_that_was_shown(broker: Broker) -> None:
    record, admin = new_key("acme", ["*"], time.time())
    await broker.store.add_key(record, sha256_of(admin))
    async with broker.client(admin) as client:
        made = (await client.post("/v1/keys", json={"scopes": ["commands:read"]})).json()
        await client.post(f"/v1/keys/{made['id']}/revoke")
        await client.post("/v1/agents/plant-1/tokens", json={})
        await client.post("/v1/agents/plant-1/revoke")
    found, _ = await items(broker, admin, limit=3)
    assert [(one["actor"], one["action"]) for one in found] == [
        (f"key:{record.id}", action) for action in ("agent_revoked", "key_revoked", "key_created")
    ]
    assert found[1]["target"] == f"key:{made['id']}"
    assert made["key"] not in json.dumps(found)


async def test_a_login_that_was_refused_is_noted_without_what_was_shown(broker: Broker) -> None:
    wrong = "ohk_" + "0" * 12 + "_" + "5" * 64
    for _ in range(20):
        async with broker.client(wrong) as client:
            assert (await client.get("/v1/agents")).status_code in (401, 429)
    found, _ = await items(broker, await broker.key(None, "*"), chain="broker", action="login_refused")
    assert 1 <= len(found) < 20
    assert found[0]["detail"]["address"] == "127.0.0.1"
    assert "5" * 64 not in json.dumps(found)
