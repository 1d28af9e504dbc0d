"""
What an idle agent takes: on the disk, to be connected, in memory; beside another agent that dials out, Buildbot's.

The frozen program is measured, as it is installed. Of the time to be connected, the link's own is told apart: what a
client that has all it needs in memory takes to dial the same broker and to have its greeting answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from websockets import Subprotocol
from websockets.asyncio.client import connect

from agent import config_file
from agent.identity import held, own_identity
from agent.secrets import open_store
from bench import buildbot
from bench.figures import Figure, Goal, Lab
from bench.links import TICKS
from bench.peers import PeerMissing
from config.dev import processes
from config.dev.demo.pair import TENANT, Pair
from config.dev.demo.programs import must
from installer.cached import frozen
from protocol import codec, limits
from protocol.codec import Record
from protocol.messages import Hello, Limits

CONNECT_S: Final = 120.0  # seconds that a start may take before something is wrong
STOP_S: Final = 20.0
SETTLE_S: Final = 3.0
WORK_S: Final = 60.0  # seconds that a command, and the end of an idle driver, may take before something is wrong
BEATS: Final = 3  # heartbeats for which an idle agent is watched
# Beats go both ways each 20 s, and with each the agent writes down how it is: a handful of threads wait once for each.
BEAT_SWITCHES: Final = 60
IDLE_S: Final = 2  # as in the operator's file
AGENT: Final = "small"
BARE: Final = "bare"

_READY: Final = "welcomed as"
_OPERATOR_FILE: Final = """
agent = "{agent}"
state_dir = "state"
link.proxy = "none"
connections.probe.type = "synthetic"
[connections.edi]
type = "file"
root = "edi"
idle = "2s"
[operations.echo]
connection = "probe"
synthetic = "echo"
[operations.look]
connection = "edi"
pick = "*.csv"
format = {{ type = "csv" }}
"""


@dataclass(frozen=True, slots=True)
class Footprint:
    """
    Of one agent, all its processes together.

    Attributes:
        disk_mib: all that is installed for it.
        starts_ms: from the start of the program to a link that its other end has accepted, each time.
        busy_ms: of the processor, all processes together, until then.
        links_ms: the link's own part of that, each time; empty where it is not known.
        resident_mib: when idle, shared pages counted once for each process.
        processes: how many.
        switches: how often a minute one of its threads had waited and was woken, when idle.
    """

    disk_mib: float
    starts_ms: Sequence[float]
    busy_ms: Sequence[float]
    links_ms: Sequence[float]
    resident_mib: float
    processes: int
    switches: float


@dataclass(frozen=True, slots=True)
class Worked:
    """
    An agent that has run commands.

    Attributes:
        driver_mib: what one driver process has resident.
        resident_mib: what the agent has, once its drivers are gone.
        gone_s: seconds from the end of the last command until the driver was gone; the file says ``IDLE_S``.
    """

    driver_mib: float
    resident_mib: float
    gone_s: float


def measure(lab: Lab) -> list[Figure]:
    """Return what an idle agent takes; beside its peer, where there is time."""
    agent, worked = ours(lab.running, lab.folder, 1 if lab.short else 5, 2.0 if lab.short else BEATS * limits.BEAT_S)
    worker = None if lab.short else peer(lab, 3, 10.0)

    def figure(name: str, unit: str, found: Callable[[Footprint], Sequence[float]], most: float | None) -> Figure:
        # The goals are ours alone: the peer is shown beside them, and judges nothing.
        goal = None if most is None else Goal("at most", most, of_ours=True)
        beside = "" if lab.short else buildbot.WORKER.replace("==", " ")
        return Figure(f"idle agent: {name}", unit, found(agent), found(worker) if worker else (), beside, goal)

    beyond = [start - link for start, link in zip(agent.starts_ms, agent.links_ms, strict=True)]
    return [
        figure("on the disk", "MiB", lambda one: [one.disk_mib], 60),
        figure("start to connected", "ms", lambda one: one.starts_ms, None),
        Figure("idle agent: the link's own part of it", "ms", agent.links_ms),
        Figure("idle agent: start to connected, without it", "ms", beyond, goal=Goal("at most", 300)),
        figure("start to connected, processor of all processes", "ms", lambda one: one.busy_ms, None),
        figure("resident", "MiB", lambda one: [one.resident_mib], 40),
        figure("processes", "", lambda one: [one.processes], 1),
        figure("woken, its beats included", "1/min", lambda one: [one.switches], BEAT_SWITCHES),
        Figure("after commands: one driver process", "MiB", [worked.driver_mib], goal=Goal("at most", 30)),
        Figure("after commands: agent without drivers", "MiB", [worked.resident_mib], goal=Goal("at most", 40)),
        Figure("after commands: driver gone", "s", [worked.gone_s], goal=Goal("at most", IDLE_S + 1)),
    ]


def ours(running: Pair, folder: Path, starts: int, idle_s: float) -> tuple[Footprint, Worked]:
    """Measure the frozen agent at the broker of the benchmarks."""
    program = frozen()
    command = [str(program / "outhaul-agent")]
    file, bare = (_enrolled(running, folder, name, command) for name in (AGENT, BARE))
    command += ["run", "--config", str(file)]
    log = folder / "outhaul-agent.log"
    idle = _measured(program, command, log, _READY, starts, idle_s, lambda: link_ms(bare))
    with _running(command, log, _READY) as process:
        worked = _worked(running, process.pid)
    return idle, worked


def _enrolled(running: Pair, folder: Path, name: str, command: Sequence[str]) -> Path:
    """Return the operator's file of an agent that has a certificate."""
    config = ("--config", str(running.folder / "broker" / "broker.toml"))
    words = ["outhaul-broker", "token", "create", "--tenant", TENANT, "--agent", name, *config, "--json"]
    token = str(json.loads(must(words))["token"])
    file = folder / name / "agent.toml"
    (file.parent / "edi").mkdir(parents=True)
    file.write_text(_OPERATOR_FILE.format(agent=name), "utf-8")
    must([*command, "enroll", "--token", "-", "--config", str(file)], stdin=f"{token}\n")
    return file


