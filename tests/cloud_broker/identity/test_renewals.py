"""Certificates that follow one another: real TLS, a real broker, messages by hand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.exceptions import InvalidMessage, InvalidStatus

from cloud_broker import app
from cloud_broker.api.services import Services
from cloud_broker.identity import renewals
from cloud_broker.identity.authority import Authority, Terms
from cloud_broker.identity.lineage import Lineage
from cloud_broker.settings import CertificateSettings
from cloud_broker.store import connections
from cloud_broker.store.agents import Agent
from protocol.messages import RENEWAL, Enrol, Enrolled, Goodbye, Hello, Limits, Renew, Renewed, Trusts
from tests.agent.link.certificates import csr
from tests.cloud_broker.plain_agent import ACME, Link, PlainAgent, broker, secret_of


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Services]:
    """A broker."""
    async with broker(tmp_path) as services:
        yield services


async def refused(agent: PlainAgent, path: str = "/link") -> str:
    """Why the broker does not let it in."""
    with pytest.raises(InvalidStatus) as caught:
        async with agent.dial(path):
            pass
    assert caught.value.response.status_code == 403
    return caught.value.response.body.decode()


async def noted(there: Services, *wanted: str) -> None:
    """See what the tenant's audit trail has of the agent's certificate; refusals may come a moment later."""
    found: list[str] = []
    async with asyncio.timeout(10):
        while found != list(wanted):
            records = await there.store.audit_after("acme", 0, 1_000)
            found = [one.action for one in records if one.action.startswith("agent_") and "link" not in one.action]


async def test_the_next_certificate_is_proven_then_linked_with_and_the_old_one_is_refused(
    tmp_path: Path, there: Services
) -> None:
    old = await PlainAgent.enrolled(tmp_path / "agent", there)
    async with old.link() as (link, _):
        answer, new = await old.renewed(link)
        assert answer.refused == ""
        proof = await new.proven()
        assert proof == {"tenant": "acme", "agent": "plant-1", "serial": new.serial, "not_after": answer.not_after}
        assert (await old.proven())["serial"] == old.serial, "a proof changes nothing"
        known = await there.store.agent(ACME, "plant-1")
        assert known is not None
        assert known.serial == old.serial
    async with new.link():
        assert "replaced by a newer one" in await refused(old)
        assert "replaced by a newer one" in await refused(old, "/prove")
    known = await there.store.agent(ACME, "plant-1")
    assert known is not None
    assert (known.serial, known.not_after, known.next) == (new.serial, answer.not_after, None)
    await noted(there, "agent_enrolled", "agent_renewed", "agent_refused", "agent_refused")


async def test_until_a_link_came_with_the_next_the_old_one_goes_on(tmp_path: Path, there: Services) -> None:
    old = await PlainAgent.enrolled(tmp_path / "agent", there)
    async with old.link() as (link, welcome):
        await old.renewed(link)
    async with old.link(lineage=welcome.lineage) as (link, _):
        _, other = await old.renewed(link, "n2")
    async with other.link():
        await refused(old)


async def test_a_renewal_asked_again_gives_the_same_certificate(tmp_path: Path, there: Services) -> None:
    old = await PlainAgent.enrolled(tmp_path / "agent", there)
    following = PlainAgent(tmp_path, old.url, old.authorities)
    answers = []
    lineage = ""
    for _ in range(30):
        async with old.link(lineage=lineage) as (link, welcome):
            lineage = welcome.lineage
            await link.say(Renew("n1"), csr(following.key))
            answers.append((await link.hear(Renewed))[1])
    assert len(set(answers)) == 1


async def test_an_agent_that_asks_without_end_is_told_to_wait(tmp_path: Path, there: Services) -> None:
    old = await PlainAgent.enrolled(tmp_path / "agent", there)
    async with old.link() as (link, _):
        answers = [(await old.renewed(link, f"n{number}"))[0] for number in range(11)]
    assert [answer.refused for answer in answers[:10]] == [""] * 10
    assert "many certificates" in answers[10].refused
    assert 0 < answers[10].retry_after_s < 3_600


async def test_a_damaged_request_is_refused_and_the_link_goes_on(tmp_path: Path, there: Services) -> None:
    old = await PlainAgent.enrolled(tmp_path / "agent", there)
    async with old.link() as (link, _):
        await link.say(Renew("n1"), b"damaged")
        answer, certificate = await link.hear(Renewed)
        assert "signing request" in answer.refused
        assert certificate == b""
        await link.say(Renew(""), csr(old.key))
        assert "request id" in (await link.hear(Renewed))[0].refused
        answer, _ = await old.renewed(link, "n2")
        assert answer.refused == ""


async def test_an_agent_that_does_not_know_renewal_is_offered_none_and_keeps_no_text(
    tmp_path: Path, there: Services
) -> None:
    old = await PlainAgent.enrolled(tmp_path / "agent", there)
    for _ in range(3):
        async with old.link(features=()) as (link, welcome):
            assert (welcome.features, welcome.lineage) == ([], "")
            await link.hold()
    async with old.link(features=()) as (link, _):
        await link.say(Renew("n1"), csr(old.key))
        assert (await link.hear(Goodbye))[0].code == "protocol"


async def test_while_nothing_can_be_kept_links_go_on_and_certificates_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BUSY_S", 0.01)
    async with broker(tmp_path) as there:
        old = await PlainAgent.enrolled(tmp_path / "agent", there)
        text, _ = await there.issue_token(ACME, "plant-2", None, 60.0, "test")
        async with old.link() as (link, welcome):
            with holding_the_file(tmp_path / "data/broker.db"):
                answer, _ = await old.renewed(link)
                assert "can't keep anything" in answer.refused
                assert answer.retry_after_s > 0
                await link.say(Trusts(old.trusts))
                async with old.link(lineage=welcome.lineage) as (again, greeting):
                    assert greeting.lineage == "", "it keeps the text that it has"
                    assert (await old.renewed(again))[0].refused
                    message = Enrol(secret_of(text), "r1", "0")
                    refusal, _ = await old.ask(message, csr(old.key))
                    assert isinstance(refusal, Goodbye)
                    assert (refusal.code, refusal.retry_after_s > 0) == ("refused", True)
            async with old.link(lineage=welcome.lineage) as (link, _):
                answer, new = await old.renewed(link)
                assert answer.refused == ""
        assert isinstance((await old.ask(message, csr(new.key)))[0], Enrolled)


@contextlib.contextmanager
def holding_the_file(path: Path) -> Iterator[None]:
    """Another process that does not let go of the store's file."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


