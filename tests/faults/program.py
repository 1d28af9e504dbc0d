"""
One of our programs, with the lab's points around its methods and the lab's timers.

    python -m tests.faults.program FOLDER agent run --config agent.toml

The file ``FOLDER/armed`` may say what is to happen where (``Arming``); it is read again whenever it changes. What did
happen is told in ``FOLDER/fired``, a line each.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from tests.faults.points import POINTS, RENEWAL, TIMERS, WRITES, Point, Program

ROOT: Final = Path(__file__).parents[2]
ANY: Final = "*"
MODULES: Final[dict[Program, str]] = {
    "agent": "agent.app",
    "worker": "agent.connectors.worker",
    "broker": "cloud_broker.app",
}
PROGRAMS: Final[dict[Program, str]] = {"agent": "agent", "worker": "agent.connectors.worker", "broker": "cloud_broker"}


@dataclass(frozen=True, slots=True)
class Arming:
    """
    What is to happen where.

    Attributes:
        point: name of the point; ``*`` for all.
        hit: at which passing of it, counted by each process from 1.
        action: ``kill`` the process; ``orphan``: kill the agent and let its driver go on; ``fail``: raise ``errno``
            for some seconds; ``cut`` all its connections; ``raise`` what ``error`` names; ``note``: tell only that it
            was passed.
        errno: for ``fail``.
        seconds: for ``fail``.
        error: for ``raise``: ``module:Class`` of an error.
        arguments: for ``raise``: what it takes.
        about: a text that must stand in an argument of what is called, such as a tenant's name; "" for any.
    """

    point: str
    hit: int = 1
    action: Literal["kill", "orphan", "fail", "cut", "raise", "note"] = "kill"
    errno: int = 0
    seconds: float = 0.0
    error: str = ""
    arguments: tuple[str, ...] = ()
    about: str = ""


def arm(folder: Path, arming: Arming | None) -> None:
    """Let something happen from now on; ``None`` for nothing."""
    armed = folder / "armed"
    if arming is None:
        armed.unlink(missing_ok=True)
        return
    written = armed.with_suffix(".new")
    written.write_text(json.dumps(asdict(arming)))
    written.replace(armed)


def fired(folder: Path) -> list[str]:
    """Return the points at which something happened, in order."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / "fired").read_text().split()
    return []


