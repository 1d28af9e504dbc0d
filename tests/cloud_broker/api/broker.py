"""A real API server on a free port over a real store; only the agents' side is played here."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from cloud_broker.api.app import create_app
from cloud_broker.api.server import config as server_of
from cloud_broker.api.services import Services
from cloud_broker.approvals import Approvals
from cloud_broker.approved import acts
from cloud_broker.blobs import Blobs
from cloud_broker.callers.credentials import Credentials
from cloud_broker.callers.fairness import Usage
from cloud_broker.callers.keys import new_key, sha256_of
from cloud_broker.commands import Submission, fingerprint
from cloud_broker.conditions import AgentCondition, condition
from cloud_broker.dead_letters import DeadLetters
from cloud_broker.errors import (
    AgentNotFound,
    BrokerError,
    CommandNotFound,
    IdempotencyKeyReused,
    ParametersInvalid,
    RowSetNotFound,
)
from cloud_broker.identity.authority import DEFAULT_TERMS, Authority
from cloud_broker.identity.renewals import Renewals
from cloud_broker.identity.trust import Trust
from cloud_broker.link.admission import Admission
from cloud_broker.replays import ReplayRuns
from cloud_broker.settings import LimitSettings, Settings
from cloud_broker.store.agents import Agent
from cloud_broker.store.answers import IdempotencyConflict
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, Finish, RowSetInfo
from cloud_broker.store.open import open_store
from cloud_broker.store.tenants import Token
from cloud_broker.tenants import Scope
from protocol.ids import new_id
from protocol.states import FINAL, CommandState

COMMAND_BYTES = 4_096  # small, so that limits are quick to reach
COLUMNS = ({"name": "no", "type": "string", "source_type": ""}, {"name": "total", "type": "decimal", "source_type": ""})


@dataclass
class Rows:
    """Rows that a test gives, at its own pace."""

    columns: tuple[dict[str, str], ...] = COLUMNS
    pieces: Callable[[], AsyncIterator[bytes]] = field(default=lambda: nothing())
    sealed: bool = False
    rows_as: str = "ndjson"

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield what the test gave."""
        return self.pieces()


async def nothing() -> AsyncIterator[bytes]:
    """Yield no rows."""
    if False:
        yield b""


class PlayedCommands:
    """Keeps commands in the real store; a test plays router and agent."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = asyncio.Condition()
        self.submissions: list[Submission] = []
        self.taken: list[Command] = []
        self.refuses = False
        self.conditions: dict[str, AgentCondition] = {}
        self.gone: set[str] = set()
        self.rows: dict[str, Rows] = {}

    async def submit(self, scope: Scope, submission: Submission) -> tuple[Command, bool]:
        """Keep it."""
        command = await self.checked(scope, submission)
        try:
            return await self._store.add_command(scope, command)
        except IdempotencyConflict as exc:
            raise IdempotencyKeyReused(str(exc)) from exc

    async def submit_many(
        self, scope: Scope, submissions: Sequence[Submission]
    ) -> list[tuple[Command, bool] | BrokerError]:
        """Keep them one by one."""
        answers: list[tuple[Command, bool] | BrokerError] = []
        for submission in submissions:
            try:
                answers.append(await self.submit(scope, submission))
            except BrokerError as exc:
                answers.append(exc)
        return answers

    def has_room(self, scope: Scope, count: int) -> bool:
        """There always is."""
        return True

    def take(self, command: Command) -> None:
        """Leave it, as if its agent were away."""
        self.taken.append(command)

    async def checked(self, scope: Scope, submission: Submission) -> Command:
        """Take nearly everything."""
        if submission.agent == "nobody":
            raise AgentNotFound("There is no agent 'nobody'.", agents=[])
        if self.refuses:
            raise ParametersInvalid("order: n: wants less")
        self.submissions.append(submission)
        now = time.time()
        return Command(
            id=new_id("cmd", int(now * 1000), os.urandom),
            tenant=scope.tenant,
            agent=submission.agent,
            group=submission.group,
            operation=submission.operation,
            connection="probe",
            effect="read",
            params=submission.params,
            fingerprint=fingerprint(submission),
            signature=submission.signature,
            created_at=now,
            expires_at=now + submission.ttl_s,
            correlation_id=submission.correlation_id,
            idempotency_key=submission.idempotency_key,
            traceparent=submission.traceparent,
            ordering_key=submission.ordering_key,
            priority=submission.priority,
            key_id=submission.key_id,
            sealed=submission.sealed,
            seal_to=submission.seal_to,
        )

    async def get(self, scope: Scope, command_id: str) -> Command:
        """Look it up."""
        command = await self._store.command(scope, command_id)
        if command is None or command_id in self.gone:
            raise CommandNotFound("There is no such command.")
        return command

    async def wait(self, scope: Scope, command_id: str, timeout_s: float) -> Command:
        """Wait until the test finishes it."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                while (await self.get(scope, command_id)).state not in FINAL:
                    await self._changed.wait()
        except TimeoutError:
            pass
        return await self.get(scope, command_id)

    async def finish(self, scope: Scope, command_id: str, finish: Finish) -> None:
        """End it, as an agent would."""
        await self._store.finish(scope, command_id, finish)
        async with self._changed:
            self._changed.notify_all()

    async def cancel(self, scope: Scope, command_id: str, by: str = "broker") -> Command:
        """End it at once."""
        await self.get(scope, command_id)
        await self.finish(scope, command_id, Finish(CommandState.CANCELLED, time.time()))
        return await self.get(scope, command_id)

    def waiting_for(self, scope: Scope, command: Command) -> str | None:
        """For the agent, which never comes."""
        return "agent"

    async def row_sets(self, scope: Scope, command: Command) -> list[RowSetInfo]:
        """Those that it ended with."""
        return list(command.row_sets)

    async def open_rows(self, scope: Scope, command_id: str, index: int) -> Rows:
        """Open what the test gave."""
        await self.get(scope, command_id)
        if index > 0 or command_id not in self.rows:
            raise RowSetNotFound(f"The result has no row set {index}.")
        return self.rows[command_id]

    def agent_condition(self, scope: Scope, agent: Agent) -> AgentCondition:
        """Never there, unless a test says how it is."""
        return self.conditions.get(agent.name) or condition(agent, None, time.time(), time.monotonic())

    async def drain(self, scope: Scope, agent: str, *, drained: bool, by: str) -> None:
        """Keep it."""
        now = time.time()
        await self._store.drain_agent(scope, agent, now if drained else None, now, by=by)


