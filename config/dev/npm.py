"""Packages of npm, as a lock file in a folder names them."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path


class NpmError(RuntimeError):
    """Packages could not be fetched; the text has npm's own words."""


def install(folder: Path) -> None:
    """
    Fetch the packages that ``folder`` locks, if they are not there; none of their scripts is run.

    Raises:
        NpmError: npm is missing or failed.
    """
    marker = folder / "node_modules" / ".package-lock.json"  # npm writes it last
    if marker.exists():
        return
    # Tests of several processes may come here at once.
    with (folder / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.exists():
            return
        try:
            done = subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as exc:
            raise NpmError(f"npm can't be run: {exc.strerror}; install nodejs and npm") from exc
        if done.returncode != 0:
            raise NpmError(f"npm ci failed in {folder}:\n{done.stderr[-2000:]}")
