"""Broker and agent in one process, joined by links in memory; the store is the real one."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent import catalogue
from agent.connectors.base import Connector, DriverSetup
from agent.connectors.synthetic import SyntheticConnector
from agent.conversation import Conversation as AgentConversation
from agent.dispatcher import Dispatcher
from agent.errors import LinkError
from agent.journal.base import Journal
from agent.journal.memory import MemoryJournal
from agent.link.memory import MemoryTransport, pair
from agent.sealing import Seals
from agent.settings import Settings
from agent.settings_reader import read
from agent.spool import SPOOL_BYTES, SpoolFolder
from cloud_broker.blobs import Blobs
from cloud_broker.commands import Commands, Submission
from cloud_broker.desk import AgentDesk
from cloud_broker.link.base import LinkLost, Peer, Transport
from cloud_broker.link.conversation import Conversation as BrokerConversation
from cloud_broker.results import Results
from cloud_broker.router import Router
from cloud_broker.settings import LimitSettings
from cloud_broker.store.agents import Agent
from cloud_broker.store.commands import Command
from cloud_broker.store.sqlite import SqliteStore
from cloud_broker.store.tenants import Token
from cloud_broker.tenants import Scope
from protocol import limits
from protocol.messages import Limits
from protocol.sealing import key_text

SCOPE = Scope("acme")
FILE: dict[str, Any] = {
    "agent": "plant-1",
    "state_dir": "state",
    "connections": {
        "probe": {"type": "synthetic"},
        "slow": {"type": "synthetic", "max_concurrent": 1},
    },
    "operations": {
        "echo": {"connection": "probe", "synthetic": "echo"},
        "rows": {"connection": "probe", "synthetic": "rows"},
        "sleep": {"connection": "slow", "synthetic": "sleep"},
        "fail": {"connection": "probe", "synthetic": "fail", "effect": "at-most-once"},
        "write": {"connection": "slow", "synthetic": "sleep", "effect": "at-most-once"},
        "write-rows": {"connection": "probe", "synthetic": "rows", "effect": "at-most-once"},
        "signed": {"connection": "probe", "synthetic": "echo"},
    },
    "policy": {"require_signature": ["signed"]},
}


class BrokerEnd(Transport):
    """The broker's end of a link in memory; ``freeze`` makes it a line on which nothing moves any more."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.address = "memory:0"
        self._transport = transport
        self._frozen = False

    def freeze(self) -> None:
        self._frozen = True

    async def send(self, data: bytes) -> None:
        if self._frozen:
            await self._transport.closed()
        try:
            await self._transport.send(data)
        except LinkError as exc:
            raise LinkLost(str(exc)) from exc

    async def receive(self) -> bytes:
        try:
            data = await self._transport.receive()
            if self._frozen:
                await self._transport.closed()
            return data
        except LinkError as exc:
            raise LinkLost(str(exc)) from exc

    async def close(self, reason: str = "") -> None:
        await self._transport.close(reason)


class Site:
    """
    One agent's process: its dispatcher and connectors.

    A new ``Site`` is another agent that knows nothing; ``restarted`` is the same one after its process died.
    """

    def __init__(
        self,
        name: str = "plant-1",
        file: dict[str, Any] | None = None,
        connector: Callable[[DriverSetup], Connector] = SyntheticConnector,
        journal: Journal | None = None,
        places: dict[str, str] | None = None,
    ) -> None:
        self.places = places or {}
        self.settings = read({**(file or FILE), "agent": name}, Settings)
        self.name = name
        self.spool_bytes = SPOOL_BYTES
        self.journal = journal if journal is not None else MemoryJournal()
        self._spool = Path(tempfile.mkdtemp(prefix="spool-"))
        self._connector = connector
        self.key = X25519PrivateKey.generate()
        self._run()

    def _run(self) -> None:
        self.connectors: dict[str, Connector] = {
            key: self._connector(
                DriverSetup(
                    key,
                    connection,
                    {n: o for n, o in self.settings.operations.items() if o.connection == key},
                )
            )
            for key, connection in self.settings.connections.items()
        }
        self.dispatcher = Dispatcher(
            self.settings,
            self.connectors,
            self.journal,
            SpoolFolder(self._spool, self.spool_bytes),
            seals=Seals(lambda: self.key, lambda: ("acme", self.name)),
            places=self.places,
        )
        self.dispatcher.recover()

    @property
    def public(self) -> str:
        """What callers seal to."""
        return key_text(self.key.public_key().public_bytes_raw())

    async def restarted(self) -> Site:
        """Return this agent after its process died: the journal, the spool and what the ERP has are left."""
        again = copy.copy(self)
        await self.kill()
        again._run()
        return again

    async def kill(self) -> None:
        """Let the process die: what it still does from here on reaches nobody."""
        self.dispatcher._journal = self.dispatcher._attempts._journal = MemoryJournal()
        tasks = [r.task for r in (*self.dispatcher._commands.values(), *self.dispatcher._leaving) if r.task is not None]
        self.dispatcher.take_no_more()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.dispatcher.close()

    def conversation(self, transport: MemoryTransport, silence_s: float = limits.SILENCE_S) -> AgentConversation:
        built = catalogue.build(self.settings, {}, {"seal": self.public}, self.places)
        return AgentConversation(
            transport,
            self.dispatcher,
            release="test",
            journal=self.journal,
            max_running=self.settings.max_running,
            catalogue=lambda: (catalogue.digest(built), catalogue.encode(built)),
            silence_s=silence_s,
        )


