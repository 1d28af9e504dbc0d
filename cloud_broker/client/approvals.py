"""The part of the client that is about acts that two people want."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from cloud_broker.client.records import Approval, decode
from cloud_broker.client.requests import Requests, part


class ApprovalCalls(Requests):
    """What waits for a second person, and the person's word."""

    def approvals(self, *, state: str | None = None) -> Iterator[Approval]:
        """Yield approvals, newest first; pages are asked for as they are needed."""
        return self._items("/v1/approvals", {"state": state} if state else {}, Approval)

    def approval(self, approval_id: str) -> Approval:
        """Return one as it is now. Raises ``ProblemError``: 404, if there is none."""
        return decode(self._get(f"/v1/approvals/{part(approval_id)}"), Approval)

    def decide(self, approval_id: str, how: Literal["approve", "refuse", "withdraw"], *, note: str = "") -> Approval:
        """
        Say what becomes of an act; return it, done where it was approved.

        Raises:
            ProblemError: 403, if another person must decide; 409, if it is decided or has expired.
        """
        return decode(self._post(f"/v1/approvals/{part(approval_id)}/{how}", {"note": note}), Approval)
