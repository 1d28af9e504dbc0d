"""
What people at this machine found out, on its way to the agent: one small file for each command in ``state_dir``.

``outhaul-agent journal resolve`` writes it; the agent, running or started later, takes it into its journal.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Final

import msgspec

from agent import durable_file
from agent.journal.base import Resolution

log = logging.getLogger(__name__)

FOLDER: Final = "resolutions"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def put_resolution(state_dir: Path, command_id: str, resolution: Resolution) -> None:
    """
    Leave word for the agent.

    Raises:
        ValueError: the id is none.
        OSError: it could not be written.
    """
    if _NAME.fullmatch(command_id) is None:
        raise ValueError(f"{command_id!r} is no id of a command")
    folder = state_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable_file.write(folder / f"{command_id}.json", msgspec.json.encode(resolution), 0o600)


def resolutions(state_dir: Path) -> list[tuple[str, Resolution]]:
    """Return what was left, by id of the command; what can't be read is set aside and named in the log."""
    found = []
    for file in sorted((state_dir / FOLDER).glob("*.json")):
        try:
            found.append((file.stem, msgspec.json.decode(file.read_bytes(), type=Resolution)))
        except (OSError, msgspec.DecodeError) as exc:
            log.warning("%s can't be read: %s", file, exc, extra={"event": "resolution_unreadable"})
            file.replace(file.with_suffix(".unreadable"))
    return found


def take_resolution(state_dir: Path, command_id: str) -> None:
    """Remove what was left about a command; the journal has it."""
    (state_dir / FOLDER / f"{command_id}.json").unlink(missing_ok=True)
