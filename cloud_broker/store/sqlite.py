"""The embedded store: one SQLite file, for one broker."""

from __future__ import annotations

import sqlite3
import time
from typing import Final, Literal, TypeVar

from cloud_broker.errors import StoreUnavailable
from cloud_broker.store import records
from cloud_broker.store.base import (
    Agent,
    ApiKey,
    Command,
    CommandFilter,
    Exists,
    Finish,
    IdempotencyConflict,
    Page,
    Step,
    Store,
    Tenant,
    Token,
)
from cloud_broker.store.queries import QUERIES
from cloud_broker.store.sqlite_dead_letters import SqliteDeadLetters
from cloud_broker.tenants import Scope
from protocol.states import DEAD_LETTERS, FINAL, CommandState

PAGE_BYTES: Final = 8 * 1_048_576  # bytes of outputs in one page of a list; the page ends early beyond it

T = TypeVar("T")


class SqliteStore(SqliteDeadLetters, Store):
    """Everything in one file, for one broker."""

    async def healthy(self) -> bool:
        try:
            await self._change("probe", now=time.time())
        except StoreUnavailable:
            return False
        return True

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
        # One more tells whether there is a next page.
        bound = records.bound_wishes(scope.tenant, wanted, cursor, limit + 1)
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

        return await self._read_list(work)

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

    async def forget_before(self, before: float, limit: int) -> list[tuple[str, str]]:
        bound = {"before": before, "limit": limit}
        await self._change("forget_runs_before", before=before)

        def work(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
            return connection.execute(QUERIES["forget_before"], bound).fetchall()

        while True:
            gone = await self._write(work)
            with_files = [(tenant, command_id) for tenant, command_id, result in gone if result == "file"]
            # Nothing to tell must mean that nothing is left, or the caller would stop too early.
            if with_files or len(gone) < limit:
                return with_files


def _listing(wanted: CommandFilter) -> str:
    """Return the name of the query whose index serves these wishes best."""
    if wanted.correlation_id:
        return "list_commands_by_correlation_id"
    if wanted.dead_letters or wanted.state in DEAD_LETTERS:
        return "list_dead_letters"
    if wanted.state in (CommandState.QUEUED, CommandState.DISPATCHED, CommandState.RUNNING):
        return "list_open_commands"
    return "list_commands"
