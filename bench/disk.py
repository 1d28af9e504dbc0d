"""The disk at rest: what one measurement leaves to be written would slow the synced writes of the next."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

MOST_KIB: Final = 8_192  # that may be left to write; a system that runs has always some
PATIENCE_S: Final = 120.0  # what others write without end is not waited for
_WAITING: Final = Path("/proc/meminfo")
_LOOK_S: Final = 0.1  # between two looks


def settle() -> None:
    """Wait until the disk has what was written so far; without the last certainty where the system doesn't tell."""
    if not hasattr(os, "sync"):  # Windows
        return
    os.sync()
    deadline = time.monotonic() + PATIENCE_S
    while _left_kib() > MOST_KIB and time.monotonic() < deadline:
        time.sleep(_LOOK_S)


def _left_kib() -> int:
    if not _WAITING.exists():
        return 0
    told = dict(line.split(":", 1) for line in _WAITING.read_text("ascii").splitlines())
    return sum(int(told[name].split()[0]) for name in ("Dirty", "Writeback"))
