"""The matrix: every place with every fault that can happen there, each a combination with a number and a name."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from tests.faults.erp import System
from tests.faults.points import POINTS, WRITES
from tests.faults.program import Arming
from tests.faults.proxy import Direction, Toxics

ALL: Final[tuple[System, ...]] = ("postgres", "mariadb", "files", "soap")
Victim = Literal["agent", "broker", "driver"]


@dataclass(frozen=True, slots=True)
class AtPoint:
    """
    Something happens at a named point of a program.

    Attributes:
        first: what must have happened before, so that the point is passed at all.
    """

    arming: Arming
    first: Arming | None = None

    @property
    def name(self) -> str:
        what = f"{self.arming.action} {errno.errorcode.get(self.arming.errno, '')}".strip()
        after = f", after {self.first.point}, passing {self.first.hit}" if self.first is not None else ""
        return f"{what} at {self.arming.point}, passing {self.arming.hit}{after}"


@dataclass(frozen=True, slots=True)
class OnTheWire:
    """
    A connection is treated badly for a while.

    Attributes:
        link: ``broker`` for that between agent and broker, else the system behind the agent.
        directions: what is treated so.
        at_s: seconds after the work began.
        for_s: how long.
    """

    link: Literal["broker"] | System
    what: str
    directions: tuple[Direction, ...]
    toxics: Toxics
    at_s: float
    for_s: float

    @property
    def name(self) -> str:
        return f"{self.link}: {self.what} {' and '.join(self.directions)} after {self.at_s:g} s"


@dataclass(frozen=True, slots=True)
class Cut:
    """All connections of a link are ended, several times if it takes long."""

    link: Literal["broker"] | System
    reset: bool
    at_s: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.link}: {'reset' if self.reset else 'cut'} after {', '.join(f'{at:g}' for at in self.at_s)} s"


@dataclass(frozen=True, slots=True)
class LostAnswer:
    """
    The answer to a request is lost; the request itself got through, or not.

    Attributes:
        operation: whose request it is; nothing else is done in that system meanwhile.
        held_s: instead: seconds that the request is on its way, longer than anybody waits for it.
    """

    link: System
    request: re.Pattern[bytes]
    operation: str
    passed: bool = True
    held_s: float = 0.0

    @property
    def name(self) -> str:
        word = "COMMIT" if self.request is COMMIT else "request"
        if self.held_s:
            return f"{self.operation}: its {word} under way for {self.held_s:g} s"
        return (
            f"{self.operation}: the answer to its {word} lost, which {'came through' if self.passed else 'never came'}"
        )


@dataclass(frozen=True, slots=True)
class Signalled:
    """A process gets a signal; a stopped one goes on after a while."""

    victim: Victim
    number: signal.Signals
    at_s: float
    for_s: float = 0.0

    @property
    def name(self) -> str:
        lasts = f" for {self.for_s:g} s" if self.for_s else ""
        return f"{self.number.name} to the {self.victim} after {self.at_s:g} s{lasts}"


@dataclass(frozen=True, slots=True)
class Restarted:
    """A database server crashes and comes back."""

    system: System
    at_s: float

    @property
    def name(self) -> str:
        return f"{self.system}: the server crashes after {self.at_s:g} s"


@dataclass(frozen=True, slots=True)
class ClockJump:
    """A program's clock is put ahead or back while it runs."""

    program: Literal["agent", "broker"]
    seconds: int

    @property
    def name(self) -> str:
        return f"the {self.program}'s clock jumps by {self.seconds:+d} s"


@dataclass(frozen=True, slots=True)
class Damaged:
    """
    The agent is killed, and one bit of its journal is another one when it comes back.

    Attributes:
        place: where, as a part of the newest file that has anything in it.
    """

    place: float
    at_s: float

    @property
    def name(self) -> str:
        return f"a bit flips at {self.place:.0%} of the journal, the agent being killed after {self.at_s:g} s"


Fault = AtPoint | OnTheWire | Cut | LostAnswer | Signalled | Restarted | ClockJump | Damaged


@dataclass(frozen=True, slots=True)
class Combination:
    """
    One place and one fault.

    Attributes:
        number: by which it is run again, alone.
        systems: which must be worked on for it to matter.
    """

    number: int
    fault: Fault
    systems: tuple[System, ...]


NEEDS: Final[dict[str, tuple[System, ...]]] = {
    "worker.commit": ("postgres", "mariadb"),
    "worker.appear": ("files",),
    "worker.post": ("soap",),
    "agent.settle": ("files",),
    "agent.keep_rows": ("postgres", "mariadb"),
    "broker.cancel": ("postgres",),
    "broker.chunk": ("postgres",),
}
# The COMMIT of an order, and not that of a driver that sets its session up, nor its `SET AUTOCOMMIT`.
ORDER: Final = re.compile(b"place_order")
COMMIT: Final = re.compile(rb"(?i)(?<![A-Z_])COMMIT")
COMMITTING: Final[dict[System, tuple[str, ...]]] = {
    "postgres": ("pg-once", "pg-rows-once", "pg-verified", "pg-maybe"),
    "mariadb": ("my-once", "my-rows-once", "my-maybe"),
}
ENVELOPE: Final = re.compile(rb"(?i)<(?:\w+:)?PostInvoice")
MOMENTS: Final = (0.05, 0.3, 0.8)


def all_combinations() -> list[Combination]:
    """Return the matrix."""
    faults = [
        *_at_points(),
        *_on_the_link(),
        *_behind_the_agent(),
        *_to_processes(),
        *(Damaged(place, at_s) for place in (0.0, 0.3, 0.7, 0.99) for at_s in (0.3, 0.8)),
        *(ClockJump(program, jump) for program in ("agent", "broker") for jump in (3_600, -3_600, 86_400, -60)),
    ]
    return [Combination(number, fault, _systems(fault)) for number, fault in enumerate(faults, 1)]


