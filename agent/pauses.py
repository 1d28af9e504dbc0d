"""
Connections that somebody at this machine has paused: `state_dir/paused/`, a file for each, and one for all of them.

Only these files tell what is paused, so it can be said while the agent runs and while it doesn't, outlives
restarts, and can't be undone from anywhere else.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from agent import durable_file
from protocol.plain_text import plain

FOLDER: Final = "paused"
EVERY: Final = ""  # as a connection: all that the file has, and will have
MAX_REASON_CHARS: Final = 500
_UNREADABLE: Final = "a file of `outhaul-agent pause` can't be read, so all is taken for paused"


class Pause(msgspec.Struct, frozen=True):
    """
    What somebody said.

    Attributes:
        connection: which one; ``EVERY`` for all.
        reason: in their words, or "".
        by: who said it.
        at: seconds since 1970.
        stop: whether what runs is stopped as well.
    """

    connection: str
    reason: str
    by: str
    at: float
    stop: bool = False

    @property
    def unreadable(self) -> bool:
        """Whether nobody said it, and only a file that can't be read stands for it."""
        return self.reason == _UNREADABLE

    @property
    def told(self) -> str:
        """What others are told of it."""
        return self.reason or f"paused by {self.by}"


def pause(state_dir: Path, wanted: Pause) -> None:
    """
    Pause a connection; an earlier word about the same one is replaced.

    Raises:
        OSError: it can't be written.
    """
    folder = state_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "is a link, and might lead anywhere; remove it", str(folder))
    path = folder / _name(wanted.connection)
    durable_file.write(path, msgspec.json.encode(wanted), 0o600)
    if sys.platform != "win32" and os.geteuid() == 0:
        # Said by root: the agent's account must be able to read it.
        owner = state_dir.stat()
        for made in (folder, path):
            # Never through a link: whoever has the agent's account could have root give it any file.
            os.chown(made, owner.st_uid, owner.st_gid, follow_symlinks=False)


def resume(state_dir: Path, connection: str) -> bool:
    """
    Let a connection go on; with ``EVERY`` all of them, whatever paused them.

    Returns:
        Whether anything was paused by that name.

    Raises:
        OSError: what pauses it can't be removed.
    """
    folder = state_dir / FOLDER
    paths = [path for path in _paths(folder) if connection == EVERY or path.name == _name(connection)]
    for path in paths:
        durable_file.patiently(lambda path=path: path.unlink(missing_ok=True))  # type: ignore[misc] # its default is a Path
    if paths:
        durable_file.sync_folder(folder)
    return bool(paths)


def said(state_dir: Path) -> tuple[Pause, ...]:
    """Return all that is said now; what can't be read pauses everything."""
    found = []
    try:
        paths = _paths(state_dir / FOLDER)
    except OSError:
        return (_unreadable(0.0),)
    for path in paths:
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Pause))
        except FileNotFoundError:
            continue  # taken away this moment
        except (OSError, ValueError):
            found.append(_unreadable(_written_at(path)))
    return tuple(found)


def in_force(pauses: Iterable[Pause], connections: Iterable[str]) -> Mapping[str, Pause]:
    """Return what pauses each of the paused ``connections``; of several words the one that also stops what runs."""
    found: dict[str, Pause] = {}
    for one in sorted(pauses, key=lambda one: (one.stop, one.connection != EVERY)):
        for name in connections:
            if one.connection in (name, EVERY):
                found[name] = one
    return found


def refusal(connection: str, pause: Pause) -> str:
    """Return what the caller of a paused connection is told."""
    reason = f": {plain(pause.reason)}" if pause.reason else ""
    by, name = plain(pause.by), "" if pause.connection == EVERY else f" {connection}"
    return (
        f"{connection} is paused at the agent's machine by {by}{reason} (outhaul-agent pause); an operator allows it "
        f"by saying there: outhaul-agent resume{name}"
    )


def _unreadable(at: float) -> Pause:
    return Pause(EVERY, _UNREADABLE, "the agent", at)


def _written_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:  # taken away this moment, which on Windows is a file that can't be looked at
        return 0.0


def _paths(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return []


def _name(connection: str) -> str:
    # Hashed: Windows has names that are no files, and takes `ERP` and `erp` for one.
    return "all.json" if connection == EVERY else hashlib.sha256(connection.encode()).hexdigest()[:32] + ".json"
