"""The agent's account on Linux: made, and given what is its own."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import ServiceError

if sys.platform == "win32":
    raise ImportError("for Linux only")

import pwd

MIN_PARTS: Final = 3  # of the path of a folder that can be an agent's alone: never /var, or /home
MAKE_S: Final = 60.0  # seconds that useradd may wait for another program's lock


@dataclass(frozen=True, slots=True)
class Account:
    """An account, and its first group, by number."""

    name: str
    uid: int
    gid: int


ROOT: Final = Account("root", 0, 0)


def find(name: str) -> Account | None:
    """Return the account with a name; ``None`` if there is none."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(found.pw_name, found.pw_uid, found.pw_gid)


def get(name: str) -> Account:
    """
    Return the account with a name.

    Raises:
        ServiceError: there is none.
    """
    found = find(name)
    if found is None:
        raise ServiceError(f"there is no account {name!r} on this machine; make it first, or leave --account out")
    return found


def make(name: str, home: Path) -> None:
    """
    Make an account of the system, with a group of its own, that nobody can log in to.

    Raises:
        ServiceError: it could not be made.
    """
    shell = next((path for path in ("/usr/sbin/nologin", "/sbin/nologin") if Path(path).exists()), "/bin/false")
    words = ["--system", "--user-group", "--home-dir", str(home), "--no-create-home", "--shell", shell]
    _do("useradd", *words, "--comment", "Outhaul agent", name)


def remove(name: str) -> None:
    """
    Remove an account that ``make`` made.

    Raises:
        ServiceError: it could not be removed.
    """
    _do("userdel", name)


def give_what_root_left(state_dir: Path, account: Account) -> list[Path]:
    """
    Give the account what is root's in the agent's own folder, the folder included, and return it.

    Raises:
        ServiceError: it is somebody else's folder.
        OSError: it can't be given.
    """
    if state_dir.lstat().st_uid not in (0, account.uid) or len(state_dir.parts) < MIN_PARTS:
        raise ServiceError(
            f"state_dir: {state_dir} is the folder of somebody else; name a folder that only the agent has"
        )
    given = []
    # By open folders, never by path: who has the account must not have root give away what a link leads to.
    for where, _, names, opened in os.fwalk(state_dir):
        for name in (".", *names):
            there = os.stat(name, dir_fd=opened, follow_symlinks=False)
            if there.st_uid == 0 and (stat.S_ISDIR(there.st_mode) or there.st_nlink == 1):
                os.chown(name, account.uid, account.gid, dir_fd=opened, follow_symlinks=False)
                given.append(Path(where, name))
    return given


def reads(found: os.stat_result, account: Account) -> bool:
    """Return whether the account may read a file."""
    if found.st_uid == account.uid:
        return bool(found.st_mode & stat.S_IRUSR)
    if found.st_gid == account.gid:
        return bool(found.st_mode & stat.S_IRGRP)
    return bool(found.st_mode & stat.S_IROTH)


def can_run(account: Account, program: Path) -> None:
    """
    See that the account may start the program where it is.

    Raises:
        ServiceError: it may not.
    """
    for path in (program.resolve(), *program.resolve().parents):
        found = path.stat()
        bits = 0o1 if account.uid != found.st_uid else 0o100
        if not (found.st_mode & bits or (found.st_gid == account.gid and found.st_mode & 0o10)):
            raise ServiceError(
                f"{account.name} can't start {program}, as {path} is closed to it; install the agent where all "
                "accounts may read, such as /opt/outhaul-agent"
            )


def _do(program: str, *words: str) -> None:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise ServiceError(f"{program} is missing here; make an account by hand, and name it with --account")
    done = subprocess.run(  # noqa: S603 - our own words
        [found, *words], capture_output=True, text=True, check=False, timeout=MAKE_S
    )
    if done.returncode != 0:
        raise ServiceError(f"{program} {words[-1]} failed: {' '.join(done.stderr.split()) or done.returncode}")
