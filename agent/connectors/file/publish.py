"""
How a complete temporary file becomes a file of its final name, at once and without replacing another.

Three ways, by what the file system can do: ``replace`` where the operation says so, else ``rename`` that
fails if the name is taken (Windows always, Linux with ``renameat2``), else ``link`` and unlink (NFS).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Final, Literal

from agent import durable_file

Way = Literal["replace", "rename", "link"]

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1


def way_without_replacing(folder: Path, token: str) -> Way:
    """
    Find out, with two small hidden files, how a name can be claimed in ``folder``.

    Args:
        token: makes the names of these files ours alone.

    Raises:
        OSError: the folder can't be written, or its file system has no such way (``ENOTSUP``).
    """
    if sys.platform == "win32":
        return "rename"
    probe, taken = folder / f".probe.{token}.part", folder / f".taken.{token}.part"
    try:
        probe.touch()
        taken.touch()
        ways: tuple[Way, ...] = ("rename", "link")
        for way in ways:
            # A file system that ignores the flag would replace: so it is tried on a name that is taken.
            with contextlib.suppress(OSError):
                try:
                    appear(probe, taken, way)
                except FileExistsError:
                    return way
                probe.touch()
    finally:
        probe.unlink(missing_ok=True)
        taken.unlink(missing_ok=True)
    raise OSError(errno.ENOTSUP, "the file system can't claim a name without replacing", str(folder))


def appear(part: Path, final: Path, way: Way) -> None:
    """
    Give ``part`` its final name.

    Raises:
        FileExistsError: the name is taken, and ``way`` is not ``replace``.
        OSError: as the system says.
    """
    if way == "replace":
        durable_file.patiently(lambda: os.replace(part, final))
    elif way == "link":
        _link(part, final)
    elif sys.platform == "win32":
        durable_file.patiently(lambda: os.rename(part, final))  # refuses a name that is taken
    else:
        _rename_without_replacing(part, final)


def _link(part: Path, final: Path) -> None:
    try:
        os.link(part, final)
    except OSError:
        # A file server whose answer was lost is asked again, and then finds its own work in the way.
        if part.stat().st_nlink == 1:
            raise
    with contextlib.suppress(OSError):  # the file is there; what is left of the part is removed another day
        part.unlink()


def _rename_without_replacing(part: Path, final: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, "renameat2 is not there", str(part))
    if libc.renameat2(_AT_FDCWD, os.fsencode(part), _AT_FDCWD, os.fsencode(final), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(part), None, str(final))
