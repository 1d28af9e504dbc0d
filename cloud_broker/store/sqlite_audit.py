"""The part of the embedded store that is the audit trail; acts are noted in the transaction of what they did."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from cloud_broker.audit import trail as audit
from cloud_broker.audit.trail import Act, AuditFilter, AuditPage, Record
from cloud_broker.store.connections import NotingConnection
from cloud_broker.store.queries import QUERIES
from cloud_broker.store.sqlite_file import SqliteFile
from cloud_broker.store.together import Kind

REACH: Final = 50_000  # records that one page looks at; a filter that fits few would read the whole chain otherwise


def note(connection: sqlite3.Connection, act: Act) -> None:
    """
    Add an act to the end of its chain; called by a store's work, inside the transaction that makes the change.

    The two are kept together or not at all.
    """
    assert isinstance(connection, NotingConnection)  # noqa: S101 - the writer opens no others; this tells mypy
    connection.notes.append(audit.unchained(act))


def head(connection: sqlite3.Connection, tenant: str) -> tuple[int, bytes]:
    """Return number and hash of a chain's last record, as it was committed or kept in this transaction."""
    row = connection.execute(QUERIES["audit_head"], (tenant,)).fetchone()
    return (row[0], bytes(row[1])) if row else (0, audit.BEGINNING)


def _note_all(connection: sqlite3.Connection, given: Sequence[Act]) -> list[None]:
    for act in given:
        note(connection, act)
    return [None] * len(given)


_NOTE: Final = Kind(9, _note_all, patient=True)  # nothing waits for them, so they come last
_numbers: Final = itertools.count()


class SqliteAudit(SqliteFile):
    """Acts, noted and read."""

    async def _change_noted(self, act: Act, query: str, **bound: Any) -> int:
        """Return how many rows the named query changed; if any, the act is noted with it."""

        def work(connection: sqlite3.Connection) -> int:
            changed = connection.execute(QUERIES[query], bound).rowcount
            if changed:
                note(connection, act)
            return changed

        return await self._write(work)

    async def note(self, act: Act) -> None:
        await self._write(lambda connection: note(connection, act))

    def note_soon(self, act: Act) -> None:
        self._send_one(_NOTE, f"note {next(_numbers)}", act)

    async def audit_chains(self) -> list[tuple[str, int, bytes]]:
        return await self._all(lambda row: (str(row[0]), int(row[1]), bytes(row[2])), "audit_chains")

    async def audit_head(self, tenant: str) -> tuple[int, bytes]:
        return await self._opened(self._points).read(lambda connection: head(connection, tenant))

    async def audit_after(self, tenant: str, number: int, limit: int) -> list[Record]:
        return await self._all(_record, "audit_after", tenant=tenant, number=number, limit=limit)

    async def audit_page(self, tenant: str, wanted: AuditFilter, cursor: int | None, limit: int) -> AuditPage:
        bound = {
            "tenant": tenant,
            "action": wanted.action,
            "target": wanted.target,
            "since": wanted.since,
            "limit": limit,
        }

        def work(connection: sqlite3.Connection) -> AuditPage:
            first = cursor
            if first is None:
                row = connection.execute(QUERIES["audit_head"], (tenant,)).fetchone()
                first = (row[0] if row else 0) + 1
            last = max(1, first - REACH)
            rows = connection.execute(QUERIES["audit_page"], {**bound, "first": first, "last": last})
            found = [_record(row) for row in rows]
            if len(found) == limit:
                last = found[-1].number
            return AuditPage(found, last if last > 1 else None)

        return await self._read_list(work)


def _record(row: tuple[object, ...]) -> Record:
    return Record(*row)  # type: ignore[arg-type]  # the columns stand in its order
