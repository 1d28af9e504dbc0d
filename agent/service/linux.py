"""The agent as a service of systemd: made, mended, removed, started and stopped by ``outhaul-agent service``."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent import config_file, durable_file
from agent.errors import ServiceError, ServiceNotAllowed
from agent.service.base import NAME, ServiceStatus
from agent.service.unit import (
    ACCOUNT,
    CONFIG,
    CONFIG_DIR,
    FOLDERS_DROP_IN,
    LOG_DIR,
    STATE_DIR,
    Place,
    folders,
    folders_drop_in,
    unit,
)
from agent.upgrade.side_by_side import CURRENT, PROGRAM, SideBySide

if sys.platform == "win32":
    raise ImportError("for Linux only")

from agent.service import unix_accounts

UNIT: Final = f"{NAME}.service"
UNITS: Final = Path("/etc/systemd/system")  # of this machine's operator; they come before those of packages
PACKAGED: Final = (Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))
COMMAND: Final = Path("/usr/bin/outhaul-agent")
WAIT_S: Final = 900.0  # seconds; systemd's own limits end it earlier

_FACTS: Final = ("LoadState", "UnitFileState", "ActiveState", "SubState", "User", "StatusText", "Result", "ExecStart")


class _Steps:
    """What was done, for people, and how each of it is taken back if a later step fails."""

    def __init__(self, undo: contextlib.ExitStack) -> None:
        self.told: list[str] = []
        self._undo = undo

    def done(self, text: str, undo: Callable[[], object]) -> None:
        self.told.append(text)
        self._undo.callback(undo)

    def write(self, path: Path, text: str, mode: int = 0o644) -> None:
        """Have a file say ``text``; an empty text takes it away."""
        before = path.read_bytes() if path.exists() else None
        if before == (text.encode() or None):
            return
        if not path.parent.exists():
            path.parent.mkdir(mode=0o755)
            self._undo.callback(path.parent.rmdir)
        if text:
            durable_file.write(path, text.encode(), mode)
        else:
            path.unlink()
        word = "wrote" if text else "removed"
        self.done(f"{word} {path}", lambda: _put_back(path, before, mode))

    def folder(self, path: Path, mode: int, owner: unix_accounts.Account, group: int) -> None:
        """Have a folder with these rights."""
        if not path.exists():
            path.mkdir(mode=mode, parents=True)
            self.done(f"made {path}", path.rmdir)
        self.rights(path, owner.uid, group, mode)

    def rights(self, path: Path, uid: int, gid: int, mode: int) -> None:
        """Have a file or a folder belong to somebody."""
        found = path.stat()
        before = found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)
        if before != (uid, gid, mode):
            _set_rights(path, uid, gid, mode)
            self._undo.callback(_set_rights, path, *before)


def install(config: Path, account: str | None = None) -> list[str]:
    """As in ``ServiceManager``; the drop-in with the folders of file connections is written anew each time."""
    _needs_root("install")
    _needs_systemd(config)
    if not config.exists() and config == CONFIG:
        raise ServiceError(
            f"{config} is not there; copy the agent.toml of the archive to it, change it to your systems, and try again"
        )
    loaded = config_file.load(config)
    place = Place(_program(), config.absolute(), account or ACCOUNT)
    state_dir = (loaded.base_dir / loaded.settings.state_dir).absolute()
    with contextlib.ExitStack() as undo:
        steps = _Steps(undo)
        try:
            if account is None and unix_accounts.find(ACCOUNT) is None:
                unix_accounts.make(ACCOUNT, STATE_DIR)
                steps.done(f"made the account {ACCOUNT}", lambda: unix_accounts.remove(ACCOUNT))
            runs_as = unix_accounts.get(place.account)
            unix_accounts.can_run(runs_as, Path(place.program[0]))
            steps.folder(CONFIG_DIR, 0o750, unix_accounts.ROOT, runs_as.gid)
            steps.folder(STATE_DIR, 0o700, runs_as, runs_as.gid)
            steps.folder(LOG_DIR, 0o750, runs_as, runs_as.gid)
            _give_state(state_dir, runs_as, steps)
            _let_read(config, runs_as, steps)
            steps.write(UNITS / UNIT, "" if _packaged() == unit(place) else unit(place))
            steps.write(_drop_in(), folders_drop_in(folders(loaded.settings, loaded.base_dir)))
            if steps.told:
                undo.callback(_systemctl, "daemon-reload", check=False)
                _systemctl("daemon-reload")
            if _facts()["UnitFileState"] != "enabled":
                _systemctl("enable", "--quiet", UNIT)
                steps.done("it starts with the machine", lambda: _systemctl("disable", "--quiet", UNIT, check=False))
        except OSError as exc:
            raise ServiceError(f"{exc.filename}: {exc.strerror}; nothing was changed") from exc
        undo.pop_all()
    return steps.told


def uninstall() -> list[str]:
    """As in ``ServiceManager``; what a package installed is the package manager's to remove."""
    _needs_root("uninstall")
    _needs_systemd(CONFIG)
    if _facts()["LoadState"] == "not-found":
        return []
    told = []
    _systemctl("disable", "--quiet", "--now", UNIT)
    told.append("stopped it; it does not start with the machine any more")
    for path in (_drop_in(), UNITS / UNIT):
        if path.exists():
            path.unlink()
            told.append(f"removed {path}")
    with contextlib.suppress(OSError):  # with an operator's own drop-ins in it
        _drop_in().parent.rmdir()
    _systemctl("daemon-reload")
    return told


