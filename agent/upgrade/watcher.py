"""
The process that puts another release in place, looks whether it comes up, and puts the old one back if it doesn't.

It is the old release's program, and outlives the agent and whoever asked for the upgrade. What it is to do it is told
by who started it, never by a file in the agent's folder; from there it reads only how the agent says that it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from agent import status
from agent.errors import AgentError, JournalOfLaterRelease
from agent.journal import lock, reading
from agent.journal.disk import Disk
from agent.journal.file import FOLDER
from agent.journal.records import Index
from agent.service.base import ServiceManager
from agent.upgrade import report
from agent.upgrade.report import Report, State
from agent.upgrade.side_by_side import PROGRAM, SideBySide
from agent.upgrade.trial import Trial, Verdict

if sys.platform == "win32":
    raise ImportError("for Linux only")

from agent.service import linux

WORD: Final = "watch-upgrade"  # of the program's words, for itself only
LOOK_S: Final = 0.2  # seconds between two looks at how the agent says that it is
END_S: Final = 120.0  # seconds that what runs has to come to its end; a service manager knows its own
PROC: Final = Path("/proc")
PROGRAM_WORDS: Final = 3  # first of a command line, one of which is the program: it may be an interpreter's
TRY_S: Final = 600.0  # seconds that a command of a release may take
PUT_BACK_TRIES: Final = 5  # while the agent that is started again and again holds its folder for a moment


class Orders(msgspec.Struct, frozen=True):
    """
    What a watcher is to do.

    Attributes:
        root: folder with the releases side by side.
        before: the release that is current.
        after: the release that is to be.
        config: the operator's file.
        state_dir: of the agent.
        linked: whether the agent is linked now.
        grace_s: seconds that a release has to come up.
        steady_s: seconds that it has to stay up.
    """

    root: str
    before: str
    after: str
    config: str
    state_dir: str
    linked: bool
    grace_s: float
    steady_s: float


def start(orders: Orders) -> None:
    """Start the watcher, so that it outlives this process and its terminal."""
    program = SideBySide(Path(orders.root)).program(orders.before)
    subprocess.Popen(  # noqa: S603 - our own program and words
        [str(program), WORD, msgspec.json.encode(orders).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=orders.root,
        env=clean_environment(),
        start_new_session=True,
    )


def main(text: str) -> NoReturn:
    """Be the watcher that ``start`` starts."""
    watch(msgspec.json.decode(text, type=Orders))
    sys.exit()


def clean_environment() -> dict[str, str]:
    """Return our environment without what a frozen program needs for itself and no other one may have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("_PYI_", "LD_LIBRARY_PATH"))}
    if before := os.environ.get("LD_LIBRARY_PATH_ORIG"):
        kept["LD_LIBRARY_PATH"] = before
    return kept


def watch(orders: Orders) -> None:
    """Do what is ordered; the report says how it ended."""
    side, state_dir = SideBySide(Path(orders.root)), Path(orders.state_dir)

    def tell(state: State, why: str = "") -> None:
        report.write(state_dir, Report(state, orders.before, orders.after, time.time(), why))

    tell("watching")
    verdict = _tried(side, orders, orders.after)
    if verdict.up:
        side.keep_only(orders.before, orders.after)
        tell("done")
        return
    back = _tried(side, orders, orders.before)
    side.remove(orders.after)
    tell("failed" if back.up else "stuck", verdict.why)


def _tried(side: SideBySide, orders: Orders, release: str) -> Verdict:
    """Have a release run in the place of the other, and see whether it comes up."""
    state_dir = Path(orders.state_dir)
    manager = service()
    try:
        since, began = time.time(), time.monotonic()
        side.switch(release)
        if manager is not None:
            manager.stop()
        else:
            _end(side, state_dir)
        if release == orders.before:
            _have_journal_of(side.program(release), orders)
        trial = Trial(release, since, orders.linked, orders.grace_s + time.monotonic() - began, orders.steady_s)
        if manager is not None:
            manager.start()
        while True:
            verdict = trial.judge(status.read(state_dir), time.time(), runs=lock.held(state_dir))
            if verdict is not None:
                return verdict
            time.sleep(LOOK_S)  # nobody tells when the agent writes its file
    except (AgentError, OSError, subprocess.SubprocessError) as exc:
        return Verdict(False, f"it can't be started: {exc}")


def _have_journal_of(program: Path, orders: Orders) -> None:
    """Put the journal's copy back, where a later release changed its format and the earlier one is to run again."""
    for _ in range(PUT_BACK_TRIES):
        try:
            reading.read(Disk(), Path(orders.state_dir) / FOLDER, Index())
            return
        except JournalOfLaterRelease:
            # As a program of its own: that one acts with the rights of the agent's account, whose folder it is.
            words = [str(program), "journal", "put-back", "--config", orders.config]
            subprocess.run(words, capture_output=True, env=clean_environment(), check=False, timeout=TRY_S)  # noqa: S603 - our own program and words


def service() -> ServiceManager | None:
    """Return the service manager that runs the agent; ``None`` if another program keeps it running, or nobody does."""
    return linux if linux.status().running else None


def _end(side: SideBySide, state_dir: Path) -> None:
    """Have the agent end, also one that hangs; whoever keeps it running starts what is current then."""
    running = [pid for pid in _of_proc() if _is_the_agents(pid, side, state_dir)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + END_S
        while running and time.monotonic() < deadline:
            time.sleep(LOOK_S)  # they are no children of ours, so that no wait() tells
            running = [pid for pid in running if _is_the_agents(pid, side, state_dir)]


def _of_proc() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdecimal()]


def _is_the_agents(pid: int, side: SideBySide, state_dir: Path) -> bool:
    """Whether a process runs the agent out of our folder, under the account whose state_dir it is, or ours."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        owner = (PROC / str(pid)).stat().st_uid
        ours = owner in (state_dir.stat().st_uid, os.getuid())
    except OSError:
        return False
    programs = [Path(os.fsdecode(word)) for word in words[:PROGRAM_WORDS]]
    return ours and b"run" in words and any(path.name == PROGRAM and side.root in path.parents for path in programs)
