"""One agent for a state_dir: an exclusive lock that ends with the process, however it ends."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Final

from agent.errors import ConfigError

NAME: Final = "agent.lock"
# What systems say of a lock of another; wine's C library fails without a number.
HELD: Final = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK, 0)
WAIT_S: Final = 0.5  # seconds; who only looks whether it is held, holds it for a moment

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def held(state_dir: Path) -> bool:
    """Whether an agent runs with this folder."""
    try:
        descriptor = os.open(state_dir / NAME, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        _lock(descriptor)
    except OSError as exc:
        return exc.errno in HELD
    finally:
        os.close(descriptor)
    return False


def lock_soon(descriptor: int, wait_s: float) -> bool:
    """
    Lock an open file until it is closed; return False if another holds it for longer than ``wait_s``.

    Raises:
        OSError: it can't be locked.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            _lock(descriptor)
            return True
        except OSError as exc:
            if exc.errno not in HELD:
                raise
            if time.monotonic() > deadline:
                return False
        time.sleep(0.02)  # in a thread: no system tells when a lock is free


class FolderLock:
    """Held from its making until ``release``."""

    def __init__(self, state_dir: Path) -> None:
        """
        Raises:
            ConfigError: another agent runs there, or the file can't be made.
        """
        path = state_dir / NAME
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise ConfigError(
                f"{path}: can't be opened ({exc.strerror}); run this as the agent's account, and see that state_dir "
                "is its own and its disk has space"
            ) from exc
        try:
            there = not lock_soon(self._descriptor, WAIT_S)
        except OSError as exc:
            os.close(self._descriptor)
            raise ConfigError(
                f"{path}: can't be locked ({exc.strerror or exc}); put state_dir on a local disk"
            ) from exc
        if there:
            os.close(self._descriptor)
            raise ConfigError(
                f"{state_dir}: another agent runs with this state_dir; stop it, or give this one a state_dir of its own"
            )

    def release(self) -> None:
        """Let another agent take it; more than once has no effect."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
