"""What a store keeps of commands."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from cloud_broker.store.answers import IdempotencyConflict, Page
from cloud_broker.tenants import Scope
from protocol.states import CommandState

Effect = Literal["read", "idempotent", "once", "at-most-once"]


@dataclass(frozen=True, slots=True)
class RowSetInfo:
    """
    One row set of a finished result.

    Attributes:
        columns: dicts with ``name``, ``type``, ``source_type``.
        offset: bytes of the whole result before it.
        bytes: its length.
        rows: how many.
        sealed: whether only the caller can read them; then there are no columns here.
        rows_as: what its bytes are where they are not sealed: ``ndjson``, or ``arrow``.
    """

    columns: tuple[dict[str, str], ...]
    offset: int
    bytes: int
    rows: int
    sealed: bool = False
    rows_as: str = "ndjson"


@dataclass(frozen=True, slots=True)
class CommandError:
    """Why a command did not succeed; ``source_code`` is the ERP's own."""

    kind: str
    code: str
    message: str
    source_code: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """
    What a person found out of a command that was in doubt.

    Attributes:
        found: whether it had happened.
        by: id of the key that said so; ``who`` is the person, if named.
    """

    found: Literal["happened", "not_happened"]
    by: str
    at: float
    who: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """
    Something in a command's life that its own row does not tell: an attempt that did not end it, a late answer…

    Attributes:
        step: ``attempt_failed``, ``requeued``, ``lost``, ``asked``, ``late_answer``, ``cancel_requested``,
            ``resolved``, ``replayed``.
        attempt: its epoch; 0 where it is about none.
        phase: how far the attempt had come: ``dispatched`` or ``running``; "" where it is about none.
        started_at: when that attempt was sent.
        outcome: what the agent said of it, or "".
        detail: for people.
        outputs: JSON bytes of a late answer.
    """

    command_id: str
    at: float
    step: str
    attempt: int = 0
    agent: str = ""
    phase: str = ""
    started_at: float | None = None
    outcome: str = ""
    error: CommandError | None = None
    detail: str = ""
    outputs: bytes | None = None


class Command(msgspec.Struct, frozen=True):
    """
    One request to run one operation; the row of the store.

    Attributes:
        id: public.
        agent: by name; set at submission, or at dispatch where a group was asked.
        effect: of the operation, as the catalogue had it at submission.
        connection: the operation's, for its limit of commands at once.
        params: JSON bytes of an object, or text that only the agent can read.
        fingerprint: SHA-256 over operation, addressee and params; tells one use of an idempotency key from another;
            "" without one.
        epoch: number of the last attempt that was sent; 0 before the first.
        journal: the agent's ``journal`` at the last attempt.
        dispatched_at: when the last attempt was sent.
        failures: attempts that failed for a technical reason and count against the retries.
        not_before: it waits until then before it is sent again.
        error: why it did not succeed; while it is queued, why the last attempt did not.
        result: ``inline`` (``inline`` holds it), ``file`` (the results folder has it), or ``none``.
        replay_of: id of the command that this one does again.
        replayed_by: id of the command that does this one again.
        sealed: whether ``params`` is text that only the agent can read, instead of an object.
        signature: of the caller, a compact JWS, or "".
        seal_to: the caller's public key that the result is sealed to, or "".
        proof: the agent's signature over the end, as of ``protocol/proofs.py``, or "".
        operation_digest: of the operation's entry in the catalogue that it was checked against at submission, hex.
        rows_as: as what its rows were asked for: ``ndjson`` or ``arrow``.
    """

    id: str
    tenant: str
    agent: str | None
    group: str | None
    operation: str
    connection: str
    effect: Effect
    params: bytes
    fingerprint: str
    created_at: float
    expires_at: float
    state: CommandState = CommandState.QUEUED
    epoch: int = 0
    journal: str = ""
    correlation_id: str = ""
    idempotency_key: str | None = None
    ordering_key: str | None = None
    priority: int = 0
    traceparent: str = ""
    key_id: str = ""
    cancel_requested: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    outputs: bytes | None = None
    row_sets: tuple[RowSetInfo, ...] = ()
    error: CommandError | None = None
    warnings: tuple[str, ...] = ()
    result: Literal["none", "inline", "file"] = "none"
    dispatched_at: float | None = None
    failures: int = 0
    not_before: float | None = None
    replay_of: str | None = None
    replayed_by: str | None = None
    resolution: Resolution | None = None
    sealed: bool = False
    signature: str = ""
    seal_to: str = ""
    proof: str = ""
    operation_digest: str = ""
    rows_as: str = "ndjson"


