"""What a store keeps of acts that wait for a second person."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

from cloud_broker.store.answers import Page
from cloud_broker.tenants import Scope

State = Literal["open", "approved", "done", "failed", "refused", "withdrawn", "expired"]


@dataclass(frozen=True, slots=True)
class Approval:
    """
    An act that one person asked for and another decides on.

    Attributes:
        act: its kind, such as ``resolve``.
        target: what it is done to: ``command:ID``, ``agent:NAME``, or "" for many.
        summary: the act in words.
        request: JSON bytes of an object: all that is needed to do it.
        by: id of the credential that asked; ``owner`` is who is behind it.
        state: ``approved`` until it was done or failed; an open one past ``expires_at`` has expired.
        decided_by: id of the credential that approved, refused or withdrew.
        result: what came of it, in words.
        fingerprint: of what was asked for, and by whom; tells one request from another.
    """

    id: str
    tenant: str
    act: str
    target: str
    summary: str
    request: bytes
    by: str
    owner: str
    created_at: float
    expires_at: float
    fingerprint: str
    idempotency_key: str | None = None
    state: State = "open"
    decided_by: str = ""
    decided_owner: str = ""
    decided_at: float | None = None
    note: str = ""
    result: str = ""


class ApprovalStore(abc.ABC):
    """The part of a store that is about approvals."""

    @abc.abstractmethod
    async def add_approval(self, scope: Scope, approval: Approval) -> tuple[Approval, bool]:
        """
        Keep one and return True; or return False and the one that was asked for before: with the same idempotency key,
        or open with the same fingerprint.

        Raises:
            IdempotencyConflict: the key was used for another request.
        """

    @abc.abstractmethod
    async def approval(self, scope: Scope, approval_id: str) -> Approval | None:
        """Return one."""

    @abc.abstractmethod
    async def approvals(self, scope: Scope, state: State | None, cursor: str | None, limit: int) -> Page:
        """Return approvals, newest first; ``None`` means in any state."""

    @abc.abstractmethod
    async def decide_approval(
        self, scope: Scope, approval_id: str, state: State, by: str, owner: str, note: str, now: float
    ) -> bool:
        """Write what a person decided; return False, changing nothing, unless it is open and its time is not up."""

    @abc.abstractmethod
    async def end_approval(self, scope: Scope, approval_id: str, state: Literal["done", "failed"], result: str) -> bool:
        """Write what came of one that was approved; return False, changing nothing, if that is written."""

    @abc.abstractmethod
    async def approvals_to_do(self) -> list[Approval]:
        """Return those of every tenant that were approved and have no end."""
