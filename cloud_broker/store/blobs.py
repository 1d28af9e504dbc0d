"""What a store keeps of blobs: contents that are too large for parameters. Their bytes are elsewhere."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from cloud_broker.tenants import Scope


@dataclass(frozen=True, slots=True)
class Blob:
    """
    A content that a caller sent before the command that names it.

    Attributes:
        id: public.
        bytes: of it.
        sha256: of its bytes, hex.
        used_at: when it came, or was last named by a command.
        key_id: of the credential that sent it.
    """

    tenant: str
    id: str
    bytes: int
    sha256: str
    created_at: float
    used_at: float
    key_id: str = ""


class BlobStore(abc.ABC):
    """The part of a store that is about blobs."""

    @abc.abstractmethod
    async def add_blob(self, scope: Scope, blob: Blob) -> bool:
        """
        Keep what is known of a blob whose bytes are kept already, and return True; noted in the audit trail.

        One that is there counts as used, and the answer is False.
        """

    @abc.abstractmethod
    async def use_blob(self, scope: Scope, blob_id: str, command_id: str, now: float) -> Blob | None:
        """Note that a command names a blob, which is kept from then on, and return it; ``None`` if there is none."""

    @abc.abstractmethod
    async def blob(self, scope: Scope, blob_id: str) -> Blob | None:
        """Return one."""

    @abc.abstractmethod
    async def blob_totals(self) -> dict[str, int]:
        """Return how many bytes of blobs each tenant has, by its name."""

    @abc.abstractmethod
    async def open_blob_uses(self) -> dict[str, Blob]:
        """Return the blobs of all commands of every tenant that have no end, by the command's id."""

    @abc.abstractmethod
    async def forget_blobs(self, before: float, limit: int) -> list[Blob]:
        """
        Forget blobs that were last named before a time, ``limit`` at most, and return them; noted in the audit trail.

        What a command names that has no end, or is a dead letter, stays.
        """
