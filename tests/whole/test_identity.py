"""Certificates with both programs at work: renewed, got back, changed for others, and of two machines none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from agent.app import Agent
from agent.config_file import load
from agent.errors import LinkRefused
from agent.identity import authorities
from agent.identity import held as identity
from agent.identity.enrolment import enroll
from agent.link.routes import Routes
from agent.link.websocket import WebsocketDialer
from agent.secrets import open_store
from cloud_broker import app as broker_app
from cloud_broker.api.services import Services
from cloud_broker.identity import authorities as rollover
from cloud_broker.identity.authority import Authority
from cloud_broker.settings import Settings
from cloud_broker.store import agents
from cloud_broker.tenants import Scope
from config.dev.databases import free_port
from tests.waiting import until

ACME = Scope("acme")
WORD = "own-word"  # of the keys of the operator's own PKI
FILE = """
agent = "plant-1"
state_dir = "state"
[link]
proxy = "none"
{link}
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
"""


@dataclass
class Site:
    """An agent in this process, which can be stopped, put back, and copied."""

    folder: Path
    task: asyncio.Task[None] | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    agent: Agent | None = None

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def write(self, link: str = "") -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "agent.toml").write_text(FILE.format(link=link))

    async def enrol(self, token: str) -> identity.Identity:
        loaded = load(self.folder / "agent.toml")
        return await enroll(loaded.settings, token, open_store(loaded.settings, self.folder), self.state)

    async def start(self) -> None:
        self.stop = asyncio.Event()
        self.agent = await Agent.open(load(self.folder / "agent.toml"))
        self.task = asyncio.create_task(self.agent.run(self.stop), name="agent")

    async def end(self) -> None:
        if self.task is not None:
            self.stop.set()
            await self.task
            self.task = None

    def serial(self) -> str | None:
        """The certificate in force, once there is no doubt about it."""
        return None if identity.other_serial(self.state) else identity.current_serial(self.state)

    @property
    def last_error(self) -> str:
        return self.agent.supervisor.state.last_error if self.agent is not None else ""

    def copied(self, folder: Path) -> Site:
        shutil.copytree(self.folder, folder)
        return Site(folder)


class Place:
    """A broker in this process, and the agents that dial it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        link = {"listen": f"127.0.0.1:{free_port()}", **changes.pop("link", {})}
        self.settings = Settings.model_validate(
            {
                "data_dir": folder / "data",
                "api": {"listen": f"127.0.0.1:{free_port()}"},
                "link": link,
                "certificates": changes,
            }
        )
        self.stack = contextlib.AsyncExitStack()
        self.sites: list[Site] = []

    async def start(self) -> Services:
        if not (self.folder / "data" / "ca.crt").exists():
            Authority.create(self.folder / "data", time.time())
        self.services = await self.stack.enter_async_context(broker_app.running(self.settings))
        if await self.services.store.tenant("acme") is None:
            await self.services.store.create_tenant("acme", time.time())
        return self.services

    async def restart(self, **changes: Any) -> None:
        """Stop it, and start it with other settings of certificates."""
        await self.stack.aclose()
        certificates = self.settings.certificates.model_copy(update=changes)
        self.settings = self.settings.model_copy(update={"certificates": certificates})
        self.stack = contextlib.AsyncExitStack()
        await self.start()

    async def token(self) -> str:
        text, _ = await self.services.issue_token(ACME, "plant-1", None, 3600.0, "test")
        return text

    async def known(self) -> agents.Agent:
        found = await self.services.store.agent(ACME, "plant-1")
        assert found is not None
        return found

    async def seen(self, true: Callable[[agents.Agent], bool], seconds: float = 20.0) -> None:
        """Wait for something that the broker has of the agent."""
        async with asyncio.timeout(seconds):
            while not true(await self.known()):  # noqa: ASYNC110 - what is waited for is told by nobody
                await asyncio.sleep(0.02)  # between two looks

    async def site(self, name: str = "site", link: str = "") -> Site:
        made = Site(self.folder / name)
        made.write(link)
        self.sites.append(made)
        return made

    async def linked(self, site: Site, seconds: float = 20.0) -> None:
        """Wait until this agent is welcome with the certificate that it has."""

        def stands() -> bool:
            return site.agent is not None and site.agent._conversation is not None and site.agent._conversation.welcomed

        async with asyncio.timeout(seconds):
            await until(stands, seconds)
            await until(lambda: site.serial() is not None, seconds)


