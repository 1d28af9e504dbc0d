"""Files that are on the disk whole, or not at all, whenever the power goes."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def write(path: Path, data: bytes, mode: int) -> None:
    """
    Put ``data`` at ``path`` and on the disk; it replaces what is there, and is never seen half.

    Args:
        mode: rights of the file from its first moment; Windows takes them from the folder.

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
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
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
