"""The few things that the journal asks of a disk; a test puts one in its place that fails, or loses its power."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from agent import durable_file

RIGHTS = 0o600  # what is in the journal is the agent's own; Windows takes the rights of the folder


class Appender(Protocol):
    """A file that grows."""

    def write(self, data: bytes) -> None:
        """
        Write all of ``data`` at the end.

        Raises:
            OSError: some of it may be there.
        """

    def sync(self) -> None:
        """
        Return once all that was written survives a power cut.

        Raises:
            OSError: it may not; the same file must not be asked again, for it may forget that it failed.
        """

    def close(self) -> None:
        """Close it; never raises."""


class Disk:
    """The real one."""

    def make_folder(self, folder: Path) -> None:
        """Make a folder that is there after a power cut, if it isn't there."""
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True)
            durable_file.sync_folder(folder.parent)

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder; none if it isn't there."""
        try:
            return os.listdir(folder)
        except FileNotFoundError:
            return []

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        """Return a file's bytes from ``offset`` on, ``size`` at most."""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def create(self, path: Path) -> Appender:
        """Make a new file."""
        return _File(path, os.O_CREAT | os.O_EXCL)

    def append_to(self, path: Path) -> Appender:
        """Open a file that is there."""
        return _File(path, 0)

    def rename(self, path: Path, to: Path) -> None:
        """Give a file another name, durably."""
        durable_file.patiently(lambda: os.replace(path, to))
        durable_file.sync_folder(to.parent)

    def remove(self, path: Path) -> None:
        """Remove a file; it may come back after a power cut."""
        path.unlink(missing_ok=True)

    def cut(self, path: Path, size: int) -> None:
        """Cut a file off, durably."""
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())


class _File:
    def __init__(self, path: Path, flags: int) -> None:
        flags |= os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(path, flags, RIGHTS)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        # What had to be on the disk was synced, and that would have told.
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
