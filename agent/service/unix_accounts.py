"""The agent's account on Linux: made, and given what is its own."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import ServiceError

if sys.platform == "win32":
    raise ImportError("for Linux only")

import pwd

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


def give_state(state_dir: Path, account: Account) -> list[str]:
    """
    Make the agent's own folder, and what root's commands have left in it, the account's.

    Returns:
        What was done, for people.

    Raises:
        ServiceError: it is somebody else's folder.
        OSError: it can't be made.
    """
    if not state_dir.exists():
        state_dir.mkdir(mode=0o700, parents=True)
        os.chown(state_dir, account.uid, account.gid)
        return [f"made {state_dir}"]
    there = state_dir.lstat()
    if there.st_uid not in (0, account.uid) or state_dir.parent == state_dir.parent.parent:
        raise ServiceError(
            f"state_dir: {state_dir} is the folder of somebody else; name a folder that only the agent has"
        )
    given = 0
    for path in (state_dir, *_below(state_dir)):
        # Only what root left there: whoever has the account can't have root give away another's file by a hard link.
        found = path.lstat()
        if found.st_uid == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
            given += 1
    return [f"gave {state_dir} to {account.name}"] if given else []


def let_read(config: Path, account: Account, config_dir: Path) -> list[str]:
    """
    Let the account read the operator's file; it may hold names of hosts and accounts, so nobody else.

    Raises:
        ServiceError: it may not, and the file is none of ours to change.
        OSError: it can't be changed.
    """
    found = config.stat()
    if _reads(found, account):
        return []
    if config.parent != config_dir:
        raise ServiceError(
            f"{config} can't be read by {account.name}; run: chgrp {account.name} {config} && chmod 640 {config}"
        )
    os.chown(config, found.st_uid, account.gid)
    config.chmod(0o640)
    return [f"let {account.name} read {config}"]


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


def _reads(found: os.stat_result, account: Account) -> bool:
    if found.st_uid == account.uid:
        return bool(found.st_mode & stat.S_IRUSR)
    if found.st_gid == account.gid:
        return bool(found.st_mode & stat.S_IRGRP)
    return bool(found.st_mode & stat.S_IROTH)


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):  # which follows no links
        for name in (*folders, *files):
            yield Path(root, name)


def _do(program: str, *words: str) -> None:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise ServiceError(f"{program} is missing here; make an account by hand, and name it with --account")
    done = subprocess.run(  # noqa: S603 - our own words
        [found, *words], capture_output=True, text=True, check=False, timeout=MAKE_S
    )
    if done.returncode != 0:
        raise ServiceError(f"{program} {words[-1]} failed: {' '.join(done.stderr.split()) or done.returncode}")
