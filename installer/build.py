"""
``python -m installer.build --output DIR``: the agent as a program of its own, in ``DIR/outhaul-agent``.

PyInstaller does it, with what ``agent.spec`` and ``contents.py`` say; then the new program looks whether it is whole
(``outhaul-agent selfcheck``). The same source, libraries and Python give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path, PurePath
from typing import Final

from agent import RELEASE
from installer import libraries

ROOT: Final = Path(__file__).resolve().parents[1]
NAME: Final = "outhaul-agent"
BESIDE: Final = ("LICENSE", "NOTICE")  # lie in the program's folder, as their licences want

_FREEZE_S: Final = 900.0  # seconds; one minute on a quiet machine
_CHECK_S: Final = 120.0  # seconds; two on a quiet machine
_TAIL_LINES: Final = 30


class BuildError(Exception):
    """It could not be built, or what was built is not whole; the text has the last words of who said so."""


def freeze(output: Path, wine: str | None = None) -> Path:
    """
    Build the program, and see that it is whole.

    Args:
        output: the folder that gets ``outhaul-agent``; an older one in it goes.
        wine: a Python for Windows that wine runs, with all of the agent's libraries and PyInstaller; ``None`` for the
            Python and the system that we are.

    Returns:
        The program's folder.

    Raises:
        BuildError: PyInstaller or the selfcheck failed.
    """
    made = output / NAME
    shutil.rmtree(made, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="outhaul-freeze-") as folder:
        words = ["-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"]
        paths = {"--distpath": output.resolve(), "--workpath": Path(folder)}
        # A cache of PyInstaller's own could hold files of another state.
        environment = {
            **os.environ,
            **reproducible(),
            "PYINSTALLER_CONFIG_DIR": _path(Path(folder) / "cache", wine),
            # Columns of lines, for the marks under a traceback's lines: a fifth of all code, in memory too.
            "PYTHONNODEBUGRANGES": "1",
            # Modules are packed as they are: a start takes a tenth less, for 8 MiB more on the disk. What is shipped is
            # packed as a whole, and is smaller for it.
            "PYINSTALLER_ZLIB_COMPRESSION_LEVEL": "0",
        }
        words += [word for name, path in paths.items() for word in (name, _path(path, wine))]
        command = [*_python(wine), *words, _path(ROOT / "installer" / "agent.spec", wine)]
        _do(command, "PyInstaller", _FREEZE_S, environment)
    if wine is None and sys.platform == "linux":
        libraries.keep_apart(made / "_internal")
    for name in BESIDE:
        shutil.copyfile(ROOT / name, made / name)
    (made / "VERSION").write_text(f"{RELEASE}\n", "ascii")
    check(made, wine)
    return made


def check(made: Path, wine: str | None = None) -> None:
    """
    Have a frozen program look whether it is whole.

    Raises:
        BuildError: it is not.
    """
    words = [str(made / NAME)] if wine is None else ["wine", str(made / f"{NAME}.exe")]
    # Nothing of this machine's Python may help it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    _do([*words, "selfcheck"], "selfcheck", _CHECK_S, environment if wine is not None else {})


def reproducible() -> dict[str, str]:
    """Return the environment in which the same source gives the same bytes."""
    return {"PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": str(made_at())}


def made_at() -> int:
    """Return the time that stands in what is built: ``SOURCE_DATE_EPOCH``, or that of the last commit; seconds."""
    if told := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(told)
    words = ["git", "show", "-s", "--format=%ct", "HEAD"]
    return int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def _python(wine: str | None) -> list[str]:
    return [sys.executable] if wine is None else ["wine", wine]


def _path(path: PurePath, wine: str | None) -> str:
    return str(path) if wine is None else "Z:" + str(path).replace("/", "\\")


def _do(command: list[str], what: str, timeout_s: float, environment: dict[str, str]) -> None:
    """Run a program; what it says is shown only where it failed."""
    # A pipe, never a file: a Python for Windows under wine can't start with one as its standard output.
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        input="",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-_TAIL_LINES:])
        raise BuildError(f"{what} ended with {done.returncode}:\n{tail}")


def main() -> None:
    """Take the words of the command line."""
    parser = argparse.ArgumentParser(prog="python -m installer.build", description="Freeze the agent into a folder.")
    parser.add_argument("--output", type=Path, required=True, help="the folder that gets the program's folder")
    parser.add_argument("--wine", metavar="PYTHON_EXE", help="a Python for Windows, which wine runs: build for Windows")
    words = parser.parse_args()
    try:
        made = freeze(words.output, words.wine)
    except BuildError as exc:
        sys.exit(f"installer.build: {exc}")
    print(made)  # noqa: T201 - the command's answer


if __name__ == "__main__":
    main()
