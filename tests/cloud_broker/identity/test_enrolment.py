"""The broker's side of enrolment: one token, one certificate, whatever arrives twice or at once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_broker.identity.authority import Authority
from cloud_broker.identity.certificates import identity_of
from cloud_broker.identity.enrolment import MAX_SOURCES, EnrolmentRefused, WrongSecrets, enrol, new_token
from cloud_broker.store.sqlite import SqliteStore
from cloud_broker.store.tenants import Token
from cloud_broker.tenants import Scope
from protocol.messages import Enrol
from tests.agent.link.certificates import csr

NOW = 1_800_000_000.0
SECRET = "s" * 43


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store with one tenant and one token."""
    store = SqliteStore(tmp_path / "broker.db")
    await store.open()
    await store.create_tenant("acme", NOW)
    token = Token(id="tok_1", tenant="acme", agent="plant-1", group="east", created_at=NOW, expires_at=NOW + 3600)
    await store.add_token(token, hashlib.sha256(SECRET.encode()).digest())
    yield store
    await store.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A new authority."""
    return Authority.create(tmp_path / "ca", NOW)


def message(request: str = "r1", secret: str = SECRET) -> Enrol:
    return Enrol(secret=secret, request=request, release="0.1.0")


def a_request() -> bytes:
    return csr(ec.generate_private_key(ec.SECP256R1()))


async def test_a_token_enrols_the_agent_it_names(store: SqliteStore, authority: Authority) -> None:
    answer, certificate = await enrol(store, authority, message(), a_request(), NOW + 1)
    assert (answer.tenant, answer.agent) == ("acme", "plant-1")
    agent = await store.agent(Scope("acme"), "plant-1")
    assert agent is not None
    assert (agent.serial, agent.not_after, agent.group) == (identity_of(certificate)[2], answer.not_after, "east")


async def test_the_same_request_again_gives_the_same_answer_even_when_the_token_has_expired(
    store: SqliteStore, authority: Authority
) -> None:
    request = a_request()
    first = await enrol(store, authority, message(), request, NOW + 1)
    assert await enrol(store, authority, message(), request, NOW + 9_000) == first


@pytest.mark.parametrize("request_id", ["r1", "r2"])
async def test_another_key_or_another_request_gets_nothing(
    request_id: str, store: SqliteStore, authority: Authority
) -> None:
    request = a_request()
    await enrol(store, authority, message("r1"), request, NOW + 1)
    other = request if request_id == "r2" else a_request()
    with pytest.raises(EnrolmentRefused, match=r"used already on 2027-01-15 at 08:00 UTC; create a new one"):
        await enrol(store, authority, message(request_id), other, NOW + 2)


async def test_of_many_at_once_one_gets_a_certificate(store: SqliteStore, authority: Authority) -> None:
    outcomes = await asyncio.gather(
        *(enrol(store, authority, message(f"r{number}"), a_request(), NOW + 1) for number in range(20)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, EnrolmentRefused)]
    assert len(refused) == 19
    assert all("used already" in outcome.reason and outcome.retry_after_s == 0 for outcome in refused)


async def test_the_same_request_many_times_at_once_gets_one_certificate(
    store: SqliteStore, authority: Authority
) -> None:
    request = a_request()
    outcomes = await asyncio.gather(*(enrol(store, authority, message(), request, NOW + 1) for _ in range(20)))
    assert len({certificate for _, certificate in outcomes}) == 1


@pytest.mark.parametrize(
    ("asked", "now", "sentence"),
    [
        (message(), NOW + 3600, "expired on 2027-01-15 at 09:00 UTC; create a new one"),
        (message(secret="other"), NOW, "unknown token"),
        (message(secret=""), NOW, "unknown token"),
        (message(request=""), NOW, "request id"),
        (message(request="r" * 101), NOW, "request id"),
    ],
)
async def test_a_refusal_says_why(
    asked: Enrol, now: float, sentence: str, store: SqliteStore, authority: Authority
) -> None:
    with pytest.raises(EnrolmentRefused, match=sentence) as caught:
        await enrol(store, authority, asked, a_request(), now, wrong=WrongSecrets())
    assert caught.value.retry_after_s == 0


async def test_a_token_of_before_brings_no_revoked_agent_back(store: SqliteStore, authority: Authority) -> None:
    spare = Token("tok_2", "acme", "plant-1", "east", NOW, NOW + 3600)
    others = Token("tok_3", "acme", "plant-2", "east", NOW, NOW + 3600)
    await store.add_token(spare, hashlib.sha256(b"spare").digest())
    await store.add_token(others, hashlib.sha256(b"others").digest())
    await enrol(store, authority, message(), a_request(), NOW + 1)
    assert await store.revoke_agent(Scope("acme"), "plant-1", NOW + 2)
    with pytest.raises(EnrolmentRefused, match="this token expired on"):
        await enrol(store, authority, message(secret="spare"), a_request(), NOW + 3)
    await enrol(store, authority, message(secret="others"), a_request(), NOW + 3)
    agent = await store.agent(Scope("acme"), "plant-1")
    assert agent is not None
    assert agent.revoked_at == NOW + 2


async def test_where_two_replace_an_agent_a_spare_token_from_before_replaces_none(
    store: SqliteStore, authority: Authority
) -> None:
    for name, made_at in (("spare", NOW), ("approved", NOW + 2)):
        token = Token(f"tok_{name}", "acme", "plant-1", "east", made_at, NOW + 3600)
        await store.add_token(token, hashlib.sha256(name.encode()).digest())
    request = a_request()
    first = await enrol(store, authority, message(), request, NOW + 1, two_replace=True)
    # An answer that was lost is given again all the same.
    assert await enrol(store, authority, message(), request, NOW + 2, two_replace=True) == first

    with pytest.raises(EnrolmentRefused, match="a second person approves"):
        await enrol(store, authority, message("r2", "spare"), a_request(), NOW + 3, two_replace=True)

    await enrol(store, authority, message("r3", "approved"), a_request(), NOW + 3, two_replace=True)
    agent = await store.agent(Scope("acme"), "plant-1")
    assert agent is not None
    assert agent.enrolled_at == NOW + 3
    await enrol(store, authority, message("r2", "spare"), a_request(), NOW + 4)


async def test_a_damaged_request_does_not_spend_the_token(store: SqliteStore, authority: Authority) -> None:
    with pytest.raises(EnrolmentRefused, match="signing request"):
        await enrol(store, authority, message(), b"garbage", NOW)
    await enrol(store, authority, message(), a_request(), NOW)


async def test_who_guesses_waits_and_nobody_else_behind_the_same_address_does(
    store: SqliteStore, authority: Authority
) -> None:
    wrong = WrongSecrets()
    for guess in range(10):
        with pytest.raises(EnrolmentRefused, match="unknown token"):
            await enrol(store, authority, message(secret=str(guess)), b"", NOW + guess, source="1.2.3.4", wrong=wrong)
    with pytest.raises(EnrolmentRefused, match="too many wrong tokens") as caught:
        await enrol(store, authority, message(secret="10"), b"", NOW + 10, source="1.2.3.4", wrong=wrong)
    assert caught.value.retry_after_s == 50
    await enrol(store, authority, message(), a_request(), NOW + 11, source="1.2.3.4", wrong=wrong)
    assert wrong.wait_s("1.2.3.4", NOW + 60) == 0


def test_a_flood_of_addresses_takes_no_more_room() -> None:
    wrong = WrongSecrets()
    for number in range(MAX_SOURCES + 500):
        wrong.note(str(number), NOW)
    assert len(wrong._seen) == MAX_SOURCES


def test_tokens_differ_and_only_a_hash_is_to_be_kept() -> None:
    first, second = (new_token("wss://b:8443", "acme", "plant-1", b"der") for _ in range(2))
    assert first != second
    assert len(first[1]) == 32
    assert first[0].startswith("oht1.")
