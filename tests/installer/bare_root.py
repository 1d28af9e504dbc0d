"""A bare Debian: its own systemd, an ODBC driver, rpm, no Python; made by debootstrap once and kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from config.dev.locked import ROOT

KEPT: Final = ROOT / ".dev" / "debootstrap"
PACKAGES: Final = ("systemd", "libsqliteodbc", "unixodbc", "odbcinst", "rpm")
MAKE_S: Final = 900.0  # seconds; less than one minute on a quiet machine
_SOURCES: Final = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
# Nothing here is to outlive a power cut.
_QUICK: Final = "force-unsafe-io\n"


class NoRoot(Exception):
    """It can't be made here; the text has the fix."""


def unpack(into: Path) -> None:
    """
    Put a fresh copy into a folder.

    Raises:
        NoRoot: it can't be made here.
    """
    into.mkdir(parents=True)
    _do("tar", "-xf", str(_packed()), "-C", str(into), "--numeric-owner")


def _packed() -> Path:
    """Return it as a tar file; make it where there is none of these packages."""
    if os.geteuid() != 0:
        raise NoRoot("a Debian of its own to install into wants root; run the tests as root, or in a virtual machine")
    if shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        raise NoRoot("debootstrap is missing; run: make setup")
    suite, mirror = _mirror()
    name = hashlib.sha256(" ".join((suite, mirror, platform.machine(), *PACKAGES)).encode()).hexdigest()[:16]
    packed = KEPT / f"{suite}-{name}.tar"
    KEPT.mkdir(parents=True, exist_ok=True)
    with _alone(packed.with_suffix(".lock")):
        if not packed.exists():
            _make(packed, suite, mirror)
    return packed


def _make(packed: Path, suite: str, mirror: str) -> None:
    folder = packed.with_suffix(".new")
    shutil.rmtree(folder, ignore_errors=True)
    quick = folder / "etc" / "dpkg" / "dpkg.cfg.d" / "quick"
    quick.parent.mkdir(parents=True)
    quick.write_text(_QUICK)
    try:
        _do("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, str(folder), mirror)
        shutil.rmtree(folder / "var" / "cache" / "apt" / "archives", ignore_errors=True)
        whole = packed.with_suffix(".part")
        _do("tar", "-cf", str(whole), "-C", str(folder), "--numeric-owner", ".")
        whole.replace(packed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mirror() -> tuple[str, str]:
    """Return the release of Debian that this machine is, and where its packages come from."""
    release = platform.freedesktop_os_release()
    suite = release.get("VERSION_CODENAME", "")
    for line in _lines():
        words = line.split()
        found = [word for word in words if word.startswith(("http://", "https://", "file:/"))]
        if words[:1] in (["deb"], ["URIs:"]) and found and found[0].rstrip("/").endswith("/debian"):
            return suite, found[0]
    raise NoRoot("no source of Debian's packages stands in /etc/apt; this test wants a Debian with one")


def _lines() -> Iterator[str]:
    for path in _SOURCES:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file() and file.suffix in (".list", ".sources"):
                yield from file.read_text("utf-8").splitlines()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _do(*words: str) -> None:
    begun = time.monotonic()
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=MAKE_S, env=environment)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise NoRoot(f"{words[0]} failed after {time.monotonic() - begun:.0f} s:\n{said}")
