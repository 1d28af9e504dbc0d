"""Programs that run while something is measured: started, waited for, and ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from config.dev import processes
from config.dev.databases import HOST

START_S: Final = 60.0  # seconds that a start may take before something is wrong
STOP_S: Final = 10.0


class NotRunning(RuntimeError):
    """A program ended, or is not ready in time; the text ends with its last words."""


@contextlib.contextmanager
def program(
    words: list[str],
    log: Path,
    cwd: Path | None = None,
    account: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """
    Run a program while the block runs.

    Args:
        log: what it says goes there.
        cwd: the folder it runs in.
        account: whom it runs as, where that is root's to tell; default: as we do.
        environment: of it, besides ours.
    """
    entry = None
    if account is not None:
        # Imported here: there is none on Windows.
        import pwd

        entry = pwd.getpwnam(account)
    with log.open("wb") as out:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            user=entry.pw_uid if entry else None,
            group=entry.pw_gid if entry else None,
            extra_groups=[] if entry else None,
        )
    try:
        yield process
    finally:
        process.terminate()
        processes.end(process, STOP_S)


def until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """
    Wait until a program takes connections.

    Raises:
        NotRunning: it will not.
    """
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
            return
        _look(process, log, deadline)


def until_said(word: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """
    Wait until a program says a word in its log, which it may keep by itself.

    Raises:
        NotRunning: it will not.
    """
    deadline = time.monotonic() + START_S
    while word not in _said(log):
        _look(process, log, deadline)


def _said(log: Path) -> str:
    return log.read_text("utf-8", errors="replace") if log.exists() else ""


def _look(process: subprocess.Popen[bytes], log: Path, deadline: float) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        raise NotRunning(f"it does not run; its log:\n{_said(log).rstrip()[-2000:] or 'empty'}")
    time.sleep(0.05)  # it tells nobody when it is ready: it is looked at now and then
