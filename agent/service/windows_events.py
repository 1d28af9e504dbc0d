"""The Windows Event Log: that the service started, stopped, waits for somebody, or failed."""

from __future__ import annotations

import contextlib
import sys
import winreg
from enum import IntEnum
from typing import Any, Final

from agent.service.windows_names import SERVICE

if sys.platform != "win32":
    raise ImportError("for Windows only")

KEY: Final = rf"SYSTEM\CurrentControlSet\Services\EventLog\Application\{SERVICE}"
# Windows' own: it has the text "%1" under each number from 1 to 1000. What was told can be read when we are gone.
VALUES: Final[dict[str, tuple[int, str | int]]] = {
    "EventMessageFile": (winreg.REG_EXPAND_SZ, r"%SystemRoot%\System32\EventCreate.exe"),
    "TypesSupported": (winreg.REG_DWORD, 7),
}
LONGEST: Final = 30_000  # characters; Windows takes 31,839


class Event(IntEnum):
    """What happened; the number is the event's id, which watching programs filter by."""

    STARTED = 1
    STOPPED = 2
    FAILED = 3
    WAITS = 4


# Of win32evtlog, which is imported where something is told.
_TYPES: Final = {Event.STARTED: 4, Event.STOPPED: 4, Event.FAILED: 1, Event.WAITS: 2}


def register() -> str | None:
    """
    Make our source known, or mend what is there of it.

    Returns:
        ``made``, ``mended``, or ``None`` where all was right.
    """
    with winreg.CreateKeyEx(winreg.HKEY_LOCAL_MACHINE, KEY, 0, winreg.KEY_READ | winreg.KEY_WRITE) as key:
        there = {name: _value(key, name) for name in VALUES}
        wrong = [name for name, (kind, value) in VALUES.items() if there[name] != (value, kind)]
        for name in wrong:
            kind, value = VALUES[name]
            winreg.SetValueEx(key, name, 0, kind, value)
    if not wrong:
        return None
    return "made" if not any(there.values()) else "mended"


def unregister() -> bool:
    """Forget our source; whether there was one."""
    try:
        winreg.DeleteKey(winreg.HKEY_LOCAL_MACHINE, KEY)
    except FileNotFoundError:
        return False
    return True


def _value(key: Any, name: str) -> tuple[object, int] | None:
    try:
        return winreg.QueryValueEx(key, name)
    except FileNotFoundError:
        return None


def report(event: Event, text: str) -> None:
    """Tell the Event Log; where it can't be told, that is no reason to fail."""
    import pywintypes  # with win32evtlog: the service's first steps need neither
    import win32evtlog

    with contextlib.suppress(pywintypes.error):
        log = win32evtlog.RegisterEventSource(None, SERVICE)
        try:
            win32evtlog.ReportEvent(log, _TYPES[event], 0, event, None, [text[:LONGEST]], None)
        finally:
            win32evtlog.DeregisterEventSource(log)
