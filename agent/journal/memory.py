"""A journal that lives as long as its process: for tests, where it outlives the dispatchers that use it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import msgspec

from agent.errors import JournalUnavailable
from agent.journal.base import Anchor, Claim, Entry, Journal, Resolution, Shown
from agent.journal.signatures import Shows
from protocol.messages import Completed


class MemoryJournal(Journal):
    """
    Attributes:
        full: makes all that must be durable fail, as a full disk does.
    """

    def __init__(self) -> None:
        self.mark = os.urandom(8).hex()
        self.position = 0
        self.trouble: str | None = None
        self.full = False
        self.head = bytes(32).hex()
        self._entries: dict[str, Entry] = {}
        self._anchors: list[Anchor] = []
        self._shows = Shows()

    def __repr__(self) -> str:
        return f"<MemoryJournal {len(self._entries)} entries>"

    async def begin(self, claim: Claim, shown: Shown | None = None) -> None:
        self._kept()
        if shown is not None:
            self._shows.take(shown, known=claim.id in self._entries)
        self._entries.pop(claim.id, None)
        self._entries[claim.id] = Entry(claim)

    async def show(self, shown: Shown) -> None:
        self._kept()
        self._shows.take(shown, known=True)

    async def keep_rows(self, command_id: str, rows: bytes, spooled: int) -> None:
        self._kept()
        self._change(command_id, rows=rows or None, spooled=spooled)

    async def end(self, command_id: str, completed: Completed, outputs: bytes, at: float) -> None:
        self._kept()
        self._change(command_id, completed=completed, outputs=outputs, ended_at=at)

    def note(self, claim: Claim, completed: Completed, at: float) -> None:
        self._wrote()
        self._entries[claim.id] = Entry(
            msgspec.structs.replace(claim, params=b""), completed=completed, ended_at=at, acknowledged=True
        )

    def acknowledge(self, command_id: str) -> None:
        if command_id in self._entries:
            self._wrote()
            self._change(command_id, acknowledged=True)

    def stand(self) -> tuple[int, str]:
        return self.position, self.head

    def anchor(self, anchor: Anchor) -> None:
        if anchor not in self._anchors[-1:]:
            self._wrote()
            self._anchors.append(anchor)

    def anchors(self) -> Sequence[Anchor]:
        return self._anchors

    async def resolve(self, command_id: str, resolution: Resolution) -> None:
        self._kept()
        self._change(command_id, resolution=resolution)

    def find(self, command_id: str) -> Entry | None:
        return self._entries.get(command_id)

    def unacknowledged(self) -> Sequence[Entry]:
        return [entry for entry in self._entries.values() if not entry.acknowledged]

    async def close(self) -> None:
        return

    def _change(self, command_id: str, **changes: object) -> None:
        self._entries[command_id] = msgspec.structs.replace(self._entries[command_id], **changes)

    def _kept(self) -> None:
        if self.full:
            self.trouble = "the disk is full"
            raise JournalUnavailable("the journal can't be written: the disk is full", touched=False)
        self.trouble = None
        self._wrote()

    def _wrote(self) -> None:
        self.position += 1
        self.head = hashlib.sha256(bytes.fromhex(self.head) + self.position.to_bytes(8, "big")).hexdigest()
