"""
What became of a file that was to appear once, told by the hidden names beside it.

Each attempt of a command has its own: a ``.part`` with the content, and a ``.claim`` with the receipt, which is on the
disk before the part takes its final name and stays until the broker has the result. An attempt whose end nobody heard
is found out by taking its part away from it, to a ``.void``: of that renaming and the attempt's own one succeeds.

=====================  ==================================================================================
what is there          what became of it
=====================  ==================================================================================
no whole claim         it did not happen. Its part is taken away; where there is none yet, a folder of that
                       name keeps it from being made
claim, part            it did not happen; the part is taken away
claim, void            it did not happen
claim alone            it happened
=====================  ==================================================================================

Where a name can only be claimed by a link, the part still stands beside the final name for a moment. A part with a
second name has happened; one without either never happened, or was fetched in that moment: only a person can tell,
unless the file of that name has the claim's digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agent import durable_file
from agent.connectors.file import names, publish
from agent.errors import OutcomeUnknown, SourceUnavailable

TRIES: Final = 3  # to get hold of an attempt that goes on meanwhile; it has two steps left


class Receipt(msgspec.Struct, frozen=True):
    """What was written."""

    name: str
    bytes: int
    sha256: str


class Claim(msgspec.Struct, frozen=True):
    """What an attempt is about to make appear, and how."""

    receipt: Receipt
    way: publish.Way


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One attempt of a command at a file.

    Attributes:
        folder: the resolved root.
        name: the file's final one.
        number: its epoch.
    """

    folder: Path
    name: str
    command_id: str
    number: int

    @property
    def part(self) -> Path:
        """Where its content is written."""
        return self._beside("part")

    @property
    def claim(self) -> Path:
        """Where it notes what it is about to do."""
        return self._beside("claim")

    @property
    def void(self) -> Path:
        """Where its part is once it was taken away."""
        return self._beside("void")

    def _beside(self, suffix: str) -> Path:
        return self.folder / names.temporary(self.name, self.command_id, suffix, self.number)

    def earlier(self) -> list[Attempt]:
        """Return those before it that left something, the newest first."""
        found = (Attempt(self.folder, self.name, self.command_id, n) for n in range(self.number - 1, -1, -1))
        return [attempt for attempt in found if os.path.lexists(attempt.claim) or os.path.lexists(attempt.part)]

    @property
    def given_up(self) -> bool:
        """Whether it was found out that it had not happened, before it wrote anything."""
        return self.part.is_dir()

    def found(self) -> Receipt | None:
        """
        Find out whether it happened; if not, it never will.

        Raises:
            SourceUnavailable: it is still at work and can't be stopped.
            OutcomeUnknown: it can't be told, see above.
            OSError: the folder can't be read or written.
        """
        for _ in range(TRIES):
            claim = self.claimed()
            if claim is not None:
                return self._settled(claim)
            if self._stopped_before_its_claim() and self.claimed() is None:
                return None
        raise SourceUnavailable(f"{self.folder / self.name}: an attempt at it is still under way")

    def claimed(self) -> Claim | None:
        """Return its claim; ``None`` also for one that a crash cut off, before the name was taken."""
        try:
            return msgspec.json.decode(self.claim.read_bytes(), type=Claim)
        except (FileNotFoundError, ValueError):
            return None

    def clear(self) -> None:
        """Remove what it left, before it is made anew; the claim first, which alone says that it happened."""
        self.claim.unlink(missing_ok=True)
        self.void.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def _stopped_before_its_claim(self) -> bool:
        try:
            self.part.mkdir()
        except FileExistsError:
            return self.given_up or self._taken_away()
        return True

    def _taken_away(self) -> bool:
        try:
            os.rename(self.part, self.void)
        except FileNotFoundError:
            return False
        except PermissionError as exc:
            # Windows: it is being written.
            raise SourceUnavailable(f"{self.part} is open in another process: {exc.strerror}") from exc
        return True

    def _settled(self, claim: Claim) -> Receipt | None:
        if not self.given_up and os.path.lexists(self.part):
            self._taken_away()
        try:
            void = self.void.stat()
        except FileNotFoundError:
            # What is told must be there after a power cut too.
            durable_file.sync_folder(self.folder)
            return claim.receipt
        if claim.way != "link":
            return None
        if void.st_nlink > 1 or self._stands_there(claim.receipt):
            self.void.unlink()
            durable_file.sync_folder(self.folder)
            return claim.receipt
        raise OutcomeUnknown(
            f"{self.folder / self.name}: the agent stopped while this file took its name, and it is not there now: it "
            f"was never there, or was fetched since. Find out, then remove {self.claim.name} and {self.void.name}"
        )

    def _stands_there(self, receipt: Receipt) -> bool:
        with contextlib.suppress(FileNotFoundError), (self.folder / self.name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == receipt.sha256
        return False
