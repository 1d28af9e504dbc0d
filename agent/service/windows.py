"""
The agent as a service of Windows: made, mended, started, stopped and taken away.

A ``ServiceManager`` as a module. The rights it sets, and to whom, stand in ``windows_rights``; what runs as the
service in ``windows_host``.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import pywintypes
import win32api
import win32event
import win32service

from agent import durable_file
from agent.errors import ServiceError, ServiceNotAllowed
from agent.service import windows_events, windows_rights
from agent.service.base import ServiceStatus
from agent.service.starter_file import starter_file, state_dir_of
from agent.service.windows_names import DESCRIPTION, DISPLAY, OWN_ACCOUNT, SERVICE, service_sid

if sys.platform != "win32":
    raise ImportError("for Windows only")

RESTART_AFTER_MS: Final = 15_000
RESET_AFTER_S: Final = 24 * 3600
PRESHUTDOWN_MS: Final = 60_000  # more than the dispatcher's grace, with its ends told and kept
START_S: Final = 60.0  # seconds for the service to run
STILL_S: Final = 60.0  # seconds that a service which stops may make no step
_LOOK_S: Final = 0.1

_ACCESS_DENIED, _INVALID_LEVEL = 5, 124
_ALREADY_RUNNING, _NOT_KNOWN, _NOT_ACTIVE, _MARKED = 1056, 1060, 1062, 1072
_OWN_CODE: Final = 1066  # the exit code is the service's own
_FIXES: Final = {
    _MARKED: "it goes when every window with it is closed: close the Services console and Event Viewer, or restart",
    1069: "its account could not log on: check the account with: outhaul-agent service status",
    1057: "there is no such account; a group managed service account is given as DOMAIN\\name$, with its dollar",
    2: "its program is gone; install the agent again",
    1053: "it did not answer in time; see the Event Log and logs\\agent.log beside the operator's file",
}
_STATES: Final = {
    win32service.SERVICE_STOPPED: "stopped",
    win32service.SERVICE_START_PENDING: "starting",
    win32service.SERVICE_STOP_PENDING: "stopping",
    win32service.SERVICE_RUNNING: "running",
}
_NEEDS_NO_PASSWORD: Final = re.compile(r"(?i)^(LocalSystem|NT (AUTHORITY|SERVICE)\\.+|.+\\.+\$)$")


@dataclass(frozen=True, slots=True)
class _Setting:
    """One of the service's settings that have a level of their own."""

    level: int
    value: Any
    what: str


SETTINGS: Final = (
    _Setting(win32service.SERVICE_CONFIG_DESCRIPTION, DESCRIPTION, "description"),
    # Its SID is in its process's token under whatever account: all rights are given to that.
    _Setting(win32service.SERVICE_CONFIG_SERVICE_SID_INFO, win32service.SERVICE_SID_TYPE_UNRESTRICTED, "service SID"),
    _Setting(win32service.SERVICE_CONFIG_DELAYED_AUTO_START_INFO, True, "delayed start"),
    _Setting(
        win32service.SERVICE_CONFIG_FAILURE_ACTIONS,
        {
            "ResetPeriod": RESET_AFTER_S,
            "RebootMsg": "",
            "Command": "",
            "Actions": [(win32service.SC_ACTION_RESTART, RESTART_AFTER_MS)] * 3,
        },
        "restart after failures",
    ),
    # An agent that ended by itself with an error has not crashed, and is to come back too.
    _Setting(win32service.SERVICE_CONFIG_FAILURE_ACTIONS_FLAG, True, "restart after errors"),
    _Setting(win32service.SERVICE_CONFIG_PRESHUTDOWN_INFO, PRESHUTDOWN_MS, "time before a shutdown"),
)


