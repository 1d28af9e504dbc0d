"""Who may ask: keys, tenants, suspension."""

from __future__ import annotations

import asyncio
import time

import httpx2
import pytest

from cloud_broker.callers.keys import new_key, sha256_of
from tests.cloud_broker.api.broker import Broker

BODY = {"agent": "plant-1", "operation": "echo"}


async def anyhow(client: httpx2.AsyncClient, status: int) -> None:
    """Submit until it is answered so: what another process changes in the store counts within a second."""
    async with asyncio.timeout(1.0):
        while (await client.post("/v1/commands", json=BODY)).status_code != status:
            pass


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Bearer ohk_0123456789ab_" + "0" * 64,
        "Basic b2hrOg==",
        "Token {key}",
        "Bearer {key}x",
        "Bearer x{key}",
        "Bearer {key} {key}",
    ],
)
async def test_what_is_no_key_is_401(broker: Broker, authorization: str | None) -> None:
    key = await broker.key("acme")
    headers = {} if authorization is None else {"Authorization": authorization.format(key=key).strip()}
    async with broker.client() as client:
        answer = await client.get("/v1/commands", headers=headers)

    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"
    assert key not in answer.text


async def test_the_word_bearer_may_be_written_in_any_case(broker: Broker) -> None:
    async with broker.client(Authorization=f"bEARER {await broker.key('acme')}") as client:
        assert (await client.get("/v1/commands")).status_code == 200


async def test_an_expired_key_is_refused(broker: Broker) -> None:
    async with broker.client(await broker.key("acme", ttl_s=-1.0)) as client:
        answer = await client.get("/v1/commands")

    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]


async def test_a_revoked_key_is_refused_from_the_next_request_on(broker: Broker, acme: httpx2.AsyncClient) -> None:
    made = (await acme.post("/v1/keys", json={"scopes": ["commands:read"]})).json()
    async with broker.client(made["key"]) as client:
        assert (await client.get("/v1/commands")).status_code == 200
        assert (await acme.post(f"/v1/keys/{made['id']}/revoke")).json()["revoked_at"]
        answer = await client.get("/v1/commands")

    assert answer.status_code == 401
    assert "revoked" in answer.json()["detail"]


async def test_a_key_that_spans_tenants_names_one(broker: Broker, acme: httpx2.AsyncClient) -> None:
    await acme.post("/v1/commands", json=BODY)
    async with broker.client(await broker.key(None)) as admin:
        unnamed = await admin.get("/v1/commands")
        unknown = await admin.get("/v1/commands", headers={"Outhaul-Tenant": "nobody"})
        named = await admin.get("/v1/commands", headers={"Outhaul-Tenant": "acme"})
        other = await admin.get("/v1/commands", headers={"Outhaul-Tenant": "other"})

    assert (unnamed.status_code, unnamed.json()["code"]) == (403, "tenant_not_named")
    assert (unknown.status_code, unknown.json()["code"]) == (403, "tenant_not_named")
    assert len(named.json()["items"]) == 1
    assert other.json()["items"] == []


async def test_a_tenants_key_can_not_name_another(broker: Broker, acme: httpx2.AsyncClient) -> None:
    assert (await acme.get("/v1/commands", headers={"Outhaul-Tenant": "acme"})).status_code == 200
    there = await acme.get("/v1/commands", headers={"Outhaul-Tenant": "other"})
    nowhere = await acme.get("/v1/commands", headers={"Outhaul-Tenant": "0ther"})

    assert there.status_code == 403
    assert there.content == nowhere.content.replace(b"0ther", b"other")


async def test_a_suspended_tenant_gets_nothing_new_and_can_still_look(broker: Broker, acme: httpx2.AsyncClient) -> None:
    place = (await acme.post("/v1/commands", json=BODY)).headers["location"]
    await broker.store.set_tenant_state("acme", "suspended")
    await anyhow(acme, 403)

    for path in ("/v1/commands", "/v1/agents/plant-1/tokens"):
        answer = await acme.post(path, json=BODY)
        assert (answer.status_code, answer.json()["code"]) == (403, "tenant_suspended")
    assert (await acme.get(place)).status_code == 200
    assert (await acme.post(f"{place}/cancel")).status_code == 200
    await broker.store.set_tenant_state("acme", "active")
    await anyhow(acme, 202)


async def test_the_last_use_of_a_key_is_noted(broker: Broker, acme: httpx2.AsyncClient) -> None:
    before = time.time()
    await acme.get("/v1/commands")
    assert await broker.store.healthy()  # a write is done after those that were asked before

    [key] = await broker.store.keys("acme")
    assert key.last_used_at is not None
    assert before <= key.last_used_at <= time.time()


async def test_a_key_gives_only_what_it_has(broker: Broker) -> None:
    async with broker.client(await broker.key("acme", "tenant:admin", "commands:read")) as client:
        beyond = await client.post("/v1/keys", json={"scopes": ["commands:read", "commands:write"]})
        within = await client.post("/v1/keys", json={"scopes": ["commands:read"], "ttl": 60})
        unknown = await client.post("/v1/keys", json={"scopes": ["fly"]})

    assert beyond.status_code == 403
    assert "commands:write" in beyond.json()["detail"]
    assert within.status_code == 201
    assert list(within.json()) == ["id", "key", "tenant", "scopes", "expires_at"]
    assert unknown.status_code in (400, 403)


