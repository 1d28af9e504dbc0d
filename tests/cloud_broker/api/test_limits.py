"""How much one may ask: per tenant, per address, and what one tenant's flood does to another."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx2

from cloud_broker.api.turnstile import AT_ONCE, EACH, Turnstile, Visit
from cloud_broker.settings import LimitSettings
from tests.cloud_broker.api.broker import Broker, running
from tests.waiting import until

BODY = {"agent": "plant-1", "operation": "echo"}


async def test_beyond_its_rate_a_tenant_is_told_when_to_come_again_and_others_are_not(tmp_path: Path) -> None:
    async with (
        running(tmp_path, limits=LimitSettings(requests_per_s=5)) as broker,
        broker.client(await broker.key("acme")) as acme,
        broker.client(await broker.key("acme")) as another_key,
        broker.client(await broker.key("other")) as other,
    ):
        answers = [await acme.get("/v1/commands") for _ in range(10)]
        refused = await _until(acme, 429)
        second = await _until(another_key, 429)

        assert [answer.status_code for answer in answers] == [200] * 10
        assert answers[0].headers["ratelimit-policy"] == '"requests";q=10;w=2'
        assert answers[0].headers["ratelimit"].startswith('"requests";r=9;')
        assert refused.json()["code"] == second.json()["code"] == "too_many_requests"
        assert int(refused.headers["retry-after"]) >= 1
        assert (await other.get("/v1/commands")).status_code == 200
        await _until(acme, 200)


async def test_a_tenant_has_so_many_requests_under_way_and_those_that_wait_count(tmp_path: Path) -> None:
    async with (
        running(tmp_path, limits=LimitSettings(requests_at_once=2)) as broker,
        broker.client(await broker.key("acme")) as acme,
        broker.client(await broker.key("other")) as other,
    ):
        place = (await acme.post("/v1/commands", json=BODY)).headers["location"]
        waiting = [asyncio.create_task(_waiting(acme, place)) for _ in range(2)]
        refused = await _until(acme, 429)

        assert refused.json()["code"] == "too_many_at_once"
        assert "retry-after" in refused.headers
        assert (await other.get("/v1/commands")).status_code == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        # Who left is not counted any more.
        await _until(acme, 200)


async def test_nought_is_no_limit(tmp_path: Path) -> None:
    limits = LimitSettings(requests_per_s=0, requests_at_once=0, wrong_keys_per_min=0)
    async with running(tmp_path, limits=limits) as broker, broker.client(await broker.key("acme")) as acme:
        answer = await acme.get("/v1/commands")
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers


async def test_wrong_keys_are_slowed_down_and_a_good_one_is_never_kept_out(tmp_path: Path) -> None:
    async with running(tmp_path, limits=LimitSettings(wrong_keys_per_min=5)) as broker:
        good = await broker.key("acme")
        async with broker.client("ohk_0123456789ab_" + "0" * 64) as wrong, broker.client(good) as right:
            found = [(await wrong.get("/v1/commands")).status_code for _ in range(8)]
            refused = await _until(wrong, 429)
            among = [(await right.get("/v1/commands")).status_code for _ in range(20)]
        async with broker.client() as nobody:
            without = [(await nobody.get("/v1/commands")).status_code for _ in range(20)]

    assert found[:5] == [401] * 5
    assert refused.json()["code"] == "too_many_wrong_keys"
    assert int(refused.headers["retry-after"]) >= 1
    assert among == [200] * 20
    assert without == [401] * 20


async def test_behind_a_proxy_it_is_the_callers_address_that_counts(tmp_path: Path) -> None:
    async with (
        running(tmp_path, limits=LimitSettings(wrong_keys_per_min=1)) as broker,
        broker.client("ohk_0123456789ab_" + "0" * 64) as wrong,
    ):
        await _until(wrong, 429, **{"X-Forwarded-For": "192.0.2.1"})
        other = await wrong.get("/v1/commands", headers={"X-Forwarded-For": "192.0.2.2"})
    assert other.status_code == 401


async def test_a_flood_of_one_tenant_lets_another_in_after_a_turn(tmp_path: Path) -> None:
    """Turns are counted, and not time: how many of the flood are kept between another's coming and its being kept."""
    limits = LimitSettings(requests_per_s=0, requests_at_once=0)
    async with running(tmp_path, limits=limits) as broker:
        flood = httpx2.Limits(max_connections=150)
        key = await broker.key("acme")
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            httpx2.AsyncClient(base_url=broker.url, headers=headers, limits=flood, timeout=120) as acme,
            broker.client(await broker.key("other")) as other,
        ):
            await other.get("/v1/commands")
            flooding = [asyncio.create_task(acme.post("/v1/commands", json=BODY)) for _ in range(800)]
            between: list[int] = []
            for _ in range(8):
                await _some(broker, len(between) * 60 + 100)
                before = len(broker.commands.submissions)
                answer = await other.post("/v1/commands", json={"agent": "plant-9", "operation": "echo"})
                assert answer.status_code == 202
                place = next(
                    number
                    for number in range(before, len(broker.commands.submissions))
                    if broker.commands.submissions[number].agent == "plant-9"
                )
                between.append(place - before)
            done = await asyncio.gather(*flooding)

    assert {answer.status_code for answer in done} == {202}
    assert sorted(between)[len(between) // 2] <= 4 * AT_ONCE, between


async def test_a_request_that_waits_gives_its_turn_away(tmp_path: Path) -> None:
    """More of a tenant's requests wait than it has turns, and it still gets its next one."""
    async with running(tmp_path) as broker, broker.client(await broker.key("acme")) as acme:
        place = (await acme.post("/v1/commands", json=BODY)).headers["location"]
        waiting = [asyncio.create_task(acme.get(f"{place}?wait=60")) for _ in range(EACH + 10)]
        asking = [asyncio.create_task(acme.post("/v1/commands", json=BODY, headers={"Prefer": "wait=60"}))]
        async with asyncio.timeout(30):
            assert (await acme.get("/v1/agents")).status_code == 200
        for task in (*waiting, *asking):
            task.cancel()
        await asyncio.gather(*waiting, *asking, return_exceptions=True)


async def test_bodies_that_come_slowly_keep_no_turn_from_anybody(tmp_path: Path) -> None:
    async with running(tmp_path, limits=LimitSettings(requests_at_once=EACH)) as broker:
        await broker.store.create_tenant("third", time.time())
        host, _, port = broker.url.removeprefix("http://").partition(":")
        slow: list[asyncio.StreamWriter] = []
        for tenant in ("acme", "other"):
            key = await broker.key(tenant)
            head = (
                f"POST /v1/commands HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {key}\r\nContent-Length: 999\r\n\r\n"
            )
            for _ in range(EACH):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(head.encode())
                slow.append(writer)
            async with broker.client(key) as client:
                # By then all of them are inside.
                await _until(client, 429)
        async with asyncio.timeout(10), broker.client(await broker.key("third")) as third:
            assert (await third.get("/v1/agents")).status_code == 200
        for writer in slow:
            writer.close()


async def test_who_has_a_turn_takes_no_second_one() -> None:
    """As in bulk, where the key is looked at again with each part, and may be revoked by then."""
    turnstile = Turnstile(LimitSettings())
    for _ in range(AT_ONCE + 1):
        visit = Visit(turnstile)
        visit.count("acme")
        async with asyncio.timeout(10):
            await visit.turn()
            await visit.turn()
            async with visit.resting():
                pass
        visit.leave()


async def test_a_key_that_may_not_do_it_uses_up_its_tenants_rate_too(tmp_path: Path) -> None:
    async with (
        running(tmp_path, limits=LimitSettings(requests_per_s=5)) as broker,
        broker.client(await broker.key("acme", "agents:read")) as acme,
    ):
        await _until(acme, 429)
        assert (await _until(acme, 403)).json()["code"] == "forbidden"
        await _until(acme, 429, **{"Outhaul-Tenant": "other"})


async def test_a_request_that_is_dropped_gives_its_turn_back(tmp_path: Path) -> None:
    async with running(tmp_path) as broker, broker.client(await broker.key("acme")) as acme:
        place = (await acme.post("/v1/commands", json=BODY)).headers["location"]
        for _ in range(3):
            tasks = [asyncio.create_task(acme.get(f"{place}?wait=60")) for _ in range(AT_ONCE)]
            await asyncio.sleep(0.01)  # some have their turn by then, some wait for it
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(30):
            assert (await acme.get(place)).status_code == 200


async def _until(client: httpx2.AsyncClient, status: int, **headers: str) -> httpx2.Response:
    """Ask until it is answered so."""
    deadline = time.monotonic() + 20
    while (answer := await client.get("/v1/commands", headers=headers)).status_code != status:
        assert time.monotonic() < deadline
    return answer


async def _waiting(client: httpx2.AsyncClient, place: str) -> None:
    """Wait for a command that does not end, as soon as there is room for one who waits."""
    while (await client.get(f"{place}?wait=60")).status_code == 429:
        pass


async def _some(broker: Broker, count: int) -> None:
    """Wait until the flood is under way."""
    await until(lambda: len(broker.commands.submissions) >= count)
