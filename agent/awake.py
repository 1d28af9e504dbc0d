"""A clock that also counts while the machine sleeps, where its system has one."""

from __future__ import annotations

import sys
import time

if sys.platform == "linux":

    def now() -> float:
        """Return seconds on a clock that only goes forward."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    # Windows counts sleep in its monotonic clock.
    now = time.monotonic
