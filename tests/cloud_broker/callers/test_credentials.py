"""Keys that are looked up: not for each request, and never long after they were revoked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.callers.credentials import CHECKS, KEPT_S, Credentials, Lately
from cloud_broker.callers.keys import new_key, sha256_of, state, successor
from cloud_broker.callers.openid import Providers
from cloud_broker.errors import CredentialExpired, Unauthenticated
from cloud_broker.settings import Settings
from cloud_broker.store.base import Store
from cloud_broker.store.open import open_store
from cloud_broker.store.sqlite import SqliteStore
from cloud_broker.store.tenants import ApiKey
from tests.waiting import until

HERE = "192.0.2.1"


class Counted:
    """Something to look up, that counts how often it was."""

    def __init__(self) -> None:
        self.looks = 0
        self.thing: str | None = "thing"
        self.slow: asyncio.Event | None = None

    async def look(self, name: str) -> str | None:
        """Return what is there when the look begins."""
        self.looks += 1
        found = self.thing
        if self.slow is not None:
            await self.slow.wait()
        return found


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """An open store with a tenant."""
    found = open_store(Settings(data_dir=tmp_path))
    await found.open()
    await found.create_tenant("acme", time.time())
    yield found
    await found.close()


async def kept(store: Store, **more: Any) -> tuple[ApiKey, str]:
    key, text = new_key("acme", ["commands:read"], time.time(), **more)
    await store.add_key(key, sha256_of(text))
    return key, f"Bearer {text}"


async def _ask_for(seconds: float, credentials: Credentials, header: str) -> None:
    """Ask again and again, for so long at most."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await credentials.of(header, HERE)


class Busy(SqliteStore):
    """A store that answers one at a time, when it is told to, and says whom it was asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[bytes] = []
        self.answers = asyncio.Semaphore(0)

    async def key_by_hash(self, sha256: bytes) -> ApiKey | None:
        """Look a key up."""
        self.asked.append(sha256)
        await self.answers.acquire()
        return await super().key_by_hash(sha256)


async def test_a_flood_of_wrong_keys_makes_a_good_one_wait_for_a_turn_and_not_for_the_flood(tmp_path: Path) -> None:
    store, now = Busy(tmp_path / "store.db"), 0.0
    await store.open()
    await store.create_tenant("acme", time.time())
    (known, by_known), (new, by_new) = await kept(store), await kept(store)
    credentials = Credentials(store, Providers([]), lambda: now)
    store.answers.release()
    await credentials.of(by_known, HERE)
    now += KEPT_S

    wrong = [asyncio.create_task(credentials.of(f"Bearer {new_key('acme', ['*'], 0)[1]}", HERE)) for _ in range(500)]
    await until(lambda: len(store.asked) > 1)
    # From the flood's own address one that was good before; from another one that nobody has seen.
    good = [asyncio.create_task(credentials.of(*shown)) for shown in ((by_known, HERE), (by_new, "192.0.2.2"))]
    while not all(task.done() for task in good):
        store.answers.release()
        await asyncio.sleep(0)  # lets what was answered go on

    assert {task.result().id for task in good} == {known.id, new.id}
    assert len(store.asked) <= 4 * CHECKS
    for _ in wrong:
        store.answers.release()
    found = await asyncio.gather(*wrong, return_exceptions=True)
    assert all(isinstance(one, Unauthenticated) for one in found)
    await store.close()


async def test_what_was_looked_up_lately_is_not_looked_up_again() -> None:
    counted, now = Counted(), 0.0
    lately = Lately(counted.look, lambda: now)

    assert [await lately.get("a") for _ in range(100)] == ["thing"] * 100
    assert counted.looks == 1
    now += KEPT_S
    await lately.get("a")
    assert counted.looks == 2


async def test_what_is_not_there_is_looked_up_each_time() -> None:
    counted = Counted()
    counted.thing = None
    lately = Lately(counted.look, lambda: 0.0)
    assert await lately.get("a") is None
    counted.thing = "made"
    assert await lately.get("a") == "made"


async def test_a_look_that_began_before_a_change_is_not_kept() -> None:
    counted = Counted()
    counted.slow = asyncio.Event()
    lately = Lately(counted.look, lambda: 0.0)
    looking = asyncio.create_task(lately.get("a"))
    await asyncio.sleep(0)  # lets the look begin

    counted.thing = "changed"
    lately.forget()
    counted.slow.set()

    assert await looking == "thing"
    assert await lately.get("a") == "changed"


async def test_a_key_revoked_by_another_program_is_refused_within_a_second(store: Store, tmp_path: Path) -> None:
    key, header = await kept(store)
    credentials = Credentials(store, Providers([]))
    assert (await credentials.of(header, HERE)).id == key.id

    other = open_store(Settings(data_dir=tmp_path))  # as `outhaul-broker key revoke` does it
    await other.open()
    await other.revoke_key(key.id, time.time())
    await other.close()

    with pytest.raises(Unauthenticated, match="revoked"):
        await _ask_for(1.0, credentials, header)


async def test_a_key_that_was_replaced_goes_on_for_its_grace_and_then_says_by_which(store: Store) -> None:
    old, header = await kept(store, name="shop", owner="ada")
    now = time.time()
    new, text = successor(old, now)
    assert await store.rotate_key(old.id, new, sha256_of(text), now + 0.3)
    credentials = Credentials(store, Providers([]))

    found = [await credentials.of(one, HERE) for one in (header, f"Bearer {text}")]

    assert [(one.scopes, one.tenants, one.owner) for one in found] == [(("commands:read",), ("acme",), "ada")] * 2
    with pytest.raises(CredentialExpired, match=f"replaced by the key {new.id}"):
        await _ask_for(5.0, credentials, header)
    assert (await credentials.of(f"Bearer {text}", HERE)).id == new.id


async def test_a_key_is_replaced_once_and_not_once_it_is_revoked(store: Store) -> None:
    old, _ = await kept(store)
    now = time.time()
    assert await store.rotate_key(old.id, *_next(old), now)
    assert not await store.rotate_key(old.id, *_next(old), now)
    other, _ = await kept(store)
    await store.revoke_key(other.id, now)
    assert not await store.rotate_key(other.id, *_next(other), now)
    assert len(await store.keys("acme")) == 3


def _next(key: ApiKey) -> tuple[ApiKey, bytes]:
    made, text = successor(key, time.time())
    return made, sha256_of(text)


def test_a_successor_lives_as_long_as_the_key_was_made_for() -> None:
    key, _ = new_key("acme", ["*"], 1_000.0, 500.0, name="shop")
    later, _ = successor(key, 1_400.0)
    assert (later.created_at, later.expires_at, later.name, later.replaced_by) == (1_400.0, 1_900.0, "shop", None)
    endless, _ = new_key("acme", ["*"], 1_000.0)
    assert successor(endless, 2_000.0)[0].expires_at is None


@pytest.mark.parametrize(
    ("ttl_s", "at", "wanted"),
    [
        (None, 1e9, "active"),
        (30 * 86_400.0, 0.0, "active"),
        (30 * 86_400.0, 17 * 86_400.0, "expires_soon"),
        (30 * 86_400.0, 30 * 86_400.0, "expired"),
    ],
)
def test_a_key_says_whether_it_ends_soon(ttl_s: float | None, at: float, wanted: str) -> None:
    key, _ = new_key("acme", ["*"], 0.0, ttl_s)
    assert state(key, at) == wanted
