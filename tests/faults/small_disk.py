"""A program with a small disk of its own, which can be filled and emptied while it runs."""

from __future__ import annotations

import contextlib
import errno
import functools
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The folder is copied onto a disk in memory that only this program and its children see.
_MOUNT: Final = (
    'cp -a "$0" "$0.before" && mount -t tmpfs -o size="$1" none "$0" && cp -a "$0.before/." "$0" && shift && exec "$@"'
)
BALLAST: Final = "ballast"
PIECE_BYTES: Final = (65_536, 4_096, 512, 1)


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """
    A disk for one folder of a program.

    Attributes:
        folder: what it is for; it must be there when the program starts.
        bytes: how much it holds.
    """

    folder: Path
    bytes: int

    def words(self) -> list[str]:
        """Return the words before those of the program."""
        return ["/usr/bin/unshare", _how(), "/bin/sh", "-c", _MOUNT, str(self.folder), str(self.bytes)]

    def seen_by(self, pid: int) -> Path:
        """Return the folder as the program sees it."""
        return Path(f"/proc/{pid}/root") / self.folder.relative_to("/")

    def fill(self, pid: int) -> None:
        """Leave no byte."""
        with (self.seen_by(pid) / BALLAST).open("ab", buffering=0) as ballast:
            for size in PIECE_BYTES:
                with contextlib.suppress(OSError):
                    while True:
                        if ballast.write(b"x" * size) == 0:
                            raise OSError(errno.ENOSPC, "full")

    def empty(self, pid: int) -> None:
        """Make room again."""
        (self.seen_by(pid) / BALLAST).unlink()


@functools.cache
def _how() -> str:
    """Return how mounts of one's own are had here: root has them, others as root of a user namespace."""
    with tempfile.TemporaryDirectory() as folder:
        for flags in ("-m", "-rm"):
            words = ["/usr/bin/unshare", flags, "/bin/mount", "-t", "tmpfs", "-o", "size=64k", "none", folder]
            if subprocess.run(words, capture_output=True, check=False).returncode == 0:
                return flags
    raise RuntimeError("no small disk can be mounted here: it takes root, or user namespaces that are allowed")