class Ring:
    """
    A broker over a real store, and links to sites.

    Attributes:
        commands: the API's side.
        router: for what the API does not show.
    """

    def __init__(self, folder: Path, *, inline_bytes: int = 65_536, max_bytes: int = 1 << 30) -> None:
        self._folder = folder
        self._inline_bytes = inline_bytes
        self._max_bytes = max_bytes
        self._links: list[tuple[MemoryTransport, asyncio.Task[Any], asyncio.Task[Any]]] = []
        self._sites: list[Site] = []
        self.store = SqliteStore(folder / "broker.db")

    async def start(self) -> None:
        self.store = SqliteStore(self._folder / "broker.db")
        await self.store.open()
        self.results = Results(self._folder / "results", self._inline_bytes, self._max_bytes)
        self.blobs = Blobs(self.store, self._folder / "blobs", LimitSettings())
        await self.blobs.open()
        self.router = Router(self.store, self.results, self.blobs, time.time)
        self.desk = AgentDesk(self.store, self.router, time.time)
        await self.router.start()
        self.commands = Commands(self.store, self.router, self.results)

    async def stop(self) -> None:
        await self.cut()
        await self.router.stop()
        await self.store.close()

    async def restart(self) -> None:
        """A broker that died and came back: only the store and its folder are left."""
        await self.stop()
        await self.start()

    async def enrol(self, name: str = "plant-1", group: str | None = None) -> None:
        now = time.time()
        if await self.store.tenant("acme") is None:
            await self.store.create_tenant("acme", now)
        await self.store.add_token(Token(f"tok-{name}", "acme", name, group, now, now + 60), name.encode())
        agent = Agent("acme", name, group, "01", now + 3600, now)
        await self.store.spend_token(f"tok-{name}", agent, "r", b"certificate", now)

    async def link(self, site: Site, silence_s: float = limits.SILENCE_S) -> BrokerEnd:
        """Link a site, and wait until commands can be sent to it."""
        ours, theirs = pair()
        end = BrokerEnd(ours)
        self._sites.append(site)
        broker = BrokerConversation(
            end,
            Peer("acme", site.name, "01", "memory:0"),
            self.desk,
            release="test",
            own=Limits(
                stream_window_bytes=limits.STREAM_WINDOW_BYTES,
                link_window_bytes=limits.LINK_WINDOW_BYTES,
                silence_s=silence_s,
            ),
        )
        serving = asyncio.create_task(broker.serve(), name="broker's end")
        dialled = asyncio.create_task(site.conversation(theirs, silence_s).serve(), name="agent's end")
        self._links.append((ours, serving, dialled))
        async with asyncio.timeout(5):
            while True:
                if broker.ready:
                    return end
                if serving.done():
                    serving.result()
                await asyncio.sleep(0)

    async def cut(self) -> None:
        """Lose every link without a word."""
        links, self._links = self._links, []
        for transport, serving, dialled in links:
            await transport.close()
            await asyncio.gather(serving, dialled, return_exceptions=True)

    async def submit(self, operation: str, *, agent: str | None = "plant-1", **asked: Any) -> Command:
        """Submit a command; ``params`` and the members of ``Submission`` by name."""
        params = asked.pop("params", {})
        data = params if isinstance(params, bytes) else json.dumps(params).encode()
        command, _ = await self.commands.submit(
            SCOPE, Submission(operation=operation, params=data, agent=agent, **asked)
        )
        return command

    async def final(self, command: Command, timeout_s: float = 20.0) -> Command:
        """Return the command's final state."""
        ended = await self.commands.wait(SCOPE, command.id, timeout_s)
        assert ended.finished_at is not None, f"{ended.operation} is still {ended.state}"
        return ended

    async def run(self, operation: str, **asked: Any) -> Command:
        """Submit a command and return its final state."""
        return await self.final(await self.submit(operation, **asked))

    async def rows(self, command: Command, index: int = 0) -> bytes:
        """Return the rows of a result, waiting for all of them."""
        reader = await self.commands.open_rows(SCOPE, command.id, index)
        return b"".join([bytes(piece) async for piece in reader.chunks()])

    async def state(self, command: Command, wanted: str) -> Command:
        """Wait until a command is in a state."""
        async with asyncio.timeout(10):
            while True:
                found = await self.commands.get(SCOPE, command.id)
                if found.state == wanted:
                    return found
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def ring(folder: Path, **options: Any) -> AsyncIterator[Ring]:
    """A running broker with the agent ``plant-1`` enrolled and not yet linked."""
    made = Ring(folder, **options)
    await made.start()
    try:
        await made.enrol()
        yield made
    finally:
        await made.stop()
        for site in made._sites:
            await site.kill()
            shutil.rmtree(site._spool, ignore_errors=True)


def begun(work: Callable[..., Coroutine[Any, Any, bool]]) -> Callable[..., asyncio.Future[bool]]:
    """Return what stands in for the store's ``finish``, which begins at once and can be waited for."""
    return lambda *args, **options: asyncio.ensure_future(work(*args, **options))