# --- after the end ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def asleep(folder: Path, for_s: float) -> AsyncIterator[tuple[Services, PlainAgent]]:
    """An agent whose certificate ran out so long ago, at a broker that comes back."""
    async with broker(folder) as services:
        agent = await PlainAgent.enrolled(folder / "agent", services)
        authority, then = Authority.load(folder / "data"), time.time() - for_s - 60
        agent.certificate, serial, not_after = authority.sign_agent(csr(agent.key), "acme", "plant-1", then, Terms(60))

        def change(known: Agent) -> Agent:
            return replace(known, serial=serial, not_after=not_after)

        await services.store.change_identity(ACME, "plant-1", change)
        yield services, agent


async def test_an_agent_that_slept_past_the_end_comes_back_by_itself(tmp_path: Path) -> None:
    async with asleep(tmp_path, 86_400.0) as (there, agent):
        with pytest.raises(InvalidMessage):
            async with agent.dial():
                pass
        answer, new = await agent.recovered()
        assert isinstance(answer, Enrolled)
        assert (answer.tenant, answer.agent) == ("acme", "plant-1")
        assert [base64.b64decode(one) for one in answer.authorities] == agent.authorities
        async with new.link():
            known = await there.store.agent(ACME, "plant-1")
            assert known is not None
            assert known.serial == new.serial
            await noted(there, "agent_enrolled", "agent_recovered")


