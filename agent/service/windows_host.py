"""
What the Service Control Manager starts: ``outhaul-agent service host --config FILE``.

Its first steps are quick and need few modules, as the manager gives up after 30 seconds; the agent itself is loaded
once the service runs. The event loop lives in the thread that the manager's dispatcher gives the service; its wishes
come in another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import pywintypes
import servicemanager
import win32service

from agent.service import windows_events
from agent.service.base import Notifier
from agent.service.log_stream import LogStream
from agent.service.windows_names import SERVICE

if TYPE_CHECKING:
    from agent.config_file import Loaded

if sys.platform != "win32":
    raise ImportError("for Windows only")

HINT_MS: Final = 30_000  # until the next step of a start or a stop
STEP_S: Final = 2.0  # seconds between two steps of a stop
WATCH_S: Final = 10.0  # seconds between two looks at whether the agent lives, which it says every 5
MISSED: Final = 12  # looks without a word in between; then it hangs
FAILED: Final = 1  # exit code of the service; the manager starts it again
_OWN_CODE: Final = 1066  # ERROR_SERVICE_SPECIFIC_ERROR: the code beside it is the service's own
_NOT_BY_THE_MANAGER: Final = 1063
_STOPS: Final = (win32service.SERVICE_CONTROL_STOP, win32service.SERVICE_CONTROL_PRESHUTDOWN)


class ServiceControlManager(Notifier):
    """
    Tells the Service Control Manager how the service is.

    Called from the event loop and from the manager's own thread.

    Attributes:
        heard: that the agent lives was said since this was last set to false; ``None`` before it ever was.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self._state = win32service.SERVICE_START_PENDING
        self._step = 0
        self.heard: bool | None = None
        self._say(self._state)

    def ready(self) -> None:
        if self._state == win32service.SERVICE_START_PENDING:
            self._say(win32service.SERVICE_RUNNING)

    def alive(self) -> None:
        self.heard = True

    def step(self) -> None:
        """Ask for more time, where it is stopping."""
        if self._state == win32service.SERVICE_STOP_PENDING:
            self._say(self._state)

    def stopping(self) -> None:
        self._say(win32service.SERVICE_STOP_PENDING)

    def status(self, text: str) -> None:
        pass  # it has no place for words

    def again(self) -> None:
        """Say the same once more, as it was asked."""
        self._say(self._state)

    def stopped(self, code: int) -> None:
        """Say that it has ended, with 0 or with an exit code of its own; nothing may be said after that."""
        self._say(win32service.SERVICE_STOPPED, code)

    def _say(self, state: int, code: int = 0) -> None:
        with self._lock, contextlib.suppress(pywintypes.error):
            pending = state in (win32service.SERVICE_START_PENDING, win32service.SERVICE_STOP_PENDING)
            self._step = self._step + 1 if pending and state == self._state else int(pending)
            self._state = state
            takes = 0
            if state == win32service.SERVICE_RUNNING:
                takes = win32service.SERVICE_ACCEPT_STOP | win32service.SERVICE_ACCEPT_PRESHUTDOWN
            win32service.SetServiceStatus(
                self._handle,
                (
                    win32service.SERVICE_WIN32_OWN_PROCESS,
                    state,
                    takes,
                    _OWN_CODE if code else 0,
                    code,
                    self._step,
                    HINT_MS if pending else 0,
                ),
            )


