"""An agent that no service manager runs, on Linux: found by what its processes run, and brought to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

if sys.platform == "win32":
    raise ImportError("for Linux only")

END_S: Final = 120.0  # seconds that what runs has to come to its end; a service manager knows its own
LOOK_S: Final = 0.2
PROC: Final = Path("/proc")
PROGRAM_WORDS: Final = 3  # first of a command line, one of which is the program: it may be an interpreter's


def end(program: str, root: Path, state_dir: Path) -> None:
    """Have the agent end, also one that hangs; whoever keeps it running starts what is current then."""
    running = [pid for pid in _all() if _is_the_agents(pid, program, root, state_dir)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + END_S
        while running and time.monotonic() < deadline:
            time.sleep(LOOK_S)  # they are no children of ours, so that no wait() tells
            running = [pid for pid in running if _is_the_agents(pid, program, root, state_dir)]


def _all() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdecimal()]


def _is_the_agents(pid: int, program: str, root: Path, state_dir: Path) -> bool:
    """Whether a process runs the agent out of our folder, under the account whose state_dir it is, or ours."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        owner = (PROC / str(pid)).stat().st_uid
        ours = owner in (state_dir.stat().st_uid, os.getuid())
    except OSError:
        return False
    programs = [Path(os.fsdecode(word)) for word in words[:PROGRAM_WORDS]]
    return ours and b"run" in words and any(path.name == program and root in path.parents for path in programs)
