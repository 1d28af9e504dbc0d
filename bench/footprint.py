"""
What an idle agent takes: on the disk, to be connected, in memory; beside another agent that dials out, Salt's minion.

The frozen program is measured, as it is installed. The peer is installed from PyPI into ``.dev/peers`` when it is
first wanted, with a master of its own on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.figures import Figure, Goal, Lab
from bench.peers import installed
from config.dev import processes
from config.dev.databases import free_port
from config.dev.demo.pair import TENANT, Pair
from config.dev.demo.programs import must
from installer.cached import frozen
from protocol import limits

PEER: Final = "salt==3008.3"
CONNECT_S: Final = 120.0  # seconds that a start may take before something is wrong
STOP_S: Final = 20.0
SETTLE_S: Final = 3.0
WORK_S: Final = 60.0  # seconds that a command, and the end of an idle driver, may take before something is wrong
BEATS: Final = 3  # heartbeats for which an idle agent is watched
# Beats go both ways each 20 s, and with each the agent writes down how it is: a handful of threads wait once for each.
BEAT_SWITCHES: Final = 60
IDLE_S: Final = 2  # as in the operator's file
AGENT: Final = "small"

_OURS_READY: Final = "welcomed as"
_PEERS_READY: Final = "Minion is ready to receive requests"
_OPERATOR_FILE: Final = """
agent = "small"
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
format = { type = "csv" }
"""
_MASTER: Final = """
interface: 127.0.0.1
publish_port: {publish}
ret_port: {answers}
root_dir: {folder}
auto_accept: True
"""
_MINION: Final = """
master: 127.0.0.1
publish_port: {publish}
master_port: {answers}
root_dir: {folder}
id: small
"""


@dataclass(frozen=True, slots=True)
class Footprint:
    """
    Of one agent, all its processes together.

    Attributes:
        disk_mib: all that is installed for it.
        starts_ms: from the start of the program to a link that its other end has accepted, each time.
        resident_mib: when idle, shared pages counted once for each process.
        processes: how many.
        switches: how often a minute one of its threads had waited and was woken, when idle.
    """

    disk_mib: float
    starts_ms: Sequence[float]
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
    """Return what an idle agent takes; beside its peer, which takes minutes to install, where there is time."""
    agent, worked = ours(lab.running, lab.folder, 1 if lab.short else 5, 2.0 if lab.short else BEATS * limits.BEAT_S)
    minion = None if lab.short else peer(lab.folder, 3, 10.0)

    def figure(name: str, unit: str, found: Callable[[Footprint], Sequence[float]], goal: Goal | None) -> Figure:
        beside = () if minion is None else found(minion)
        # The goals are ours alone: the peer is shown beside them, and judges nothing.
        return Figure(f"idle agent: {name}", unit, found(agent), (), _shown(beside), goal)

    return [
        figure("on the disk", "MiB", lambda one: [one.disk_mib], Goal("at most", 60)),
        figure("start to connected", "ms", lambda one: one.starts_ms, Goal("at most", 300)),
        figure("resident", "MiB", lambda one: [one.resident_mib], Goal("at most", 40)),
        figure("processes", "", lambda one: [one.processes], Goal("at most", 1)),
        figure("woken, its beats included", "1/min", lambda one: [one.switches], Goal("at most", BEAT_SWITCHES)),
        Figure("after commands: one driver process", "MiB", [worked.driver_mib], goal=Goal("at most", 30)),
        Figure("after commands: agent without drivers", "MiB", [worked.resident_mib], goal=Goal("at most", 40)),
        Figure("after commands: driver gone", "s", [worked.gone_s], goal=Goal("at most", IDLE_S + 1)),
    ]


def _shown(beside: Sequence[float]) -> str:
    return f"{PEER}: {statistics.median(beside):,.0f}" if beside else ""


def ours(running: Pair, folder: Path, starts: int, idle_s: float) -> tuple[Footprint, Worked]:
    """Measure the frozen agent at the broker of the benchmarks."""
    program = frozen()
    config = ("--config", str(running.folder / "broker" / "broker.toml"))
    words = ["outhaul-broker", "token", "create", "--tenant", TENANT, "--agent", AGENT, *config, "--json"]
    token = str(json.loads(must(words))["token"])
    file = folder / AGENT / "agent.toml"
    (file.parent / "edi").mkdir(parents=True)
    file.write_text(_OPERATOR_FILE, "utf-8")
    command = [str(program / "outhaul-agent")]
    must([*command, "enroll", "--token", "-", "--config", str(file)], stdin=f"{token}\n")
    command += ["run", "--config", str(file)]
    idle = _measured("outhaul-agent", program, command, folder, _OURS_READY, starts, idle_s)
    with _running(command, folder / "worked.log", _OURS_READY) as process:
        worked = _worked(running, process.pid)
    return idle, worked


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


def peer(folder: Path, starts: int, idle_s: float) -> Footprint:
    """Measure Salt's minion at a master of its own."""
    place = installed(PEER)
    ports = {"publish": free_port(), "answers": free_port()}
    for name, text in (("master", _MASTER), ("minion", _MINION)):
        (folder / name).mkdir()
        (folder / name / name).write_text(text.format(folder=folder / name, **ports))
    minion = [str(place / "bin" / "salt-minion"), "-c", str(folder / "minion"), "-l", "info"]
    with _started([str(place / "bin" / "salt-master"), "-c", str(folder / "master"), "-l", "info"], folder / "m.log"):
        return _measured("salt-minion", place, minion, folder, _PEERS_READY, starts, idle_s)


def _measured(
    name: str, installed: Path, words: Sequence[str], folder: Path, ready: str, starts: int, idle_s: float
) -> Footprint:
    times = []
    for number in range(starts):
        began = time.perf_counter()
        with _running(words, folder / f"{name}-{number}.log", ready) as process:
            times.append(1000 * (time.perf_counter() - began))
            if number == starts - 1:
                time.sleep(SETTLE_S)  # what a start leaves to be done
                family = [process.pid, *processes.descendants(process.pid)]
                before = sum(map(_switches, family))
                time.sleep(idle_s)  # idle is what is measured
                switches = (sum(map(_switches, family)) - before) * 60 / idle_s
                resident = sum(map(_resident, family))
    return Footprint(_disk(installed), times, resident, len(family), switches)


@contextlib.contextmanager
def _running(words: Sequence[str], log: Path, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start an agent, and wait until its log says that it is ready."""
    deadline = time.monotonic() + CONNECT_S
    with _started(words, log) as process:
        while ready not in log.read_text("utf-8", errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{words[0]} is not connected; its log:\n{log.read_text('utf-8')[-2000:]}")
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
