"""What a running agent writes down of itself for `outhaul-agent status`: `state_dir/status.json`; no secret."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from agent import durable_file
from protocol import limits

NAME: Final = "status.json"
EVERY_S: Final = limits.BEAT_S  # seconds after which it is written though nothing changed
STALE_S: Final = 3 * EVERY_S  # seconds without a word after which an agent does not answer any more


class ConnectionStatus(msgspec.Struct, frozen=True):
    """
    One connection.

    Attributes:
        paused: whether the agent lets nothing begin on it because somebody said so.
        shut: whether it is outside of its posting windows.
        running: commands at work.
        held: commands that are here and wait.
    """

    paused: bool = False
    shut: bool = False
    running: int = 0
    held: int = 0


class Status(msgspec.Struct, frozen=True):
    """
    How an agent is; times in seconds since 1970.

    Attributes:
        at: when it was written.
        started_at: when the process began.
        link: ``connecting``, ``connected``, ``waiting`` or ``stopped``.
        linked_since: when the broker welcomed it on this link; ``None`` unless it did.
        broker: the broker's URL.
        link_error: why the last try failed, while there is no link.
        problems: why it refuses commands though the link is up.
    """

    at: float
    pid: int
    release: str
    started_at: float
    link: str
    linked_since: float | None
    broker: str
    link_error: str
    problems: list[str]
    connections: dict[str, ConnectionStatus]


def write(state_dir: Path, status: Status) -> None:
    """
    Write it down, for whoever may read the folder.

    Raises:
        OSError: it can't be written.
    """
    durable_file.write(state_dir / NAME, msgspec.json.encode(status), 0o600, lasting=False)


def read(state_dir: Path) -> Status | None:
    """Return what the last agent wrote, or ``None`` if nothing of it can be read."""
    try:
        return msgspec.json.decode((state_dir / NAME).read_bytes(), type=Status)
    except (OSError, ValueError):
        return None
