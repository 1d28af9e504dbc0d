"""
The process that puts another release in place, looks whether it comes up, and puts the old one back if it doesn't.

It is the old release's program, and outlives the agent and whoever asked for the upgrade. What it is to do it is told
by who started it, never by a file in the agent's folder; from there it reads only how the agent says that it is.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from agent import status
from agent.errors import AgentError, JournalOfLaterRelease, UpgradeError
from agent.journal import lock, reading
from agent.journal.disk import Disk
from agent.journal.file import FOLDER
from agent.journal.records import Index
from agent.service.base import ServiceManager, ServiceStatus
from agent.upgrade import report
from agent.upgrade.environment import clean_environment
from agent.upgrade.installation import Installation
from agent.upgrade.package_managers import MANAGERS
from agent.upgrade.packaged import Packaged, kept_beside
from agent.upgrade.report import Report, State
from agent.upgrade.side_by_side import PROGRAM, SideBySide
from agent.upgrade.trial import Trial, Verdict

WORD: Final = "watch-upgrade"  # of the program's words, for itself only
UNIT: Final = "outhaul-agent-upgrade"  # of the watcher under systemd: it is no part of who asked for it
ASKED_S: Final = 30.0  # seconds for who asked to end, so that its program can be replaced
LOOK_S: Final = 0.2  # seconds between two looks at how the agent says that it is
TRY_S: Final = 600.0  # seconds that a command of a release may take
_DETACHED: Final = 0x0208  # DETACHED_PROCESS and CREATE_NEW_PROCESS_GROUP
PUT_BACK_TRIES: Final = 5  # while the agent that is started again and again holds its folder for a moment


class Orders(msgspec.Struct, frozen=True):
    """
    What a watcher is to do.

    Attributes:
        root: folder of the program, or with the releases side by side.
        package: suffix of the packages that a manager installs; "" for releases side by side.
        before: the release that is current.
        after: the release that is to be.
        config: the operator's file.
        state_dir: of the agent.
        runs: whether the agent runs now; one that doesn't is not started.
        linked: whether the agent is linked now.
        account: that the service runs under; "" if unknown.
        asked_by: the process that asked for it, which on Windows must end: its program can't be replaced until then.
        grace_s: seconds that a release has to come up.
        steady_s: seconds that it has to stay up.
        until: when all of it has ended, seconds since 1970.
    """

    root: str
    package: str
    before: str
    after: str
    config: str
    state_dir: str
    runs: bool
    linked: bool
    account: str
    asked_by: int
    grace_s: float
    steady_s: float
    until: float

    def installation(self) -> Installation:
        """Return what is to be changed."""
        if not self.package:
            return SideBySide(Path(self.root))
        manager = next(one for one in MANAGERS if one.suffix == self.package)
        facts = {"config": self.config, "account": self.account}
        return Packaged(Path(self.root), manager, kept_beside(Path(self.config)), facts)


def start(program: Path, orders: Orders) -> None:
    """
    Start the watcher, so that it outlives this process and its terminal.

    Args:
        program: of this release, where nothing replaces it.

    Raises:
        UpgradeError: another one watches an upgrade.
    """
    words = [str(program), WORD, msgspec.json.encode(orders).decode()]
    environment = clean_environment()
    if sys.platform != "win32" and os.getuid() == 0 and Path("/run/systemd/system").is_dir():
        unit = ["systemd-run", "--quiet", "--collect", f"--unit={UNIT}", f"--working-directory={orders.root}", "--"]
        done = subprocess.run([*unit, *words], capture_output=True, text=True, env=environment, check=False)  # noqa: S603 - our own program and words
        if done.returncode != 0:
            raise UpgradeError(
                f"systemd does not start what watches the upgrade; is one under way? {done.stderr[-400:]}"
            )
        return
    # Without a console there are no standard files either; elsewhere they must not be the terminal's.
    windows = sys.platform == "win32"
    nothing = None if windows else subprocess.DEVNULL
    subprocess.Popen(  # noqa: S603 - our own program and words
        words,
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        cwd=program.parent,
        env=environment,
        start_new_session=not windows,
        creationflags=_DETACHED if windows else 0,
    )


def main(text: str) -> NoReturn:
    """Be the watcher that ``start`` starts."""
    watch(msgspec.json.decode(text, type=Orders))
    sys.exit()


def watch(orders: Orders) -> None:
    """Do what is ordered; the report says how it ended."""
    installation, state_dir = orders.installation(), Path(orders.state_dir)

    def tell(state: State, why: str = "") -> None:
        report.write(state_dir, Report(state, orders.before, orders.after, time.time(), why, orders.until))

    tell("watching")
    _wait_for(orders.asked_by)
    manager = service() if orders.runs else None
    verdict = _tried(installation, manager, orders, orders.after)
    if verdict.up:
        installation.keep_only(orders.before, orders.after)
        tell("done")
    else:
        back = _tried(installation, manager, orders, orders.before)
        installation.forget(orders.after)
        tell("failed" if back.up else "stuck", verdict.why)
    installation.clear()


def _wait_for(pid: int) -> None:
    """Wait until a process has ended, as long as it takes somebody at a keyboard; on Windows only."""
    if sys.platform == "win32":
        import pywintypes
        import win32api
        import win32con
        import win32event

        with contextlib.suppress(pywintypes.error):  # it has ended
            process = win32api.OpenProcess(win32con.SYNCHRONIZE, False, pid)
            win32event.WaitForSingleObject(process, int(1000 * ASKED_S))


def _tried(installation: Installation, manager: ServiceManager | None, orders: Orders, release: str) -> Verdict:
    """Have a release run in the place of the other, and see whether it comes up."""
    state_dir = Path(orders.state_dir)
    try:
        since, began = time.time(), time.monotonic()
        if manager is not None and manager.status().installed:  # a release that does not work may have lost it
            manager.stop()
        installation.switch(release)
        if not orders.runs:
            return Verdict(True)
        if manager is None:
            _end(installation, state_dir)
        if release == orders.before:
            _have_journal_of(installation.starts, orders)
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
    manager = _manager()
    return manager if manager.status().running else None


def service_status() -> ServiceStatus:
    """Return what the service manager knows."""
    return _manager().status()


def _manager() -> ServiceManager:
    if sys.platform == "win32":
        from agent.service import windows  # of Windows only

        return windows
    from agent.service import linux

    return linux


def _end(installation: Installation, state_dir: Path) -> None:
    if sys.platform != "win32":
        from agent.upgrade import processes

        processes.end(PROGRAM, installation.root, state_dir)
