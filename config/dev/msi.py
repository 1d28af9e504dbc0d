"""
``python -m config.dev.msi FOLDER``: the agent for Windows and its MSI, made under wine.

A release for customers is made by the same two steps on a Windows: ``installer.build`` and ``installer.windows.msi``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from config.dev.wine import WineError, environment, template, windows_python
from installer import cached
from installer.build import BuildError
from installer.windows import msi


def frozen() -> Path:
    """
    Return the folder of the agent frozen for Windows; built where there is none of this state.

    Raises:
        BuildError, WineError: it can't be.
    """
    python = windows_python()
    # Programs under wine find their machine by the environment; and the one of the user's own is left alone.
    before = dict(os.environ)
    os.environ.update(environment(template()))
    try:
        return cached.frozen(str(python))
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Take the words of the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m config.dev.msi FOLDER")
    try:
        print(msi.build(frozen(), Path(sys.argv[1])))
    except (BuildError, WineError, msi.MsiError) as exc:
        sys.exit(f"config.dev.msi: {exc}")


if __name__ == "__main__":
    main()