async def test_a_recovery_whose_answer_was_lost_gives_the_same_certificate(tmp_path: Path) -> None:
    async with asleep(tmp_path, 60.0) as (_, agent):
        _, first = await agent.recovered()
        _, again = await agent.recovered(key=first.key)
        assert again.certificate == first.certificate
        answer, _ = await first.recovered("n2")
        assert isinstance(answer, Enrolled), "the next one is as good for that as the one in force"


@pytest.mark.parametrize(
    ("days", "wrong", "sentence"),
    [
        (91, {}, "more than 90 days ago"),
        (1, {"signature": base64.b64encode(b"x" * 70).decode()}, "not signed with the key"),
        (1, {"signature": "?"}, "not signed with the key"),
        (1, {"certificate": base64.b64encode(b"x" * 70).decode()}, "not signed with the key"),
        (1, {"certificate": "A" * 30_000}, "too long"),
        (1, {"request": "another"}, "not signed with the key"),
    ],
)
async def test_who_may_not_recover_is_told_why(tmp_path: Path, days: int, wrong: dict[str, str], sentence: str) -> None:
    async with asleep(tmp_path, days * 86_400.0) as (_, agent):
        answer, _ = await agent.recovered(wrong=wrong)
        assert isinstance(answer, Goodbye)
        assert (answer.code, answer.retry_after_s) == ("refused", 0.0)
        assert sentence in answer.reason


async def test_a_revoked_agent_does_not_recover(tmp_path: Path) -> None:
    async with asleep(tmp_path, 60.0) as (there, agent):
        await there.store.revoke_agent(ACME, "plant-1", time.time())
        answer, _ = await agent.recovered()
        assert isinstance(answer, Goodbye)
        assert "revoked" in answer.reason


async def test_a_certificate_that_was_replaced_recovers_nothing(tmp_path: Path) -> None:
    async with asleep(tmp_path, 60.0) as (_, agent):
        _, new = await agent.recovered()
        async with new.link():
            answer, _ = await agent.recovered("n2")
            assert isinstance(answer, Goodbye)
            assert "replaced" in answer.reason