async def test_keys_of_other_tenants_are_neither_listed_nor_revoked(broker: Broker, acme: httpx2.AsyncClient) -> None:
    async with broker.client(await broker.key("other")) as other:
        [theirs] = (await other.get("/v1/keys")).json()["items"]

    assert [key["tenant"] for key in (await acme.get("/v1/keys")).json()["items"]] == ["acme"]
    assert (await acme.post(f"/v1/keys/{theirs['id']}/revoke")).status_code == 404


async def test_tenants_are_created_by_a_key_that_spans_them(broker: Broker, acme: httpx2.AsyncClient) -> None:
    async with broker.client(await broker.key(None)) as admin:
        assert (await admin.post("/v1/tenants", json={"name": "new"})).status_code == 201
        assert (await admin.post("/v1/tenants", json={"name": "new"})).json()["code"] == "conflict"
        assert (await admin.post("/v1/tenants", json={"name": "a b"})).status_code == 400
        names = [tenant["name"] for tenant in (await admin.get("/v1/tenants")).json()["items"]]

    assert names == ["acme", "new", "other"]
    assert [tenant["name"] for tenant in (await acme.get("/v1/tenants")).json()["items"]] == ["acme"]
    assert (await acme.post("/v1/tenants", json={"name": "mine"})).status_code == 403


def test_a_key_wants_known_scopes() -> None:
    with pytest.raises(ValueError, match="found fly"):
        new_key("acme", ["fly"], 0.0)
    with pytest.raises(ValueError, match="found none"):
        new_key("acme", [], 0.0)


async def test_a_key_is_replaced_without_a_gap(broker: Broker, acme: httpx2.AsyncClient) -> None:
    made = (await acme.post("/v1/keys", json={"scopes": ["commands:read"], "name": "web shop"})).json()

    answer = await acme.post(f"/v1/keys/{made['id']}/rotate", json={"grace": 3600})
    again = await acme.post(f"/v1/keys/{made['id']}/rotate")

    assert answer.status_code == 201
    new = answer.json()
    assert (new["tenant"], new["scopes"]) == ("acme", ["commands:read"])
    assert again.status_code == 409
    assert new["id"] in again.json()["detail"]
    for text in (made["key"], new["key"]):
        async with broker.client(text) as client:
            assert (await client.get("/v1/commands")).status_code == 200
    listed = {key["id"]: key for key in (await acme.get("/v1/keys")).json()["items"]}
    assert (listed[made["id"]]["state"], listed[made["id"]]["replaced_by"]) == ("expires_soon", new["id"])
    assert (listed[new["id"]]["state"], listed[new["id"]]["name"]) == ("active", "web shop")


async def test_without_grace_a_replaced_key_is_refused_at_once(broker: Broker, acme: httpx2.AsyncClient) -> None:
    made = (await acme.post("/v1/keys", json={"scopes": ["commands:read"]})).json()
    async with broker.client(made["key"]) as client:
        assert (await client.get("/v1/commands")).status_code == 200
        assert (await acme.post(f"/v1/keys/{made['id']}/rotate", json={"grace": 0})).status_code == 201
        answer = await client.get("/v1/commands")

    assert (answer.status_code, answer.json()["code"]) == (401, "credential_expired")


async def test_nobody_gets_more_rights_or_another_name_by_replacing_a_key(
    broker: Broker, acme: httpx2.AsyncClient
) -> None:
    theirs, text = new_key("acme", ["commands:read"], time.time(), owner="bob")
    await broker.store.add_key(theirs, sha256_of(text))
    mine = (await acme.post("/v1/keys", json={"scopes": ["*"]})).json()
    async with broker.client(await broker.key("acme", "tenant:admin", "commands:read")) as client:
        more = await client.post(f"/v1/keys/{mine['id']}/rotate")
        another = await client.post(f"/v1/keys/{theirs.id}/rotate")
        named = await client.post("/v1/keys", json={"scopes": ["commands:read"], "owner": "bob"})
        unknown = await client.post("/v1/keys/0123456789ab/rotate")

    assert [answer.status_code for answer in (more, another, named, unknown)] == [403, 403, 403, 404]
    async with broker.client(await broker.key(None), **{"Outhaul-Tenant": "acme"}) as admin:
        assert (await admin.post("/v1/keys", json={"scopes": ["commands:read"], "owner": "bob"})).status_code == 201


@pytest.mark.parametrize("grace", [-1, 31 * 86_400])
async def test_a_grace_has_bounds(acme: httpx2.AsyncClient, grace: float) -> None:
    made = (await acme.post("/v1/keys", json={"scopes": ["commands:read"]})).json()
    assert (await acme.post(f"/v1/keys/{made['id']}/rotate", json={"grace": grace})).status_code == 400


async def test_credentials_that_say_two_things_are_refused(broker: Broker) -> None:
    key = await broker.key("acme")
    twice = httpx2.Headers([("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")])
    async with broker.client() as client:
        assert (await client.get("/v1/commands", headers=twice)).status_code == 400
