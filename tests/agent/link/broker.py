"""A broker's port with the real certificates, contexts and store, for tests of the agent's way to it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.secrets.base import SecretStore
from agent.secrets.vault import VaultStore
from agent.settings import Settings
from agent.settings_reader import read
from cloud_broker.identity.authority import DEFAULT_TERMS, Authority
from cloud_broker.identity.certificates import TRUST_DOMAIN
from cloud_broker.identity.enrolment import EnrolmentRefused, WrongSecrets, enrol, new_token
from cloud_broker.identity.renewals import Renewals
from cloud_broker.identity.trust import Trust
from cloud_broker.link.admission import Admission
from cloud_broker.link.base import LinkLost, Peer, Transport
from cloud_broker.link.identification import Identification
from cloud_broker.link.lobby import Lobby
from cloud_broker.link.terminators import Terminators
from cloud_broker.link.tls import server_context
from cloud_broker.link.websocket import listen
from cloud_broker.store.sqlite import SqliteStore
from cloud_broker.store.tenants import Token
from protocol import codec
from protocol.codec import Record
from protocol.messages import Enrol, Enrolled, Goodbye

TENANT, AGENT = "acme", "plant-1"
HOSTS = ("127.0.0.1", "localhost")


@dataclass
class Broker:
    """
    What a test can see and steer.

    Attributes:
        peers: who came in at /link.
        refuse: why every agent is refused, or ``None``.
        answer_lost: the next enrolment is done, but its answer is not sent.
    """

    url: str
    authority: Authority
    store: SqliteStore
    peers: list[Peer] = field(default_factory=list)
    refuse: str | None = None
    answer_lost: bool = False
    enrolled: list[Enrolled] = field(default_factory=list)

    async def token(self, agent: str = AGENT, *, ttl_s: float = 3600.0, url: str = "") -> str:
        """Make a token, as the command line does."""
        text, sha256 = new_token(url or self.url, TENANT, agent, self.authority.ca_der)
        now = time.time()
        token = Token(
            id=f"tok_{sha256.hex()[:8]}",
            tenant=TENANT,
            agent=agent,
            group=None,
            created_at=now - 7200,
            expires_at=now + ttl_s,
        )
        await self.store.add_token(token, sha256)
        return text


async def echo(transport: Transport, peer: Peer) -> None:
    """Send every message back."""
    with contextlib.suppress(LinkLost):
        while True:
            await transport.send(await transport.receive())


@contextlib.asynccontextmanager
async def broker(
    folder: Path,
    *,
    hosts: tuple[str, ...] = HOSTS,
    converse: Callable[[Transport, Peer], Awaitable[None]] = echo,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[Broker]:
    """Serve agents on a free port of the loopback interface."""
    now = time.time()
    authority = Authority.load(folder) if (folder / "ca.crt").exists() else Authority.create(folder, now)
    store = SqliteStore(folder / "broker.db")
    await store.open()
    if await store.tenant(TENANT) is None:
        await store.create_tenant(TENANT, now)
    there = Broker("", authority, store)
    wrong = WrongSecrets()

    trust = Trust(folder)
    admission = Admission(store, trust, Renewals(store, trust, DEFAULT_TERMS, 90 * 86_400.0, time.time))

    async def admit(peer: Peer) -> str | None:
        return there.refuse or await admission.admit(peer)

    async def link(transport: Transport, peer: Peer) -> None:
        there.peers.append(peer)
        await converse(transport, peer)

    async def enrolment(transport: Transport) -> None:
        (record,) = codec.decode(await transport.receive())
        assert isinstance(record.message, Enrol)
        answer: Record
        try:
            enrolled, certificate = await enrol(
                store, authority, record.message, bytes(record.payload), time.time(), source="test", wrong=wrong
            )
            there.enrolled.append(enrolled)
            answer = Record(enrolled, certificate)
        except EnrolmentRefused as exc:
            answer = Record(Goodbye(code="refused", reason=exc.reason, retry_after_s=exc.retry_after_s))
        if there.answer_lost:
            there.answer_lost = False
            return
        await transport.send(codec.encode(answer))

    lobby = Lobby(0, 0, Terminators(()))
    context = tls if tls is not None else await asyncio.to_thread(server_context, authority, hosts, now)
    try:
        async with listen(
            host, port, context, Identification(trust, TRUST_DOMAIN), admit, link, enrolment, lobby
        ) as bound:
            there.url = f"wss://[{host}]:{bound}" if ":" in host else f"wss://{host}:{bound}"
            yield there
    finally:
        await store.close()


def settings_of(state_dir: Path, *, agent: str = AGENT, proxy: str = "none") -> Settings:
    """The operator's file, as small as it may be."""
    return read({"agent": agent, "state_dir": str(state_dir), "link": {"proxy": proxy}}, Settings)


def secrets_in(state_dir: Path) -> SecretStore:
    """The agent's vault."""
    state_dir.mkdir(parents=True, exist_ok=True)
    return VaultStore(state_dir, "outhaul-agent:test")
