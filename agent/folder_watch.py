"""
Waiting until something changes in a folder, without looking again and again.

Linux and Windows tell; where they do not, such as on a share, or where no more watches are to be had, the folder is
looked at every half second instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import threading
from pathlib import Path
from typing import Final

POLL_S: Final = 0.5  # seconds between two looks where nobody tells


class FolderWatch:
    """
    Tells that something changed in a folder, which is made where it is not there.

    A look at the folder that follows ``changed`` sees all that had changed before.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._woken = asyncio.Event()
        self._system: _System | None = None

    def wake(self) -> None:
        """Have ``changed`` return now."""
        self._woken.set()

    async def changed(self, within_s: float) -> None:
        """Wait until something changed, but no longer than ``within_s``; the first time, do not wait."""
        if self._system is None or not self._system.holds():
            self.close()
            with contextlib.suppress(OSError):
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._system = _System(self._folder, self._woken)
                return
            within_s = min(within_s, POLL_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._woken.wait()
        self._woken.clear()

    def close(self) -> None:
        """Watch no longer."""
        if self._system is not None:
            self._system.close()
            self._system = None


if sys.platform == "win32":
    _KERNEL: Final = ctypes.WinDLL("kernel32", use_last_error=True)
    _NAMES_AND_WRITES: Final = 0x1 | 0x10  # FILE_NOTIFY_CHANGE_FILE_NAME and FILE_NOTIFY_CHANGE_LAST_WRITE
    _FOR_EVER: Final = 0xFFFFFFFF
    _NO_HANDLE: Final = ctypes.c_void_p(-1).value
    for _name in ("FindFirstChangeNotificationW", "CreateEventW"):
        getattr(_KERNEL, _name).restype = ctypes.c_void_p

    class _System:
        """A thread that waits for Windows to tell."""

        def __init__(self, folder: Path, woken: asyncio.Event) -> None:
            found = _KERNEL.FindFirstChangeNotificationW(str(folder), False, _NAMES_AND_WRITES)
            if found == _NO_HANDLE:
                raise ctypes.WinError(ctypes.get_last_error())
            self._end = _KERNEL.CreateEventW(None, True, False, None)
            self._handles = (ctypes.c_void_p * 2)(found, self._end)
            self._loop, self._woken = asyncio.get_running_loop(), woken
            self._thread = threading.Thread(target=self._listen, name=f"watch {folder.name}", daemon=True)
            self._thread.start()

        def _listen(self) -> None:
            while _KERNEL.WaitForMultipleObjects(2, self._handles, False, _FOR_EVER) == 0:
                with contextlib.suppress(RuntimeError):  # the loop was closed
                    self._loop.call_soon_threadsafe(self._woken.set)
                if not _KERNEL.FindNextChangeNotification(ctypes.c_void_p(self._handles[0])):
                    return

        def holds(self) -> bool:
            """Whether the folder is still there, and told about."""
            return self._thread.is_alive()

        def close(self) -> None:
            _KERNEL.SetEvent(ctypes.c_void_p(self._end))
            self._thread.join()
            _KERNEL.FindCloseChangeNotification(ctypes.c_void_p(self._handles[0]))
            _KERNEL.CloseHandle(ctypes.c_void_p(self._end))

elif sys.platform == "linux":
    _LIBC: Final = ctypes.CDLL(None, use_errno=True)
    _MODIFIED_OR_NAMED: Final = 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # closed after writing, moved from and to, made, gone
    _A_FOLDER_NO_LINK: Final = 0x01000000 | 0x02000000  # IN_ONLYDIR and IN_DONT_FOLLOW

    class _System:
        """A descriptor that can be read when Linux has something to tell."""

        def __init__(self, folder: Path, woken: asyncio.Event) -> None:
            self._descriptor = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            if self._descriptor < 0:
                raise OSError(ctypes.get_errno(), "no more watches")
            self._folder, self._woken, self._loop = folder, woken, asyncio.get_running_loop()
            if not self.holds():
                os.close(self._descriptor)
                raise OSError(ctypes.get_errno(), "can't be watched", str(folder))
            self._loop.add_reader(self._descriptor, self._hear)

        def _hear(self) -> None:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._descriptor, 4096):
                    self._woken.set()

        def holds(self) -> bool:
            """Whether the folder of this name is the one that is told about; from now on it is."""
            wanted = _MODIFIED_OR_NAMED | _A_FOLDER_NO_LINK
            return int(_LIBC.inotify_add_watch(self._descriptor, os.fsencode(self._folder), wanted)) == 1

        def close(self) -> None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)

else:

    class _System:
        """Nobody tells."""

        def __init__(self, folder: Path, woken: asyncio.Event) -> None:
            raise OSError("nobody tells")

        def holds(self) -> bool:
            return False

        def close(self) -> None:
            pass
