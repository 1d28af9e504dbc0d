"""
What the agent knows of its commands whatever dies when.

A command that must not happen twice is in the journal, durably, before the first byte goes to the ERP; its outcome is
in it, durably, before anybody is told; and it stays until the broker has that outcome. Of the others only the end is
noted.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Literal

import msgspec

from agent.settings import Effect
from protocol.messages import Completed


class Claim(msgspec.Struct, frozen=True):
    """
    What is about to be run.

    Attributes:
        id: of the command.
        epoch: of the attempt.
        fingerprint: SHA-256 of operation and parameters, hex.
        operation: its name in the operator's file.
        effect: as the file had it then.
        params: JSON bytes of an object, or sealed, as they came.
        correlation_id: for people.
        at: seconds since 1970.
        sealed: whether ``params`` is text that only the agent's own key opens (``protocol/sealing.py``).
        seal_to: the caller's key that the result is sealed to, or "".
        signer: who signed it, as the operator's file names the caller; "" where nobody did.
        params_sha256: of the parameters, as the agent's proof has it; ``None`` in a journal of an earlier release.
        signature_sha256: of the caller's signature, likewise; "" where none came.
    """

    id: str
    epoch: int
    fingerprint: str
    operation: str
    effect: Effect
    params: bytes
    correlation_id: str
    at: float
    sealed: bool = False
    seal_to: str = ""
    signer: str = ""
    params_sha256: str | None = None
    signature_sha256: str | None = None


class Shown(msgspec.Struct, frozen=True):
    """
    A caller's signature that came with a command.

    Attributes:
        digest: of the signer and the idempotency key that was signed.
        id: of the command.
        until: when it ends, the difference of clocks included, seconds since 1970.
        at: seconds since 1970.
        signer: whose it is, as the operator's file names the caller; "" in a journal of an earlier release.
    """

    digest: bytes
    id: str
    until: int
    at: float
    signer: str = ""


class Resolution(msgspec.Struct, frozen=True):
    """
    What a person found out of a command whose end nobody heard.

    Attributes:
        happened: whether the ERP has it.
        by: who says so.
        note: how it was found out.
        at: seconds since 1970.
    """

    happened: bool
    by: str
    note: str
    at: float


class Anchor(msgspec.Struct, frozen=True):
    """
    Where the broker's audit trail stood, as the broker told.

    Attributes:
        tenant: whose chain.
        number: of its last record.
        hash: of that record, hex.
        at: seconds since 1970, by this machine's clock.
    """

    tenant: str
    number: int
    hash: str
    at: float


class Entry(msgspec.Struct, frozen=True):
    """
    One command, as of its last attempt.

    Attributes:
        completed: the outcome as it is told to the broker; ``None`` while it is not known.
        outputs: that go with it; ``None`` if they are no longer kept.
        rows: records of its row sets in wire format where they were small; ``None`` if there were none, or they
            are in the spool, or no longer kept.
        spooled: bytes of its rows in the spool; 0 if there are none.
        ended_at: seconds since 1970; 0.0 while it is not known.
        acknowledged: whether nothing of it is kept for the broker: it has told us to forget it, or the end was noted
            only. Parameters and rows are gone then, and large outputs.
        resolution: by a person on this machine.
    """

    claim: Claim
    completed: Completed | None = None
    outputs: bytes | None = None
    rows: bytes | None = None
    spooled: int = 0
    ended_at: float = 0.0
    acknowledged: bool = False
    resolution: Resolution | None = None

    @property
    def state(self) -> Literal["started", "ended", "acknowledged"]:
        """Where it stands, in a word."""
        if self.completed is None:
            return "started"
        return "acknowledged" if self.acknowledged else "ended"


class Journal(abc.ABC):
    """
    The memory of one agent.

    Attributes:
        mark: changes whenever something may be missing (``protocol.messages.Hello.journal``).
        position: how many records were ever written.
        head: of the chain at ``position``, hex; to have both of one moment, use ``stand``.
        trouble: why nothing can be kept now, for people; ``None`` when all is well. Setting and clearing it calls
            ``changed``.
    """

    mark: str
    position: int
    head: str
    trouble: str | None

    @abc.abstractmethod
    async def begin(self, claim: Claim, shown: Shown | None = None) -> None:
        """
        Keep, durably, that ``claim`` is about to run; replaces an earlier attempt's entry.

        If the wait is cancelled it is kept nevertheless, and may be ended like any other.

        Args:
            shown: the signature that it came with; both are kept, or neither.

        Raises:
            JournalUnavailable: it could not be kept; it must not run.
            SignatureError: the signature was shown before, or can't be remembered.
        """

    @abc.abstractmethod
    async def show(self, shown: Shown) -> None:
        """Keep, durably, the signature of a command that needs no claim; raises what ``begin`` does."""

    @abc.abstractmethod
    async def keep_rows(self, command_id: str, rows: bytes, spooled: int) -> None:
        """
        Keep, durably, the rows of a command that is under way: ``rows`` themselves, or that the spool has them.

        Raises:
            JournalUnavailable: they could not be kept.
        """

    @abc.abstractmethod
    async def end(self, command_id: str, completed: Completed, outputs: bytes, at: float) -> None:
        """
        Keep, durably, how a command ended.

        Raises:
            JournalUnavailable: it could not be kept now; to be asked again.
        """

    @abc.abstractmethod
    def note(self, claim: Claim, completed: Completed, at: float) -> None:
        """Note a command that may be run again, at its end; may be lost."""

    @abc.abstractmethod
    def acknowledge(self, command_id: str) -> None:
        """The broker has all of it, or wants none of it; kept soon."""

    @abc.abstractmethod
    def stand(self) -> tuple[int, str]:
        """Return ``position`` and ``head``."""

    @abc.abstractmethod
    def anchor(self, anchor: Anchor) -> None:
        """Note where the broker's audit trail stands, if that is new; kept soon."""

    @abc.abstractmethod
    def anchors(self) -> Sequence[Anchor]:
        """Return those that are kept, oldest first."""

    @abc.abstractmethod
    async def resolve(self, command_id: str, resolution: Resolution) -> None:
        """Keep, durably, what a person found out; raises ``KeyError``, ``JournalUnavailable``."""

    @abc.abstractmethod
    def find(self, command_id: str) -> Entry | None:
        """
        Return what is known of a command, however long ago that was, as far as the journal remembers.

        Raises:
            JournalUnavailable: something is known, but can't be read any more.
        """

    @abc.abstractmethod
    def unacknowledged(self) -> Sequence[Entry]:
        """Return all that the broker has not told us to forget, except those noted only, oldest first."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Keep what is still on its way and close; never raises."""