def _systems(fault: Fault) -> tuple[System, ...]:
    if isinstance(fault, AtPoint):
        return next((needs for start, needs in NEEDS.items() if fault.arming.point.startswith(start)), ALL)
    if isinstance(fault, Restarted):
        return (fault.system,)
    if isinstance(fault, OnTheWire | Cut | LostAnswer) and fault.link != "broker":
        return (fault.link,)
    return ALL


def _at_points() -> Iterator[Fault]:
    for point in POINTS:
        if point.first:
            yield AtPoint(Arming(point.name), Arming(point.first))
            yield AtPoint(Arming(point.name), Arming(point.first, 3))
            continue
        # A driver's process may not live for more: each counts for itself.
        for hit in (1, 2) if point.program == "worker" else (1, 4):
            yield AtPoint(Arming(point.name, hit))
        if point.program == "worker":
            # The agent dies, and its driver may get on for a moment without it.
            yield AtPoint(Arming(point.name, 1, "orphan"))
    for point in WRITES:
        for number in (errno.ENOSPC, errno.EIO):
            yield AtPoint(Arming(point.name, 3, "fail", number, 0.7))


def _on_the_link() -> Iterator[Fault]:
    for directions in (("up",), ("down",), ("up", "down")):
        ways: tuple[Direction, ...] = tuple("up" if way == "up" else "down" for way in directions)
        for at_s in MOMENTS[:2]:
            # Longer than the silence after which both sides give a link up.
            yield OnTheWire("broker", "frozen", ways, Toxics(frozen=True), at_s, 2.2)
        yield OnTheWire("broker", "frozen for a moment", ways, Toxics(frozen=True), 0.1, 0.5)
        yield OnTheWire("broker", "swallowed, then cut", ways, Toxics(swallowed=True), 0.15, 0.4)
        yield OnTheWire("broker", "in slices of a byte", ways, Toxics(slice_bytes=1), 0.0, 1.0)
        yield OnTheWire("broker", "late", ways, Toxics(latency_s=0.05, jitter_s=0.1), 0.0, 2.0)
        yield OnTheWire("broker", "8 KiB/s", ways, Toxics(bytes_per_s=8_192, slice_bytes=512), 0.0, 2.0)
    for count in (0, 1, 200, 1_500, 6_000, 20_000, 100_000, 300_000):
        yield OnTheWire("broker", f"cut after {count} bytes", ("up",), Toxics(cut_after=count), 0.0, 1.0)
    for count in (0, 1, 200, 1_500, 6_000):
        yield OnTheWire(
            "broker", f"reset after {count} bytes", ("down",), Toxics(cut_after=count, how="reset"), 0.0, 1.0
        )
    for way in ("up", "down"):
        one: tuple[Direction, ...] = ("up",) if way == "up" else ("down",)
        yield OnTheWire("broker", "half closed after 1000 bytes", one, Toxics(cut_after=1_000, how="half"), 0.0, 1.0)
    for reset in (False, True):
        for at_s in MOMENTS:
            yield Cut("broker", reset, (at_s,))
        yield Cut("broker", reset, (0.1, 0.4, 0.7, 1.0, 1.3))


def _behind_the_agent() -> Iterator[Fault]:
    databases: tuple[System, ...] = ("postgres", "mariadb")
    for system in databases:
        for operation in COMMITTING[system]:
            for passed in (True, False):
                yield LostAnswer(system, COMMIT, operation, passed)
            # Long after its session was given up for lost.
            yield LostAnswer(system, COMMIT, operation, held_s=9.0)
        for count in (0, 30, 300, 1_000, 3_000, 10_000):
            yield OnTheWire(
                system, f"reset after {count} bytes", ("down",), Toxics(cut_after=count, how="reset"), 0.1, 0.6
            )
        for count in (0, 100, 400, 1_000):
            yield OnTheWire(system, f"cut after {count} bytes", ("up",), Toxics(cut_after=count), 0.1, 0.6)
        for way in ("up", "down"):
            one: tuple[Direction, ...] = ("up",) if way == "up" else ("down",)
            yield OnTheWire(system, "frozen", one, Toxics(frozen=True), 0.2, 1.0)
            yield OnTheWire(system, "in slices of a byte", one, Toxics(slice_bytes=1), 0.0, 1.0)
        yield Cut(system, True, (0.15,))
        yield Cut(system, True, (0.1, 0.3, 0.5, 0.7, 0.9))
        yield Restarted(system, 0.2)
        yield Restarted(system, 0.6)
    for passed in (True, False):
        for operation in ("post-verified", "post-maybe"):
            yield LostAnswer("soap", ENVELOPE, operation, passed)
    for at_s in MOMENTS:
        yield Cut("soap", True, (at_s,))
    yield OnTheWire("soap", "swallowed, then cut", ("down",), Toxics(swallowed=True), 0.1, 0.6)
    yield OnTheWire("soap", "cut after 20 bytes", ("down",), Toxics(cut_after=20), 0.1, 0.6)


def _to_processes() -> Iterator[Fault]:
    victims: tuple[Victim, ...] = ("agent", "broker", "driver")
    for victim in victims:
        for at_s in (*MOMENTS, 1.3):
            yield Signalled(victim, signal.SIGKILL, at_s)
        for for_s in (0.5, 2.5):
            yield Signalled(victim, signal.SIGSTOP, 0.2, for_s)
    for victim in victims[:2]:
        for at_s in (0.02, 0.15, 0.4, 0.8, 1.3):
            yield Signalled(victim, signal.SIGTERM, at_s)
