"""
``make dist``: all that a release of the agent for this system is, in one folder.

The frozen program, its packages, its bill of materials (CycloneDX) and the digests of what is handed out. With
``--reproduce`` it is frozen a second time, and every byte is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent import RELEASE
from config.dev.bill import bill
from installer.build import NAME, BuildError, freeze, made_at
from installer.linux.package import PackageError, package

SUMS: Final = "SHA256SUMS"


def dist(output: Path) -> list[Path]:
    """
    Make all of it.

    Returns:
        The files that are handed out; the last is the list of their digests.

    Raises:
        BuildError, PackageError: a part could not be made.
    """
    frozen = freeze(output)
    made = package(frozen, output, made_at())
    parts = output / f"{NAME}-{RELEASE}.sbom.cdx.json"
    parts.write_text(bill("agent", datetime.fromtimestamp(made_at(), UTC)), "utf-8")
    made.append(parts)
    sums = output / SUMS
    sums.write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in sorted(made)), "ascii")
    return [*made, sums]


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder, by its path in it; of a link, where it leads."""
    return {
        path.relative_to(folder).as_posix(): f"link to {path.readlink()}" if path.is_symlink() else _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the names of the files that only one of two folders has, or that differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _again(frozen: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="outhaul-again-") as folder:
        differing = differences(digests(frozen), digests(freeze(Path(folder))))
    if differing:
        raise BuildError(f"a second build differs in {len(differing)} files: {', '.join(differing[:20])}")


def main() -> None:
    """Take the words of the command line."""
    parser = argparse.ArgumentParser(prog="python -m installer.dist", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder that gets it all")
    parser.add_argument("--reproduce", action="store_true", help="build twice, and compare every byte")
    told = parser.parse_args()
    try:
        made = dist(told.output)
        if told.reproduce:
            _again(told.output / NAME)
            print("built twice: every byte is the same", file=sys.stderr)  # noqa: T201 - the command's answer
    except (BuildError, PackageError) as exc:
        sys.exit(f"installer.dist: {exc}")
    for path in made:
        print(f"{path}  {path.stat().st_size:,} bytes")  # noqa: T201 - the command's answer


if __name__ == "__main__":
    main()
