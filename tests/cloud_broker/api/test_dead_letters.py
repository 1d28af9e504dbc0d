"""Dead letters over HTTP: look, resolve, replay one, replay many."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from msgspec.structs import replace

from cloud_broker.dead_letters import letter
from cloud_broker.settlement import unheard
from cloud_broker.store.commands import CommandFilter, Step
from cloud_broker.store.sqlite import SqliteStore
from cloud_broker.tenants import Scope
from protocol.states import FINAL, CommandState
from tests.cloud_broker.api.broker import Broker
from tests.cloud_broker.api.dead import ACME, PARAMS, ended, failed, in_doubt

OTHER = Scope("other")


@pytest.fixture
async def other(broker: Broker) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that may do everything within the tenant other."""
    async with broker.client(await broker.key("other")) as client:
        yield client


async def letters(client: httpx2.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(f"/v1/dead-letters{query}")).json()["items"]
    return found


async def steps(client: httpx2.AsyncClient, command_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(f"/v1/commands/{command_id}/timeline")).json()["items"]
    return found


async def done(client: httpx2.AsyncClient, run: dict[str, Any]) -> dict[str, Any]:
    """Wait until a run has ended."""
    async with asyncio.timeout(20):
        while run["state"] == "running":
            run = (await client.get(run["links"]["self"])).json()
    return run


# --- looking ------------------------------------------------------------------------------------


async def test_a_timeline_tells_every_step_oldest_first(acme: httpx2.AsyncClient, broker: Broker) -> None:
    one = await failed(broker)

    told = await steps(acme, one.id)

    assert [(step["step"], step["attempt"], step["agent"], step["outcome"]) for step in told] == [
        ("submitted", None, None, None),
        ("dispatched", 1, "plant-1", None),
        ("attempt_failed", 1, "plant-1", "failed"),
        ("dispatched", 2, "plant-1", None),
        ("started", 2, "plant-1", None),
        ("finished", 2, "plant-1", "failed"),
    ]
    assert [step["at"] for step in told] == sorted(step["at"] for step in told)
    assert {step["payload_digest"] for step in told} == {hashlib.sha256(PARAMS).hexdigest()}
    assert {step["mapping_version"] for step in told} == {None}
    assert told[2]["error"]["code"] == "source_unavailable"
    assert told[5]["error"]["code"] == "source_failed"


async def test_a_timeline_is_there_while_the_command_is_under_way(acme: httpx2.AsyncClient, broker: Broker) -> None:
    queued = await ended(broker, CommandState.QUEUED)
    running = await ended(broker, CommandState.RUNNING)

    assert [step["step"] for step in await steps(acme, queued.id)] == ["submitted", "dispatched", "attempt_failed"]
    assert [step["step"] for step in await steps(acme, running.id)][-1] == "started"


async def test_what_waits_for_another_try_says_why_the_last_one_failed(
    acme: httpx2.AsyncClient, broker: Broker
) -> None:
    one = await ended(broker, CommandState.QUEUED)

    command = (await acme.get(f"/v1/commands/{one.id}")).json()

    assert command["error"]["code"] == "source_unavailable"
    assert command["not_before"] is not None
    assert command["outcome"] is None


async def test_a_dead_letter_says_why_how_far_and_what_is_safe(acme: httpx2.AsyncClient, broker: Broker) -> None:
    await failed(broker)
    await in_doubt(broker)
    await ended(broker, CommandState.EXPIRED)
    for state in (CommandState.SUCCEEDED, CommandState.REJECTED, CommandState.CANCELLED, CommandState.QUEUED):
        await ended(broker, state)

    expired, doubtful, broken = await letters(acme)

    assert broken["state"] == "failed"
    assert broken["dead_letter"]["why"] == "it ended as failed"
    assert (broken["dead_letter"]["phase"], broken["dead_letter"]["safe"]) == ("running", "replay")
    assert [(one["attempt"], one["phase"], one["outcome"]) for one in broken["dead_letter"]["attempts"]] == [
        (1, "dispatched", "failed"),
        (2, "running", "failed"),
    ]
    assert (doubtful["dead_letter"]["phase"], doubtful["dead_letter"]["safe"]) == ("running", "resolve_first")
    assert "resolve" in doubtful["dead_letter"]["advice"]
    assert (expired["dead_letter"]["phase"], expired["dead_letter"]["safe"]) == ("queued", "replay")
    assert "no route to the ERP" in expired["dead_letter"]["why"]


