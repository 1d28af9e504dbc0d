"""
``make build``: the wheel, the sdist, a bill of materials for each program, and their SHA-256, in ``dist/``.

What is built is what is committed, in a folder of its own: nothing that lies about gets into the wheel.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from config.dev.bill import NAMES, bill
from config.dev.locked import ROOT, project

DIST: Final = ROOT / "dist"

_BUILD: Final = """
import sys
from setuptools import build_meta
dist = sys.argv[1] # setuptools has words of its own there
build_meta.build_wheel(dist)
build_meta.build_sdist(dist)
"""


def build(dist: Path = DIST) -> list[Path]:
    """
    Build what is committed.

    Returns:
        The files made in ``dist``, which is emptied of older ones of ours first.

    Raises:
        subprocess.CalledProcessError: git or setuptools failed; their words are on stderr.
    """
    dist.mkdir(exist_ok=True)
    for old in dist.glob("outhaul*"):
        old.unlink()
    committed_at = int(_git("show", "-s", "--format=%ct", "HEAD"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        packed = source.with_suffix(".tar")
        subprocess.run(["git", "archive", "--output", str(packed), "HEAD"], cwd=ROOT, check=True)
        with tarfile.open(packed) as archive:  # our own; `filter` is missing before 3.11.4
            archive.extractall(source)  # noqa: S202 - see above
        # setuptools writes this time into the archives, so that the same commit gives the same wheel.
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(committed_at)}
        command = [sys.executable, "-W", "ignore", "-c", _BUILD, str(dist)]
        subprocess.run(command, cwd=source, env=environment, check=True, stdout=subprocess.DEVNULL)
    for program, name in NAMES.items():
        path = dist / f"{name}-{project()['version']}.sbom.cdx.json"
        path.write_text(bill(program, datetime.fromtimestamp(committed_at, UTC)), "utf-8")
    made = sorted(path for path in dist.glob("outhaul*"))
    sums = dist / f"outhaul-{project()['version']}.sha256"
    sums.write_text(
        "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made), "utf-8"
    )
    return [*made, sums]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    for made in build():
        print(made.relative_to(ROOT))
