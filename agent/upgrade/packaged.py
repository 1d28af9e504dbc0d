r"""
A program that a package manager has installed: the packages that were, kept where only an administrator writes.

    /var/lib/outhaul-agent-packages/0.2.0.deb      the way back
    /var/lib/outhaul-agent-packages/0.3.0.deb
    /var/lib/outhaul-agent-packages/watcher/       the old program, while the manager replaces it

No package manager keeps the package of what is installed, so there is no way back to a release whose package is not
here. On Windows the folder is ``packages`` beside the operator's file, with the rights of that file's folder.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent import durable_file
from agent.errors import UpgradeError, UpgradeNotAllowed
from agent.upgrade.package_managers import MANAGERS, PackageManager

PROGRAM: Final = "outhaul-agent.exe" if sys.platform == "win32" else "outhaul-agent"
UNPACKED_TIMES: Final = 4  # as large as its package an unpacked release may be
_WATCHER, _UNPACKED, _INCOMING = "watcher", "unpacked", "incoming"


def kept_beside(config: Path) -> Path:
    """Return the folder with the packages, for the agent that has a certain file."""
    return config.parent / "packages" if sys.platform == "win32" else Path("/var/lib/outhaul-agent-packages")


@dataclass(frozen=True, slots=True)
class Packaged:
    """
    One installation.

    Attributes:
        root: the program's folder.
        manager: what has installed it.
        kept: folder with the packages.
        facts: of the service, for a manager that makes it anew.
    """

    root: Path
    manager: PackageManager
    kept: Path
    facts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Path, kept: Path) -> Packaged | None:
        """Return what a package manager has installed; ``None`` if none has."""
        program = program.resolve()
        return next((cls(program.parent, manager, kept) for manager in MANAGERS if manager.owns(program)), None)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the packages that its manager takes."""
        return (self.manager.suffix,)

    @property
    def current(self) -> str:
        """The release that is installed."""
        return _release(self.root)

    @property
    def starts(self) -> Path:
        """The program that starts now."""
        return self.root / PROGRAM

    def package(self, release: str) -> Path:
        """Return where the package of a release is, if it is kept."""
        return self.kept / f"{release}{self.manager.suffix}"

    def take(self, package: Path, release: str, verify: Callable[[Path], None]) -> Path:
        """Copy a package to where only administrators can change it; see ``Installation``."""
        self._folder()
        wanted = package.stat().st_size * (1 + UNPACKED_TIMES) + _size(self.root)
        room = shutil.disk_usage(self.kept).free
        if room < wanted:
            raise UpgradeError(
                f"{self.kept}: has {room >> 20} MiB left, and an upgrade needs {wanted >> 20}; nothing was changed"
            )
        copy = self.package(release)
        incoming = self._anew(_INCOMING)
        try:
            whole = incoming / package.name
            shutil.copyfile(package, whole)
            with whole.open("rb+") as file:
                os.fsync(file.fileno())
            # Under its release's name each later upgrade believes it.
            verify(whole)
            os.replace(whole, copy)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        durable_file.sync_folder(self.kept)
        return copy

    def unpack(self, package: Path, release: str) -> Path | None:
        """Unpack a package to try its program; see ``Installation``."""
        folder = self._anew(_UNPACKED)
        if not self.manager.unpack(package, folder):
            return None
        for told in folder.rglob("VERSION"):
            if (program := told.with_name(PROGRAM)).is_file():
                if (found := _release(told.parent)) != release:
                    raise UpgradeNotAllowed(f"{package.name}: is signed as {release}, and is {found}; don't use it")
                return program
        raise UpgradeNotAllowed(f"{package.name}: is no package of the agent: there is no {PROGRAM} in it")

    def apart(self) -> Path:
        """Copy the program to where its manager doesn't replace it; see ``Installation``."""
        folder = self.kept / _WATCHER
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.root, folder, symlinks=True)
        return folder / PROGRAM

    def switch(self, release: str) -> None:
        """Have the manager install a release; see ``Installation``."""
        installed = self.current
        later = self.package(installed) if _order(installed) > _order(release) else None
        self.manager.install(self.package(release), later, self.facts)
        if self.current != release:
            raise UpgradeError(f"{self.manager.suffix[1:]}: it was installed, and {self.current} is there")

    def forget(self, release: str) -> None:
        """Remove the package of a release that is not installed."""
        if release != self.current:
            self.package(release).unlink(missing_ok=True)

    def has(self, release: str) -> bool:
        """Whether the package of a release is kept."""
        return self.package(release).is_file()

    def keep_only(self, *releases: str) -> None:
        """Remove all other packages."""
        for path in self.kept.glob(f"*{self.manager.suffix}"):
            if path.name.removesuffix(self.manager.suffix) not in releases:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what was unpacked."""
        shutil.rmtree(self.kept / _UNPACKED, ignore_errors=True)

    def _anew(self, name: str) -> Path:
        folder = self.kept / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _folder(self) -> None:
        """Have the folder, and nobody but administrators in it."""
        if sys.platform == "win32":
            from agent.service import windows_rights  # of Windows only

            self.kept.mkdir(exist_ok=True)
            if strange := windows_rights.distrusted(self.kept):
                raise UpgradeNotAllowed(f"{self.kept}: {strange}; see what it is, and remove it")
            return
        self.kept.mkdir(mode=0o700, exist_ok=True)
        found = self.kept.lstat()
        if self.kept.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise UpgradeNotAllowed(f"{self.kept}: others than root have rights to it; see what it is, and remove it")


def _release(folder: Path) -> str:
    try:
        return (folder / "VERSION").read_text("ascii").strip()
    except OSError:
        return "unknown"


def _order(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdecimal())


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