async def test_one_that_ran_at_an_agent_which_stayed_away_is_not_said_to_have_had_no_effect(broker: Broker) -> None:
    one = await ended(broker, CommandState.RUNNING)
    await broker.store.finish(ACME, one.id, unheard(time.time()))
    expired = replace(await broker.commands.get(ACME, one.id), effect="idempotent")

    found = letter(expired, await broker.store.steps(ACME, one.id))

    assert "may have begun" in found.why
    assert (found.phase, found.safe) == ("running", "replay")
    assert "may have begun" in found.advice


async def test_a_late_answer_is_told_as_evidence(acme: httpx2.AsyncClient, broker: Broker) -> None:
    one = await in_doubt(broker)
    late = Step(one.id, time.time() + 9, "late_answer", 2, "plant-1", outcome="succeeded", outputs=b'{"no":"7"}')
    await broker.store.add_step(ACME, late)

    (letter,) = await letters(acme)

    assert letter["state"] == "in_doubt"
    assert letter["outputs"] is None
    assert "late answer of its agent says: succeeded" in letter["dead_letter"]["advice"]
    last = (await steps(acme, one.id))[-1]
    assert (last["step"], last["outcome"], last["outputs"]) == ("late_answer", "succeeded", {"no": "7"})
    happened = await acme.post(f"/v1/commands/{one.id}/resolve", json={"found": "happened"})
    assert happened.json()["outputs"] == {"no": "7"}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?state=in_doubt", {"doubtful"}),
        ("?state=failed", {"first", "second"}),
        ("?operation=rows", {"second"}),
        ("?agent=plant-1", {"first", "second", "doubtful"}),
        ("?agent=plant-9", set()),
        ("?correlation_id=c1", {"first"}),
        ("?code=agent_lost", {"doubtful"}),
        ("?code=agent_lost&state=failed", set()),
        ("?since=2020-01-01T00:00:00Z", {"first", "second", "doubtful"}),
        ("?before=2020-01-01T00:00:00Z", set()),
    ],
)
async def test_dead_letters_are_found_by_what_they_are(
    acme: httpx2.AsyncClient, broker: Broker, query: str, found: set[str]
) -> None:
    names = {
        (await failed(broker, correlation_id="c1")).id: "first",
        (await failed(broker, operation="rows")).id: "second",
        (await in_doubt(broker)).id: "doubtful",
    }

    assert {names[letter["id"]] for letter in await letters(acme, query)} == found


@pytest.mark.parametrize(
    "query", ["?state=succeeded", "?state=queued", "?since=2020-01-01T00:00:00", "?cursor=x", "?sate=failed"]
)
async def test_a_filter_that_can_not_be_meant_is_refused(acme: httpx2.AsyncClient, query: str) -> None:
    assert (await acme.get(f"/v1/dead-letters{query}")).status_code == 400


async def test_dead_letters_come_in_parts(acme: httpx2.AsyncClient, broker: Broker) -> None:
    made = [(await failed(broker)).id for _ in range(3)]

    first = (await acme.get("/v1/dead-letters?limit=2")).json()
    rest = (await acme.get(f"/v1/dead-letters?limit=2&cursor={first['next']}")).json()

    assert [one["id"] for one in (*first["items"], *rest["items"])] == made[::-1]
    assert rest["next"] is None