@contextlib.asynccontextmanager
async def place(folder: Path, **changes: Any) -> AsyncIterator[Place]:
    made = Place(folder, **changes)
    await made.start()
    try:
        yield made
    finally:
        for site in made.sites:
            await site.end()
        await made.stack.aclose()


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates follow one another as fast as here, where they are good for seconds."""
    monkeypatch.setattr("agent.identity.validity.REST_S", 0.2)


async def test_certificates_of_a_second_are_not_asked_for_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.identity.validity.REST_S", 60.0)
    async with place(tmp_path, life="1s") as made:
        site = await made.site()
        first = await site.enrol(await made.token())
        await site.start()
        await until(lambda: "another is asked for in" in site.last_error)
        assert site.serial() == first.serial


async def test_a_certificate_is_renewed_and_the_one_before_is_refused(tmp_path: Path) -> None:
    async with place(tmp_path, life="4s") as made:
        site = await made.site()
        first = await site.enrol(await made.token())
        before = site.copied(tmp_path / "before")
        await site.start()
        await until(lambda: site.serial() not in (None, first.serial))
        await made.linked(site)
        # The next ones are good for long: none of them is under way when it is looked at.
        await made.restart(life=3600.0)
        await made.seen(lambda known: known.not_after > time.time() + 60)
        await made.seen(lambda known: known.serial == site.serial())
        # Nothing of the old ones is left, and nothing that is under way.
        await until(
            lambda: (
                {path.name for path in (site.state / "identity").iterdir()}
                == {"current", "lineage", "keys.json", "lock", site.serial()}
            )
        )
        loaded = load(before.folder / "agent.toml")
        with pytest.raises(LinkRefused, match=r"replaced by a newer one|ran out|run out"):
            await WebsocketDialer(before.state, Routes("none"), open_store(loaded.settings, before.folder)).connect()


async def test_an_agent_that_slept_past_the_end_comes_back_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with place(tmp_path, life="1s") as made:
        site = await made.site()
        first = await site.enrol(await made.token())
        await until(lambda: time.time() > first.not_after)
        await made.restart(life=3600.0)
        await site.start()
        await made.linked(site)
        assert site.serial() != first.serial
        assert (await made.known()).serial == site.serial()
    assert "certificate_recovered" in {record.__dict__.get("event") for record in caplog.records}


async def test_after_the_grace_it_is_told_to_enrol_and_keeps_what_it_has(tmp_path: Path) -> None:
    async with place(tmp_path, life="1s", grace="1s") as made:
        site = await made.site()
        first = await site.enrol(await made.token())
        await until(lambda: time.time() > first.not_after + 1)
        await site.start()
        await until(lambda: "enrol again with a new token" in site.last_error)
        assert site.serial() == first.serial
        assert (first.folder / "agent.key").exists()
        # The new token is all it takes, while the agent runs.
        await made.restart(life=3600.0)
        await site.enrol(await made.token())
        await made.linked(site)


async def test_a_revoked_agent_does_not_recover(tmp_path: Path) -> None:
    async with place(tmp_path, life="1s") as made:
        site = await made.site()
        first = await site.enrol(await made.token())
        await made.services.store.revoke_agent(ACME, "plant-1", time.time(), by="test")
        await until(lambda: time.time() > first.not_after)
        await site.start()
        await until(lambda: "revoked" in site.last_error)
        assert site.serial() == first.serial


async def test_of_two_machines_with_one_identity_both_are_stopped(tmp_path: Path) -> None:
    async with place(tmp_path) as made:
        site = await made.site()
        await site.enrol(await made.token())
        await site.start()
        await made.linked(site)
        await site.end()
        copy = site.copied(tmp_path / "copy")
        made.sites.append(copy)
        await site.start()
        await made.linked(site)
        await copy.start()
        await until(lambda: "two machines" in site.last_error or "two machines" in copy.last_error)
        await until(lambda: "revoked" in site.last_error + copy.last_error or "two machines" in site.last_error)
        assert (await made.known()).revoked_at is not None
        assert "two machines" in ((await made.known()).revoked_reason or "")
        await until(lambda: "two machines" in site.last_error and "two machines" in copy.last_error)


async def test_a_machine_that_is_put_back_to_a_snapshot_lives_on(tmp_path: Path) -> None:
    async with place(tmp_path) as made:
        site = await made.site()
        await site.enrol(await made.token())
        await site.start()
        await made.linked(site)
        await site.end()
        snapshot = site.copied(tmp_path / "snapshot")
        for _ in range(3):
            await site.start()
            await made.linked(site)
            await site.end()
        for _ in range(2):  # put back, more than once
            shutil.rmtree(site.folder)
            snapshot.copied(site.folder)
            for _ in range(2):
                await site.start()
                await made.linked(site)
                await site.end()
        assert (await made.known()).revoked_at is None


async def test_authorities_come_and_go_and_no_agent_is_left_behind(tmp_path: Path) -> None:
    async with place(tmp_path, life="3s") as made:
        site = await made.site()
        who = await site.enrol(await made.token())
        await site.start()
        await made.linked(site)
        old = authorities.authorities_of(who)

        def trusted() -> list[bytes]:
            found = identity.find(site.state)
            return authorities.authorities_of(found) if found is not None else []

        rollover.add(made.settings.data_dir, time.time())
        await until(lambda: len(trusted()) == 2)
        names = sorted(authorities.fingerprints(trusted()))
        await made.seen(lambda known: list(known.trusts) == names)
        rollover.switch(made.settings.data_dir)
        newest = rollover.Authorities.load(made.settings.data_dir).issuing.fingerprint
        await made.seen(lambda known: known.issuer == newest)  # as `authority drop` waits for
        await made.linked(site)
        rollover.drop(made.settings.data_dir)
        await until(lambda: len(trusted()) == 1)
        assert trusted() != old
        serial = site.serial()
        await until(lambda: site.serial() not in (None, serial))
        await made.linked(site)


# --- certificates of the operator's own --------------------------------------------------------------


class OwnPki:
    """A small PKI of the operator's own: one authority, which also issues the broker's certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.authority = Authority.create(folder / "pki", time.time())
        self.ca = folder / "own-ca.crt"
        self.ca.write_bytes(self.authority.ca_pem)
        server, key = self.authority.server_certificate(["127.0.0.1"], time.time())
        self.server, self.server_key = folder / "server.crt", folder / "server.key"
        self.server.write_bytes(server)
        self.server_key.write_bytes(key)

    def issue(self, folder: Path, *, agent: str = "plant-1", passphrase: str = WORD) -> str:
        """Put a certificate and its key into ``folder``; return the serial."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        der, serial, _ = self.authority.sign_agent(csr.public_bytes(Encoding.DER), "acme", agent, time.time())
        lock = BestAvailableEncryption(passphrase.encode())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plant.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
        (folder / "plant.crt").write_text(ssl.DER_cert_to_PEM_cert(der))
        return serial


@contextlib.asynccontextmanager
async def own_place(folder: Path) -> AsyncIterator[tuple[Place, OwnPki, Site]]:
    """A broker with certificates of the operator's own on both sides, and an agent that is registered."""
    pki = OwnPki(folder / "own")
    link = {
        "certificate": pki.server,
        "key": pki.server_key,
        "authorities": pki.ca,
        "client_authorities": pki.ca,
    }
    async with place(folder, link=link) as made:
        await made.services.store.add_agent(agents.Agent("acme", "plant-1", None, "", 0.0, time.time(), own_pki=True))
        site = await made.site(
            link=f'url = "{made.settings.link.url}"\ncertificate = "plant.crt"\nkey = "plant.key"\n'
            f'passphrase = "{{secret:own-key}}"\nauthorities = "{pki.ca}"\n'
        )
        loaded = load(site.folder / "agent.toml")
        open_store(loaded.settings, site.folder).set("own-key", WORD)
        yield made, pki, site


