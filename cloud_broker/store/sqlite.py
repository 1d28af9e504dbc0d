"""The embedded store: one SQLite file, for one broker."""

from __future__ import annotations

import asyncio
import operator
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeVar

import msgspec

from cloud_broker.audit.trail import BROKER, Act
from cloud_broker.errors import StoreUnavailable
from cloud_broker.store import acts, kinds, records
from cloud_broker.store.agents import Agent
from cloud_broker.store.answers import Exists, IdempotencyConflict, Page
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, CommandFilter, Finish, Step
from cloud_broker.store.queries import QUERIES
from cloud_broker.store.sqlite_approvals import SqliteApprovals
from cloud_broker.store.sqlite_arrivals import SqliteArrivals
from cloud_broker.store.sqlite_audit import note
from cloud_broker.store.sqlite_blobs import SqliteBlobs
from cloud_broker.store.sqlite_dead_letters import SqliteDeadLetters
from cloud_broker.store.tenants import ApiKey, Tenant, Token
from cloud_broker.tenants import Scope
from protocol.states import DEAD_LETTERS, FINAL, CommandState

PAGE_BYTES: Final = 8 * 1_048_576  # bytes of outputs in one page of a list; the page ends early beyond it

KEPT_FREE: Final = 0.1  # of the pages of a file; they are used again before it grows
GIVEN_BACK: Final = 64  # pages in one transaction: about a millisecond
RESTS: Final = 4.0  # times as long as a part of the tidying took, before the next part

T = TypeVar("T")