def start() -> None:
    """As in ``ServiceManager``."""
    _ready_for("start")
    _systemctl("start", UNIT)


def stop() -> None:
    """As in ``ServiceManager``."""
    _ready_for("stop")
    _systemctl("stop", UNIT)


def status() -> ServiceStatus:
    """As in ``ServiceManager``."""
    if not _systemd_runs():
        return ServiceStatus(installed=False, detail="systemd does not run here")
    try:
        facts = _facts()
    except ServiceError as exc:
        if os.geteuid() == 0:
            raise
        # Without D-Bus, as on small systems.
        raise ServiceNotAllowed(f"systemd answers only root here; run it again with sudo ({exc})") from exc
    if facts["LoadState"] != "loaded":
        return ServiceStatus(installed=False, state=facts["LoadState"])
    words = facts["ExecStart"].partition("argv[]=")[2].partition(" ;")[0].split(" --config ")
    return ServiceStatus(
        installed=True,
        enabled=facts["UnitFileState"] == "enabled",
        running=facts["ActiveState"] == "active",
        state=f"{facts['ActiveState']} ({facts['SubState']})",
        account=facts["User"],
        config=words[1].strip() if len(words) > 1 else "",
        detail=facts["StatusText"] or ("" if facts["Result"] == "success" else facts["Result"]),
    )


def _ready_for(word: str) -> None:
    _needs_root(word)
    _needs_systemd(CONFIG)
    if _facts()["LoadState"] != "loaded":
        raise ServiceError("there is no service of the agent on this machine; run: outhaul-agent service install")


def _needs_root(word: str) -> None:
    if os.geteuid() != 0:
        raise ServiceNotAllowed(f"only root may do that to a service; run: sudo outhaul-agent service {word}")


def _needs_systemd(config: Path) -> None:
    if not _systemd_runs():
        raise ServiceError(
            "systemd does not run here, and the agent knows no other service manager of Linux; have yours run, as an "
            f"account of its own: {' '.join(_program())} run --config {config}"
        )


def _systemd_runs() -> bool:
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def _program() -> tuple[str, ...]:
    """Return the words that start this very program."""
    frozen = bool(getattr(sys, "frozen", False))
    program = Path(sys.executable) if frozen else Path(sys.executable).with_name(NAME)
    if COMMAND.exists() and COMMAND.resolve() == program.resolve():
        return (str(COMMAND),)
    if (side := SideBySide.of(program)) is not None:
        # An upgrade changes where the link leads to, and no unit.
        program = side.root / CURRENT / PROGRAM
    return (str(program),) if program.exists() else (sys.executable, "-m", "agent")


def _packaged() -> str | None:
    """Return what the unit of an installed package says."""
    for folder in PACKAGED:
        with contextlib.suppress(OSError):
            return (folder / UNIT).read_text("utf-8")
    return None


def _drop_in() -> Path:
    return UNITS / f"{UNIT}.d" / FOLDERS_DROP_IN


def _give_state(state_dir: Path, account: unix_accounts.Account, steps: _Steps) -> None:
    """Make the agent's own folder, and what root's commands have left in it, the account's."""
    if not state_dir.exists():
        steps.folder(state_dir, 0o700, account, account.gid)
    given = unix_accounts.give_what_root_left(state_dir, account)
    if given:
        steps.done(f"gave {state_dir} to {account.name}", lambda: _take_back(given))


def _let_read(config: Path, account: unix_accounts.Account, steps: _Steps) -> None:
    """Let the account read the operator's file; it may hold names of hosts and accounts, so nobody else."""
    found = config.stat()
    if unix_accounts.reads(found, account):
        return
    if config.parent != CONFIG_DIR:
        raise ServiceError(
            f"{config} can't be read by {account.name}; run: chgrp {account.name} {config} && chmod 640 {config}"
        )
    steps.rights(config, found.st_uid, account.gid, 0o640)
    steps.told.append(f"let {account.name} read {config}")


def _take_back(given: list[Path]) -> None:
    for path in given:
        os.chown(path, 0, 0, follow_symlinks=False)


def _set_rights(path: Path, uid: int, gid: int, mode: int) -> None:
    os.chown(path, uid, gid)
    path.chmod(mode)


def _put_back(path: Path, before: bytes | None, mode: int) -> None:
    if before is None:
        path.unlink(missing_ok=True)
    else:
        durable_file.write(path, before, mode)


def _facts() -> dict[str, str]:
    told = _systemctl("show", UNIT, *(f"--property={name}" for name in _FACTS))
    found = dict(line.partition("=")[::2] for line in told.splitlines())
    return {name: found.get(name, "") for name in _FACTS}


def _systemctl(*words: str, check: bool = True) -> str:
    done = subprocess.run(  # noqa: S603 - our own words
        ["systemctl", "--no-ask-password", *words],  # noqa: S607 - as PATH has it
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )
    if check and done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise ServiceError(
            f"systemctl {' '.join(words)} failed: {said or done.returncode}; what the agent said: journalctl -u {NAME}"
        )
    return done.stdout