class Wish:
    """The wish to stop, which may come before there is an event loop to hear it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said = False
        self._hear: Callable[[], None] | None = None

    def say(self) -> None:
        with self._lock:
            self._said = True
            if self._hear is not None:
                self._hear()

    def stops(self, stop: asyncio.Event) -> None:
        """Have ``stop``, of the running loop, set when the wish is said, or at once."""
        loop = asyncio.get_running_loop()

        def hear() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(stop.set)

        with self._lock:
            self._hear = hear
            if self._said:
                stop.set()


class Host:
    """The service, as pywin32's dispatcher wants it: made with its start words, then ``SvcRun``."""

    config: Path  # set before the dispatcher makes one

    def __init__(self, words: Sequence[str]) -> None:
        self._wish = Wish()
        handle = servicemanager.RegisterServiceCtrlHandler(SERVICE, self._control, True)
        self._manager = ServiceControlManager(handle)

    def _control(self, control: int, kind: int, data: object) -> int:
        if control in _STOPS:
            self._manager.stopping()
            self._wish.say()
        else:
            self._manager.again()
        return 0

    def SvcRun(self) -> None:
        """Run until the manager wishes it to stop."""
        self._manager.ready()
        threading.Thread(target=self._watch, name="watch whether it lives", daemon=True).start()
        try:
            code = self._run()
        except BaseException as exc:  # whatever it is, the manager must hear that we ended
            code = FAILED
            _tell_failure(exc)
        self._manager.stopped(code)
        if code:
            # pywin32 would say once more that it stopped, and that all was well.
            os._exit(code)

    def _watch(self) -> None:
        """
        End a process whose agent hangs: Windows itself has no watchdog, but starts again what ended.

        Looks are counted, not seconds: a machine that slept is not an agent that hung.
        """
        missed = 0
        while missed < MISSED:
            threading.Event().wait(WATCH_S)
            if self._manager.heard is not None:
                missed = 0 if self._manager.heard else missed + 1
                self._manager.heard = False
        _tell_failure(TimeoutError(f"the agent hung for {MISSED * WATCH_S:.0f} s"))
        self._manager.stopped(FAILED)
        os._exit(FAILED)

    def _run(self) -> int:
        # Only now: what an agent needs takes a second to load, and more under a virus scanner.
        from agent import RELEASE, logs
        from agent.settings import Log

        logs.set_up(Log())
        windows_events.report(windows_events.Event.STARTED, f"Outhaul agent {RELEASE} started; its file: {self.config}")
        asyncio.run(self._live())
        windows_events.report(windows_events.Event.STOPPED, f"Outhaul agent {RELEASE} stopped in order.")
        return 0

    async def _live(self) -> None:
        from agent.app import serve
        from agent.service.readiness import wait_until_ready

        stop = asyncio.Event()
        self._wish.stops(stop)
        steps = asyncio.create_task(self._take_steps(), name="tell the service manager")
        try:
            loaded = await wait_until_ready(self.config, stop, _tell_wait)
            if loaded is not None:
                _go_to_own_folder(loaded)
                await serve(loaded, stop, self._manager)
        finally:
            steps.cancel()

    async def _take_steps(self) -> None:
        """Ask the manager for time while a stop takes some; as long as the loop lives, and no longer."""
        while True:
            await asyncio.sleep(STEP_S)
            self._manager.step()


def _tell_wait(why: str) -> None:
    windows_events.report(windows_events.Event.WAITS, f"The agent waits. {why}")


def _tell_failure(exc: BaseException) -> None:
    import logging
    import traceback

    from agent.discretion import hushed

    logging.getLogger(__name__).critical("the service failed", exc_info=exc, extra={"event": "service_failed"})
    told = hushed("".join(traceback.format_exception_only(exc))).strip()
    windows_events.report(
        windows_events.Event.FAILED, f"The agent failed, and is started again. {told}\nMore stands in logs\\agent.log."
    )


def _go_to_own_folder(loaded: Loaded) -> None:
    from agent.app import state_dir

    with contextlib.suppress(OSError):
        os.chdir(state_dir(loaded))


def _write_to(log: Path) -> str:
    """Have all that is said go to a file; return what went wrong."""
    try:
        stream: io.TextIOBase = LogStream(log)
        problem = ""
    except OSError as exc:
        stream, problem = io.StringIO(), f"{log}: can't be written: {exc.strerror}"
    sys.stdout = sys.stderr = stream
    return problem


def main(words: Sequence[str]) -> NoReturn:
    """Be the service; ``words`` are those after ``service host``."""
    if len(words) != 2 or words[0] != "--config":
        sys.exit("outhaul-agent: the service manager starts this; use: outhaul-agent service start")
    before = sys.stdout, sys.stderr
    Host.config = Path(words[1])
    # First of all: a service has no standard output, and what writes there would end it.
    problem = _write_to(Host.config.parent / "logs" / "agent.log")
    # The working folder of a service is the system's.
    with contextlib.suppress(OSError):
        os.chdir(Host.config.parent)
    if problem:
        windows_events.report(windows_events.Event.WAITS, f"The agent has no log. {problem}")
    try:
        servicemanager.Initialize()
        servicemanager.PrepareToHostSingle(Host)
        cast("Callable[[], None]", servicemanager.StartServiceCtrlDispatcher)()
    except pywintypes.error as exc:
        if exc.winerror != _NOT_BY_THE_MANAGER:
            raise
        sys.stdout, sys.stderr = before
        sys.exit("outhaul-agent: the service manager starts this; use: outhaul-agent service start")
    sys.exit(0)