class _Taken(contextlib.ExitStack):
    """What takes back each step, the last first; and what was done, for people."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    def did(self, what: str, back: Callable[[], object] | None = None) -> None:
        self.done.append(what)
        if back is not None:
            self.callback(_try, back)


def _try(act: Callable[[], object]) -> None:
    # Each of the others is to be taken back too.
    with contextlib.suppress(OSError, pywintypes.error):
        act()


def install(config: Path, account: str | None, agent: str = "") -> list[str]:
    """
    Make the service, or mend it; see ``ServiceManager``.

    Args:
        agent: its name for a file that is not there yet; default: the machine's.
    """
    if not getattr(sys, "frozen", False):
        raise ServiceError("only the installed program can be a service; install the agent's MSI, or unpack its folder")
    if account is not None and not _NEEDS_NO_PASSWORD.match(account):
        raise ServiceError(
            f"{account}: the password of an account is for no command line; install without --account and set it in "
            "the Services console (Log On), or take a group managed service account: --account DOMAIN\\name$"
        )
    try:
        with _told("install"), _Taken() as steps:
            _event_source(steps)
            _folders(steps, config, agent)
            _service(steps, config, account)
            steps.pop_all()
    except ServiceError as exc:
        windows_events.report(windows_events.Event.FAILED, f"The service was not installed: {exc}")
        raise
    return steps.done


def _event_source(steps: _Taken) -> None:
    change = windows_events.register()
    if change is not None:
        steps.did(f"Event Log source {change}", windows_events.unregister if change == "made" else None)


def _folders(steps: _Taken, config: Path, agent: str) -> None:
    made = _folder(steps, config.parent)
    if made or _is_ours(config.parent):
        _refuse_what_others_have(config.parent)
        _rights(steps, config.parent, windows_rights.FOR_THE_FILE)
        if made and any(config.parent.iterdir()):
            # Between its making and its rights any user could.
            raise ServiceNotAllowed(
                f"{config.parent}: somebody put something into it just now; remove it, and try again"
            )
    if not config.exists():
        durable_file.write(config, starter_file(agent).encode(), 0o640)
        steps.did(f"{config} written, with nothing allowed yet", config.unlink)
    for folder in (config.parent / "logs", state_dir_of(config)):
        _folder(steps, folder)
        _rights(steps, folder, windows_rights.FOR_THE_SERVICE)


def _folder(steps: _Taken, folder: Path) -> bool:
    if folder.is_dir():
        return False
    folder.mkdir(parents=True)
    steps.did(f"{folder} made", folder.rmdir)
    return True


def _is_ours(folder: Path) -> bool:
    # Others' folders keep the rights they have; this may be C:\ as well.
    ours = Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "Outhaul"
    return folder == ours or service_sid() in windows_rights.rights(folder)


def _refuse_what_others_have(folder: Path) -> None:
    # Any user may have made it before us, with a file of theirs in it, and could take back all rights to it.
    _refuse(folder)
    if service_sid() not in windows_rights.rights(folder):
        # An administrator has made it, and until now it had the rights of the folder above.
        for path in folder.iterdir():
            _refuse(path)


def _refuse(path: Path) -> None:
    if strange := windows_rights.distrusted(path):
        raise ServiceNotAllowed(
            f"{path}: {strange}, and was there before the agent. Look into it: if it is no work of yours, remove it; "
            f'if it is, make it the administrators\' (takeown /F "{path}" /A), and try again'
        )


def _rights(steps: _Taken, folder: Path, wanted: str) -> None:
    before = windows_rights.rights(folder)
    windows_rights.set_rights(folder, wanted)
    if windows_rights.rights(folder) != before:
        steps.did(f"rights of {folder} set", lambda: windows_rights.set_rights(folder, before))


def _service(steps: _Taken, config: Path, account: str | None) -> None:
    program = f'"{sys.executable}" service host --config "{config}"'
    if account is not None and account.endswith("$") and windows_rights.may_log_on_as_service(account, allow=True):
        steps.did(
            f"{account} may log on as a service",
            lambda: windows_rights.may_log_on_as_service(account, allow=False),
        )
    with _manager(win32service.SC_MANAGER_CREATE_SERVICE | win32service.SC_MANAGER_CONNECT) as manager:
        there = _opened(manager)
        service = there or _created(manager, program, account or OWN_ACCOUNT)
        try:
            if there is None:
                steps.did(f"service {SERVICE} made, as {account or OWN_ACCOUNT}", _delete)
            else:
                _mend(steps, service, program, account)
            _settings(steps, service)
        finally:
            win32service.CloseServiceHandle(service)


def _created(manager: Any, program: str, account: str) -> Any:
    return win32service.CreateService(
        manager,
        SERVICE,
        DISPLAY,
        win32service.SERVICE_ALL_ACCESS,
        win32service.SERVICE_WIN32_OWN_PROCESS,
        win32service.SERVICE_AUTO_START,
        win32service.SERVICE_ERROR_NORMAL,
        program,
        None,
        False,
        None,
        account,
        None,
    )


def _mend(steps: _Taken, service: Any, program: str, account: str | None) -> None:
    _, start, errors, path, _, _, _, runs_as, name = win32service.QueryServiceConfig(service)
    # An operator who set it to manual or disabled had a reason.
    wanted = (start, win32service.SERVICE_ERROR_NORMAL, program, account or runs_as, DISPLAY)
    before = (start, errors, path, runs_as, name)
    if wanted != before:
        _configure(service, *wanted, change_account=wanted[3] != runs_as)

        def back() -> None:
            with _manager() as manager:
                again = _opened(manager)
                _configure(again, *before, change_account=wanted[3] != runs_as)
                win32service.CloseServiceHandle(again)

        steps.did(f"service {SERVICE} mended", back)


def _configure(
    service: Any, start: int, errors: int, path: str, account: str, name: str, *, change_account: bool
) -> None:
    win32service.ChangeServiceConfig(
        service,
        win32service.SERVICE_WIN32_OWN_PROCESS,
        start,
        errors,
        path,
        None,
        False,
        None,
        account if change_account else None,
        "" if change_account else None,
        name,
    )


def _settings(steps: _Taken, service: Any) -> None:
    for setting in SETTINGS:
        try:
            win32service.ChangeServiceConfig2(service, setting.level, setting.value)
        except pywintypes.error as exc:
            if exc.winerror != _INVALID_LEVEL:
                raise
            steps.did(f"left out, as this system has no such setting: {setting.what}")


def uninstall() -> list[str]:
    """Stop the service and take it away; see ``ServiceManager``."""
    done = []
    with _told("remove"):
        if status().installed:
            _stopped()
            _delete()
            done.append(f"service {SERVICE} removed")
        if windows_events.unregister():
            done.append("Event Log source removed")
    return done


def _delete() -> None:
    with _manager() as manager:
        service = _opened(manager)
        if service is not None:
            win32service.DeleteService(service)
            win32service.CloseServiceHandle(service)


def start() -> None:
    """Start it, and wait until it runs; see ``ServiceManager``."""
    with _told("start"), _service_handle() as service:
        try:
            win32service.StartService(service, None)
        except pywintypes.error as exc:
            if exc.winerror != _ALREADY_RUNNING:
                raise
        deadline = time.monotonic() + START_S
        while (now := _state(service))["CurrentState"] != win32service.SERVICE_RUNNING:
            if now["CurrentState"] == win32service.SERVICE_STOPPED:
                raise ServiceError(f"the service {_ended(now)}; see the Event Log (source {SERVICE})")
            if time.monotonic() > deadline:
                raise ServiceError(f"the service does not run after {START_S:.0f} s; see the Event Log")
            time.sleep(_LOOK_S)  # the service manager answers who asks, and tells nobody


def stop() -> None:
    """Stop it, and wait until its process is gone; see ``ServiceManager``."""
    with _told("stop"):
        _stopped()


def _stopped() -> None:
    with _service_handle() as service:
        process = _process(_state(service)["ProcessId"])
        try:
            _ask_to_stop(service)
            _wait_until_stopped(service)
            if process is not None:
                # A moment after it says that it stopped: until then its files can't be replaced.
                win32event.WaitForSingleObject(process, int(STILL_S * 1000))
        finally:
            if process is not None:
                win32api.CloseHandle(process)


def _ask_to_stop(service: Any) -> None:
    try:
        win32service.ControlService(service, win32service.SERVICE_CONTROL_STOP)
    except pywintypes.error as exc:
        # It may also be on its way, and take no second wish.
        if exc.winerror not in (_NOT_ACTIVE, 1061):
            raise


def _wait_until_stopped(service: Any) -> None:
    step, deadline = None, time.monotonic() + STILL_S
    while (now := _state(service))["CurrentState"] != win32service.SERVICE_STOPPED:
        if (now["CurrentState"], now["CheckPoint"]) != step:
            step, deadline = (now["CurrentState"], now["CheckPoint"]), time.monotonic() + STILL_S
        if time.monotonic() > deadline:
            raise ServiceError(
                f"the service has not moved for {STILL_S:.0f} s while it stops; what runs is told in logs\\agent.log. "
                "Wait, or end outhaul-agent.exe in the task manager, which is the same as a crash"
            )
        time.sleep(_LOOK_S)  # the service manager answers who asks, and tells nobody


def _process(pid: int) -> Any:
    if not pid:
        return None
    try:
        return win32api.OpenProcess(0x00100000, False, pid)  # SYNCHRONIZE
    except pywintypes.error:
        return None  # gone already, or not ours to wait for


def status() -> ServiceStatus:
    """Tell how it is; see ``ServiceManager``."""
    with _told("look at"), _manager(win32service.SC_MANAGER_CONNECT) as manager:
        service = _opened(manager, win32service.SERVICE_QUERY_CONFIG | win32service.SERVICE_QUERY_STATUS)
        if service is None:
            return ServiceStatus(installed=False)
        try:
            _, kind, _, path, _, _, _, account, _ = win32service.QueryServiceConfig(service)
            now = _state(service)
        finally:
            win32service.CloseServiceHandle(service)
    found = re.search(r'--config "([^"]*)"', path)
    return ServiceStatus(
        installed=True,
        enabled=kind == win32service.SERVICE_AUTO_START,
        running=now["CurrentState"] == win32service.SERVICE_RUNNING,
        state=_STATES.get(now["CurrentState"], str(now["CurrentState"])),
        account=account,
        config=found[1] if found else "",
        detail=_ended(now) if now["CurrentState"] == win32service.SERVICE_STOPPED else "",
    )


def _state(service: Any) -> dict[str, int]:
    # Its types say a tuple; it is a dict.
    return cast("dict[str, int]", win32service.QueryServiceStatusEx(service))


def _ended(now: dict[str, int]) -> str:
    code = now["Win32ExitCode"]
    if code == 1077:
        return "was never started since the machine was"
    if code == _OWN_CODE:
        return f"ended with exit code {now['ServiceSpecificExitCode']}"
    return f"ended with error {code}: {win32api.FormatMessage(code).strip()}" if code else ""


@contextlib.contextmanager
def _manager(access: int = win32service.SC_MANAGER_CONNECT) -> Iterator[Any]:
    manager = win32service.OpenSCManager(None, None, access)
    try:
        yield manager
    finally:
        win32service.CloseServiceHandle(manager)


def _opened(manager: Any, access: int = win32service.SERVICE_ALL_ACCESS) -> Any:
    """Return the service, or ``None`` where there is none."""
    try:
        return win32service.OpenService(manager, SERVICE, access)
    except pywintypes.error as exc:
        if exc.winerror != _NOT_KNOWN:
            raise
        return None


@contextlib.contextmanager
def _service_handle() -> Iterator[Any]:
    access = win32service.SERVICE_START | win32service.SERVICE_STOP | win32service.SERVICE_QUERY_STATUS
    with _manager() as manager:
        service = _opened(manager, access)
        if service is None:
            raise ServiceError("there is no service yet; make it with: outhaul-agent service install")
        try:
            yield service
        finally:
            win32service.CloseServiceHandle(service)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Say what Windows refused in our words."""
    try:
        yield
    except (OSError, pywintypes.error) as exc:
        code = getattr(exc, "winerror", None)
        if code == _ACCESS_DENIED:
            raise ServiceNotAllowed(
                f"this account may not {what} the service; do it as administrator (Run as administrator)"
            ) from exc
        said = exc.strerror.strip() if isinstance(exc, OSError) and exc.strerror else str(exc.args[-1]).strip()
        fix = _FIXES.get(code or 0)
        raise ServiceError(f"Windows could not {what} the service: {said}{'; ' + fix if fix else ''}") from exc
