"""Processes and their children, and the ports they listen on and are connected to, as Linux tells it in /proc."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
GONE_S: Final = 10.0  # seconds for processes that were stopped to be gone
LISTEN, ESTABLISHED = "0A", "01"  # states in /proc/net/tcp
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


class CannotTell(RuntimeError):
    """This system does not tell; the text says why."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """
    Of a process and its children.

    Attributes:
        listening: local ports that others could connect to.
        connected: remote ports of its connections.
    """

    listening: frozenset[int]
    connected: frozenset[int]


def of(pid: int) -> Sockets:
    """
    Return the TCP sockets of a process and all its descendants.

    Raises:
        CannotTell: there is no /proc, or it may not be read.
    """
    family = [pid, *descendants(pid)]
    try:
        inodes = {inode for member in family for inode in _inodes(member)}
        table = [line.split() for name in ("tcp", "tcp6") for line in _lines(PROC / "net" / name)]
    except OSError as exc:
        raise CannotTell(f"{exc.filename}: {exc.strerror}") from exc
    mine = [fields for fields in table if fields[9] in inodes]
    return Sockets(
        frozenset(_port(fields[1]) for fields in mine if fields[3] == LISTEN),
        frozenset(_port(fields[2]) for fields in mine if fields[3] == ESTABLISHED),
    )


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str], within_s: float) -> None:
    """Wait for a process that was asked to stop; kill it where it takes longer."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def descendants(pid: int) -> list[int]:
    """Return the ids of the children of a process, their children and so on; none where there is no /proc."""
    parents: dict[int, list[int]] = {}
    for child, parent in _parents():
        parents.setdefault(parent, []).append(child)
    found: list[int] = []
    left = [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def still_there(pids: Collection[int]) -> set[int]:
    """Return those of some processes that run even after they had time to end."""
    deadline = time.monotonic() + GONE_S
    while True:
        left = set(pids) & {pid for pid, _ in _parents()}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def _parents() -> Iterator[tuple[int, int]]:
    for folder in PROC.glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text()
        except OSError:
            continue  # it ended meanwhile
        # The name in parentheses may hold anything; what follows it does not.
        fields = text.rpartition(")")[2].split()
        if fields[0] != "Z":
            yield int(folder.name), int(fields[1])


def _inodes(pid: int) -> Iterator[str]:
    for handle in (PROC / str(pid) / "fd").iterdir():
        try:
            match = _SOCKET.fullmatch(str(handle.readlink()))
        except FileNotFoundError:
            continue  # closed meanwhile
        if match is not None:
            yield match[1]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:] if path.exists() else []


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
