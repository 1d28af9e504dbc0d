"""The frozen agent of this tree, built once and kept in ``.dev/dist`` for all who need it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from installer.build import NAME, ROOT, freeze

KEPT: Final = ROOT / ".dev" / "dist"
UNUSED_S: Final = 6 * 3600.0  # seconds after which one that nobody asked for goes

_SOURCES: Final = ("agent", "protocol")
_MORE: Final = ("requirements/agent.txt", "LICENSE", "NOTICE")


def frozen(wine: str | None = None) -> Path:
    """
    Return the folder of the frozen program; build it where there is none of this state.

    Args:
        wine: as ``build.freeze``.

    Raises:
        BuildError: as ``build.freeze``.
    """
    folder = KEPT / _digest(wine)
    KEPT.mkdir(parents=True, exist_ok=True)
    with _alone(KEPT / f"{folder.name}.lock"):
        if not (folder / "whole").exists():
            freeze(folder, wine)
            _forget(folder)
        (folder / "whole").touch()
    return folder / NAME


def _digest(wine: str | None) -> str:
    """Return a name for the state of all that goes into it."""
    found = hashlib.sha256(f"{platform.python_version()} {platform.platform()} {wine}".encode())
    sources = [path for room in _SOURCES for path in (ROOT / room).rglob("*") if path.is_file()]
    sources += [*(ROOT / "installer").glob("*.*"), *(ROOT / name for name in _MORE)]
    for path in sorted(sources):
        if "__pycache__" not in path.parts:
            found.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process builds the same."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _forget(new: Path) -> None:
    """Remove those of other states that nobody asked for lately."""
    for mark in KEPT.glob("*/whole"):
        if mark.parent != new and mark.stat().st_mtime < time.time() - UNUSED_S:
            shutil.rmtree(mark.parent, ignore_errors=True)
            os.remove(KEPT / f"{mark.parent.name}.lock")
