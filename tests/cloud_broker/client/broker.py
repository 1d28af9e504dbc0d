"""A real broker for the client's tests: its API on a real uvicorn, its store on SQLite, and scripted agents."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import uvicorn

from cloud_broker.api.app import create_app
from cloud_broker.api.services import Services
from cloud_broker.approvals import Approvals
from cloud_broker.approved import acts
from cloud_broker.blobs import Blobs
from cloud_broker.callers.keys import new_key, sha256_of
from cloud_broker.commands import Commands
from cloud_broker.dead_letters import DeadLetters
from cloud_broker.desk import AgentDesk
from cloud_broker.link.base import Peer
from cloud_broker.link.conversation import Conversation
from cloud_broker.replays import ReplayRuns
from cloud_broker.results import Results
from cloud_broker.router import Router
from cloud_broker.settings import Settings
from cloud_broker.store.agents import Agent
from cloud_broker.store.base import Store
from cloud_broker.store.open import open_store
from cloud_broker.store.tenants import Token
from cloud_broker.tenants import Scope
from protocol import limits
from protocol.messages import Enrol, Enrolled, Limits
from tests.cloud_broker.client.scripted import Behaviour, ScriptedAgent, pair

T = TypeVar("T")

TENANT: Final = "acme"
DAY_S: Final = 86_400.0  # seconds; the scripted agent gives no signs of life while no test asks it for anything
START_S: Final = 20.0  # seconds; a slow machine starts a server within them


class Broker:
    """
    The running broker; its methods may be called from the test's thread.

    Attributes:
        url: of its API.
        key: of the tenant, for everything.
    """

    def __init__(self, folder: Path, **changed: Any) -> None:
        self.settings = Settings(**{"data_dir": folder} | changed)
        self.url = ""
        self.key = ""
        self._ready: Future[None] = Future()
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._agents: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the broker's event loop and return what came of it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    def add_key(self, *scopes: str, owner: str = "") -> str:
        """Return a new key of the tenant."""
        record, text = new_key(TENANT, scopes, time.time(), owner=owner)
        self.run(self.store.add_key(record, sha256_of(text)))
        return text

    def enrol(self, name: str, group: str | None = None) -> None:
        """Make an agent known, without a link."""
        self.run(self._enrol(name, group))

    def link(self, name: str, operations: list[dict[str, Any]], behaviours: Mapping[str, Behaviour]) -> None:
        """Connect an agent and wait until its operations are known."""
        self.run(self._link(name, operations, behaviours))

    def know(self, name: str, operations: list[dict[str, Any]]) -> None:
        """Let an agent have been here, with these operations."""
        catalogue = _catalogue(operations)
        self.run(self.store.put_catalogue(Scope(TENANT), name, catalogue, hashlib.sha256(catalogue).hexdigest()))

    async def _enrol(self, name: str, group: str | None) -> None:
        now = time.time()
        token = Token(f"tok-{name}", TENANT, name, group, now, now + 60)
        await self.store.add_token(token, name.encode())
        agent = Agent(TENANT, name, group, "01", now + 86_400, now)
        await self.store.spend_token(token.id, agent, "request", b"certificate", now)

    async def _link(self, name: str, operations: list[dict[str, Any]], behaviours: Mapping[str, Behaviour]) -> None:
        ours, theirs = pair()
        catalogue = _catalogue(operations)
        own = Limits(
            stream_window_bytes=limits.STREAM_WINDOW_BYTES,
            link_window_bytes=limits.LINK_WINDOW_BYTES,
            silence_s=DAY_S,
        )
        conversation = Conversation(ours, Peer(TENANT, name, "01", "memory"), self.desk, release="test", own=own)
        self._spawn(conversation.serve())
        self._spawn(ScriptedAgent(theirs, catalogue, behaviours).serve())
        deadline = time.monotonic() + START_S
        while not conversation.ready:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

    # --- the broker's thread ----------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[Broker]:
        """Start it in a thread of its own, and end it."""
        thread = threading.Thread(target=self._serve_all, name="broker of the test")
        thread.start()
        try:
            self._ready.result(START_S)
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(START_S)

    def _serve_all(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as exc:
            if not self._ready.done():
                self._ready.set_exception(exc)
            raise

    async def _serve(self) -> None:
        self.store: Store = open_store(self.settings)
        await self.store.open()
        limit = self.settings.limits
        results = Results(self.settings.data_dir / "results", limit.inline_bytes, limit.result_bytes)
        blobs = Blobs(self.store, self.settings.data_dir / "blobs", limit)
        await blobs.open()
        self.router = Router(self.store, results, blobs, time.time)
        self.desk = AgentDesk(self.store, self.router, time.time)
        await self.router.start()
        commands = Commands(self.store, self.router, results)
        dead_letters = DeadLetters(self.store, commands)
        replay_runs = ReplayRuns(self.store, dead_letters)
        doing = acts(self.store, dead_letters, replay_runs, _no_revocation)
        approvals = Approvals(self.store, self.settings.approvals, doing)
        app = create_app(
            Services(
                settings=self.settings,
                store=self.store,
                commands=commands,
                issue_token=_no_token,
                revoke_agent=_no_revocation,
                link_listening=lambda: True,
                dead_letters=dead_letters,
                replay_runs=replay_runs,
                approvals=approvals,
                blobs=blobs,
                enrol=_no_enrolment,
                authorities=list,
            )
        )
        await self.store.create_tenant(TENANT, time.time())
        record, self.key = new_key(TENANT, ["*"], time.time())
        await self.store.add_key(record, sha256_of(self.key))
        # Listening before the server starts: then nobody comes too early.
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        self._ready.set_result(None)
        await self._stop.wait()
        server.should_exit = server.force_exit = True
        await serving
        await approvals.stop()
        await replay_runs.stop()
        await self.router.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.store.close()


def _catalogue(operations: list[dict[str, Any]]) -> bytes:
    common = {"connection": "erp", "effect": "read", "kind": "sql", "timeout_s": 60.0, "signature_required": False}
    connection = {"name": "erp", "type": "odbc", "max_concurrent": 8, "rate_per_s": None, "windows": []}
    return json.dumps({"operations": [common | entry for entry in operations], "connections": [connection]}).encode()


async def _no_token(scope: Scope, agent: str, group: str | None, ttl_s: float, by: str) -> tuple[str, float]:
    raise NotImplementedError("these tests enrol nobody")


async def _no_enrolment(agent: str, message: Enrol, csr: bytes, source: str) -> tuple[Enrolled, bytes]:
    raise NotImplementedError("these tests enrol nobody")


async def _no_revocation(scope: Scope, agent: str, by: str) -> bool:
    return False
