"""Agents over HTTP, and whether the broker is well."""

from __future__ import annotations

import time

import httpx2
import pytest

from cloud_broker import RELEASE
from cloud_broker.conditions import AgentCondition, ConnectionCondition
from cloud_broker.releases import outdated
from cloud_broker.store.agents import Agent
from cloud_broker.tenants import Scope
from tests.cloud_broker.api.broker import Broker

ACME = Scope("acme")
CATALOGUE = (
    b'{"connections":[{"name":"probe"}],"operations":[{"name":"echo","kind":"synthetic","effect":"read",'
    b'"connection":"probe","params":{"type":"object","properties":{"n":{"minimum":0.10}}},"later":1}]}'
)


async def test_agents_are_listed_with_version_and_certificate(acme: httpx2.AsyncClient, broker: Broker) -> None:
    await broker.store.agent_seen(ACME, "plant-1", 1_000.0, release="0.1.0", system="Linux", journal="b")
    assert await broker.store.healthy()

    [agent] = (await acme.get("/v1/agents")).json()["items"]

    assert agent["name"] == "plant-1"
    assert agent["group"] == "plants"
    assert agent["state"] == "offline"
    assert (agent["version"], agent["outdated"]) == ("0.1.0", True)
    assert agent["last_seen_at"] == "1970-01-01T00:16:40.000000Z"
    assert agent["certificate"]["serial"] == "0a"
    assert (await acme.get("/v1/agents/plant-1")).json() == agent


@pytest.mark.parametrize(
    ("release", "earlier"),
    [("", False), ("0.1.9", True), (RELEASE, False), ("0.10.0", False), ("99.0.0", False), ("a fork", False)],
)
def test_an_agent_is_outdated_where_its_release_is_earlier_than_the_brokers(release: str, earlier: bool) -> None:
    assert outdated(release) is earlier


async def test_an_agent_that_complains_is_degraded_and_says_why(acme: httpx2.AsyncClient, broker: Broker) -> None:
    away = (await acme.get("/v1/agents/plant-1")).json()
    broker.commands.conditions["plant-1"] = AgentCondition(
        "degraded",
        ("the journal can't be written: no space",),
        {"erp": ConnectionCondition("shut", 1_000.0), "edi": ConnectionCondition()},
    )

    agent = (await acme.get("/v1/agents/plant-1")).json()

    assert (away["state"], away["problems"], away["connections"]) == ("offline", [], {})
    assert (agent["state"], agent["problems"]) == ("degraded", ["the journal can't be written: no space"])
    assert agent["connections"] == {
        "erp": {"state": "shut", "until": "1970-01-01T00:16:40.000000Z", "reason": None},
        "edi": {"state": "open", "until": None, "reason": None},
    }


async def test_operations_are_listed_with_their_schemas_as_the_agent_wrote_them(
    acme: httpx2.AsyncClient, broker: Broker
) -> None:
    assert (await acme.get("/v1/agents/plant-1/operations")).json() == {"items": [], "next": None}
    await broker.store.put_catalogue(ACME, "plant-1", CATALOGUE, "d1")

    answer = await acme.get("/v1/agents/plant-1/operations")

    assert b'"params":{"type":"object","properties":{"n":{"minimum":0.10}}}' in answer.content
    [operation] = answer.json()["items"]
    assert operation["name"] == "echo"
    assert operation["effect"] == "read"


