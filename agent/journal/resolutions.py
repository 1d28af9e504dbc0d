"""
What people found out of commands whose end nobody heard, on its way to the agent: `state_dir/resolutions/`.

A file for each, so that it can be said while the agent runs and while it doesn't; the agent takes it into its
journal, and then removes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import Final

import msgspec

from agent import durable_file
from agent.journal.base import Resolution

log = logging.getLogger(__name__)

FOLDER: Final = "resolutions"


class _Found(msgspec.Struct, frozen=True):
    id: str
    resolution: Resolution


def leave(state_dir: Path, command_id: str, resolution: Resolution) -> None:
    """
    Leave a resolution for the agent; it replaces an earlier one of the same command.

    Raises:
        OSError: it can't be written.
    """
    if sys.platform != "win32" and state_dir.stat().st_uid != os.geteuid():
        # The agent could neither read the file nor remove it.
        raise PermissionError(errno.EPERM, "run this as the agent's account", str(state_dir))
    folder = state_dir / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    durable_file.write(folder / _name(command_id), msgspec.json.encode(_Found(command_id, resolution)), 0o600)


def resolutions(state_dir: Path) -> list[tuple[str, Resolution]]:
    """
    Return what was left: ids of commands, and what was found out of them.

    A file that is none of ours gets another name, and is told of once.
    """
    found: list[tuple[str, Resolution]] = []
    folder = state_dir / FOLDER
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            left = msgspec.json.decode(path.read_bytes(), type=_Found)
        except OSError:
            continue  # held by another program; it is there the next time
        except ValueError as exc:
            log.warning(
                "%s: is no resolution (%s); say it again: outhaul-agent journal resolve",
                path,
                exc,
                extra={"event": "resolution_unreadable"},
            )
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".unreadable"))
            continue
        found.append((left.id, left.resolution))
    return found


def take_resolution(state_dir: Path, command_id: str) -> None:
    """
    Remove what was left of a command, once the journal has it.

    Raises:
        OSError: it can't be removed.
    """
    path = state_dir / FOLDER / _name(command_id)
    durable_file.patiently(lambda: path.unlink(missing_ok=True))


def _name(command_id: str) -> str:
    # An id comes from the cloud, and must never be a way to another folder.
    return hashlib.sha256(command_id.encode()).hexdigest()[:32] + ".json"
