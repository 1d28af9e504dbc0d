"""Where a process that has no standard error writes: files that never fill a disk."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import threading
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 10 * 1024 * 1024  # of one file
KEPT: Final = 5  # files, the one that is written included


class LogFile(io.TextIOBase):
    """
    A text stream in the place of standard output and error.

    ``agent.log`` is written; ``agent.log.1`` is the one before, and so on. All together stay below ``kept`` times
    ``most_bytes``, plus one line. What can't be written is lost: a full disk stops no agent.
    """

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES, kept: int = KEPT) -> None:
        """
        Args:
            path: of the file; its folder is made.

        Raises:
            OSError: it can't be opened.
        """
        self._path = path
        self._most_bytes = most_bytes
        self._kept = kept
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    @property
    def encoding(self) -> str:  # type: ignore[override] # typeshed has an attribute
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        data = text.encode("utf-8", "backslashreplace")
        with self._lock, contextlib.suppress(OSError):
            if self._descriptor < 0:
                self._open()
            elif self._size and self._size + len(data) > self._most_bytes:
                self._turn()
            os.write(self._descriptor, data)
            self._size += len(data)
        return len(text)

    def close(self) -> None:
        with self._lock:
            self._shut()
            super().close()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
        self._descriptor = os.open(self._path, flags, 0o640)
        self._size = os.fstat(self._descriptor).st_size

    def _shut(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1  # the number may soon be another file's
        if descriptor >= 0:
            os.close(descriptor)

    def _turn(self) -> None:
        """Put the file aside and begin another; where somebody holds it, what is in it goes."""
        self._shut()
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{age}") for age in range(1, self._kept))]
        try:
            for newer, older in reversed(list(itertools.pairwise(names))):
                if newer.exists():
                    os.replace(newer, older)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(self._path, 0)
        finally:
            self._open()
