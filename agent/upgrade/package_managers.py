"""dpkg, rpm and Windows Installer: whether they own a program, what is in their packages, and how they install one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.errors import UpgradeError
from agent.upgrade.environment import clean_environment

INSTALL_S: Final = 900.0  # seconds; half a minute on a slow machine
SAID: Final = 800  # of a manager's last words in an error


class PackageManager(ABC):
    """
    One of them.

    Attributes:
        suffix: of its packages.
    """

    suffix: str

    @abstractmethod
    def owns(self, program: Path) -> bool:
        """Whether it has installed a program."""

    @abstractmethod
    def unpack(self, package: Path, into: Path) -> bool:
        """Put a package's files into a folder, and change nothing else; ``False`` where only installing does that."""

    @abstractmethod
    def install(self, package: Path, instead: Path | None, facts: Mapping[str, str]) -> None:
        """
        Install a package in the place of what is installed.

        Args:
            instead: of a later release, which may be installed; ``None`` where this is the later one.
            facts: ``config`` and ``account`` of the service.

        Raises:
            UpgradeError: it failed.
        """


class Dpkg(PackageManager):
    """Of Debian and its like."""

    suffix = ".deb"

    def owns(self, program: Path) -> bool:
        return shutil.which("dpkg") is not None and _says_yes("dpkg-query", "--search", str(program))

    def unpack(self, package: Path, into: Path) -> bool:
        _do("dpkg-deb", "--extract", str(package), str(into))
        return True

    def install(self, package: Path, instead: Path | None, facts: Mapping[str, str]) -> None:
        # The operator's file is kept, and nobody is there to be asked.
        _do("dpkg", "--force-confdef", "--force-confold", "--force-downgrade", "--install", str(package))


class Rpm(PackageManager):
    """Of Red Hat, SUSE and their like."""

    suffix = ".rpm"

    def owns(self, program: Path) -> bool:
        return shutil.which("rpm") is not None and _says_yes("rpm", "--query", "--file", str(program))

    def unpack(self, package: Path, into: Path) -> bool:
        archive = into / "package.tgz"
        with package.open("rb") as source, archive.open("wb") as target:
            _do("rpm2archive", "-", stdin=source, stdout=target)
        with tarfile.open(archive) as files:
            # Signed by who is trusted, as its scripts are.
            files.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
            files.extractall(into)  # noqa: S202 - see above
        archive.unlink()
        return True

    def install(self, package: Path, instead: Path | None, facts: Mapping[str, str]) -> None:
        _do("rpm", "--upgrade", "--oldpackage", "--replacepkgs", str(package))


class WindowsInstaller(PackageManager):
    """Of Windows."""

    suffix = ".msi"

    def owns(self, program: Path) -> bool:
        return sys.platform == "win32" and _registered(program.parent)

    def unpack(self, package: Path, into: Path) -> bool:
        # An administrative installation of it would ask what it finds here; its own installation is all or nothing.
        return False

    def install(self, package: Path, instead: Path | None, facts: Mapping[str, str]) -> None:
        if instead is not None:
            # It does not go over a later one. That one may not have been installed at all.
            subprocess.run(_msi("/x", instead), env=clean_environment(), check=False, timeout=INSTALL_S)  # noqa: S603 - its own words
        words = [f"CONFIGDIR={Path(facts['config']).parent}"] if facts.get("config") else []
        words += [f"ACCOUNT={facts['account']}"] if facts.get("account", "").endswith("$") else []
        _do(*_msi("/i", package), *words)


MANAGERS: Final[tuple[PackageManager, ...]] = (Dpkg(), Rpm(), WindowsInstaller())


def _msi(word: str, package: Path) -> list[str]:
    return ["msiexec", word, str(package), "/qn", "/norestart"]


def _registered(folder: Path) -> bool:
    """Whether Windows Installer put the agent there, as its package notes down."""
    if sys.platform != "win32":
        return False
    import winreg  # of Windows only

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"Software\Outhaul\Agent") as key:
            told, _ = winreg.QueryValueEx(key, "InstallDir")
    except OSError:
        return False
    return os.path.normcase(os.path.normpath(str(told))) == os.path.normcase(os.path.normpath(folder))


def _says_yes(*words: str) -> bool:
    done = subprocess.run(words, capture_output=True, env=clean_environment(), check=False, timeout=INSTALL_S)  # noqa: S603 - a system's own program
    return done.returncode == 0


def _do(*words: str, stdin: object = None, stdout: object = None) -> None:
    # Windows Installer says nothing, and may leave somebody behind who keeps a pipe open.
    says = subprocess.PIPE if words[0] != "msiexec" else subprocess.DEVNULL
    given = {"stdin": stdin or subprocess.DEVNULL, "stdout": stdout or says, "stderr": says}
    environment = {**clean_environment(), "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(  # type: ignore[call-overload]  # noqa: S603 - a system's own program; files or pipes
            words, env=environment, check=False, timeout=INSTALL_S, **given
        )
    except FileNotFoundError:
        raise UpgradeError(f"{words[0]} is not on this machine, or not where programs are looked for") from None
    except subprocess.TimeoutExpired:
        raise UpgradeError(f"{words[0]} did not end within {INSTALL_S:.0f} s") from None
    if done.returncode != 0:
        said = b"\n".join(filter(None, (done.stdout, done.stderr))).decode(errors="replace").strip()
        raise UpgradeError(f"{words[0]} ended with {done.returncode}: {said[-SAID:] or 'and said nothing'}")
