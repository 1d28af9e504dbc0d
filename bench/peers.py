"""Programs that ours are held against: each in a folder of its own, installed when it is first wanted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from config.dev.locked import ROOT

PEERS: Final = ROOT / ".dev" / "peers"
WHOLE: Final = "whole"  # a file that says that an installation came to its end


def installed(package: str, *besides: str) -> Path:
    """
    Return a virtual environment with a package of PyPI in it, named with its version: ``salt==3008.5``.

    Args:
        package: also names the folder.
        besides: what it wants besides and does not say.
    """
    place = PEERS / package
    if not (place / WHOLE).exists():
        print(f"installing {package} beside which is measured")
        _run([sys.executable, "-m", "venv", "--clear", str(place)])
        install = ["-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input", package, *besides]
        _run([str(place / "bin" / "python"), *install])
        (place / WHOLE).touch()
    return place


def _run(words: Sequence[str]) -> None:
    subprocess.run(words, check=True)


def unpacked(package: str) -> Path | None:
    """Return a folder with what is in a package of Debian, which is not installed; ``None`` where apt can't get it."""
    place = PEERS / package
    if not (place / WHOLE).exists():
        place.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", "-qq", package], cwd=place, check=True, capture_output=True)
            for file in place.glob("*.deb"):
                _run(["dpkg", "-x", str(file), str(place)])
        except (OSError, subprocess.CalledProcessError):
            return None
        (place / WHOLE).touch()
    return place
