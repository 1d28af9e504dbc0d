"""Signatures that were shown: each belongs to the first command that came with it, until its validity ends."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Final, NamedTuple

from agent.errors import OutcomeUnknown, SignatureExpired, SignatureMemoryFull, SignatureReplayed
from agent.journal.base import Shown

MAX_SHOWN: Final = 50_000  # signatures; some 15 MiB of memory
PRUNE_FROM: Final = 1_024  # signatures; fewer are not worth a look at each


class _Kept(NamedTuple):
    id: str
    until: int
    signer: str


class Shows:
    """The memory of one agent; its clock is that of the records, so that one set back brings nothing to life again."""

    def __init__(self, most: int = MAX_SHOWN) -> None:
        self._most = most
        self._shown: dict[bytes, _Kept] = {}
        self._of: Counter[str] = Counter()  # how many each signer has
        self._now = 0.0  # the latest moment at which one was shown
        self._prune_at = PRUNE_FROM

    def __len__(self) -> int:
        return len(self._shown)

    def take(self, shown: Shown, *, known: bool) -> bool:
        """
        Let a command have a signature; return whether it is the first to show it.

        Args:
            known: whether the journal knows anything of the command.

        Raises:
            SignatureReplayed: another command has it.
            OutcomeUnknown: this one had it, and what became of it is not known any more.
            SignatureExpired: by a clock that was later than ours is now, it has ended.
            SignatureMemoryFull: its signer has no room before others end.
        """
        owner = self._shown.get(shown.digest)
        if owner is not None:
            if owner.id != shown.id:
                raise SignatureReplayed(
                    f"this signer's idempotency key came before, with the command {owner.id}; a new command wants a "
                    "new key and a new signature",
                    touched=False,
                )
            if not known:
                raise OutcomeUnknown(
                    "this very command came before with this signature, so long ago that its end is not known here any "
                    "more; it was not run again. Find out whether it happened, and sign a new command if not"
                )
            return False
        if shown.until < self._now:
            raise SignatureExpired(
                "the signature had ended when the agent's clock was last looked at; the clock was set back since. See "
                "that it is right, and sign the command anew",
                touched=False,
            )
        if self._full(shown.signer):
            self._prune(shown.at)
            if self._full(shown.signer):
                raise SignatureMemoryFull(
                    f"the agent remembers {len(self._shown)} signatures that may still be shown, of {shown.signer!r} "
                    f"{self._of[shown.signer]}; the room that is left is for other callers. Try again later, and sign "
                    "for a shorter time",
                    touched=False,
                )
        self.add(shown)
        return True

    def add(self, shown: Shown) -> None:
        """Take in what a record says."""
        self._now = max(self._now, shown.at)
        self._forget(shown.digest)
        # Of a name that stands in thousands of records one copy is enough.
        self._shown[shown.digest] = _Kept(shown.id, shown.until, sys.intern(shown.signer))
        self._of[shown.signer] += 1
        if len(self._shown) >= self._prune_at:
            self._prune(self._now)
            self._prune_at = max(PRUNE_FROM, 2 * len(self._shown))

    def release(self, shown: Shown) -> None:
        """Nothing was kept of it after all."""
        self._forget(shown.digest)

    def all(self) -> list[Shown]:
        """Return what has to be remembered, for a journal that is written anew."""
        self._prune(self._now)
        return [Shown(digest, one.id, one.until, self._now, one.signer) for digest, one in self._shown.items()]

    def _full(self, signer: str) -> bool:
        # At most as many as are free: one alone may have half, the next half of the rest, and who comes finds room.
        return self._of[signer] >= self._most - len(self._shown)

    def _forget(self, digest: bytes) -> None:
        if (gone := self._shown.pop(digest, None)) is not None:
            self._of[gone.signer] -= 1
            if not self._of[gone.signer]:
                del self._of[gone.signer]

    def _prune(self, now: float) -> None:
        for digest in [digest for digest, one in self._shown.items() if one.until < now]:
            self._forget(digest)