class SqliteStore(SqliteArrivals, SqliteDeadLetters, SqliteApprovals, SqliteBlobs, Store):
    """Everything in one file, for one broker."""

    async def healthy(self) -> bool:
        try:
            await self._change("probe", now=time.time())
        except StoreUnavailable:
            return False
        return True

    # --- tenants, keys, tokens --------------------------------------------------------------------

    async def create_tenant(self, name: str, now: float, *, by: str = "broker") -> Tenant:
        act = Act(name, by, "tenant_created", f"tenant:{name}", now)
        if await self._change_noted(act, "add_tenant", name=name, now=now) == 0:
            raise Exists(f"there is a tenant {name!r} already")
        return Tenant(name, "active", now)

    async def tenant(self, name: str) -> Tenant | None:
        return await self._one(records.tenant, "tenant", name=name)

    async def tenants(self) -> list[Tenant]:
        return await self._all(records.tenant, "tenants")

    async def set_tenant_state(self, name: str, state: Literal["active", "suspended"], *, by: str = "broker") -> bool:
        action = "tenant_suspended" if state == "suspended" else "tenant_resumed"
        act = Act(name, by, action, f"tenant:{name}", time.time())
        return await self._change_noted(act, "set_tenant_state", name=name, state=state) == 1

    async def add_key(self, key: ApiKey, sha256: bytes, *, by: str = "broker") -> None:
        await self._change_noted(acts.key_created(key, by), "add_key", **records.bound_key(key, sha256))

    async def key_by_hash(self, sha256: bytes) -> ApiKey | None:
        return await self._one(records.key, "key_by_hash", sha256=sha256)

    async def keys(self, tenant: str | None) -> list[ApiKey]:
        return await self._all(records.key, "keys", tenant=tenant)

    async def revoke_key(self, key_id: str, now: float, *, by: str = "broker") -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            row = connection.execute(QUERIES["key_tenant"], {"id": key_id}).fetchone()
            if row is not None and row[1] is None:
                note(connection, Act(row[0] or BROKER, by, "key_revoked", f"key:{key_id}", now))
            return connection.execute(QUERIES["revoke_key"], {"id": key_id, "now": now}).rowcount == 1

        return await self._write(work)

    async def rotate_key(
        self, key_id: str, successor: ApiKey, sha256: bytes, ends_at: float, *, by: str = "broker"
    ) -> bool:
        bound = records.bound_key(successor, sha256) | {"replaced": key_id, "ends_at": ends_at}

        def work(connection: sqlite3.Connection) -> bool:
            if connection.execute(QUERIES["replace_key"], bound).rowcount == 0:
                return False
            connection.execute(QUERIES["add_key"], bound)
            note(connection, acts.key_rotated(key_id, successor, ends_at, by))
            return True

        return await self._write(work)

    async def key_used(self, key_id: str, now: float) -> None:
        self._send("key_used", id=key_id, now=now)

    async def add_token(self, token: Token, sha256: bytes, *, by: str = "broker") -> None:
        await self._change_noted(acts.token_created(token, by), "add_token", **records.bound_token(token, sha256))

    async def token_by_hash(self, sha256: bytes) -> Token | None:
        return await self._one(records.token, "token_by_hash", sha256=sha256)

    async def open_tokens(self, now: float) -> int:
        return await self._one(operator.itemgetter(0), "open_tokens", now=now) or 0

    async def spend_token(self, token_id: str, agent: Agent, request: str, certificate: bytes, now: float) -> bool:
        spending = {"id": token_id, "request": request, "certificate": certificate, "now": now}
        enrolling = records.bound_agent(agent)

        def work(connection: sqlite3.Connection) -> bool:
            if connection.execute(QUERIES["spend_token"], spending).rowcount == 0:
                return False
            connection.execute(QUERIES["enrol_agent"], enrolling)
            for act in acts.enrolled(token_id, agent, now):
                note(connection, act)
            return True

        return await self._write(work)

    # --- agents -----------------------------------------------------------------------------------

    async def agent(self, scope: Scope, name: str) -> Agent | None:
        return await self._one(records.agent, "agent", tenant=scope.tenant, name=name)

    async def agents(self, scope: Scope) -> list[Agent]:
        return await self._all(records.agent, "agents", tenant=scope.tenant)

    async def add_agent(self, agent: Agent, *, by: str = "broker") -> None:
        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(QUERIES["agent"], {"tenant": agent.tenant, "name": agent.name}).fetchone():
                raise Exists(f"tenant {agent.tenant!r} has an agent {agent.name!r} already")
            connection.execute(QUERIES["enrol_agent"], records.bound_agent(agent))
            note(connection, acts.agent_added(agent, by))

        await self._write(work)

    async def revoke_agent(self, scope: Scope, name: str, now: float, reason: str = "", *, by: str = "broker") -> bool:
        bound = {"tenant": scope.tenant, "name": name, "now": now, "reason": reason}
        act = Act(scope.tenant, by, "agent_revoked", f"agent:{name}", now, detail={"reason": reason})

        def work(connection: sqlite3.Connection) -> bool:
            row = connection.execute(QUERIES["agent_revoked_at"], bound).fetchone()
            if row is not None and row[0] is None:
                note(connection, act)
            # It comes back with a new token, and with none that somebody was given before.
            connection.execute(QUERIES["end_tokens"], bound)
            return connection.execute(QUERIES["revoke_agent"], bound).rowcount == 1

        return await self._write(work)

    async def drain_agent(self, scope: Scope, name: str, at: float | None, now: float, *, by: str = "broker") -> bool:
        bound = {"tenant": scope.tenant, "name": name, "at": at}
        act = Act(scope.tenant, by, "agent_undrained" if at is None else "agent_drained", f"agent:{name}", now)

        def work(connection: sqlite3.Connection) -> bool:
            row = connection.execute(QUERIES["agent_drained_at"], bound).fetchone()
            if row is not None and (row[0] is None) is not (at is None):
                note(connection, act)
                connection.execute(QUERIES["drain_agent"], bound)
            return row is not None

        return await self._write(work)

    async def change_identity(
        self,
        scope: Scope,
        name: str,
        change: Callable[[Agent], Agent],
        noted: Callable[[Agent, Agent], Act | None] | None = None,
    ) -> Agent | None:
        def work(connection: sqlite3.Connection) -> Agent | None:
            row = connection.execute(QUERIES["agent"], {"tenant": scope.tenant, "name": name}).fetchone()
            if row is None:
                return None
            known = records.agent(row)
            changed = change(known)
            if changed != known:
                connection.execute(QUERIES["change_identity"], records.bound_agent(changed))
                if noted is not None and (act := noted(known, changed)) is not None:
                    note(connection, act)
            return changed

        return await self._write(work)

    async def put_catalogue(self, scope: Scope, name: str, catalogue: bytes, digest: str) -> None:
        await self._change("put_catalogue", tenant=scope.tenant, name=name, catalogue=catalogue, digest=digest)

    # --- commands ---------------------------------------------------------------------------------

    async def add_command(self, scope: Scope, command: Command) -> tuple[Command, bool]:
        (added,) = await self.add_commands(scope, [command])
        if isinstance(added, IdempotencyConflict):
            raise added
        return added

    async def add_commands(
        self, scope: Scope, commands: Sequence[Command]
    ) -> list[tuple[Command, bool] | IdempotencyConflict]:
        if not commands:
            return []
        mine = [
            one if one.tenant == scope.tenant else msgspec.structs.replace(one, tenant=scope.tenant) for one in commands
        ]
        added: list[kinds.Added] = await self._write_one(kinds.ADD, mine[0].id, mine)
        return added

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
        row = (scope.tenant, command_id, epoch, agent, journal, now)
        if durable:
            await self._write_one(kinds.DISPATCH, command_id, row)
        else:
            self._send_one(kinds.DISPATCH, command_id, row)

    async def running(self, scope: Scope, command_id: str, now: float) -> None:
        self._send_one(kinds.BEGIN, command_id, (scope.tenant, command_id, now))

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

    async def request_cancel(self, scope: Scope, command_id: str, *, by: str = "broker") -> Command | None:
        bound = {"tenant": scope.tenant, "id": command_id}
        now = time.time()

        def work(connection: sqlite3.Connection) -> Command | None:
            if (asked := connection.execute(QUERIES["request_cancel"], bound).fetchone()) is not None:
                note(connection, Act(scope.tenant, by, "command_cancelled", f"command:{command_id}", now, asked[0]))
            row = connection.execute(QUERIES["command_by_id"], bound).fetchone()
            return records.command(row) if row else None

        return await self._write(work)

    def finish(self, scope: Scope, command_id: str, finish: Finish) -> asyncio.Future[bool]:
        if finish.state not in FINAL:
            raise ValueError(f"{finish.state} is not a final state")
        return self._write_one(kinds.FINISH, command_id, kinds.End(scope.tenant, command_id, finish))

    async def forget_before(self, before: float, limit: int) -> list[tuple[str, str]]:
        bound = {"before": before, "limit": limit}
        await self._change("forget_runs_before", before=before)
        await self._change("forget_approvals_before", before=before)

        def work(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
            return connection.execute(QUERIES["forget_before"], bound).fetchall()

        while True:
            gone = await self._write_and_rest(work)
            with_files = [(tenant, command_id) for tenant, command_id, result in gone if result == "file"]
            # Nothing to tell must mean that nothing is left, or the caller would stop too early.
            if with_files or len(gone) < limit:
                return with_files

    async def shrink(self) -> None:
        def work(connection: sqlite3.Connection) -> bool:
            free, pages = connection.execute(QUERIES["free_pages"]).fetchone()
            if free <= pages * KEPT_FREE:
                return False
            for _ in range(GIVEN_BACK):
                connection.execute(QUERIES["give_back"])
            left: int = connection.execute(QUERIES["free_pages"]).fetchone()[0]
            return bool(left < free)  # a file of an early release gives nothing back

        while await self._write_and_rest(work):
            pass

    async def _write_and_rest(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Make a part of the tidying, and leave time to those who write meanwhile."""
        began = time.monotonic()
        value = await self._write(work)
        await asyncio.sleep(RESTS * (time.monotonic() - began))  # by measure, as a slow disk wants longer rests
        return value


def _listing(wanted: CommandFilter) -> str:
    """Return the name of the query whose index serves these wishes best."""
    if wanted.correlation_id:
        return "list_commands_by_correlation_id"
    if wanted.dead_letters or wanted.state in DEAD_LETTERS:
        return "list_dead_letters"
    if wanted.state in (CommandState.QUEUED, CommandState.DISPATCHED, CommandState.RUNNING):
        return "list_open_commands"
    return "list_commands"