# --- resolving ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "state"), [("happened", "succeeded"), ("not_happened", "failed")])
async def test_what_a_person_found_ends_the_doubt(
    acme: httpx2.AsyncClient, broker: Broker, found: str, state: str
) -> None:
    one = await in_doubt(broker)
    finding = {"found": found, "who": "Ada", "note": "document 4711"}

    answers = [await acme.post(f"/v1/commands/{one.id}/resolve", json=finding) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    command = answers[0].json()
    assert command == answers[1].json()
    assert command["state"] == command["outcome"] == state
    assert command["outputs"] is None
    resolution = command["resolution"]
    assert (resolution["found"], resolution["who"], resolution["note"]) == (found, "Ada", "document 4711")
    assert (command["error"] is None) == (found == "happened")
    told = await steps(acme, one.id)
    assert [(step["step"], step["outcome"]) for step in told][-2:] == [("finished", "in_doubt"), ("resolved", state)]
    assert told[-2]["error"]["code"] == "agent_lost"
    assert "Ada" in told[-1]["detail"]
    assert "document 4711" in told[-1]["detail"]
    assert [letter["id"] for letter in await letters(acme)] == ([] if found == "happened" else [one.id])


async def test_the_opposite_finding_comes_too_late(acme: httpx2.AsyncClient, broker: Broker) -> None:
    one = await in_doubt(broker)
    await acme.post(f"/v1/commands/{one.id}/resolve", json={"found": "happened", "who": "Ada"})

    answer = await acme.post(f"/v1/commands/{one.id}/resolve", json={"found": "not_happened"})

    assert answer.status_code == 409
    assert "happened, by Ada" in answer.json()["detail"]


@pytest.mark.parametrize("state", sorted(set(CommandState) - {CommandState.IN_DOUBT, CommandState.DISPATCHED}))
async def test_only_a_command_in_doubt_is_resolved(
    acme: httpx2.AsyncClient, broker: Broker, state: CommandState
) -> None:
    one = await ended(broker, state)

    answer = await acme.post(f"/v1/commands/{one.id}/resolve", json={"found": "happened"})

    assert answer.status_code == 409
    assert answer.json()["code"] == ("conflict" if state in FINAL else "not_finished")
    assert (await acme.get(f"/v1/commands/{one.id}")).json()["state"] == state


@pytest.mark.parametrize("body", [{}, {"found": "perhaps"}, {"found": "happened", "note": "x" * 4_001}])
async def test_a_finding_that_says_nothing_is_refused(
    acme: httpx2.AsyncClient, broker: Broker, body: dict[str, str]
) -> None:
    one = await in_doubt(broker)

    assert (await acme.post(f"/v1/commands/{one.id}/resolve", json=body)).status_code == 400


# --- replaying one ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["failed", "expired", "rejected", "cancelled"])
async def test_a_replay_is_a_new_command_with_all_that_the_old_one_had(
    acme: httpx2.AsyncClient, broker: Broker, state: str
) -> None:
    wanted: dict[str, Any] = {
        "correlation_id": "order-1",
        "ordering_key": "k1",
        "priority": 5,
        "idempotency_key": "once",
    }
    one = await ended(broker, CommandState(state), **wanted)

    answer = await acme.post(f"/v1/commands/{one.id}/replay")

    assert answer.status_code == 202
    new = answer.json()
    assert answer.headers["location"] == f"/v1/commands/{new['id']}"
    assert (new["state"], new["replay_of"], new["correlation_id"]) == ("queued", one.id, "order-1")
    assert new["idempotency_key"] is None
    (taken,) = broker.commands.taken
    assert (taken.id, taken.params, taken.ordering_key, taken.priority) == (new["id"], PARAMS, "k1", 5)
    assert (taken.operation, taken.agent) == ("order", "plant-1")
    assert taken.expires_at - taken.created_at == pytest.approx(600)
    old = (await acme.get(f"/v1/commands/{one.id}")).json()
    assert (old["state"], old["replayed_by"]) == (state, new["id"])
    assert await letters(acme) == []
    replayed = (await steps(acme, one.id))[-1]
    assert (replayed["step"], replayed["detail"]) == ("replayed", new["id"])
    assert (await steps(acme, new["id"]))[0]["detail"] == f"replay of {one.id}"


async def test_a_command_is_replayed_once_however_often_it_is_asked_for(
    acme: httpx2.AsyncClient, broker: Broker
) -> None:
    one = await failed(broker)

    answers = await asyncio.gather(*(acme.post(f"/v1/commands/{one.id}/replay") for _ in range(8)))
    answers.append(await acme.post(f"/v1/commands/{one.id}/replay"))

    assert sorted(answer.status_code for answer in answers) == [200] * 8 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(broker.commands.taken) == 1


async def test_a_replay_may_have_another_time(acme: httpx2.AsyncClient, broker: Broker) -> None:
    one = await failed(broker)

    assert (await acme.post(f"/v1/commands/{one.id}/replay", json={"ttl": 0})).status_code == 400
    await acme.post(f"/v1/commands/{one.id}/replay", json={"ttl": 30})

    (taken,) = broker.commands.taken
    assert taken.expires_at - taken.created_at == pytest.approx(30)


async def test_what_was_asked_of_a_group_goes_to_the_group_again(acme: httpx2.AsyncClient, broker: Broker) -> None:
    one = await failed(broker, group="plants")
    assert one.agent == "plant-1"

    await acme.post(f"/v1/commands/{one.id}/replay")

    (taken,) = broker.commands.taken
    assert (taken.agent, taken.group) == (None, "plants")


async def test_what_is_in_doubt_is_resolved_before_it_is_replayed(acme: httpx2.AsyncClient, broker: Broker) -> None:
    one = await in_doubt(broker)

    refused = await acme.post(f"/v1/commands/{one.id}/replay")
    await acme.post(f"/v1/commands/{one.id}/resolve", json={"found": "not_happened"})
    taken = await acme.post(f"/v1/commands/{one.id}/replay")

    assert (refused.status_code, refused.json()["code"]) == (409, "resolve_first")
    assert f"/v1/commands/{one.id}/resolve" in refused.json()["detail"]
    assert taken.status_code == 202
    told = [step["step"] for step in await steps(acme, one.id)]
    assert told[-3:] == ["finished", "resolved", "replayed"]


async def test_what_was_signed_is_replayed_with_a_new_signature_only(acme: httpx2.AsyncClient, broker: Broker) -> None:
    one = await failed(broker, signature="a.b.c", idempotency_key="first")
    other = await failed(broker, idempotency_key="other")
    path = f"/v1/commands/{one.id}/replay"

    refused = await acme.post(path)
    keyless = await acme.post(path, json={"signature": "a.b.d"})
    reused = await acme.post(path, json={"signature": "a.b.d"}, headers={"Idempotency-Key": "other"})
    taken = await acme.post(path, json={"signature": "a.b.d"}, headers={"Idempotency-Key": "second"})

    assert (refused.status_code, refused.json()["code"]) == (409, "signature_wanted")
    assert "--sign-with" in refused.json()["detail"]
    assert keyless.status_code == 400
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
    assert (await acme.get(f"/v1/commands/{other.id}")).json()["replayed_by"] is None
    assert taken.status_code == 202
    (command,) = broker.commands.taken
    assert (command.signature, command.idempotency_key) == ("a.b.d", "second")


@pytest.mark.parametrize(("state", "code"), [("succeeded", "conflict"), ("running", "not_finished")])
async def test_what_succeeded_or_is_under_way_is_not_replayed(
    acme: httpx2.AsyncClient, broker: Broker, state: str, code: str
) -> None:
    one = await ended(broker, CommandState(state))

    answer = await acme.post(f"/v1/commands/{one.id}/replay")

    assert (answer.status_code, answer.json()["code"]) == (409, code)
    assert broker.commands.taken == []


async def test_a_replay_is_checked_like_any_submission(acme: httpx2.AsyncClient, broker: Broker) -> None:
    one = await failed(broker)
    await broker.store.set_tenant_state("acme", "suspended")
    suspended = await acme.post(f"/v1/commands/{one.id}/replay")
    await broker.store.set_tenant_state("acme", "active")
    broker.credentials.forget()
    broker.commands.refuses = True
    refused = await acme.post(f"/v1/commands/{one.id}/replay")

    assert (suspended.status_code, suspended.json()["code"]) == (403, "tenant_suspended")
    assert (refused.status_code, refused.json()["code"]) == (422, "parameters_invalid")
    assert len(await letters(acme)) == 1


# --- replaying many -----------------------------------------------------------------------------


async def test_a_bulk_replay_does_each_once_oldest_first_and_leaves_out_what_is_in_doubt(
    acme: httpx2.AsyncClient, broker: Broker
) -> None:
    made = [await failed(broker) for _ in range(5)]
    doubtful = await in_doubt(broker)
    signed = await failed(broker, signature="a.b.c", idempotency_key="signed")
    await failed(broker, operation="rows")

    plan = await acme.post("/v1/dead-letters/replay", json={"filter": {"operation": "order"}, "dry_run": True})
    assert plan.json() == {"total": 7, "in_doubt": 1}
    answer = await acme.post("/v1/dead-letters/replay", json={"filter": {"operation": "order"}, "rate": 1000})

    assert answer.status_code == 202
    assert answer.headers["location"] == answer.json()["links"]["self"]
    run = await done(acme, answer.json())
    assert (run["state"], run["total"], run["replayed"], run["skipped_count"]) == ("done", 7, 5, 2)
    assert run["skipped"] == [
        {"id": doubtful.id, "why": "it is in doubt: resolve it first"},
        {"id": signed.id, "why": "it was signed: replay it by itself, with a new signature"},
    ]
    assert run["filter"]["operation"] == "order"
    assert [one.replay_of for one in broker.commands.taken] == [one.id for one in made]
    assert {one.params for one in broker.commands.taken} == {PARAMS}
    assert {letter["operation"] for letter in await letters(acme)} == {"rows", "order"}
    assert (await acme.get("/v1/dead-letters/replays")).json()["items"] == [run]


async def test_a_bulk_replay_does_no_more_than_asked_for(acme: httpx2.AsyncClient, broker: Broker) -> None:
    made = [await failed(broker) for _ in range(5)]

    run = await done(acme, (await acme.post("/v1/dead-letters/replay", json={"max": 2, "rate": 1000})).json())

    assert (run["total"], run["replayed"]) == (2, 2)
    assert [one.replay_of for one in broker.commands.taken] == [one.id for one in made[:2]]


async def test_what_fails_again_does_not_come_back_to_the_same_run(acme: httpx2.AsyncClient, broker: Broker) -> None:
    first = await failed(broker)
    run = (await acme.post("/v1/dead-letters/replay", json={"max": 10})).json()
    assert run["total"] == 1
    await done(acme, run)
    assert (await acme.post(f"/v1/commands/{first.id}/replay")).status_code == 200


async def test_one_that_can_not_be_replayed_keeps_no_other(acme: httpx2.AsyncClient, broker: Broker) -> None:
    nowhere = await failed(broker)
    broker.commands.gone.add(nowhere.id)
    await failed(broker)

    run = await done(acme, (await acme.post("/v1/dead-letters/replay", json={"rate": 1000})).json())

    assert (run["state"], run["replayed"]) == ("done", 1)
    assert [skipped["id"] for skipped in run["skipped"]] == [nowhere.id]


async def test_a_cancelled_run_stops_and_removes_nothing(acme: httpx2.AsyncClient, broker: Broker) -> None:
    for _ in range(4):
        await failed(broker)
    run = (await acme.post("/v1/dead-letters/replay", json={"rate": 0.001})).json()
    async with asyncio.timeout(20):
        while (await acme.get(run["links"]["self"])).json()["replayed"] < 1:
            pass

    cancelled = (await acme.post(run["links"]["cancel"])).json()
    again = await acme.post(run["links"]["cancel"])

    assert (cancelled["state"], cancelled["replayed"]) == ("cancelled", 1)
    assert again.json() == cancelled
    assert len(await letters(acme)) == 3
    await broker.runs.stop()
    assert (await acme.get(run["links"]["self"])).json() == cancelled


async def test_a_suspended_tenants_run_waits_and_keeps_nobody_elses(
    acme: httpx2.AsyncClient, other: httpx2.AsyncClient, broker: Broker
) -> None:
    for scope in (ACME, OTHER):
        await failed(broker, scope)
    await broker.store.set_tenant_state("acme", "suspended")
    assert (await acme.post("/v1/dead-letters/replay")).status_code == 403
    waiting = await broker.runs.begin(ACME, CommandFilter(), 10, 1000.0, by="k")  # as if it had begun before

    await done(other, (await other.post("/v1/dead-letters/replay")).json())
    meanwhile = (await acme.get(f"/v1/dead-letters/replays/{waiting.id}")).json()
    await broker.store.set_tenant_state("acme", "active")

    assert (meanwhile["state"], meanwhile["replayed"]) == ("running", 0)
    assert (await done(acme, meanwhile))["replayed"] == 1


async def test_a_run_goes_on_once_there_is_room_on_the_disk_again(
    acme: httpx2.AsyncClient, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        await failed(broker, params=b'{"text": "' + b"x" * 3_000 + b'%d"}' % number)
    run = (await acme.post("/v1/dead-letters/replay", json={"rate": 1})).json()
    async with asyncio.timeout(20):
        while (await acme.get(run["links"]["self"])).json()["replayed"] < 1:
            pass

    # No page more than there are, until the store opens its file anew because that failed.
    assert isinstance(broker.store, SqliteStore)
    await broker.store._write(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
    run = await done(acme, run)

    assert (run["state"], run["replayed"], run["skipped_count"]) == ("done", 3, 0)
    assert len(broker.commands.taken) == 3
    assert "nothing can be kept" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        {"max": 0},
        {"max": 5_001},
        {"rate": 0},
        {"rate": -1},
        {"filter": {"state": "succeeded"}},
        {"filter": {"since": "2026-01-01T00:00:00"}},
        {"filter": {"oparation": "x"}},
    ],
)
async def test_a_bulk_replay_that_can_not_be_meant_is_refused(acme: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    assert (await acme.post("/v1/dead-letters/replay", json=body)).status_code == 400
    assert (await acme.get("/v1/dead-letters/replays")).json()["items"] == []


async def test_a_bulk_replay_that_is_asked_for_twice_with_one_key_is_one(
    acme: httpx2.AsyncClient, broker: Broker
) -> None:
    made = [await failed(broker) for _ in range(3)]
    asked: dict[str, Any] = {"url": "/v1/dead-letters/replay", "headers": {"Idempotency-Key": "k1"}}

    answers = [await acme.post(**asked, json={"max": 1}) for _ in range(2)]
    other = await acme.post(**asked, json={"max": 2})

    assert [answer.status_code for answer in answers] == [202, 202]
    run = await done(acme, answers[0].json())
    assert answers[1].json()["id"] == run["id"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert [one.replay_of for one in broker.commands.taken] == [made[0].id]


async def test_a_tenant_has_only_so_many_runs_at_once(acme: httpx2.AsyncClient, broker: Broker) -> None:
    for _ in range(2):  # each run leaves out the first at once, and waits for the second
        await in_doubt(broker)
    answers = [await acme.post("/v1/dead-letters/replay", json={"rate": 0.001}) for _ in range(11)]

    assert [answer.status_code for answer in answers] == [202] * 10 + [409]


# --- whose they are -----------------------------------------------------------------------------


async def test_anothers_dead_letters_are_not_there(
    acme: httpx2.AsyncClient, other: httpx2.AsyncClient, broker: Broker
) -> None:
    one = await in_doubt(broker)
    two = await failed(broker)
    run = (await acme.post("/v1/dead-letters/replay", json={"rate": 0.001})).json()

    def same(answer: httpx2.Response, name: str) -> tuple[int, str]:
        return answer.status_code, answer.text.replace(name, "ID")

    unknown = "cmd_" + "0" * 26
    for path, body in (("timeline", None), ("resolve", {"found": "happened"}), ("replay", {})):
        for command_id in (one.id, two.id):
            asked = [
                await (
                    other.post(f"/v1/commands/{name}/{path}", json=body)
                    if body is not None
                    else other.get(f"/v1/commands/{name}/{path}")
                )
                for name in (command_id, unknown)
            ]
            assert asked[0].status_code == 404
            assert same(asked[0], command_id) == same(asked[1], unknown)
    for answer in (await other.get(run["links"]["self"]), await other.post(run["links"]["cancel"])):
        assert (answer.status_code, answer.json()["code"]) == (404, "replay_run_not_found")
    assert await letters(other) == []
    assert (await other.get("/v1/dead-letters/replays")).json()["items"] == []
    assert (await other.post("/v1/dead-letters/replay")).json()["total"] == 0
    assert (await acme.get(f"/v1/commands/{one.id}")).json()["state"] == "in_doubt"
    assert (await acme.get(run["links"]["self"])).json()["state"] == "running"


@pytest.mark.parametrize(
    "path",
    ["/v1/commands/x/resolve", "/v1/commands/x/replay", "/v1/dead-letters/replay", "/v1/dead-letters/replays/x/cancel"],
)
async def test_changing_wants_a_scope_of_its_own(broker: Broker, path: str) -> None:
    key = await broker.key("acme", "commands:read", "commands:write")
    async with broker.client(key) as client:
        answer = await client.post(path)
        assert (await client.get("/v1/dead-letters")).status_code == 200

    assert (answer.status_code, answer.json()["scope"]) == (403, "dead-letters:write")


async def test_a_key_without_reading_reads_no_dead_letters(broker: Broker) -> None:
    key = await broker.key("acme", "dead-letters:write")
    async with broker.client(key) as client:
        for path in ("/v1/dead-letters", "/v1/dead-letters/replays", "/v1/commands/x/timeline"):
            assert (await client.get(path)).status_code == 403
