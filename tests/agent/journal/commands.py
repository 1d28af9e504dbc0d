"""Commands for the journal's tests."""

from __future__ import annotations

from pathlib import Path

from agent.journal.base import Claim
from agent.journal.disk import Disk
from agent.journal.file import FOLDER
from agent.journal.reading import Reading, read
from agent.journal.records import Index
from agent.settings import Effect
from protocol.messages import Completed

AT = 1_790_000_000.0  # seconds since 1970


def command_id(number: int) -> str:
    """An id as the broker makes them."""
    return f"cmd_{number:026}"


def claim(number: int, *, epoch: int = 1, params: bytes = b'{"customer":"C042"}', effect: Effect = "once") -> Claim:
    return Claim(
        id=command_id(number),
        epoch=epoch,
        fingerprint=f"{number:064x}",
        operation="create-order",
        effect=effect,
        params=params,
        correlation_id=f"corr-{number}",
        at=AT + number,
    )


def succeeded(number: int, *, epoch: int = 1) -> Completed:
    return Completed(command_id(number), epoch, "succeeded")


def reading(state_dir: Path, disk: Disk | None = None) -> Reading:
    """What is in the folder, with all entries in memory."""
    return read(disk or Disk(), state_dir / FOLDER, Index(), whole=True)
