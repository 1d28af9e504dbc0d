"""The part of the embedded store that is about acts that wait for a second person."""

from __future__ import annotations

import dataclasses
import sqlite3
import time
from typing import Final, Literal

from cloud_broker.audit.trail import Act, caller
from cloud_broker.store import records
from cloud_broker.store.answers import IdempotencyConflict, Page
from cloud_broker.store.approvals import Approval, State
from cloud_broker.store.commands import Step
from cloud_broker.store.queries import QUERIES
from cloud_broker.store.sqlite_audit import SqliteAudit, note
from cloud_broker.tenants import Scope

# What a decision is called in the audit trail and in a command's life.
NOTES: Final = {
    "open": ("approval_asked", "approval_asked"),
    "approved": ("approval_given", "approval_given"),
    "refused": ("approval_refused", "approval_refused"),
    "withdrawn": ("approval_refused", "approval_withdrawn"),
}


class SqliteApprovals(SqliteAudit):
    """Approvals, each decided once and done once."""

    async def add_approval(self, scope: Scope, approval: Approval) -> tuple[Approval, bool]:
        bound = dataclasses.asdict(approval) | {"tenant": scope.tenant, "now": approval.created_at}

        def work(connection: sqlite3.Connection) -> tuple[Approval, bool]:
            connection.execute(QUERIES["expire_approvals"], bound)
            row = connection.execute(QUERIES["approval_like"], bound).fetchone()
            if row is None:
                connection.execute(QUERIES["add_approval"], bound)
                _tell(connection, approval, approval.created_at)
                return approval, True
            earlier = Approval(*row)
            if earlier.fingerprint != approval.fingerprint:
                raise IdempotencyConflict(f"the key {approval.idempotency_key!r} was used for another request")
            return earlier, False

        return await self._write(work)

    async def approval(self, scope: Scope, approval_id: str) -> Approval | None:
        return await self._one(_read, "approval", tenant=scope.tenant, id=approval_id)

    async def approvals(self, scope: Scope, state: State | None, cursor: str | None, limit: int) -> Page:
        bound = {"tenant": scope.tenant, "state": state, "cursor": cursor, "limit": limit + 1, "now": time.time()}
        found = await self._all(_read, "approvals", **bound)
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    async def decide_approval(
        self, scope: Scope, approval_id: str, state: State, by: str, owner: str, note: str, now: float
    ) -> bool:
        bound = {"tenant": scope.tenant, "id": approval_id, "now": now}
        decision = {"state": state, "decided_by": by, "decided_owner": owner, "note": note}

        def work(connection: sqlite3.Connection) -> bool:
            if connection.execute(QUERIES["decide_approval"], bound | decision).rowcount == 0:
                return False
            _tell(connection, _read(connection.execute(QUERIES["approval"], bound).fetchone()), now)
            return True

        return await self._write(work)

    async def end_approval(self, scope: Scope, approval_id: str, state: Literal["done", "failed"], result: str) -> bool:
        bound = {"tenant": scope.tenant, "id": approval_id, "state": state, "result": result}
        return await self._change("end_approval", **bound) == 1

    async def approvals_to_do(self) -> list[Approval]:
        return await self._all(_read, "approvals_to_do")


def _read(row: records.Row) -> Approval:
    return Approval(*row)


def _tell(connection: sqlite3.Connection, approval: Approval, now: float) -> None:
    """Tell the audit trail, and the life of the command that it is about."""
    action, step = NOTES[approval.state]
    by, owner = approval.decided_by or approval.by, approval.decided_owner or approval.owner
    detail = {"act": approval.act, "target": approval.target, "owner": owner, "note": approval.note}
    note(connection, Act(approval.tenant, caller(by), action, f"approval:{approval.id}", now, detail=detail))
    kind, _, command_id = approval.target.partition(":")
    if kind == "command":
        said = f"{approval.id}: {approval.summary}, by {owner} ({by})" + (f": {approval.note}" if approval.note else "")
        kept = records.bound_step(approval.tenant, command_id, Step(command_id, now, step, detail=said))
        connection.execute(QUERIES["add_step"], kept)
