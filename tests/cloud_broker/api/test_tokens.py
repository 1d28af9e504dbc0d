"""Callers with a token of an OpenID provider in place of a key; the provider is somebody else's program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from cloud_broker.settings import ApiSettings, IssuerSettings
from config.dev.openid_provider import OpenidProvider, openid_provider
from tests.cloud_broker.api.broker import Broker, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
BODY = {"agent": "plant-1", "operation": "echo"}
CLIENTS: dict[str, dict[str, Any]] = {
    "shop": {"tenant": "acme"},
    "both": {"tenant": ["acme", "other"]},
    "stranger": {"tenant": "nobody"},
    "none": {},
}


@pytest.fixture(scope="module", name="provider")
def _provider() -> Iterator[OpenidProvider]:
    with openid_provider("outhaul", CLIENTS) as running_provider:
        yield running_provider


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="broker")
async def _broker(tmp_path_factory: pytest.TempPathFactory, provider: OpenidProvider) -> AsyncIterator[Broker]:
    issuers = (
        IssuerSettings(issuer=provider.issuer, audience="outhaul"),
        IssuerSettings(issuer="http://127.0.0.1:9", audience="outhaul"),
    )
    async with running(tmp_path_factory.mktemp("broker"), api=ApiSettings(issuers=issuers)) as server:
        yield server


async def test_a_token_is_as_good_as_a_key_for_its_tenant_and_scopes(broker: Broker, provider: OpenidProvider) -> None:
    async with broker.client(provider.token("shop", "commands:read commands:write")) as shop:
        made = await shop.post("/v1/commands", json=BODY)
        looked = await shop.get(made.headers["location"])
        beyond = await shop.get("/v1/keys")

    assert made.status_code == 202
    assert looked.json()["tenant"] == "acme"
    assert (beyond.status_code, beyond.json()["scope"]) == (403, "tenant:admin")
    command = await broker.store.command(broker.scope("acme"), made.json()["id"])
    assert command is not None
    assert command.key_id == f"{provider.issuer}#shop"


async def test_the_token_alone_decides_the_tenant(broker: Broker, provider: OpenidProvider) -> None:
    token = provider.token("shop", "commands:read")
    async with broker.client(token) as shop:
        there = await shop.get("/v1/commands", headers={"Outhaul-Tenant": "other"})
        nowhere = await shop.get("/v1/commands", headers={"Outhaul-Tenant": "0ther"})
        own = await shop.get("/v1/commands", headers={"Outhaul-Tenant": "acme"})

    assert own.status_code == 200
    assert there.status_code == 403
    assert there.content == nowhere.content.replace(b"0ther", b"other")


async def test_a_token_for_several_tenants_names_one_of_them(broker: Broker, provider: OpenidProvider) -> None:
    async with broker.client(provider.token("both", "commands:read")) as both:
        unnamed = await both.get("/v1/commands")
        named = await both.get("/v1/commands", headers={"Outhaul-Tenant": "other"})
        twice = await both.get(
            "/v1/commands", headers=httpx2.Headers([("outhaul-tenant", t) for t in ("acme", "other")])
        )

    assert (unnamed.status_code, unnamed.json()["code"]) == (403, "tenant_not_named")
    assert named.status_code == 200
    assert twice.status_code == 400


@pytest.mark.parametrize(("client", "status"), [("stranger", 403), ("none", 401)])
async def test_a_tenant_that_is_not_there_gives_nothing(
    broker: Broker, provider: OpenidProvider, client: str, status: int
) -> None:
    async with broker.client(provider.token(client, "commands:read")) as stranger:
        assert (await stranger.get("/v1/commands")).status_code == status


async def test_a_token_that_was_changed_is_refused_and_not_shown(broker: Broker, provider: OpenidProvider) -> None:
    token = provider.token("shop", "commands:read")
    async with broker.client(f"{token[:-8]}AAAAAAAA") as shop:
        answer = await shop.get("/v1/commands")

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert token[-20:-8] not in answer.text
