"""A folder that stays the one that was checked, whatever is put in its place meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _LIST, _SHARE_READ_WRITE, _OPEN_EXISTING = 0x1, 0x3, 3
    _BACKUP_SEMANTICS, _OPEN_REPARSE_POINT = 0x02000000, 0x00200000

    @contextlib.contextmanager
    def held(folder: Path) -> Iterator[Path]:
        """
        Yield a path to ``folder`` that leads nowhere else until the context is left.

        Raises:
            OSError: it is not there, or is a link or a junction (``ELOOP``).
        """
        # Opened without sharing its deletion: until it is closed, nobody can rename or replace it.
        create = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
        create.restype = wintypes.HANDLE
        flags = _BACKUP_SEMANTICS | _OPEN_REPARSE_POINT
        handle = create(str(folder), _LIST, _SHARE_READ_WRITE, None, _OPEN_EXISTING, flags, None)
        if handle == wintypes.HANDLE(-1).value:
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            if folder.resolve() != folder:
                raise _link(folder)
            yield folder
        finally:
            ctypes.WinDLL("kernel32").CloseHandle(wintypes.HANDLE(handle))

else:

    @contextlib.contextmanager
    def held(folder: Path) -> Iterator[Path]:
        """
        Yield a path to ``folder`` that leads nowhere else until the context is left.

        Raises:
            OSError: it is not there, or is a link (``ELOOP``).
        """
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except NotADirectoryError:
            # So Linux says of a link that was to be a folder.
            raise (_link(folder) if folder.is_symlink() else NotADirectoryError(errno.ENOTDIR, "no folder")) from None
        try:
            # The descriptor is the folder itself; systems without this way to name it have its name only.
            itself = Path(f"/proc/self/fd/{descriptor}")
            yield itself if itself.is_dir() else folder
        finally:
            os.close(descriptor)


def _link(folder: Path) -> OSError:
    return OSError(errno.ELOOP, "is a link, where a folder was wanted", str(folder))
