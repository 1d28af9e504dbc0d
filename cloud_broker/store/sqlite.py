"""The embedded store: one SQLite file, for one broker."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from cloud_broker.errors import StoreUnavailable
from cloud_broker.settings import ConfigError
from cloud_broker.store import records
from cloud_broker.store.base import (
    Agent,
    ApiKey,
    Command,
    CommandError,
    CommandFilter,
    Exists,
    Finish,
    IdempotencyConflict,
    Page,
    Resolution,
    Step,
    Store,
    Tenant,
    Token,
)
from cloud_broker.store.connections import Readers, Writer, bring_up_to_date, connect_to_write
from cloud_broker.store.queries import QUERIES
from cloud_broker.tenants import Scope
from protocol.states import DEAD_LETTERS, FINAL, LIFE, CommandState

PAGE_BYTES: Final = 8 * 1_048_576  # bytes of outputs in one page of a list; the page ends early beyond it

T = TypeVar("T")


class SqliteStore(Store):
    """
    WAL, ``synchronous=FULL``, one writing thread with group commit.

    What it promises survives the loss of the process and of the machine's power, not of its disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Writer | None = None
        self._points: Readers | None = None
        self._lists: Readers | None = None

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path} {'open' if self._writer else 'closed'}>"

    async def open(self) -> None:
        await asyncio.to_thread(_prepare, self.path)
        self._writer = Writer(self.path)
        # Looking one thing up is short, and many callers are answered together;
        # a list may be long, and must not keep those waiting.
        self._points = Readers(self.path, threads=1, together=64)
        self._lists = Readers(self.path, threads=2, together=1)

    async def close(self) -> None:
        writer, points, lists = self._writer, self._points, self._lists
        self._writer = self._points = self._lists = None
        if writer is not None and points is not None and lists is not None:
            await points.close()
            await lists.close()
            # Last: the last connection to close tidies the write-ahead log away, and only this one may write.
            await writer.close()

    async def healthy(self) -> bool:
        try:
            await self._change("probe", now=time.time())
        except StoreUnavailable:
            return False
        return True

    @property
    def commits(self) -> int:
        """How many transactions there were since it was opened."""
        return self._opened(self._writer).commits

    # --- tenants, keys, tokens --------------------------------------------------------------------

    async def create_tenant(self, name: str, now: float) -> Tenant:
        if await self._change("add_tenant", name=name, now=now) == 0:
            raise Exists(f"there is a tenant {name!r} already")
        return Tenant(name, "active", now)

    async def tenant(self, name: str) -> Tenant | None:
        return await self._one(records.tenant, "tenant", name=name)

    async def tenants(self) -> list[Tenant]:
        return await self._all(records.tenant, "tenants")

    async def set_tenant_state(self, name: str, state: Literal["active", "suspended"]) -> bool:
        return await self._change("set_tenant_state", name=name, state=state) == 1

    async def add_key(self, key: ApiKey, sha256: bytes) -> None:
        await self._change("add_key", **records.bound_key(key, sha256))

    async def key_by_hash(self, sha256: bytes) -> ApiKey | None:
        return await self._one(records.key, "key_by_hash", sha256=sha256)

    async def keys(self, tenant: str | None) -> list[ApiKey]:
        return await self._all(records.key, "keys", tenant=tenant)

    async def revoke_key(self, key_id: str, now: float) -> bool:
        return await self._change("revoke_key", id=key_id, now=now) == 1

    async def key_used(self, key_id: str, now: float) -> None:
        self._send("key_used", id=key_id, now=now)

    async def add_token(self, token: Token, sha256: bytes) -> None:
        await self._change("add_token", **records.bound_token(token, sha256))

    async def token_by_hash(self, sha256: bytes) -> Token | None:
        return await self._one(records.token, "token_by_hash", sha256=sha256)

    async def spend_token(self, token_id: str, agent: Agent, request: str, certificate: bytes, now: float) -> bool:
        spending = {"id": token_id, "request": request, "certificate": certificate, "now": now}
        enrolling = records.bound_agent(agent)

        def work(connection: sqlite3.Connection) -> bool:
            if connection.execute(QUERIES["spend_token"], spending).rowcount == 0:
                return False
            connection.execute(QUERIES["enrol_agent"], enrolling)
            return True

        return await self._write(work)

    # --- agents -----------------------------------------------------------------------------------

    async def agent(self, scope: Scope, name: str) -> Agent | None:
        return await self._one(records.agent, "agent", tenant=scope.tenant, name=name)

    async def agents(self, scope: Scope) -> list[Agent]:
        return await self._all(records.agent, "agents", tenant=scope.tenant)

    async def revoke_agent(self, scope: Scope, name: str, now: float) -> bool:
        return await self._change("revoke_agent", tenant=scope.tenant, name=name, now=now) == 1

    async def agent_seen(
        self,
        scope: Scope,
        name: str,
        now: float,
        *,
        release: str = "",
        system: str = "",
        journal: str = "",
        position: int = 0,
    ) -> None:
        bound = {"release": release, "system": system, "journal": journal, "position": position}
        self._send("agent_seen", tenant=scope.tenant, name=name, now=now, **bound)

    async def put_catalogue(self, scope: Scope, name: str, catalogue: bytes, digest: str) -> None:
        await self._change("put_catalogue", tenant=scope.tenant, name=name, catalogue=catalogue, digest=digest)

    # --- commands ---------------------------------------------------------------------------------

    async def add_command(self, scope: Scope, command: Command) -> tuple[Command, bool]:
        bound = records.bound_command(command) | {"tenant": scope.tenant}

        def work(connection: sqlite3.Connection) -> tuple[Command, bool]:
            if connection.execute(QUERIES["add_command"], bound).rowcount == 1:
                return command, True
            earlier = records.command(connection.execute(QUERIES["command_by_idempotency_key"], bound).fetchone())
            if earlier.fingerprint != command.fingerprint:
                raise IdempotencyConflict(f"the key {command.idempotency_key!r} was used for another request")
            return earlier, False

        return await self._write(work)

    async def command(self, scope: Scope, command_id: str) -> Command | None:
        return await self._one(records.command, "command_by_id", tenant=scope.tenant, id=command_id)

    async def command_by_key(self, scope: Scope, idempotency_key: str) -> Command | None:
        bound = {"tenant": scope.tenant, "idempotency_key": idempotency_key}
        return await self._one(records.command, "command_by_idempotency_key", **bound)

    async def inline_result(self, scope: Scope, command_id: str) -> bytes | None:
        bound = {"tenant": scope.tenant, "id": command_id}
        return await self._one(lambda row: bytes(row[0]), "inline_result", **bound)

    async def commands(self, scope: Scope, wanted: CommandFilter, cursor: str | None, limit: int) -> Page:
        bound = {
            "tenant": scope.tenant,
            "dead_letters": wanted.dead_letters,
            "state": wanted.state.value if wanted.state else None,
            "operation": wanted.operation,
            "agent": wanted.agent,
            "correlation_id": wanted.correlation_id,
            "since": wanted.since,
            "before": wanted.before,
            "code": wanted.code,
            "cursor": cursor,
            "limit": limit + 1,  # one more tells whether there is a next page
        }
        query = QUERIES[_listing(wanted)]

        def work(connection: sqlite3.Connection) -> Page:
            items: list[Command] = []
            size = 0
            for row in connection.execute(query, bound):
                if len(items) == limit or size > PAGE_BYTES:
                    return Page(items, items[-1].id)
                items.append(records.command(row))
                size += len(items[-1].outputs or b"")
            return Page(items, None)

        return await self._opened(self._lists).read(work)

    async def open_commands(self) -> list[Command]:
        return await self._all(records.command, "open_commands")

    async def dispatched(
        self, scope: Scope, command_id: str, epoch: int, agent: str, journal: str, now: float, *, durable: bool
    ) -> None:
        bound = {"epoch": epoch, "agent": agent, "journal": journal, "now": now}
        if durable:
            await self._change("dispatched", tenant=scope.tenant, id=command_id, **bound)
        else:
            self._send("dispatched", tenant=scope.tenant, id=command_id, **bound)

    async def running(self, scope: Scope, command_id: str, now: float) -> None:
        self._send("running", tenant=scope.tenant, id=command_id, now=now)

    async def requeue(
        self,
        scope: Scope,
        command_id: str,
        *,
        step: Step | None = None,
        failures: int = 0,
        not_before: float | None = None,
    ) -> None:
        error = step.error if step is not None else None
        bound = records.bound_requeue(scope.tenant, command_id, error, failures, not_before)

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(QUERIES["requeue"], bound).rowcount and step is not None:
                connection.execute(QUERIES["add_step"], records.bound_step(scope.tenant, command_id, step))

        await self._write(work)

    async def request_cancel(self, scope: Scope, command_id: str) -> Command | None:
        bound = {"tenant": scope.tenant, "id": command_id}

        def work(connection: sqlite3.Connection) -> Command | None:
            connection.execute(QUERIES["request_cancel"], bound)
            row = connection.execute(QUERIES["command_by_id"], bound).fetchone()
            return records.command(row) if row else None

        return await self._write(work)

    async def finish(self, scope: Scope, command_id: str, finish: Finish) -> bool:
        if finish.state not in FINAL:
            raise ValueError(f"{finish.state} is not a final state")
        bound = records.bound_finish(scope.tenant, command_id, finish)

        def work(connection: sqlite3.Connection) -> bool:
            if connection.execute(QUERIES["finish"], bound).rowcount == 0:
                return False
            if finish.inline is not None:
                connection.execute(QUERIES["keep_inline_result"], bound | {"rows": finish.inline})
            return True

        return await self._write(work)

    async def add_step(self, scope: Scope, step: Step) -> None:
        await self._change("add_step", **records.bound_step(scope.tenant, step.command_id, step))

    async def steps(self, scope: Scope, command_id: str) -> list[Step]:
        return await self._all(records.step, "steps", tenant=scope.tenant, id=command_id)

    async def resolve(
        self, scope: Scope, command_id: str, state: CommandState, resolution: Resolution, error: CommandError | None
    ) -> bool:
        if state not in LIFE[CommandState.IN_DOUBT]:
            raise ValueError(f"what was in doubt can't become {state}")
        bound = records.bound_resolution(scope.tenant, command_id, state, resolution, error)

        def work(connection: sqlite3.Connection) -> bool:
            connection.execute(QUERIES["keep_doubt"], bound)
            return connection.execute(QUERIES["resolve"], bound).rowcount == 1

        return await self._write(work)

    async def replay(self, scope: Scope, original: str, command: Command) -> tuple[Command, bool]:
        bound = records.bound_command(command) | {"tenant": scope.tenant, "replay_of": original}
        step = Step(original, command.created_at, "replayed", detail=command.id)
        kept = records.bound_step(scope.tenant, original, step)

        def work(connection: sqlite3.Connection) -> tuple[Command, bool]:
            row = connection.execute(QUERIES["command_by_replay_of"], bound).fetchone()
            if row is not None:
                return records.command(row), False
            if connection.execute(QUERIES["replayed"], bound).rowcount == 0:
                raise LookupError(f"there is no ended command {original} that was never replayed")
            connection.execute(QUERIES["add_command"], bound)
            connection.execute(QUERIES["add_step"], kept)
            return command, True

        return await self._write(work)

    async def forget_before(self, before: float, limit: int) -> list[tuple[str, str]]:
        bound = {"before": before, "limit": limit}

        def work(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
            return connection.execute(QUERIES["forget_before"], bound).fetchall()

        while True:
            gone = await self._write(work)
            with_files = [(tenant, command_id) for tenant, command_id, result in gone if result == "file"]
            # Nothing to tell must mean that nothing is left, or the caller would stop too early.
            if with_files or len(gone) < limit:
                return with_files

    # --- the threads ------------------------------------------------------------------------------

    def _opened(self, part: T | None) -> T:
        if part is None:
            raise RuntimeError(f"{self!r}: it is not open")
        return part

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._opened(self._writer).write(work)

    async def _change(self, query: str, **bound: Any) -> int:
        """Return how many rows the named query changed."""
        return await self._write(lambda connection: connection.execute(QUERIES[query], bound).rowcount)

    def _send(self, query: str, **bound: Any) -> None:
        self._opened(self._writer).send(lambda connection: connection.execute(QUERIES[query], bound))

    async def _one(self, read: Callable[[records.Row], T], query: str, **bound: Any) -> T | None:
        def work(connection: sqlite3.Connection) -> T | None:
            row = connection.execute(QUERIES[query], bound).fetchone()
            return read(row) if row else None

        return await self._opened(self._points).read(work)

    async def _all(self, read: Callable[[records.Row], T], query: str, **bound: Any) -> list[T]:
        def work(connection: sqlite3.Connection) -> list[T]:
            return [read(row) for row in connection.execute(QUERIES[query], bound)]

        return await self._opened(self._lists).read(work)


def _listing(wanted: CommandFilter) -> str:
    """Return the name of the query whose index serves these wishes best."""
    if wanted.correlation_id:
        return "list_commands_by_correlation_id"
    if wanted.dead_letters or wanted.state in DEAD_LETTERS:
        return "list_dead_letters"
    if wanted.state in (CommandState.QUEUED, CommandState.DISPATCHED, CommandState.RUNNING):
        return "list_open_commands"
    return "list_commands"


def _prepare(path: Path) -> None:
    try:
        connection = connect_to_write(path)
        try:
            bring_up_to_date(connection, path)
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as exc:
        raise ConfigError(f"{path}: can't be opened as the broker's store: {exc}") from exc
