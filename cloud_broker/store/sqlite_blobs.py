"""The part of the embedded store that is about blobs."""

from __future__ import annotations

import dataclasses
import sqlite3
import time

from cloud_broker.audit.trail import Act, caller
from cloud_broker.store.blobs import Blob
from cloud_broker.store.queries import QUERIES
from cloud_broker.store.sqlite_audit import SqliteAudit, note
from cloud_broker.tenants import Scope


class SqliteBlobs(SqliteAudit):
    """Blobs, and the commands that name them."""

    async def add_blob(self, scope: Scope, blob: Blob) -> bool:
        detail = {"bytes": blob.bytes, "sha256": f"sha256:{blob.sha256}"}
        act = Act(scope.tenant, caller(blob.key_id), "blob_kept", f"blob:{blob.id}", blob.created_at, detail=detail)
        bound = dataclasses.asdict(blob) | {"tenant": scope.tenant, "now": blob.used_at}

        def work(connection: sqlite3.Connection) -> bool:
            if connection.execute(QUERIES["add_blob"], bound).rowcount == 0:
                connection.execute(QUERIES["touch_blob"], bound)
                return False
            note(connection, act)
            return True

        return await self._write(work)

    async def use_blob(self, scope: Scope, blob_id: str, command_id: str, now: float) -> Blob | None:
        bound = {"tenant": scope.tenant, "id": blob_id, "command": command_id, "now": now}

        def work(connection: sqlite3.Connection) -> Blob | None:
            if connection.execute(QUERIES["touch_blob"], bound).rowcount == 0:
                return None
            connection.execute(QUERIES["use_blob"], bound)
            return Blob(*connection.execute(QUERIES["blob"], bound).fetchone())

        return await self._write(work)

    async def blob(self, scope: Scope, blob_id: str) -> Blob | None:
        return await self._one(lambda row: Blob(*row), "blob", tenant=scope.tenant, id=blob_id)

    async def blob_totals(self) -> dict[str, int]:
        return dict(await self._all(lambda row: (str(row[0]), int(row[1])), "blob_totals"))

    async def open_blob_uses(self) -> dict[str, Blob]:
        return dict(await self._all(lambda row: (str(row[0]), Blob(*row[1:])), "open_blob_uses"))

    async def forget_blobs(self, before: float, limit: int) -> list[Blob]:
        bound = {"before": before, "limit": limit}
        now = time.time()

        def work(connection: sqlite3.Connection) -> list[Blob]:
            connection.execute(QUERIES["forget_blob_uses"], bound)
            found = [Blob(*row) for row in connection.execute(QUERIES["stale_blobs"], bound)]
            for blob in found:
                connection.execute(QUERIES["remove_blob"], dataclasses.asdict(blob))
                note(connection, Act(blob.tenant, "broker", "blob_removed", f"blob:{blob.id}", now))
            return found

        return await self._write(work)
