"""
What is not told when something goes wrong: no memory in a dump, no value of a secret in a log or a traceback.

The values that this process has read from its store of secrets are known here, so that whoever writes a line for
people can have them taken out of it, whoever's words it repeats.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Final
from urllib.parse import quote

HIDDEN: Final = "***"
SHORTEST: Final = 4  # characters of a value that is taken out; one that is shorter would take words apart

_VALUES: set[str] = set()


def keep_quiet_about(values: Iterable[str]) -> None:
    """Take these values out of all that ``hushed`` is given from now on, in each form in which they may stand there."""
    for value in values:
        forms = (value, quote(value, safe=""), value.replace("}", "}}"), json.dumps(value, ensure_ascii=False)[1:-1])
        _VALUES.update(form for form in (*forms, repr(value)[1:-1]) if len(form) >= SHORTEST)


def hushed(text: str) -> str:
    """Return ``text`` without the values of secrets."""
    # The longest first: one may hold another.
    for value in sorted((value for value in _VALUES if value in text), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def begin() -> None:
    """Make this process discreet; the first thing that it does."""
    no_dumps()
    sys.excepthook = _tell
    threading.excepthook = _tell_of_thread


def no_dumps() -> None:
    """
    Keep this process's memory out of core dumps and crash reports.

    On Linux it also keeps other processes of the same account from reading it.
    """
    if sys.platform == "win32":
        _no_windows_reports()
    else:
        _no_posix_cores()


if sys.platform == "win32":
    _NO_BOXES: Final = 0x8003  # SEM_FAILCRITICALERRORS, SEM_NOGPFAULTERRORBOX and SEM_NOOPENFILEERRORBOX
    _NO_HEAP_NO_WINDOW: Final = 0x21  # WER_FAULT_REPORTING_FLAG_NOHEAP and WER_FAULT_REPORTING_NO_UI

    def _no_windows_reports() -> None:
        kernel = ctypes.WinDLL("kernel32")
        kernel.SetErrorMode(_NO_BOXES)
        with contextlib.suppress(AttributeError):  # old systems, and wine, have no such function
            kernel.WerSetFlags(_NO_HEAP_NO_WINDOW)
else:
    import resource

    _PR_SET_DUMPABLE: Final = 4

    def _no_posix_cores() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            # The limit does not hold where the kernel hands dumps to a program (systemd-coredump, apport).
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _tell(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Tell of an error that nobody caught: where it was and what, without values."""
    if sys.stderr is not None:  # a service may have none
        sys.stderr.write(hushed("".join(traceback.format_exception(kind, error, where))))
        sys.stderr.flush()


def _tell_of_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and told.exc_type is not SystemExit:
        _tell(told.exc_type, told.exc_value, told.exc_traceback)
