"""The part of the client that is about who did what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any, Final, Literal, TypedDict, Unpack

import httpx2
from msgspec import field

from cloud_broker.client.dead_letters import Moment, moment_text
from cloud_broker.client.errors import ResultCut
from cloud_broker.client.ndjson import whole_lines
from cloud_broker.client.records import Record
from cloud_broker.client.requests import Requests

PATH: Final = "/v1/audit"


class AuditRecord(Record, frozen=True, kw_only=True):
    """Something that somebody did; ``raw`` has all of it, with the hashes."""

    tenant: str
    number: int
    at: datetime
    actor: str
    action: str
    target: str = ""
    correlation_id: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


class AuditFilter(TypedDict, total=False):
    """
    Which records; what is missing or ``None`` means any.

    Attributes:
        chain: ``broker`` for its own acts, which concern no tenant; needs a key that spans tenants.
    """

    action: str | None
    target: str | None
    since: Moment
    chain: Literal["tenant", "broker"] | None


class AuditCalls(Requests):
    """The audit trail."""

    def audit(self, **wanted: Unpack[AuditFilter]) -> Iterator[AuditRecord]:
        """Yield what was done, newest first; pages are asked for as they are needed."""
        return self._items(PATH, _given(wanted), AuditRecord)

    def audit_lines(self, **wanted: Unpack[AuditFilter]) -> Iterator[bytes]:
        """
        Yield the trail as JSON lines without their ends, oldest first, as ``outhaul-broker verify-audit`` reads them.

        Raises:
            ResultCut: it came only in part.
        """
        try:
            with closing(self._connection.body(PATH, _given(wanted), "application/x-ndjson", skip=0)) as pieces:
                yield from whole_lines(pieces, "the records of the audit trail")
        except httpx2.ReadTimeout as exc:
            raise ResultCut("the audit trail stopped in the middle") from exc


def _given(wanted: AuditFilter) -> dict[str, str]:
    asked = {**wanted, "since": moment_text(wanted.get("since"))}
    return {name: str(value) for name, value in asked.items() if value}
