"""
``python -m installer.windows.msi FROZEN --output DIR``: the frozen agent as an MSI.

``wixl`` writes it, so it is made on Linux too. What an installation does beside copying files is one program's word:
``outhaul-agent service setup`` (``agent/service/windows_setup.py``), as the system, with its way back for each step.

The same files of the same release give the same ids: product, package and components are named, not drawn.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final
from xml.sax.saxutils import quoteattr

from installer.windows import actions

HERE: Final = Path(__file__).parent
NAME: Final = "outhaul-agent"
OURS: Final = uuid.UUID("5b0ff34f-9a0e-5b1b-8f4e-0b6b5f5b1f0a")  # what our ids are made within; never to change
COMPILER: Final = "x86_64-w64-mingw32-gcc"
_WIXL_S: Final = 300.0  # seconds; five on a quiet machine


class MsiError(Exception):
    """It could not be made; the text has the last words of who said so."""


def build(frozen: Path, output: Path) -> Path:
    """
    Make ``outhaul-agent-RELEASE-x64.msi``.

    Args:
        frozen: the folder that ``installer.build`` made under a Python for Windows.
        output: the folder that gets it.

    Raises:
        MsiError: a tool is missing or failed.
    """
    release = (frozen / "VERSION").read_text("ascii").strip()
    output.mkdir(parents=True, exist_ok=True)
    made = output / f"{NAME}-{release}-x64.msi"
    made.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="outhaul-msi-") as folder:
        place = Path(folder)
        # No time stamp in it, so that the same source gives the same bytes.
        library = ("-o", str(place / "token.dll"), str(HERE / "token.c"), "-lmsi", "-ladvapi32")
        _do(COMPILER, "-shared", "-O2", "-s", "-Wall", "-Werror", "-Wl,--no-insert-timestamp", *library)
        (place / "agent.wxs").write_text(wxs(frozen, release), "utf-8")
        (place / "files").symlink_to(frozen.resolve(), target_is_directory=True)  # wixl takes relative names only
        _do("wixl", "--arch", "x64", "--output", str(made.resolve()), "agent.wxs", cwd=place)
    _do("msibuild", str(made), "-q", *actions.statements())
    return made


def wxs(frozen: Path, release: str) -> str:
    """Return the source of the package: the template, with a component for each file."""
    files = sorted(path.relative_to(frozen) for path in frozen.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(str(file).encode() + (frozen / file).read_bytes() for file in files)).hexdigest()
    given = {
        "release": windows_version(release),
        "product": product_code(release),
        "package": _guid(f"package {digest}"),
        # The same for all releases: by it one finds the other.
        "upgrade": _guid("upgrade"),
        "kept": _guid("component kept"),
        "files": "\n".join(_folder(PurePosixPath(), [PurePosixPath(file.as_posix()) for file in files])),
        "components": "\n".join(f"<ComponentRef Id={quoteattr(_id('C', file.as_posix()))}/>" for file in files),
    }
    text = (HERE / "agent.wxs").read_text("utf-8")
    return re.sub(r"@(\w+)@", lambda match: given[match[1]], text)


def product_code(release: str) -> str:
    """Return the id by which Windows Installer knows a release that is installed."""
    return _guid(f"product {release}")


def windows_version(release: str) -> str:
    """
    Return a release as Windows Installer counts: three numbers.

    Raises:
        MsiError: it can't; Windows Installer would take two releases for one.
    """
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})\.(\d{1,5})", release)
    if match is None or int(match[1]) > 255 or int(match[2]) > 255 or int(match[3]) > 65535:
        raise MsiError(f"release {release!r}: an MSI wants three numbers, of at most 255, 255 and 65535")
    return release


def _folder(folder: PurePosixPath, files: list[PurePosixPath]) -> Iterator[str]:
    """Yield the files of a folder, and its folders."""
    inner: dict[str, list[PurePosixPath]] = {}
    for file in files:
        rest = file.relative_to(folder)
        if len(rest.parts) > 1:
            inner.setdefault(rest.parts[0], []).append(file)
            continue
        name = file.as_posix()
        # The program has a name of its own: the package's actions start it.
        key = "Program" if name == f"{NAME}.exe" else _id("F", name)
        yield (
            f"<Component Id={quoteattr(_id('C', name))} Guid={quoteattr(_guid(f'component {name}'))} "
            f'Win64="yes"><File Id={quoteattr(key)} Name={quoteattr(rest.name)} '
            f'Source={quoteattr(f"files/{name}")} KeyPath="yes"/></Component>'
        )
    for name, some in sorted(inner.items()):
        below = folder / name
        yield f"<Directory Id={quoteattr(_id('D', below.as_posix()))} Name={quoteattr(name)}>"
        yield from _folder(below, some)
        yield "</Directory>"


def _guid(what: str) -> str:
    return str(uuid.uuid5(OURS, what)).upper()  # the only case that Windows Installer takes


def _id(kind: str, name: str) -> str:
    return f"{kind}{hashlib.sha256(name.encode()).hexdigest()[:24]}"


def _do(*words: str, cwd: Path | None = None) -> None:
    if shutil.which(words[0]) is None:
        raise MsiError(f"{words[0]} is missing; the packages are wixl, msitools and gcc-mingw-w64-x86-64-win32")
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_WIXL_S,
        check=False,
    )
    if done.returncode != 0:
        raise MsiError(f"{words[0]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")


def main() -> None:
    """Take the words of the command line."""
    parser = argparse.ArgumentParser(prog="python -m installer.windows.msi", description="Make the MSI.")
    parser.add_argument("frozen", type=Path, help="the folder that installer.build made for Windows")
    parser.add_argument("--output", type=Path, required=True, help="the folder that gets the MSI")
    words = parser.parse_args()
    try:
        print(build(words.frozen, words.output))  # noqa: T201 - the command's answer
    except MsiError as exc:
        sys.exit(f"installer.windows.msi: {exc}")


if __name__ == "__main__":
    main()
