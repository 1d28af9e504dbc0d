"""The release before this tree, as CHANGELOG.md names it: its source, from which its programs are run."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
KEPT: Final = ROOT / ".dev" / "releases"
_RELEASE: Final = re.compile(r"^## \[(\d+\.\d+\.\d+)\].*?\bcommit\s+`([0-9a-f]{40})`", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Previous:
    """
    A release of ours.

    Attributes:
        release: its number.
        source: a folder with all that its commit has.
    """

    release: str
    source: Path

    def words(self, program: str) -> tuple[str, ...]:
        """Return what runs its ``outhaul-agent`` or ``outhaul-broker``, with the libraries of this tree."""
        package = {"outhaul-agent": "agent", "outhaul-broker": "cloud_broker"}[program]
        start = f"import sys; sys.argv[0] = {program!r}; from {package} import main; main()"
        # Its drivers are started with the same interpreter and words of their own; the path reaches them too.
        return ("/usr/bin/env", f"PYTHONPATH={self.source}", sys.executable, "-P", "-c", start)


def previous() -> Previous:
    """
    Return the newest release that CHANGELOG.md names a commit of.

    Raises:
        AssertionError: this clone does not have the commit.
    """
    found = _RELEASE.search((ROOT / "CHANGELOG.md").read_text("utf-8"))
    assert found is not None, "CHANGELOG.md: the newest release names no commit it was built from"
    release, commit = found.groups()
    folder = KEPT / commit
    if not folder.exists():
        words = ["git", "archive", commit]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0, (
            f"{release} is built from {commit}, which this clone does not have: {done.stderr.decode().strip()}; "
            "get it with: git fetch --unshallow"
        )
        KEPT.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=KEPT))
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # there is none before Python 3.11.4
            archive.extractall(new)  # noqa: S202 - git's own
        try:
            os.rename(new, folder)
        except OSError:  # another worker was first
            shutil.rmtree(new)
    return Previous(release, folder)