@dataclass
class Broker:
    """A server under test."""

    url: str
    settings: Settings
    store: Store
    commands: PlayedCommands
    link: dict[str, bool]
    dead_letters: DeadLetters
    runs: ReplayRuns
    credentials: Credentials
    approvals: Approvals
    usage: Usage

    def scope(self, tenant: str) -> Scope:
        """Return what the store wants to know."""
        return Scope(tenant)

    async def key(self, tenant: str | None, *scopes: str, ttl_s: float | None = None, owner: str = "") -> str:
        """Make a key and return it."""
        key, text = new_key(tenant, scopes or ("*",), time.time(), ttl_s, owner=owner)
        await self.store.add_key(key, sha256_of(text))
        return text

    def client(self, key: str | None = None, **headers: str) -> httpx2.AsyncClient:
        """Return a client that sends ``key``."""
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=30)


@asynccontextmanager
async def running(folder: Path, **changed: Any) -> AsyncIterator[Broker]:
    """Serve the API with tenants acme and other, and an agent plant-1 of acme; with some settings ``changed``."""
    settings = Settings(**{"data_dir": folder, "limits": LimitSettings(command_bytes=COMMAND_BYTES)} | changed)
    store = open_store(settings)
    await store.open()
    now = time.time()
    for tenant in ("acme", "other"):
        await store.create_tenant(tenant, now)
    await store.add_token(Token("tok_1", "acme", "plant-1", "plants", now, now + 60), b"secret")
    agent = Agent("acme", "plant-1", "plants", "0a", now + 86_400, now)
    assert await store.spend_token("tok_1", agent, "req_1", b"der", now)
    commands = PlayedCommands(store)
    link = {"listening": True}

    async def issue_token(scope: Scope, agent: str, group: str | None, ttl_s: float, by: str) -> tuple[str, float]:
        return f"oht1.{scope.tenant}.{agent}.{group}", now + ttl_s

    async def revoke_agent(scope: Scope, name: str, by: str) -> bool:
        return await store.revoke_agent(scope, name, time.time(), by=by)

    dead_letters = DeadLetters(store, commands)
    runs = ReplayRuns(store, dead_letters)
    Authority.create(folder, now)
    trust = Trust(folder)
    admission = Admission(store, trust, Renewals(store, trust, DEFAULT_TERMS, 0.0, time.time))
    approvals = Approvals(store, settings.approvals, acts(store, dead_letters, runs, revoke_agent))
    blobs = Blobs(store, folder / "blobs", settings.limits)
    await blobs.open()
    app = create_app(
        Services(
            settings,
            store,
            commands,
            issue_token,
            revoke_agent,
            lambda: link["listening"],
            dead_letters,
            runs,
            approvals,
            blobs,
            lambda name, message, csr, source: admission.enrolled(message, csr, source, name),
            lambda: trust.for_agents,
        )
    )
    config = server_of(app, settings, host="127.0.0.1", port=0)
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    serving = asyncio.create_task(server.serve([listener]), name="api under test")
    host, port = listener.getsockname()
    try:
        yield Broker(
            f"http://{host}:{port}",
            settings,
            store,
            commands,
            link,
            dead_letters,
            runs,
            app.state.credentials,
            approvals,
            app.state.turnstile.usage,
        )
    finally:
        server.should_exit = True
        await serving
        await approvals.stop()
        await runs.stop()
        listener.close()
        await store.close()
