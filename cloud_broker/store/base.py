"""
What any store must do; what it keeps is beside each part.

Every method about a tenant's things takes a ``Scope`` first. Times are seconds since 1970 as float.
A method that returns has made its change durable, as far as the store's own promise goes, unless it says otherwise.
"""

from __future__ import annotations

import abc

from cloud_broker.audit.trail import Act, AuditFilter, AuditPage, Record
from cloud_broker.store.agents import AgentStore
from cloud_broker.store.approvals import ApprovalStore
from cloud_broker.store.blobs import BlobStore
from cloud_broker.store.commands import CommandStore
from cloud_broker.store.dead_letters import DeadLetterStore
from cloud_broker.store.tenants import TenantStore


class Store(TenantStore, AgentStore, CommandStore, DeadLetterStore, ApprovalStore, BlobStore, abc.ABC):
    """All that the broker keeps besides large results."""

    @abc.abstractmethod
    async def open(self) -> None:
        """Open, and bring the schema up to date. Refuses a store that a later release wrote."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Finish what was asked and close; calls after this raise ``RuntimeError``."""

    @abc.abstractmethod
    async def healthy(self) -> bool:
        """Whether a write gets through now."""

    # --- the audit trail --------------------------------------------------------------------------

    # What the other methods do they note themselves, in the same transaction; ``by`` is the actor (``audit.Act``).

    @abc.abstractmethod
    async def note(self, act: Act) -> None:
        """Keep an act at the end of its chain."""

    @abc.abstractmethod
    def note_soon(self, act: Act) -> None:
        """Likewise, without waiting; it may be lost with the process."""

    @abc.abstractmethod
    async def audit_chains(self) -> list[tuple[str, int, bytes]]:
        """Return every chain by name, with number and hash of its last record."""

    @abc.abstractmethod
    async def audit_head(self, tenant: str) -> tuple[int, bytes]:
        """Return number and hash of a chain's last record; ``(0, BEGINNING)`` if there is none."""

    @abc.abstractmethod
    async def audit_after(self, tenant: str, number: int, limit: int) -> list[Record]:
        """Return the records of a chain behind ``number``, oldest first."""

    @abc.abstractmethod
    async def audit_page(self, tenant: str, wanted: AuditFilter, cursor: int | None, limit: int) -> AuditPage:
        """Return records of a chain, newest first; a page may have fewer than ``limit`` and still a next one."""
