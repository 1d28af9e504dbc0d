"""A log that never fills a disk."""

from __future__ import annotations

import contextlib
import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path


class BoundedFile(RotatingFileHandler):
    """
    A log in ``count`` files of at most ``size`` bytes each; what can't be written is lost, and nothing else is.

    Where the full file can't be set aside (on Windows while somebody reads it, or by its rights) it is begun anew when
    it has twice its size: old lines are worth less than a disk that is not full.
    """

    def __init__(self, path: Path, size: int, count: int) -> None:
        """
        Raises:
            OSError: it can't be written.
        """
        super().__init__(path, maxBytes=size, backupCount=count - 1, encoding="utf-8", errors="backslashreplace")

    def doRollover(self) -> None:
        try:
            super().doRollover()
        except OSError:
            self.stream = self._open()  # it was closed before it was to be renamed
            self.stream.seek(0, os.SEEK_END)
            if self.stream.tell() >= 2 * self.maxBytes:
                self.stream.truncate(0)

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on: a full disk or a lost share is no reason to end, and there is nobody to be told."""

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what is left to write there may have no room either
            super().close()