async def test_another_brokers_certificate_recovers_nothing(tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", time.time())
    async with asleep(tmp_path, 60.0) as (_, agent):
        agent.certificate, _, _ = other.sign_agent(csr(agent.key), "acme", "plant-1", time.time())
        answer, _ = await agent.recovered()
        assert isinstance(answer, Goodbye)
        assert "no authority of this broker" in answer.reason


async def test_who_tries_many_recoveries_waits(tmp_path: Path) -> None:
    async with asleep(tmp_path, 60.0) as (_, agent):
        for number in range(10):
            await agent.recovered(f"n{number}")
        answer, _ = await agent.recovered("n10")
        assert isinstance(answer, Goodbye)
        assert "many certificates" in answer.reason
        assert answer.retry_after_s > 0
        for _ in range(10):
            await agent.recovered(wrong={"signature": "?"})
        answer, _ = await agent.recovered(wrong={"signature": "?"})
        assert isinstance(answer, Goodbye)
        assert "too many wrong requests" in answer.reason


async def test_a_link_whose_certificate_runs_out_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LOOK_AGAIN_S", 0.1)
    async with broker(tmp_path, certificates=CertificateSettings(life=2.0)) as there:
        agent = await PlainAgent.enrolled(tmp_path / "agent", there)
        async with agent.link() as (link, _):
            goodbye, _ = await link.hear(Goodbye)
            assert goodbye.code == "expired"
            assert "run out" in goodbye.reason


async def test_a_revocation_from_outside_ends_a_link_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LOOK_AGAIN_S", 0.1)
    async with broker(tmp_path) as there:
        agent = await PlainAgent.enrolled(tmp_path / "agent", there)
        async with agent.link() as (link, _):
            await there.store.revoke_agent(ACME, "plant-1", time.time(), "stolen")  # as the command line does
            goodbye, _ = await link.hear(Goodbye)
            assert (goodbye.code, goodbye.reason) == ("revoked", "this agent was revoked: stolen")


# --- two of one ------------------------------------------------------------------------------------------


def hello(lineage: str) -> Hello:
    return Hello([1], "0", [RENEWAL], Limits(remembers=10_000), "journal", time.time(), lineage=lineage)


async def kept(there: Services) -> Lineage:
    """What is known of the agent's texts once it is known to have the last one."""
    agent = None
    async with asyncio.timeout(10):
        while agent is None or not agent.lineage.confirmed:
            agent = await there.store.agent(ACME, "plant-1")
    return agent.lineage


async def test_of_two_machines_with_one_identity_both_are_stopped(tmp_path: Path, there: Services) -> None:
    one = await PlainAgent.enrolled(tmp_path / "agent", there)
    async with one.link() as (link, copied):
        await link.hold()
        assert (await kept(there)).tip == copied.lineage
    async with one.link(lineage=copied.lineage) as (first, welcome):
        await first.hold()
        assert (await kept(there)).tip == welcome.lineage
        async with one.link(lineage=copied.lineage) as (copy, _):
            assert (await first.hear(Goodbye))[0].code == "superseded"
            await copy.hold()
            async with one.dial() as connection:
                again = Link(connection)
                await again.say(hello(welcome.lineage))
                goodbye, _ = await again.hear(Goodbye)
                assert goodbye.code == "revoked"
                assert "two machines use the identity" in goodbye.reason
            assert (await copy.hear(Goodbye))[0] == goodbye
    assert "two machines use the identity" in await refused(one)
    await noted(there, "agent_enrolled", "agent_cloned", "agent_refused")


async def test_a_machine_that_is_put_back_lives_on(
    tmp_path: Path, there: Services, caplog: pytest.LogCaptureFixture
) -> None:
    one = await PlainAgent.enrolled(tmp_path / "agent", there)
    shown, early = "", ""
    for number in range(4):
        async with one.link(lineage=shown) as (link, welcome):
            await link.hold()
            await kept(there)
            shown = welcome.lineage
            early = early or shown
            assert number == 0 or shown != early
    for _ in range(3):
        async with one.link(lineage=early) as (link, welcome):
            await link.hold()
            await kept(there)
    async with one.link(lineage=welcome.lineage):
        pass
    assert sum(record.__dict__.get("event") == "agent_put_back" for record in caplog.records) == 3


async def test_a_greeting_that_was_held_up_on_its_way_proves_nothing(tmp_path: Path, there: Services) -> None:
    one = await PlainAgent.enrolled(tmp_path / "agent", there)
    async with one.link() as (link, first):
        await link.hold()
        await kept(there)
    async with one.dial() as late, one.link(lineage=first.lineage) as (link, second):
        await link.hold()
        assert (await kept(there)).tip == second.lineage
        held_up = Link(late)
        await held_up.say(hello(first.lineage))
        assert (await held_up.hear(Goodbye))[0].code == "superseded"
        assert (await kept(there)).tip == second.lineage
    async with one.link(lineage=second.lineage) as (link, _):
        await link.hold()


async def test_a_link_whose_certificate_was_not_put_in_force_gets_another_without_losing_it(
    tmp_path: Path, there: Services
) -> None:
    one = await PlainAgent.enrolled(tmp_path / "agent", there)
    async with one.link() as (link, _):
        _, two = await one.renewed(link)
    known = await there.store.agent(ACME, "plant-1")
    assert known is not None
    assert known.next is not None
    following = replace(known.next, serial="ff" * 20, request="n2")
    given = renewals._give(known, following, two.serial, b"")
    assert (given.serial, given.next) == (two.serial, following)


async def test_a_text_that_was_lost_with_its_link_is_not_missed(tmp_path: Path, there: Services) -> None:
    one = await PlainAgent.enrolled(tmp_path / "agent", there)
    async with one.link() as (link, first):
        await link.hold()
        await kept(there)
    for _ in range(20):
        async with one.link(lineage=first.lineage):
            pass
    agent = await there.store.agent(ACME, "plant-1")
    assert agent is not None
    assert agent.lineage.abandoned == ()