class Lab:
    """The points of one process."""

    def __init__(self, folder: Path, program: Program) -> None:
        self._folder = folder
        self._program = program
        self._read: tuple[int, int] = (0, 0)
        self._arming: Arming | None = None
        self._passed = 0
        self._failing_since = 0.0
        self._noted: set[str] = set()

    def passes(self, place: Point, arguments: tuple[Any, ...] = ()) -> None:
        """
        A point is passed.

        Raises:
            OSError: a write is to fail there.
            Exception: that which is to be raised there.
        """
        arming = self._armed()
        if arming is None or arming.point not in (place.name, ANY):
            return
        if arming.about and not any(arming.about in repr(argument) for argument in arguments):
            return
        self._passed += 1
        if arming.action == "note":
            if place.name not in self._noted:
                self._noted.add(place.name)
                self._tell(place.name)
        elif arming.action == "fail":
            self._fail(arming, place)
        elif self._passed == arming.hit and self._claim():
            self._tell(place.name)
            if arming.action == "cut":
                return cut_connections()
            if arming.action == "raise":
                module, _, name = arming.error.partition(":")
                raise getattr(importlib.import_module(module), name)(*arming.arguments)
            os.kill(os.getppid() if arming.action == "orphan" else os.getpid(), signal.SIGKILL)

    def _claim(self) -> bool:
        """Whether this process is the one that dies: the next driver process must not die of the same."""
        try:
            os.unlink(self._folder / "armed")
        except FileNotFoundError:
            return False
        return True

    def _fail(self, arming: Arming, place: Point) -> None:
        if self._passed < arming.hit:
            return
        if not self._failing_since:
            self._failing_since = time.monotonic()
            self._tell(place.name)
        if time.monotonic() < self._failing_since + arming.seconds:
            raise OSError(arming.errno, os.strerror(arming.errno))

    def _armed(self) -> Arming | None:
        try:
            found = os.stat(self._folder / "armed")
        except FileNotFoundError:
            self._arming, self._read = None, (0, 0)
            return None
        if (found.st_ino, found.st_mtime_ns) != self._read:
            self._read = (found.st_ino, found.st_mtime_ns)
            with contextlib.suppress(FileNotFoundError):
                self._arming = Arming(**json.loads((self._folder / "armed").read_text()))
            self._passed, self._failing_since = 0, 0.0
        return self._arming

    def _tell(self, name: str) -> None:
        descriptor = os.open(self._folder / "fired", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # Not os.write, which may be a point itself.
        with os.fdopen(descriptor, "ab") as file:
            file.write(f"{name}\n".encode())


def cut_connections() -> None:
    """End all TCP connections of this process, as a line does that is cut."""
    for entry in os.scandir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                continue  # a copy of a file that is locked would keep the lock
            with socket.socket(fileno=os.dup(int(entry.name))) as found:
                _cut(found)


def _cut(found: socket.socket) -> None:
    if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
        found.getpeername()  # raises for one that listens
        found.shutdown(socket.SHUT_RDWR)


def around(lab: Lab, method: Callable[..., Any], points: list[Point]) -> Callable[..., Any]:
    """Return ``method`` with the lab told before and after it."""

    def pass_all(after: bool, arguments: tuple[Any, ...]) -> None:
        for place in points:
            if place.after is after and (not place.kind or any(type(a).__name__ == place.kind for a in arguments)):
                lab.passes(place, arguments)

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        pass_all(False, args)
        result = method(*args, **kwargs)
        pass_all(True, args)
        return result

    @functools.wraps(method)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        pass_all(False, args)
        result = await method(*args, **kwargs)
        pass_all(True, args)
        return result

    return awaited if inspect.iscoroutinefunction(method) else called


def places(target: str) -> Iterator[tuple[Any, str]]:
    """
    Yield what holds the method or function of a target, and its name there.

    Raises:
        AttributeError, ImportError: there is no such thing.
    """
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    method = getattr(owner, name)
    if getattr(method, "__isabstractmethod__", False):
        yield from ((found, name) for found in _implementations(owner) if name in vars(found))
    else:
        yield owner, name


def _implementations(base: type) -> Iterator[type]:
    children: list[type] = base.__subclasses__()
    for child in children:
        yield child
        yield from _implementations(child)


def install(lab: Lab, program: Program) -> None:
    """Put the points of one program around its methods."""
    by_target: dict[str, list[Point]] = {}
    for place in (*POINTS, *WRITES, *RENEWAL):
        # Of a driver process's points only those of the driver that it has.
        if place.program == program and (program != "worker" or place.target.partition(":")[0] in sys.modules):
            by_target.setdefault(place.target, []).append(place)
    for target, points in by_target.items():
        for owner, name in places(target):
            method = getattr(owner, name)
            if not hasattr(method, "__wrapped__"):
                setattr(owner, name, around(lab, method, points))


def set_timers(program: Program) -> None:
    """Put the lab's timers in place: the protocol's before anybody reads them."""
    for name, seconds in TIMERS.items():
        module, _, attribute = name.partition(":")
        if module.split(".")[0] in ("protocol", MODULES[program].split(".")[0]):
            found = importlib.import_module(module)
            setattr(found, attribute, seconds)


def main() -> NoReturn:
    """Run a program."""
    folder = Path(sys.argv[1])
    program = next(name for name in MODULES if name == sys.argv[2])
    set_timers(program)
    module: Any = importlib.import_module(MODULES[program])
    lab = Lab(folder, program)
    if program == "agent":
        # Driver processes run in the folder of the operator's file, where nobody finds the tests.
        os.environ["PYTHONPATH"] = str(ROOT)
        sessions: Any = importlib.import_module("agent.connectors.sessions")
        sessions.worker_command = lambda: [sys.executable, "-P", "-m", "tests.faults.program", str(folder), "worker"]
    if program == "worker":
        # A driver process loads one driver only, and that after it was told which.
        load = module.load

        def load_and_install(name: str) -> Any:
            driver = load(name)
            install(lab, program)
            return driver

        module.load = load_and_install
    else:
        install(lab, program)
    sys.argv = [f"outhaul-{program}", *sys.argv[3:]]
    importlib.import_module(PROGRAMS[program]).main()
    sys.exit(0)


if __name__ == "__main__":
    main()