class Finish(msgspec.Struct, frozen=True):
    """
    The final state of a command, written once.

    Attributes:
        agent: whose word it is, if it is not that of the agent of the last attempt; ``epoch``, ``journal`` likewise.
        proof: as in ``Command``.
        by: who ended it, for the audit trail: ``agent:NAME``, or ``broker``.
        head: of the agent's journal then, as ``POSITION:HASH``, or "".
        started_at: when it began; ``None`` where the store knows, or nobody does.
    """

    state: CommandState
    finished_at: float
    outputs: bytes | None = None
    row_sets: tuple[RowSetInfo, ...] = ()
    error: CommandError | None = None
    warnings: tuple[str, ...] = ()
    result: Literal["none", "inline", "file"] = "none"
    inline: bytes | None = None
    proof: str = ""
    by: str = "broker"
    head: str = ""
    agent: str = ""
    epoch: int = 0
    journal: str = ""
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class CommandFilter:
    """
    What to list; ``None`` means any.

    Attributes:
        since: submitted then or later; ``before`` earlier than that.
        dead_letters: only what failed, is in doubt or expired, and was not replayed.
        code: of its error.
    """

    state: CommandState | None = None
    operation: str | None = None
    agent: str | None = None
    correlation_id: str | None = None
    since: float | None = None
    dead_letters: bool = False
    before: float | None = None
    code: str | None = None


class CommandStore(abc.ABC):
    """The part of a store that is about commands."""

    @abc.abstractmethod
    async def add_command(self, scope: Scope, command: Command) -> tuple[Command, bool]:
        """
        Keep a new command; return it and True, or the one with the same idempotency key and False.

        Raises:
            IdempotencyConflict: that one has another fingerprint.
        """

    @abc.abstractmethod
    async def add_commands(
        self, scope: Scope, commands: Sequence[Command]
    ) -> list[tuple[Command, bool] | IdempotencyConflict]:
        """Keep many at once, in order; return of each what ``add_command`` does, or the error that it would raise."""

    @abc.abstractmethod
    async def command(self, scope: Scope, command_id: str) -> Command | None:
        """Return one command."""

    @abc.abstractmethod
    async def command_by_key(self, scope: Scope, idempotency_key: str) -> Command | None:
        """Return the command that an idempotency key was used for."""

    @abc.abstractmethod
    async def inline_result(self, scope: Scope, command_id: str) -> bytes | None:
        """Return the bytes of a result kept inline."""

    @abc.abstractmethod
    async def commands(self, scope: Scope, wanted: CommandFilter, cursor: str | None, limit: int) -> Page:
        """Return commands, newest first."""

    @abc.abstractmethod
    async def open_commands(self) -> list[Command]:
        """Return every command of every tenant that is in no final state, oldest first; used once, at the start."""

    @abc.abstractmethod
    async def dispatched(
        self, scope: Scope, command_id: str, epoch: int, agent: str, journal: str, now: float, *, durable: bool
    ) -> None:
        """
        Note that an attempt is about to be sent: state ``dispatched``, ``dispatched_at`` now.

        With ``durable=False`` it may return before the change is kept; changes of one command keep their order.
        """

    @abc.abstractmethod
    async def running(self, scope: Scope, command_id: str, now: float) -> None:
        """Note that the work began: state ``running``; may return before the change is kept."""

    @abc.abstractmethod
    async def requeue(
        self,
        scope: Scope,
        command_id: str,
        *,
        step: Step | None = None,
        failures: int = 0,
        not_before: float | None = None,
    ) -> None:
        """
        Back to ``queued``: it was certainly not run, or may be run again.

        Args:
            step: what became of the attempt; its error becomes the command's.
            failures: as in ``Command``.
            not_before: as in ``Command``.
        """

    @abc.abstractmethod
    async def request_cancel(self, scope: Scope, command_id: str, *, by: str = "broker") -> Command | None:
        """Note that its caller wants it no more; return it."""

    @abc.abstractmethod
    def finish(self, scope: Scope, command_id: str, finish: Finish) -> asyncio.Future[bool]:
        """Write the final state; its value is False, with nothing changed, if the command has one already."""

    @abc.abstractmethod
    async def forget_before(self, before: float, limit: int) -> list[tuple[str, str]]:
        """
        Remove commands and runs finished before; return ``(tenant, id)`` of up to ``limit`` that have result files.

        Those in doubt stay until somebody resolves them, and count from then. Call it until it returns none: then
        nothing else is left. Removes few at a time and rests between, so that whoever writes meanwhile hardly waits.
        """

    @abc.abstractmethod
    async def shrink(self) -> None:
        """Give free space back to the disk, likewise few at a time; what is soon used again is kept."""
