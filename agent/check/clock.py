"""Whether this machine's clock can be right, as far as the machine itself can tell; the broker tells the rest."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import agent
from agent import status
from agent.app import state_dir
from agent.connectors.base import Finding
from agent.errors import AgentError
from agent.identity.own_identity import find

if TYPE_CHECKING:
    from agent.check.stages import Sight

SUBJECT: Final = "clock"
SLACK_S: Final = 120.0  # seconds; file systems and other machines' clocks may be off by that

_RUNNING: Final = 4  # of a Windows service's states
_STATE: Final = re.compile(r":\s*(\d+)\s", re.ASCII)


async def look(sight: Sight) -> AsyncIterator[Finding]:
    """Compare the clock with what has happened already, and ask the system whether it is kept right."""
    moments = await asyncio.to_thread(_moments, sight)
    kept = await asyncio.to_thread(synchronised)
    yield judge(time.time(), moments, kept)


def judge(now: float, moments: dict[str, float], kept: bool | None) -> Finding:
    """
    Return what is to be said of a clock.

    Args:
        now: what it shows, seconds since 1970.
        moments: things that have already happened, and when.
        kept: whether the system keeps it right by the network; ``None`` where it does not say.
    """
    shown = _shown(now)
    for what, moment in moments.items():
        if now < moment - SLACK_S:
            return Finding(
                SUBJECT, False, f"shows {shown}, which is before {what} ({_shown(moment)})", code="clock.wrong"
            )
    if kept is None:
        return Finding(SUBJECT, True, f"{shown}; the system does not say whether it is kept right by the network")
    if kept:
        return Finding(SUBJECT, True, f"{shown}, kept right by the network")
    return Finding(SUBJECT, None, f"{shown}; the system does not keep it right by the network", code="clock.unkept")


def _moments(sight: Sight) -> dict[str, float]:
    program = Path(sys.executable if getattr(sys, "frozen", False) else agent.__file__)
    moments = {}
    with contextlib.suppress(OSError):
        moments["this program was made"] = program.stat().st_mtime
    with contextlib.suppress(AgentError):
        who = find(sight.loaded)
        if who is not None:
            moments["the certificate came"] = who.obtained_at
    told = status.read(state_dir(sight.loaded))
    if told is not None:
        moments["the agent last said how it is"] = told.at
    return moments


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


if sys.platform == "win32":

    def synchronised() -> bool | None:
        """Return whether the system's time service runs; its words are in the system's language, its numbers not."""
        tool = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "sc.exe")
        try:
            said = subprocess.run(  # noqa: S603 - the system's own program, by its full path, with fixed words
                [tool, "query", "w32time"], capture_output=True, timeout=10, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            return None
        states = _STATE.findall(said.decode("ascii", "replace"))
        # TYPE comes first, then STATE.
        return int(states[1]) == _RUNNING if len(states) > 1 else None

elif sys.platform == "linux":
    _UNSYNCHRONISED: Final = 0x40  # STA_UNSYNC

    class _Timex(ctypes.Structure):
        """The beginning of the kernel's ``struct timex``, and room for its rest."""

        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_char * 256),
        )

    def synchronised() -> bool | None:
        """Return whether the kernel's clock is kept right, by whatever program."""
        found = _Timex()  # modes = 0: nothing is set
        try:
            answer = ctypes.CDLL(None).adjtimex(ctypes.byref(found))
        except AttributeError:
            return None
        return None if answer < 0 else not found.status & _UNSYNCHRONISED

else:

    def synchronised() -> bool | None:
        """Return ``None``: this system is not asked."""
        return None
