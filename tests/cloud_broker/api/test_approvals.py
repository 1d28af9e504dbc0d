"""Acts that two people want: one asks, another decides, and it is done once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cloud_broker.approvals import Approvals
from cloud_broker.approved import acts
from cloud_broker.settings import ApprovalSettings
from cloud_broker.store.agents import Agent
from cloud_broker.store.approvals import Approval
from cloud_broker.store.tenants import Token
from cloud_broker.tenants import Scope
from protocol.states import CommandState
from tests.cloud_broker.api.broker import Broker, running
from tests.cloud_broker.api.dead import ACME, failed, in_doubt

FOUND = {"found": "happened", "who": "Ada", "note": "invoice 9"}
EVERYTHING = ApprovalSettings(required=("bulk_replay", "resolve", "revoke", "replace_agent", "mapping_approval"))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """A server where all of it wants two people."""
    async with running(tmp_path, approvals=EVERYTHING) as server:
        yield server


@pytest.fixture
async def ada(broker: Broker) -> AsyncIterator[httpx2.AsyncClient]:
    """One person."""
    async with broker.client(await broker.key("acme", owner="Ada")) as client:
        yield client


@pytest.fixture
async def bob(broker: Broker) -> AsyncIterator[httpx2.AsyncClient]:
    """Another one, who may do only what it takes."""
    async with broker.client(await broker.key("acme", "dead-letters:write", "commands:read", owner="Bob")) as client:
        yield client


async def asked(client: httpx2.AsyncClient, command_id: str) -> dict[str, Any]:
    """Ask for a command to be resolved, and return the approval."""
    answer = await client.post(f"/v1/commands/{command_id}/resolve", json=FOUND)
    assert answer.status_code == 202
    document: dict[str, Any] = answer.json()
    assert answer.headers["location"] == document["links"]["self"]
    return document


async def state(broker: Broker, command_id: str) -> CommandState:
    return (await broker.commands.get(ACME, command_id)).state


async def test_one_asks_another_approves_and_it_is_done(
    broker: Broker, ada: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    one = await in_doubt(broker)
    approval = await asked(ada, one.id)
    assert (approval["state"], approval["act"], approval["owner"]) == ("open", "resolve", "Ada")
    assert approval["request"] == {"command": one.id, **FOUND}
    assert await state(broker, one.id) is CommandState.IN_DOUBT

    done = await bob.post(approval["links"]["approve"], json={"note": "seen it"})

    assert done.status_code == 200
    assert (done.json()["state"], done.json()["decided_owner"], done.json()["note"]) == ("done", "Bob", "seen it")
    command = await broker.commands.get(ACME, one.id)
    assert command.state is CommandState.SUCCEEDED
    assert command.resolution is not None
    assert (command.resolution.by, command.resolution.who) == (approval["by"], "Ada")
    steps = (await ada.get(f"/v1/commands/{one.id}/timeline")).json()["items"]
    told = {step["step"]: step["detail"] for step in steps if step["step"].startswith("approval")}
    assert list(told) == ["approval_asked", "approval_given"]
    assert all(approval["id"] in detail for detail in told.values())
    assert "Bob" in told["approval_given"]


async def test_a_dead_letter_says_that_somebody_is_waited_for(
    broker: Broker, ada: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    one = await in_doubt(broker)
    [letter] = (await ada.get("/v1/dead-letters")).json()["items"]
    assert letter["dead_letter"]["approval"] is None
    approval = await asked(ada, one.id)
    [letter] = (await ada.get("/v1/dead-letters")).json()["items"]
    assert letter["dead_letter"]["approval"] == approval["id"]
    await bob.post(approval["links"]["refuse"])
    [letter] = (await ada.get("/v1/dead-letters")).json()["items"]
    assert letter["dead_letter"]["approval"] is None


async def test_nobody_is_a_second_person_to_oneself(broker: Broker, ada: httpx2.AsyncClient) -> None:
    one = await in_doubt(broker)
    approval = await asked(ada, one.id)

    answers = [await ada.post(approval["links"][how]) for how in ("approve", "refuse")]
    for owner in ("Ada", " ada", "ADA", "\uff21\uff44\uff41", ""):
        async with broker.client(await broker.key("acme", owner=owner)) as again:
            answers += [await again.post(approval["links"][how]) for how in ("approve", "refuse")]
    async with broker.client(await broker.key(None, owner="ada"), **{"Outhaul-Tenant": "acme"}) as spanning:
        answers.append(await spanning.post(approval["links"]["approve"]))
    # Nor by making another key.
    made = await ada.post("/v1/keys", json={"scopes": ["*"], "owner": "Carol"})
    own = (await ada.post("/v1/keys", json={"scopes": ["*"]})).json()["key"]
    async with broker.client(own) as again:
        answers.append(await again.post(approval["links"]["approve"]))

    assert {answer.json()["code"] for answer in answers} == {"second_person_needed"}
    assert {answer.status_code for answer in answers} == {403}
    assert made.status_code == 403
    assert await state(broker, one.id) is CommandState.IN_DOUBT


async def test_who_has_no_owner_can_not_even_ask(broker: Broker) -> None:
    one = await in_doubt(broker)
    async with broker.client(await broker.key("acme")) as nobody:
        answer = await nobody.post(f"/v1/commands/{one.id}/resolve", json=FOUND)

    assert (answer.status_code, answer.json()["code"]) == (403, "second_person_needed")
    assert "--owner" in answer.json()["detail"]


async def test_deciding_takes_the_scope_of_the_act(broker: Broker, ada: httpx2.AsyncClient) -> None:
    one = await in_doubt(broker)
    approval = await asked(ada, one.id)

    async with broker.client(await broker.key("acme", "agents:write", "commands:read", owner="Bob")) as bob:
        answers = [await bob.post(approval["links"][how]) for how in ("approve", "refuse", "withdraw")]
    async with broker.client(await broker.key("acme", "commands:read", owner="Bob")) as reader:
        answers += [await reader.post(approval["links"][how]) for how in ("approve", "refuse", "withdraw")]
        assert (await reader.get(approval["links"]["self"])).json() == approval

    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(403, "forbidden")}


async def test_another_tenants_approval_looks_like_none(broker: Broker, ada: httpx2.AsyncClient) -> None:
    one = await in_doubt(broker)
    approval = await asked(ada, one.id)
    async with broker.client(await broker.key("other", owner="Bob")) as other:
        assert (await other.get("/v1/approvals")).json()["items"] == []
        for how, link in approval["links"].items():
            method = "GET" if how == "self" else "POST"
            foreign = await other.request(method, link)
            unknown = await other.request(method, link.replace(approval["id"], "apr_" + "0" * 26))
            assert (foreign.status_code, foreign.json()["code"]) == (404, "approval_not_found")
            assert foreign.content.replace(approval["id"].encode(), b"apr_" + b"0" * 26) == unknown.content


async def test_it_is_decided_once_however_many_try(broker: Broker, ada: httpx2.AsyncClient) -> None:
    one = await in_doubt(broker)
    approval = await asked(ada, one.id)
    keys = [await broker.key("acme", owner=f"p{n}") for n in range(6)]

    async def decide(key: str, how: str) -> int:
        async with broker.client(key) as client:
            return (await client.post(approval["links"][how])).status_code

    found = await asyncio.gather(*(decide(key, ("approve", "refuse")[n % 2]) for n, key in enumerate(keys)))

    assert sorted(found) == [200, 409, 409, 409, 409, 409]


async def test_the_same_again_is_the_same_approval(broker: Broker, ada: httpx2.AsyncClient) -> None:
    one = await in_doubt(broker)
    first = await asked(ada, one.id)
    again = await asked(ada, one.id)
    other = await ada.post(f"/v1/commands/{one.id}/resolve", json={**FOUND, "found": "not_happened"})

    assert again["id"] == first["id"]
    assert other.json()["id"] != first["id"]
    assert len((await ada.get("/v1/approvals?state=open")).json()["items"]) == 2
    assert len((await ada.get("/v1/approvals?limit=1")).json()["items"]) == 1


async def test_who_asked_takes_it_back_and_nobody_else(
    broker: Broker, ada: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    one = await in_doubt(broker)
    approval = await asked(ada, one.id)

    theirs = await bob.post(approval["links"]["withdraw"])
    own = await ada.post(approval["links"]["withdraw"], json={"note": "a mistake"})
    late = await bob.post(approval["links"]["approve"])

    assert theirs.status_code == 403
    assert (own.status_code, own.json()["state"]) == (200, "withdrawn")
    assert (late.status_code, late.json()["state"]) == (409, "withdrawn")
    assert await state(broker, one.id) is CommandState.IN_DOUBT
    again = await asked(ada, one.id)
    assert again["id"] != approval["id"]


async def test_nobody_decides_on_what_has_expired(tmp_path: Path) -> None:
    settings = ApprovalSettings(required=("resolve",), expire=1)
    async with running(tmp_path, approvals=settings) as broker:
        one = await in_doubt(broker)
        async with broker.client(await broker.key("acme", owner="Ada")) as ada:
            approval = await asked(ada, one.id)
            async with asyncio.timeout(10):
                while (await ada.get(approval["links"]["self"])).json()["state"] == "open":
                    pass  # it is the time that is waited for
            async with broker.client(await broker.key("acme", owner="Bob")) as bob:
                late = await bob.post(approval["links"]["approve"])
            assert (late.status_code, late.json()["state"]) == (409, "expired")
            assert [i["id"] for i in (await ada.get("/v1/approvals?state=expired")).json()["items"]] == [approval["id"]]
            assert (await asked(ada, one.id))["id"] != approval["id"]


async def test_what_can_not_be_done_any_more_says_so(
    broker: Broker, ada: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    one = await in_doubt(broker)
    first = await asked(ada, one.id)
    other = (await ada.post(f"/v1/commands/{one.id}/resolve", json={**FOUND, "found": "not_happened"})).json()

    assert (await bob.post(first["links"]["approve"])).json()["state"] == "done"
    failed_one = (await bob.post(other["links"]["approve"])).json()

    assert failed_one["state"] == "failed"
    assert "resolved before as happened" in failed_one["result"]
    # What is to be said of one that is resolved needs nobody.
    assert (await ada.post(f"/v1/commands/{one.id}/resolve", json=FOUND)).status_code == 200


async def test_a_replay_of_many_begins_once_and_leaves_what_died_later(
    broker: Broker, ada: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    for _ in range(3):
        await failed(broker)
    key = {"Idempotency-Key": "once"}
    answer = await ada.post("/v1/dead-letters/replay", json={"max": 10}, headers=key)
    again = await ada.post("/v1/dead-letters/replay", json={"max": 10}, headers=key)
    other = await ada.post("/v1/dead-letters/replay", json={"max": 11}, headers=key)
    assert (answer.status_code, answer.json()["act"], answer.json()["target"]) == (202, "bulk_replay", None)
    assert "3 dead letters" in answer.json()["summary"]
    assert again.json() == answer.json()
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (await ada.post("/v1/dead-letters/replay", json={"dry_run": True})).json()["total"] == 3
    await failed(broker)

    done = await bob.post(answer.json()["links"]["approve"])

    assert done.json()["state"] == "done"
    [run] = (await ada.get("/v1/dead-letters/replays")).json()["items"]
    assert run["id"] in done.json()["result"]
    assert (run["total"], run["by"]) == (3, answer.json()["by"])
    assert (await ada.post("/v1/dead-letters/replay", json={"max": 10}, headers=key)).json()["state"] == "done"


async def test_an_agent_is_revoked_by_two_unless_it_has_enrolled_anew(broker: Broker, ada: httpx2.AsyncClient) -> None:
    async with broker.client(await broker.key("acme", "agents:write", owner="Bob")) as bob:
        first = await ada.post("/v1/agents/plant-1/revoke")
        assert first.status_code == 202
        now = time.time()
        await broker.store.add_token(Token("tok_2", "acme", "plant-1", None, now, now + 60), b"another")
        anew = Agent("acme", "plant-1", None, "0b", now + 86_400, now)
        assert await broker.store.spend_token("tok_2", anew, "req_2", b"der", now)
        stale = await bob.post(first.json()["links"]["approve"])
        second = await ada.post("/v1/agents/plant-1/revoke")
        done = await bob.post(second.json()["links"]["approve"])

    assert (stale.json()["state"], done.json()["state"]) == ("failed", "done")
    assert "anew" in stale.json()["result"]
    agent = await broker.store.agent(ACME, "plant-1")
    assert agent is not None
    assert agent.revoked_at is not None
    assert (await ada.post("/v1/agents/plant-1/revoke")).status_code == 200


async def test_a_token_for_an_agent_that_is_there_wants_two_and_is_good_for_one_replacement(
    broker: Broker, ada: httpx2.AsyncClient
) -> None:
    tokens = "/v1/agents/plant-1/tokens"
    async with (
        broker.client(await broker.key("acme", "agents:write", owner="Bob")) as bob,
        broker.client(await broker.key("acme", "agents:write")) as nobody,
        broker.client(await broker.key("other", "agents:write", owner="Ada")) as elsewhere,
    ):
        assert (await ada.post("/v1/agents/plant-new/tokens")).status_code == 201
        assert (await elsewhere.post("/v1/agents/plant-new/tokens")).status_code == 201
        assert (await nobody.post(tokens)).json()["code"] == "second_person_needed"
        first = await ada.post(tokens)
        assert (first.status_code, (await ada.post(tokens)).json()["id"]) == (202, first.json()["id"])
        assert (await ada.post(first.json()["links"]["approve"])).json()["code"] == "second_person_needed"
        done = await bob.post(first.json()["links"]["approve"])
        assert done.json()["state"] == "done"

        # It is for who asked, and nothing of it is in what others can read.
        assert (await bob.post(tokens)).status_code == 202
        given = await ada.post(tokens)
        assert given.status_code == 201
        assert given.json()["token"] not in done.text

        await _enrol_anew(broker)
        again = await ada.post(tokens)
        assert again.status_code == 202
        await _enrol_anew(broker)
        stale = await bob.post(again.json()["links"]["approve"])
        assert stale.json()["state"] == "failed"

        await broker.store.revoke_agent(ACME, "plant-1", time.time())
        assert (await ada.post(tokens)).status_code == 201


async def _enrol_anew(broker: Broker) -> None:
    now = time.time()
    token = Token(f"tok_{now}", "acme", "plant-1", None, now, now + 60)
    await broker.store.add_token(token, str(now).encode())
    anew = Agent("acme", "plant-1", None, f"{now}", now + 86_400, now)
    assert await broker.store.spend_token(token.id, anew, "req", b"der", now)


async def test_what_was_approved_before_a_crash_is_done_after_it_and_once(
    broker: Broker, ada: httpx2.AsyncClient
) -> None:
    one = await in_doubt(broker)
    for _ in range(2):
        await failed(broker)
    resolving = await asked(ada, one.id)
    replaying = (await ada.post("/v1/dead-letters/replay", json={})).json()
    now = time.time()
    for approval in (resolving, replaying):
        # The broker ends right after the decision is kept.
        assert await broker.store.decide_approval(ACME, approval["id"], "approved", "k", "Bob", "", now)

    async def revoke(scope: Scope, name: str, by: str) -> bool:
        raise AssertionError("nobody asked for it")

    doing = acts(broker.store, broker.dead_letters, broker.runs, revoke)
    counted: list[str] = []

    def counting(act: str) -> Any:
        async def do(scope: Scope, approval: Approval) -> str:
            counted.append(act)
            result = await doing[act](scope, approval)
            if counted.count(act) == 1:
                raise asyncio.CancelledError  # and once more, right after the act itself
            return result

        return do

    for _ in range(3):
        after = Approvals(broker.store, EVERYTHING, {act: counting(act) for act in doing})
        await after.start()
        await asyncio.gather(*after.under_way(), return_exceptions=True)
        await after.stop()

    assert sorted(counted) == ["bulk_replay", "bulk_replay", "resolve", "resolve"]
    assert {(await ada.get(a["links"]["self"])).json()["state"] for a in (resolving, replaying)} == {"done"}
    assert await state(broker, one.id) is CommandState.SUCCEEDED
    assert len((await ada.get("/v1/dead-letters/replays")).json()["items"]) == 1


async def test_decisions_stand_in_the_audit_trail(
    broker: Broker, ada: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    one = await in_doubt(broker)
    approval = await asked(ada, one.id)
    await bob.post(approval["links"]["approve"])

    records = await broker.store.audit_after("acme", 0, 1_000)

    noted = [record for record in records if record.target == f"approval:{approval['id']}"]
    assert [record.action for record in noted] == ["approval_asked", "approval_given"]
    assert noted[0].actor == f"key:{approval['by']}"
    assert '"owner":"Bob"' in noted[1].detail


async def test_without_the_setting_nobody_is_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        one = await in_doubt(broker)
        async with broker.client(await broker.key("acme")) as client:
            answer = await client.post(f"/v1/commands/{one.id}/resolve", json=FOUND)
            assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
