"""Standard output and error of a process that has neither: a log in files that never fill a disk."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Final

from agent.log_file import BoundedFile

MOST_BYTES: Final = 10 * 1024 * 1024  # of one file
KEPT: Final = 5  # files, the one that is written included


class LogStream(io.TextIOBase):
    """A text stream that ends in a log; what can't be written is lost."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of the file; its folder is made.

        Raises:
            OSError: it can't be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = BoundedFile(path, MOST_BYTES, KEPT)
        self._file.terminator = ""  # the lines are whole already

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._file.handle(logging.makeLogRecord({"msg": text}))
        return len(text)

    def close(self) -> None:
        self._file.close()
        super().close()
