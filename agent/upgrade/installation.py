"""Where the agent's program stands, and what puts another release there: a link, or a package manager."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from agent.upgrade.packaged import Packaged, kept_beside
from agent.upgrade.side_by_side import SideBySide


class Installation(Protocol):
    """
    One way of being installed.

    Attributes:
        root: folder of the program, or of all releases.
        suffixes: of the packages that it takes.
    """

    @property
    def root(self) -> Path: ...

    @property
    def suffixes(self) -> tuple[str, ...]: ...

    @property
    def current(self) -> str:
        """The release that is there, and starts."""

    def take(self, package: Path, release: str, verify: Callable[[Path], None]) -> Path:
        """
        Copy a package to where only who may install anything can change it, and return the copy.

        Args:
            verify: looks at the copy before it counts as one, and raises ``UpgradeNotAllowed``; nothing is left then.

        Raises:
            UpgradeNotAllowed: as ``verify`` does, or others could change the copy.
            UpgradeError: there is no room for it.
            OSError: it can't be copied.
        """

    def unpack(self, package: Path, release: str) -> Path | None:
        """
        Unpack a package, and return its program, to be tried; nothing of what runs is changed.

        ``None`` where only installing it shows what is in it.

        Raises:
            UpgradeNotAllowed: it is no package of this program, or of another release than it should be.
            UpgradeError, OSError: it can't be unpacked.
        """

    @property
    def starts(self) -> Path:
        """The program that starts now."""

    def apart(self) -> Path:
        """Have the program of this release where it stays while another one is put in its place; return it."""

    def switch(self, release: str) -> None:
        """
        Have a release whose package was taken start from now on.

        Raises:
            UpgradeError: what has to install it says no; the text has its last words.
        """

    def forget(self, release: str) -> None:
        """Remove what there is of a release that does not run."""

    def has(self, release: str) -> bool:
        """Whether it could be switched to a release."""

    def keep_only(self, *releases: str) -> None:
        """Remove what there is of all others."""

    def clear(self) -> None:
        """Remove what an upgrade needs on its way."""


def of(program: Path, config: Path) -> Installation | None:
    """
    Return how a program is installed; ``None`` where nothing is known that could put another in its place.

    Args:
        config: the operator's file, absolute.
    """
    return SideBySide.of(program) or Packaged.of(program, kept_beside(config))
