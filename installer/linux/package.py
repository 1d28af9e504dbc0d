"""The frozen agent as deb, rpm and plain archive; nfpm makes the first two from ``nfpm.yaml``."""

from __future__ import annotations

import lzma
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent import RELEASE
from agent.service.unit import Place, unit

ROOT: Final = Path(__file__).resolve().parents[2]
LINUX: Final = ROOT / "installer" / "linux"
NAME: Final = "outhaul-agent"
KINDS: Final = ("deb", "rpm", "archive")
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}  # as nfpm, and Go, call them
_NFPM_S: Final = 300.0  # seconds; a quarter of a minute on a quiet machine


class PackageError(Exception):
    """A package could not be made; the text has the last words of who said so."""


def package(
    frozen: Path, output: Path, made_at: int, *, kinds: Sequence[str] = KINDS, release: str = RELEASE
) -> list[Path]:
    """
    Make packages of the frozen agent; the same folder and time give the same bytes.

    Args:
        frozen: the folder that ``installer.build`` made.
        output: where they go.
        made_at: the time of all that is in them, in seconds since 1970.
        kinds: of KINDS.
        release: another one, to try an upgrade.

    Raises:
        PackageError: there is no program, or nfpm failed.
    """
    if not frozen.is_dir():
        raise PackageError(f"{frozen} is no folder; make it with: python -m installer.build --output DIR")
    output.mkdir(parents=True, exist_ok=True)
    made = []
    with tempfile.TemporaryDirectory(prefix="outhaul-package-") as folder:
        stage = _staged(Path(folder), frozen, made_at)
        values = {
            "OUTHAUL_ARCH": _architecture(),
            "OUTHAUL_VERSION": release,
            "OUTHAUL_STAGE": str(stage),
            "SOURCE_DATE_EPOCH": str(made_at),
        }
        for kind in kinds:
            path = output / _file_name(kind, release)
            made.append(_archive(stage, path) if kind == "archive" else _nfpm(kind, path, values))
    return made


def _staged(folder: Path, frozen: Path, made_at: int) -> Path:
    """Return a folder with all that goes into packages, with its time and its rights."""
    stage = folder / NAME
    shutil.copytree(frozen, stage / "program", symlinks=True)
    shutil.copytree(LINUX / "drop-ins", stage / "drop-ins")
    shutil.copyfile(LINUX / "agent.toml", stage / "agent.toml")
    (stage / f"{NAME}.service").write_text(unit(Place()), "utf-8")
    for path in (stage, *stage.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (made_at, made_at), follow_symlinks=False)
    return stage


def _architecture() -> str:
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def _file_name(kind: str, release: str) -> str:
    """Return the name that packages of a kind usually have."""
    if kind == "deb":
        return f"{NAME}_{release}-1_{_architecture()}.deb"
    if kind == "rpm":
        return f"{NAME}-{release}-1.{platform.machine()}.rpm"
    return f"{NAME}-{release}-linux-{platform.machine()}.tar.xz"


def _nfpm(kind: str, path: Path, values: dict[str, str]) -> Path:
    program = Path(sys.executable).with_name("nfpm")
    words = [str(program), "package", "--packager", kind, "--config", "installer/linux/nfpm.yaml", "--target"]
    try:
        done = subprocess.run(
            [*words, str(path.resolve())],
            cwd=ROOT,
            env={**os.environ, **values},
            capture_output=True,
            text=True,
            check=False,
            timeout=_NFPM_S,
        )
    except FileNotFoundError as exc:
        raise PackageError(f"{program} is missing; run: make setup") from exc
    if done.returncode != 0:
        raise PackageError(f"nfpm made no {kind}:\n{(done.stdout + done.stderr)[-2000:]}")
    return path


def _archive(stage: Path, path: Path) -> Path:
    def of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    with lzma.open(path, "wb", preset=6) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for found in sorted(stage.rglob("*")):
            # The program's own folder is the archive's; its unit names another place, and is made by the program.
            name = found.relative_to(stage).as_posix().removeprefix("program").lstrip("/")
            if name and found.suffix != ".service":
                archive.add(found, f"{NAME}/{name}", recursive=False, filter=of_root)
    return path
