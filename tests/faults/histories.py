"""What each of the four saw: the records that the workload writes and the checker reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tests.faults.erp import Effect, System

HowOften = Literal["read", "idempotent", "once", "at-most-once"]
Mode = Literal["ok", "reject", "fail"]


@dataclass(frozen=True, slots=True)
class Wish:
    """
    What a caller wants once.

    Attributes:
        key: its idempotency key.
        order_no: by which the ERP knows it.
        system: where it has its effect; ``None`` for what has none.
        settled: whether its outcome can always be found out: a ledger, a claim, a verify.
        lines: how many rows it returns.
        cancels: whether the caller changes its mind.
        place: among the wishes of its ordering key, from 0.
    """

    key: str
    tenant: str
    operation: str
    order_no: str
    effect: HowOften
    system: System | None
    params: dict[str, Any]
    settled: bool = False
    mode: Mode = "ok"
    lines: int = 0
    ttl: float | None = None
    cancels: bool = False
    ordering_key: str | None = None
    place: int = 0


@dataclass(slots=True)
class Told:
    """
    What a caller was told of one wish.

    Attributes:
        ids: every command id that it was ever given for its key.
        refused: status and text, if the broker did not take it.
        final: the command in its final state; ``None`` if it never came to one.
        rows: of its first row set, where it succeeded and has one; ``None`` if they could not be had.
        leaked: what another tenant's key could see of it.
    """

    wish: Wish
    ids: list[str] = field(default_factory=list)
    refused: str = ""
    final: dict[str, Any] | None = None
    rows: list[dict[str, Any]] | None = None
    leaked: str = ""

    @property
    def state(self) -> str:
        """Its final state, or "" if it has none."""
        return str(self.final["state"]) if self.final is not None else ""


@dataclass(slots=True)
class Histories:
    """
    All four.

    Attributes:
        callers: in the order of submission of each caller.
        broker: every command that it lists, by tenant.
        journal: outcome by command id, of those that the agent says have one.
        effects: of all systems.
        stock: order numbers that the idempotent operation has written.
        damaged: whether the agent's journal was: then doubts stay where it can't tell any more.
        foreign: orders found in a system whose tenant they are not of.
    """

    callers: list[Told]
    broker: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    journal: dict[str, str] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    stock: set[str] = field(default_factory=set)
    foreign: list[str] = field(default_factory=list)
    damaged: bool = False
