"""The disk at rest: what one measurement leaves to be written would slow the synced writes of the next."""

from __future__ import annotations

import os
import sys


def settle() -> None:
    """Wait until the disk has what was written so far, by whoever; Windows has no such call."""
    if sys.platform != "win32":
        os.sync()
