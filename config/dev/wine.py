"""
Windows where there is none: a Python for Windows under wine, made once, and machines that are gone at the end.

``python -m config.dev.wine`` prints the path of its ``python.exe``; ``installer.build --wine`` wants it.

wine shows that a path of the code is right. It knows no access rights and no accounts, and is no Windows server.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from config.dev.demo.programs import Answer

ROOT: Final = Path(__file__).resolve().parents[2]
KEPT: Final = ROOT / ".dev" / "wine"
MACHINES: Final = ROOT / ".dev" / "wine-machines"  # on the same disk, as they share files with what is kept
MADE_FROM: Final = ("requirements/agent.txt", "requirements/dev.txt", "config/dev/winpy.sh", "config/dev/winpy")


_LOOK_S: Final = 0.1  # seconds between two looks at whether a program has ended


class WineError(RuntimeError):
    """Something could not be made or did not end; the text has the last words of who said so."""


def windows_python() -> Path:
    """
    Return ``python.exe`` of a Python with all of the agent's libraries and PyInstaller, for ``wine``.

    Made where there is none of these releases yet, which takes half a minute.

    Raises:
        WineError: it can't be made.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    folder = KEPT / _digest()
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            for older in KEPT.iterdir():
                if older.is_dir():
                    shutil.rmtree(older)
            words = ["config/dev/winpy.sh", str(folder), "--requirement", "requirements/agent.txt", _pyinstaller()]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode != 0:
                raise WineError(
                    f"config/dev/winpy.sh ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}"
                )
            (folder / "whole").touch()
    return folder / "python" / "python.exe"


def _digest() -> str:
    wine = subprocess.run(["wine", "--version"], capture_output=True, check=True).stdout.decode()
    found = hashlib.sha256(f"{platform.python_version()} {sys.base_prefix} {wine}".encode())
    for name in MADE_FROM:
        for path in sorted((ROOT / name).rglob("*")) or [ROOT / name]:
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _pyinstaller() -> str:
    text = (ROOT / "requirements" / "dev.txt").read_text("utf-8")
    return next(line.partition(" ")[0] for line in text.splitlines() if line.startswith("pyinstaller=="))


def template() -> Path:
    """Return a WINEPREFIX that is ready, and never started itself but to build."""
    return windows_python().parents[1] / "prefix"


def environment(prefix: Path) -> dict[str, str]:
    """Return what programs under wine see: nothing of this machine's Python, no menus, no browser, no screen."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LANG", "TMPDIR") if name in os.environ}
    quiet = {"WINEDEBUG": "-all", "DISPLAY": "", "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe="}
    return {**kept, **quiet, "WINEPREFIX": str(prefix)}


class Machine:
    """
    One Windows machine, with a disk of its own.

    Attributes:
        disk: its drive C.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: where it lies; made.
        """
        self._prefix = folder
        self.disk = folder / "drive_c"
        self._environment = environment(folder)

    def set_up(self) -> None:
        """Make its disk: what wine itself put there is shared with others, as nobody changes it."""
        new = template()
        shutil.copytree(new, self._prefix, symlinks=True, copy_function=self._shared)
        subprocess.run(["wineserver", "--persistent"], env=self._environment, check=True, stdin=subprocess.DEVNULL)

    def _shared(self, source: str, target: str) -> None:
        if "/drive_c/windows/" in source:
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    def run(self, *words: str, stdin: str = "", timeout_s: float = 300.0) -> Answer:
        """
        Run a program of the machine to its end.

        Raises:
            WineError: it took longer than ``timeout_s`` seconds.
        """
        with self.begin(*words) as process:
            with contextlib.suppress(BrokenPipeError):  # it may end without asking
                if process.stdin is not None:
                    process.stdin.write(stdin.encode())
                    process.stdin.close()
            try:
                out, err = _said(process, timeout_s)
            except TimeoutError as exc:
                process.kill()
                raise WineError(f"{' '.join(words[:4])} did not end within {timeout_s:.0f} s") from exc
        return Answer(process.returncode, out, err)

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a program of the machine whose end is waited for later."""
        # Pipes, never files: a Python for Windows under wine can't start with one as its standard output.
        pipe = subprocess.PIPE
        return subprocess.Popen(["wine", *words], stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment)

    def power_off(self) -> None:
        """End all of its programs, and see that they are gone."""
        subprocess.run(["wineserver", "--kill"], env=self._environment, check=False, capture_output=True)
        subprocess.run(["wineserver", "--wait"], env=self._environment, check=False, capture_output=True, timeout=60)


def _said(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[str, str]:
    """
    Return what a program says until it ends.

    The pipes may stay open: services of the machine that it was the first to need have them too.
    """
    deadline, said = time.monotonic() + timeout_s, {}
    with selectors.DefaultSelector() as ready:
        for pipe in filter(None, (process.stdout, process.stderr)):
            os.set_blocking(pipe.fileno(), False)
            ready.register(pipe, selectors.EVENT_READ)
            said[pipe.fileno()] = b""
        while True:
            ended = process.poll() is not None
            for key, _ in ready.select(0 if ended else _LOOK_S):
                piece = os.read(key.fd, 65536)
                said[key.fd] += piece
                if not piece:
                    ready.unregister(key.fileobj)
            if ended and not ready.select(0):
                out, err = (text.decode("utf-8", "replace").replace("\r\n", "\n") for text in said.values())
                return out, err
            if time.monotonic() > deadline:
                raise TimeoutError


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """A machine that is on while the block runs, and gone then."""
    MACHINES.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=MACHINES))
    made = Machine(folder / "prefix")
    made.set_up()
    try:
        yield made
    finally:
        made.power_off()
        shutil.rmtree(folder)


if __name__ == "__main__":
    print(windows_python())
