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
INSTALL_S: Final = 600.0  # seconds


class PeerMissing(Exception):
    """A program is not to be had here; the text says why, in a line."""


def installed(package: str, *besides: str) -> Path:
    """
    Return a virtual environment with a package of PyPI in it, named with its version: ``crossbar==26.10.1``.

    Args:
        package: also names the folder.
        besides: what it wants besides and does not say.

    Raises:
        PeerMissing: it can't be installed.
    """
    place = PEERS / package
    if not (place / WHOLE).exists():
        print(f"installing {package} beside which is measured", flush=True)
        _run(package, [sys.executable, "-m", "venv", "--clear", str(place)])
        install = ["-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input", package, *besides]
        _run(package, [str(place / "bin" / "python"), *install])
        (place / WHOLE).touch()
    return place


def unpacked(package: str, *besides: str) -> Path:
    """
    Return a folder with what is in a package of Debian, which is not installed.

    Args:
        besides: packages with libraries that it wants and not every system has.

    Raises:
        PeerMissing: apt can't get it.
    """
    place = PEERS / "+".join((package, *besides))
    if not (place / WHOLE).exists():
        place.mkdir(parents=True, exist_ok=True)
        _run(package, ["apt-get", "download", "-qq", package, *besides], place)
        for file in place.glob("*.deb"):
            _run(package, ["dpkg", "-x", str(file), str(place)])
        (place / WHOLE).touch()
    return place


def _run(package: str, words: Sequence[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise PeerMissing(f"{package} can't be installed here: {type(exc).__name__}") from exc
    if done.returncode != 0:
        # Not all of it: pip lists every release that there is.
        lines = done.stderr.strip().splitlines() or [f"{words[0]} ended with {done.returncode}"]
        raise PeerMissing(f"{package} can't be installed here: {lines[-1].strip()[:200]}")