def link_ms(file: Path) -> float:
    """Return milliseconds from the dial to the answer to the greeting, of who has all in memory: keys and TLS too."""
    loaded = config_file.load(file)
    who = own_identity.load_any(loaded, open_store(loaded.settings, loaded.base_dir))
    return asyncio.run(_link_ms(who))


async def _link_ms(who: held.Identity) -> float:
    context = held.client_context(who)
    hello = Hello(
        versions=[limits.VERSION],
        release="0.1.0",
        features=[],
        limits=Limits(remembers=limits.REMEMBERS),
        journal=BARE,
        time=time.time(),
        system=BARE,
    )
    began = time.perf_counter()
    dial = connect(
        f"{who.url}/link", ssl=context, subprotocols=[Subprotocol("outhaul.1")], compression=None, proxy=None
    )
    async with dial as link:
        await link.send(codec.encode_all([Record(hello)]))
        await link.recv()
        return 1000 * (time.perf_counter() - began)


def _worked(running: Pair, pid: int) -> Worked:
    with running.caller() as client:
        for operation in ("echo", "look"):
            command = client.call(AGENT, operation, wait_s=WORK_S)
            if command.state != "succeeded":
                raise RuntimeError(f"{operation} is {command.state}")
    ended = time.monotonic()
    driver_mib = max(map(_resident, processes.descendants(pid)))
    while processes.descendants(pid):
        if time.monotonic() - ended > WORK_S:
            raise RuntimeError(f"a driver process is there {WORK_S:.0f} s after its last command")
        time.sleep(0.05)  # between two looks at the list of processes
    return Worked(driver_mib, _resident(pid), time.monotonic() - ended)


def peer(lab: Lab, starts: int, idle_s: float) -> Footprint | None:
    """Measure Buildbot's worker at a master of its own; ``None`` where it can't be installed."""
    folder = lab.folder / "buildbot"
    folder.mkdir()
    try:
        with buildbot.master(folder) as (place, words, log):
            return _measured(place, words, log, buildbot.READY, starts, idle_s)
    except PeerMissing as exc:
        lab.missing.append(str(exc))
        return None


def _measured(
    place: Path,
    words: Sequence[str],
    log: Path,
    ready: str,
    starts: int,
    idle_s: float,
    link: Callable[[], float] | None = None,
) -> Footprint:
    times, busy, links = [], [], []
    for number in range(starts):
        began = time.perf_counter()
        with _running(words, log, ready) as process:
            times.append(1000 * (time.perf_counter() - began))
            family = [process.pid, *processes.descendants(process.pid)]
            busy.append(1000 * sum(map(_busy_s, family)))
            if number == starts - 1:
                time.sleep(SETTLE_S)  # what a start leaves to be done
                family = [process.pid, *processes.descendants(process.pid)]
                before = sum(map(_switches, family))
                time.sleep(idle_s)  # idle is what is measured
                switches = (sum(map(_switches, family)) - before) * 60 / idle_s
                resident = sum(map(_resident, family))
        if link is not None:
            links.append(link())
    return Footprint(_disk(place), times, busy, links, resident, len(family), switches)


@contextlib.contextmanager
def _running(words: Sequence[str], log: Path, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start an agent, and wait until its log, which may also be what it says, tells that it is ready."""
    deadline = time.monotonic() + CONNECT_S
    with _started(words, log) as process:
        while ready not in (said := log.read_text("utf-8", errors="replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{words[0]} is not connected; its log:\n{said[-2000:]}")
            time.sleep(0.002)  # between two looks at its log
        yield process


@contextlib.contextmanager
def _started(words: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        children = processes.descendants(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        for pid in processes.still_there([process.pid, *children]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _disk(folder: Path) -> float:
    """Return what all files of a folder take, in MiB; a file with two names once."""
    found = {path.lstat().st_ino: path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()}
    return sum(found.values()) / 2**20


def _busy_s(pid: int) -> float:
    """Return the processor's time of a process and of those that it started and that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def _resident(pid: int) -> float:
    return _kib(Path(f"/proc/{pid}/status").read_text(), "VmRSS") / 1024


def _switches(pid: int) -> int:
    """Return how often the threads of a process have waited for something and gone on."""
    found = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        lines = (thread / "status").read_text().splitlines()
        found += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))
    return found


def _kib(text: str, key: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key}:"))