async def test_an_agent_links_with_a_certificate_of_its_operators_own(tmp_path: Path) -> None:
    async with own_place(tmp_path) as (made, pki, site):
        serial = pki.issue(site.folder)
        await site.start()
        await until(lambda: site.agent is not None and site.agent.supervisor.state.state == "connected")
        await until(lambda: site.agent is not None and site.agent._status().linked_since is not None)
        assert (await made.known()).serial == serial
        assert identity.find(site.state) is None


async def test_a_certificate_that_the_operator_replaces_is_proven_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.identity.own_identity.LOOK_S", 0.05)
    caplog.set_level(logging.INFO)
    async with own_place(tmp_path) as (made, pki, site):
        pki.issue(site.folder)
        await site.start()
        await until(lambda: site.agent is not None and site.agent._status().linked_since is not None)
        # Half of it is there: the link goes on with the old one.
        key = (site.folder / "plant.key").read_bytes()
        serial = pki.issue(site.folder)
        new_key = (site.folder / "plant.key").read_bytes()
        (site.folder / "plant.key").write_bytes(key)
        await until(lambda: any("can't be used together" in record.getMessage() for record in caplog.records))
        assert site.agent is not None
        assert site.agent.supervisor.state.state == "connected"
        (site.folder / "plant.key").write_bytes(new_key)
        await made.seen(lambda known: known.serial == serial)
        await until(lambda: site.agent is not None and site.agent._status().linked_since is not None)


async def test_one_that_the_broker_does_not_take_leaves_the_link_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.identity.own_identity.LOOK_S", 0.05)
    async with own_place(tmp_path) as (_, pki, site):
        pki.issue(site.folder)
        await site.start()
        await until(lambda: site.agent is not None and site.agent._status().linked_since is not None)
        OwnPki(tmp_path / "another").issue(site.folder)
        await until(lambda: any("the certificate in use stays" in record.getMessage() for record in caplog.records))
        assert site.agent is not None
        assert site.agent.supervisor.state.state == "connected"
        told = [record for record in caplog.records if "the certificate in use stays" in record.getMessage()]
        assert len(told) == 1


async def test_a_broken_file_of_the_operators_own_is_told_with_its_name(tmp_path: Path) -> None:
    async with own_place(tmp_path) as (_, pki, site):
        pki.issue(site.folder, agent="plant-2")
        await site.start()
        await until(lambda: "is for the agent 'plant-2'" in site.last_error)
        (site.folder / "plant.crt").write_text("no certificate")
        await until(lambda: "plant.crt: this is no certificate" in site.last_error)
        pki.issue(site.folder, passphrase="another")
        await until(lambda: "can't be used together" in site.last_error)
        pki.issue(site.folder)
        await until(lambda: site.agent is not None and site.agent._status().linked_since is not None)
