"""Files that are on the disk whole, or not at all, whenever the power goes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

RETRY_FOR_S: Final = 2.5  # seconds; a virus scanner or indexer holds a new file about that long
SHARING_VIOLATIONS: Final = (5, 32, 33)  # ERROR_ACCESS_DENIED, _SHARING_VIOLATION, _LOCK_VIOLATION


def write(path: Path, data: bytes, mode: int, *, lasting: bool = True) -> None:
    """
    Put ``data`` at ``path`` and on the disk; it replaces what is there, and is never seen half.

    Args:
        mode: rights of the file from its first moment; Windows takes them from the folder.
        lasting: whether it is to be there after a power cut.

    Raises:
        OSError: what was there is there still.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        patiently(lambda: os.replace(temporary, path))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if lasting:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut; Windows does so by itself."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def patiently(act: Callable[[], None]) -> None:
    """
    Move or remove a file, again for a moment where Windows says that another program has it open.

    Raises:
        OSError: as ``act`` said last; at once where it means something else.
    """
    deadline, pause_s = time.monotonic() + RETRY_FOR_S, 0.02
    while True:
        try:
            return act()
        except OSError as exc:
            # Only these, and not for long: a true denial has to surface.
            if getattr(exc, "winerror", None) not in SHARING_VIOLATIONS or time.monotonic() > deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.3)
