"""
The plain archive on a machine: releases side by side, and a link to the one that runs.

    /opt/outhaul-agent/current  ->  versions/0.2.0
    /opt/outhaul-agent/versions/0.2.0/outhaul-agent

The service starts ``current/outhaul-agent``. Which release that is changes in one step, and back.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from agent import durable_file
from agent.errors import UpgradeError, UpgradeNotAllowed

VERSIONS, CURRENT = "versions", "current"
PROGRAM: Final = "outhaul-agent"
ARCHIVES: Final = (".tar.xz", ".tar")
UNPACKED_TIMES: Final = 5  # as large as its archive an unpacked release may be, and some room is left then
MAX_BYTES: Final = 2 * 1024**3  # bytes of an unpacked release; a tenth of it is usual


def own_program() -> Path:
    """Return the program that this process runs."""
    return Path(sys.executable if getattr(sys, "frozen", False) else sys.argv[0])


@dataclass(frozen=True, slots=True)
class SideBySide:
    """
    The folder with the releases.

    Attributes:
        root: such as ``/opt/outhaul-agent``.
    """

    root: Path

    @classmethod
    def of(cls, program: Path) -> SideBySide | None:
        """Return where a program is one of several side by side; ``None`` if it is not."""
        versions = program.resolve().parent.parent
        found = cls(versions.parent)
        return found if versions.name == VERSIONS and (found.root / CURRENT).is_symlink() else None

    @property
    def current(self) -> str:
        """The release that the link leads to."""
        return (self.root / CURRENT).resolve().name

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the archives that it takes."""
        return ARCHIVES

    @property
    def starts(self) -> Path:
        """The program that starts now."""
        return self.root / CURRENT / PROGRAM

    def program(self, release: str) -> Path:
        """Return the program of a release."""
        return self.root / VERSIONS / release / PROGRAM

    def take(self, package: Path, release: str, verify: Callable[[Path], None]) -> Path:
        """Copy a package to where only who may install anything can change it; see ``Installation``."""
        size = package.stat().st_size
        wanted = size * (1 + UNPACKED_TIMES)
        room = shutil.disk_usage(self.root).free
        if room < wanted:
            raise UpgradeError(
                f"{self.root}: has {room >> 20} MiB left, and another release needs {wanted >> 20}; nothing was changed"
            )
        copy = self._incoming() / package.name
        try:
            shutil.copyfile(package, copy)
            verify(copy)
        except BaseException:  # whatever ends it: what nobody vouches for is not left to be unpacked
            copy.unlink(missing_ok=True)
            raise
        return copy

    def unpack(self, package: Path, release: str) -> Path:
        """Have a release beside the others, all of it or nothing; see ``Installation``."""
        folder = self._incoming() / "unpacked"
        try:
            with tarfile.open(package) as archive:
                members = archive.getmembers()
                if sum(member.size for member in members) > MAX_BYTES:
                    raise UpgradeNotAllowed(f"{package.name}: is too large to be a release of the agent")
                for member in members:
                    _fit(member, package.name)
                # Each was looked at; Python before 3.11.4 has no filters.
                archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
                archive.extractall(folder, members)  # noqa: S202 - see above
        except tarfile.TarError as exc:
            raise UpgradeNotAllowed(f"{package.name}: is no archive of the agent ({exc})") from exc
        made = folder / PROGRAM
        told = made / "VERSION"
        found = told.read_text("ascii").strip() if told.is_file() else "unknown"
        if found != release or not (made / PROGRAM).is_file():
            raise UpgradeNotAllowed(f"{package.name}: is signed as {release}, and is {found}; don't use it")
        for where, _, names in os.walk(made):
            for name in names:
                _sync(Path(where, name))
            durable_file.sync_folder(Path(where))
        to = self.root / VERSIONS / release
        shutil.rmtree(to, ignore_errors=True)
        os.rename(made, to)
        durable_file.sync_folder(to.parent)
        return self.program(release)

    def apart(self) -> Path:
        """Return the program of the current release, which stays where it is; see ``Installation``."""
        return self.program(self.current)

    def switch(self, release: str) -> None:
        """Have the link lead to a release, in one step and durably."""
        link = self.root / CURRENT
        new = link.with_name(f".{CURRENT}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(Path(VERSIONS, release), target_is_directory=True)
        os.replace(new, link)
        durable_file.sync_folder(self.root)

    def forget(self, release: str) -> None:
        """Remove a release that does not run."""
        if release != self.current:
            shutil.rmtree(self.root / VERSIONS / release, ignore_errors=True)

    def has(self, release: str) -> bool:
        """Whether a release is there."""
        return self.program(release).is_file()

    def keep_only(self, *releases: str) -> None:
        """Remove all other releases, and what was left over."""
        for path in (self.root / VERSIONS).iterdir():
            if path.name not in releases:
                shutil.rmtree(path, ignore_errors=True)

    def clear(self) -> None:
        """Remove what an upgrade needs on its way."""
        shutil.rmtree(self.root / VERSIONS / ".incoming", ignore_errors=True)

    def _incoming(self) -> Path:
        folder = self.root / VERSIONS / ".incoming"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def _sync(path: Path) -> None:
    if not path.is_symlink():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _fit(member: tarfile.TarInfo, package: str) -> None:
    """
    Have a member as it may be unpacked: within the folder, readable by all and writable by its owner only.

    Raises:
        UpgradeNotAllowed: it is none of a file, a folder and a link, or leads out of the folder.
    """
    place = PurePosixPath(member.name)
    leads_to = place.parent / member.linkname if member.issym() else PurePosixPath(member.linkname)
    ways = [place, leads_to] if member.issym() or member.islnk() else [place]
    plain = member.isfile() or member.isdir() or member.issym() or member.islnk()
    if not plain or any(way.is_absolute() or os.path.normpath(way).startswith("..") for way in ways):
        raise UpgradeNotAllowed(f"{package}: has {member.name!r}, which is not within its folder; don't use it")
    member.mode = (member.mode | 0o444) & 0o755