async def test_a_token_is_given_once(acme: httpx2.AsyncClient) -> None:
    answer = await acme.post("/v1/agents/plant-2/tokens", json={"group": "plants", "ttl": 60})

    assert answer.status_code == 201
    assert answer.json()["token"] == "oht1.acme.plant-2.plants"
    assert answer.headers["cache-control"] == "no-store"
    assert (await acme.post("/v1/agents/plant-2/tokens")).json()["token"] == "oht1.acme.plant-2.None"


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("a b", {}, "agent"),
        ("-a", {}, "agent"),
        ("x" * 65, {}, "agent"),
        ("a", {"group": ""}, "group"),
        ("a", {"group": "a/b"}, "group"),
        ("a", {"ttl": 0}, "ttl"),
        ("a", {"ttl": 1e9}, "ttl"),
        ("a", {"until": 5}, "until"),
    ],
)
async def test_a_bad_wish_for_a_token_is_refused_by_name(
    acme: httpx2.AsyncClient, name: str, body: dict[str, object], said: str
) -> None:
    answer = await acme.post(f"/v1/agents/{name}/tokens", json=body)

    assert answer.status_code == 400
    assert said in answer.json()["detail"]


async def test_a_revoked_agent_says_so(acme: httpx2.AsyncClient) -> None:
    answer = await acme.post("/v1/agents/plant-1/revoke")

    assert answer.status_code == 200
    assert answer.json()["state"] == "revoked"
    assert (await acme.post("/v1/agents/plant-9/revoke")).json()["agents"] == ["plant-1"]


async def test_an_agent_is_drained_and_taken_back_and_both_are_audited(acme: httpx2.AsyncClient) -> None:
    drained = (await acme.post("/v1/agents/plant-1/drain")).json()
    assert drained["drained_at"] is not None
    assert (await acme.post("/v1/agents/plant-1/drain")).json()["drained_at"] == drained["drained_at"]
    assert (await acme.post("/v1/agents/plant-1/undrain")).json()["drained_at"] is None
    assert (await acme.post("/v1/agents/nobody/drain")).status_code == 404

    noted = [one["action"] for one in (await acme.get("/v1/audit")).json()["items"] if "drained" in one["action"]]
    assert noted == ["agent_undrained", "agent_drained"]


async def test_a_member_whose_file_differs_from_its_group_says_in_what(
    acme: httpx2.AsyncClient, broker: Broker
) -> None:
    now = time.time()
    for name, group in (("plant-2", "plants"), ("plant-3", "plants"), ("alone", None)):
        await broker.store.add_agent(Agent("acme", name, group, "", 0.0, now, own_pki=True))
    documents = {
        "plant-1": CATALOGUE,
        "plant-2": CATALOGUE.replace(b'"later":1', b'"later":1,"description":"in other words"'),
        "alone": CATALOGUE.replace(b"echo", b"other"),
    }
    for name, document in documents.items():
        await broker.store.put_catalogue(ACME, name, document, name)
    agents = (await acme.get("/v1/agents")).json()["items"]
    assert {one["name"] for one in agents if one["differs"]} == set()

    await broker.store.put_catalogue(ACME, "plant-3", CATALOGUE.replace(b'"read"', b'"idempotent"'), "d3")
    agents = (await acme.get("/v1/agents")).json()["items"]
    assert {one["name"]: one["differs"] for one in agents} == {
        "alone": [],
        "plant-1": ["echo"],
        "plant-2": ["echo"],
        "plant-3": ["echo"],
    }
    assert (await acme.get("/v1/agents/plant-2")).json()["differs"] == ["echo"]


async def test_health_needs_no_key(broker: Broker) -> None:
    async with broker.client() as nobody:
        assert (await nobody.get("/healthz")).json() == {"status": "ok"}
        assert (await nobody.get("/readyz")).json() == {"status": "ok"}
        for probe in ("/healthz", "/readyz"):  # what load balancers ask
            assert (await nobody.head(probe)).status_code == 200


async def test_a_broker_that_agents_can_not_dial_is_not_ready(broker: Broker) -> None:
    broker.link["listening"] = False
    async with broker.client() as nobody:
        answer = await nobody.get("/readyz")
        assert (await nobody.get("/healthz")).status_code == 200

    assert answer.status_code == 503
    assert answer.json()["checks"] == {"store": True, "link": False}
    assert "retry-after" in answer.headers
