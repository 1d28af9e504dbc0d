"""What an agent does with its certificate, at a real broker's port, and over a link that says what a test wants."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent import durable_file
from agent.errors import LinkError
from agent.identity import authorities
from agent.identity import held as identity
from agent.identity.enrolment import enroll
from agent.identity.renewal import Renewals
from agent.identity.validity import DAY_S
from agent.link.base import Ended
from agent.link.routes import Routes
from agent.secrets import SecretStore
from cloud_broker.identity.authority import Authority
from cloud_broker.store.agents import Agent, NextCertificate
from cloud_broker.tenants import Scope
from protocol.framing import Buffer
from protocol.limits import VERSION
from protocol.messages import RENEWAL, AnyMessage, Limits, Renew, Renewed, Trust, Trusts, Welcome
from tests.agent.link.broker import AGENT, TENANT, Broker, broker, secrets_in, settings_of
from tests.waiting import until

SCOPE = Scope(TENANT)
Answer = Callable[[Renew, bytes], "tuple[Renewed, bytes] | None"]


@dataclass
class Link:
    """A link whose broker answers as a test says."""

    papers: Renewals
    answer: Answer
    features: frozenset[str] = frozenset({RENEWAL})
    said: list[AnyMessage] = field(default_factory=list)
    ended: tuple[str, str] | None = None

    def tell(self, message: AnyMessage, payload: Buffer = b"") -> None:
        self.said.append(message)
        if isinstance(message, Renew):
            answer = self.answer(message, bytes(payload))
            if answer is not None:
                asyncio.get_running_loop().call_soon(self.papers.heard, *answer)

    def end(self, code: str, reason: str) -> None:
        self.ended = (code, reason)

    @property
    def asked(self) -> list[str]:
        """The requests that were asked."""
        return [message.request for message in self.said if isinstance(message, Renew)]


@dataclass
class Plant:
    """An agent that enrolled, its broker, and a clock that can be set."""

    there: Broker
    state: Path
    secrets: SecretStore
    papers: Renewals
    days: float = 0.0

    def now(self) -> float:
        return time.time() + self.days * DAY_S

    def serial(self) -> str:
        return identity.current_serial(self.state) or ""

    def link(self, answer: Answer | None = None) -> Link:
        return Link(self.papers, answer or self.signs)

    async def welcomed(self, link: Link, lineage: str = "") -> None:
        welcome = Welcome(VERSION, "test", [RENEWAL], Limits(), TENANT, AGENT, time.time(), lineage=lineage)
        await self.papers.welcomed(link, welcome)

    def signs(self, message: Renew, csr: bytes) -> tuple[Renewed, bytes]:
        der, serial, not_after = self.there.authority.sign_agent(csr, TENANT, AGENT, time.time())
        self.next = NextCertificate(serial, not_after, self.there.authority.fingerprint, message.request, der)
        # As the broker does it: kept before it answers.
        self.keeping = asyncio.ensure_future(self.keeps(self.next))
        return Renewed(message.request, not_after), der

    async def keeps(self, following: NextCertificate | None) -> None:
        def change(agent: Agent) -> Agent:
            return replace(agent, next=following)

        await self.there.store.change_identity(SCOPE, AGENT, change)


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    state = tmp_path / "agent"
    secrets = secrets_in(state)
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        made = Plant(there, state, secrets, Renewals(state, Routes("none"), secrets))
        made.papers = Renewals(state, Routes("none"), secrets, chance=lambda: 0.5, now=made.now)
        await (await made.papers.connect()).close()
        running = asyncio.create_task(made.papers.run(), name="papers")
        try:
            yield made
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.__dict__.get("event") == event]


async def test_nothing_is_asked_before_two_thirds_of_the_life(plant: Plant) -> None:
    plant.days = 19.9
    link = plant.link()
    await plant.welcomed(link)
    assert await plant.papers._step() > 0
    assert link.asked == []


async def test_the_new_one_is_proven_put_in_force_and_dialled_with(plant: Plant) -> None:
    before = plant.serial()
    plant.days = 20.1
    link = plant.link()
    await plant.welcomed(link)
    await until(lambda: link.ended)
    assert link.ended == ("renewed", "the agent dials again with its new certificate")
    after = plant.serial()
    assert after == plant.next.serial != before
    assert identity.other_serial(plant.state) == before
    # The old one is there until the broker took the new one on a link.
    await plant.papers.left(Ended("renewed"))
    await (await plant.papers.connect()).close()
    assert plant.there.peers[-1].serial == after
    await plant.welcomed(plant.link())
    assert identity.other_serial(plant.state) is None
    assert not (plant.state / "identity" / before).exists()
    assert not (plant.state / "identity" / "renewal").exists()


async def test_a_lost_answer_is_asked_for_with_the_same_request(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.identity.renewal.LEAST_PAUSE_S", 0.01)
    monkeypatch.setattr("agent.link.backoff.BASE_S", 0.02)
    plant.days = 20.1
    first = plant.link(lambda *_: None)
    await plant.welcomed(first)
    await until(lambda: first.asked)
    await plant.papers.left(Ended())
    second = plant.link()
    await plant.welcomed(second)
    await until(lambda: second.ended)
    assert first.asked == second.asked


async def test_a_no_is_taken_for_a_while_and_asked_again_with_another_request(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    plant.days = 20.1
    link = plant.link(lambda message, _: (Renewed(message.request, refused="not today"), b""))
    before = plant.serial()
    await plant.welcomed(link)
    await until(lambda: told(caplog, "renewal_failed"))
    assert "not today; it is good for 10 days more, and is tried again in 129" in told(caplog, "renewal_failed")[0]
    plant.days = 21.7  # a twentieth of the life later
    link.answer = plant.signs
    plant.papers._changed.set()
    await until(lambda: link.ended)
    assert len(set(link.asked)) == 2
    assert plant.serial() != before


async def test_it_is_asked_again_when_the_broker_said(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    plant.days = 20.1
    link = plant.link(lambda message, _: (Renewed(message.request, refused="busy", retry_after_s=600.0), b""))
    await plant.welcomed(link)
    await until(lambda: told(caplog, "renewal_failed"))
    assert "is tried again in 600 s" in told(caplog, "renewal_failed")[0]


@pytest.mark.parametrize("what", ["garbage", "another key", "another agent"])
async def test_what_is_not_ours_is_not_kept(
    what: str, plant: Plant, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(message: Renew, csr: bytes) -> tuple[Renewed, bytes]:
        name = "plant-9" if what == "another agent" else AGENT
        der, _, not_after = plant.there.authority.sign_agent(csr, TENANT, name, time.time())
        kept = identity.load(plant.state, plant.secrets).certificate.read_bytes()
        der = {"garbage": b"\x00", "another key": der_of(kept)}.get(what, der)
        return Renewed(message.request, not_after), der

    plant.days = 20.1
    before = plant.serial()
    link = plant.link(answer)
    await plant.welcomed(link)
    await until(lambda: told(caplog, "renewal_failed"))
    assert plant.serial() == before
    assert identity.other_serial(plant.state) is None
    assert link.ended is None


def der_of(pem: bytes) -> bytes:
    """The certificate of a PEM file, DER."""
    return ssl.PEM_cert_to_DER_cert(pem.decode())


async def test_one_that_does_not_prove_good_is_not_put_in_force(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    def answer(message: Renew, csr: bytes) -> tuple[Renewed, bytes]:
        der, _, not_after = plant.there.authority.sign_agent(csr, TENANT, AGENT, time.time())
        return Renewed(message.request, not_after), der  # the broker does not know it

    plant.days = 20.1
    before = plant.serial()
    await plant.welcomed(plant.link(answer))
    await until(lambda: told(caplog, "renewal_failed"))
    assert "did not prove good" in told(caplog, "renewal_failed")[0]
    assert plant.serial() == before


async def test_a_refused_new_one_makes_room_for_the_old_one(plant: Plant) -> None:
    before = plant.serial()
    plant.days = 20.1
    link = plant.link()
    await plant.welcomed(link)
    await until(lambda: link.ended)
    await plant.keeps(None)  # the broker has lost it, as one that was put back to a backup
    await plant.papers.left(Ended("renewed"))
    with pytest.raises(LinkError, match=rf"replaced by a newer one.*has another certificate \({before}\)"):
        await plant.papers.connect()
    assert plant.serial() == before
    await (await plant.papers.connect()).close()
    await plant.welcomed(plant.link(lambda *_: None))
    assert identity.other_serial(plant.state) is None


async def test_a_link_that_comes_back_during_a_renewal_takes_nothing_from_it(plant: Plant) -> None:
    plant.days = 20.1
    first = plant.link()
    await plant.welcomed(first)
    await until(lambda: first.asked)
    # Between its certificate and its proof: the link is cut, and comes back.
    await plant.papers.left(Ended())
    await (await plant.papers.connect()).close()
    second = plant.link()
    await plant.welcomed(second)
    await until(lambda: second.ended or first.ended)
    who = identity.load(plant.state, plant.secrets)
    identity.client_context(who)
    await (await plant.papers.connect()).close()
    assert plant.there.peers[-1].serial == who.serial


async def test_a_damaged_new_one_makes_room_for_the_old_one(plant: Plant) -> None:
    before = plant.serial()
    plant.days = 20.1
    link = plant.link()
    await plant.welcomed(link)
    await until(lambda: link.ended)
    (plant.state / "identity" / plant.serial() / "identity.json").unlink()
    await (await plant.papers.connect()).close()
    assert plant.serial() == before


async def test_a_goodbye_that_refuses_makes_room_too(plant: Plant) -> None:
    before = plant.serial()
    plant.days = 20.1
    link = plant.link()
    await plant.welcomed(link)
    await until(lambda: link.ended)
    await plant.papers.left(Ended("renewed"))
    await (await plant.papers.connect()).close()
    await plant.papers.left(Ended("refused", "not you"))
    assert plant.serial() == before


async def test_who_enrols_while_the_agent_runs_is_dialled_with(plant: Plant) -> None:
    link = plant.link()
    await plant.welcomed(link)
    who = await enroll(settings_of(plant.state), await plant.there.token(), plant.secrets, plant.state)
    plant.papers._changed.set()
    await until(lambda: link.ended)
    assert plant.serial() == who.serial


async def test_a_full_disk_costs_no_certificate(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.identity.renewal.LEAST_PAUSE_S", 0.01)
    monkeypatch.setattr("agent.link.backoff.BASE_S", 0.02)
    real, room = durable_file.write, [0.0]  # so many files are written until the disk is full

    def write(path: Path, data: bytes, mode: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data, mode)

    monkeypatch.setattr(durable_file, "write", write)
    before = plant.serial()
    plant.days = 20.1
    link = plant.link()
    for files in (0, 1, 2, 0, 1, 2, 3, 4):  # key and request, then those of the identity, then which is in force
        room[0] = files
        caplog.clear()
        await plant.welcomed(link)
        await until(lambda: told(caplog, "renewal_failed") or link.ended)
        assert plant.serial() == before
        identity.client_context(identity.load(plant.state, plant.secrets))
    room[0] = float("inf")
    await until(lambda: link.ended)
    assert plant.serial() != before
    assert len(set(link.asked)) == 1


async def test_more_authorities_are_kept_and_told(plant: Plant, tmp_path: Path) -> None:
    ours, other = plant.there.authority.ca_der, Authority.create(tmp_path / "other", time.time()).ca_der
    link = plant.link()
    await plant.welcomed(link)
    plant.papers.heard(Trust([base64.b64encode(der).decode() for der in (ours, other)]), b"")
    await until(lambda: link.said)
    names = authorities.fingerprints([ours, other])
    assert link.said == [Trusts(names)]
    assert list((await plant.papers.shown()).trusts) == names
    await (await plant.papers.connect()).close()


async def test_authorities_that_would_shut_the_broker_out_are_not_kept(
    plant: Plant, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Authority.create(tmp_path / "other", time.time()).ca_der
    link = plant.link()
    await plant.welcomed(link)
    plant.papers.heard(Trust([base64.b64encode(other).decode()]), b"")
    await until(lambda: told(caplog, "trust_not_kept"))
    assert link.said == []
    assert (await plant.papers.shown()).trusts == tuple(authorities.fingerprints([plant.there.authority.ca_der]))
    await (await plant.papers.connect()).close()


@pytest.mark.parametrize("texts", [[], ["?"], ["AAAA"]])
async def test_authorities_that_are_none_are_not_kept(
    texts: list[str], plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    link = plant.link()
    await plant.welcomed(link)
    plant.papers.heard(Trust(texts), b"")
    await until(lambda: told(caplog, "trust_not_kept"))
    assert link.said == []


async def test_a_lineage_that_can_not_be_kept_ends_the_link(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    await plant.welcomed(plant.link(), "first")
    assert (await plant.papers.shown()).lineage == "first"

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(LinkError, match="taken for a copy of itself"):
        await plant.welcomed(plant.link(), "second")


async def test_each_warning_is_given_once(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for days, count in ((10, 0), (20.9, 0), (21.1, 1), (22, 1), (23.5, 2), (28, 2), (29.5, 3), (29.9, 3)):
        plant.days = days
        await plant.papers._step()
        assert len(told(caplog, "certificate_ends")) == count, days
    assert "is good for 9 days more and is not renewed" in told(caplog, "certificate_ends")[0]
