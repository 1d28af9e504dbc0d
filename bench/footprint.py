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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.figures import Figure, Lab
from bench.peers import installed
from config.dev.databases import free_port
from config.dev.demo import processes
from config.dev.demo.pair import TENANT, Pair
from config.dev.demo.programs import must
from installer.cached import frozen

PEER: Final = "salt==3008.5"
CONNECT_S: Final = 120.0  # seconds that a start may take before something is wrong
STOP_S: Final = 20.0

_OURS_READY: Final = "welcomed as"
_PEERS_READY: Final = "Minion is ready to receive requests"
_OPERATOR_FILE: Final = """
agent = "small"
state_dir = "state"
link.proxy = "none"
connections.probe.type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
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
        start_ms: median, from the start of the program to a link that its other end has accepted.
        resident_mib: when idle, shared pages counted once for each process.
        own_mib: the same, without what is shared with files and others; ``None`` where the system does not tell.
        processes: how many.
    """

    name: str
    disk_mib: float
    start_ms: float
    resident_mib: float
    own_mib: float | None
    processes: int


def measure(lab: Lab) -> list[Figure]:
    """Return what an idle agent takes; beside its peer, which takes minutes to install, where there is time."""
    agent = ours(lab.running, lab.folder, 1 if lab.short else 5, 1.0 if lab.short else 10.0)
    minion = None if lab.short else peer(lab.folder, 3, 10.0)
    return [
        Figure(
            f"idle agent: {name}",
            unit,
            [getattr(agent, field)],
            [] if minion is None else [getattr(minion, field)],
            "" if minion is None else PEER,
            goal,
        )
        for name, unit, field, goal in (
            ("on the disk", "MiB", "disk_mib", None),
            ("start to connected", "ms", "start_ms", None),
            ("resident", "MiB", "resident_mib", None),
            ("processes", "", "processes", None),
        )
    ]


def ours(running: Pair, folder: Path, starts: int, idle_s: float) -> Footprint:
    """Measure the frozen agent at the broker of the benchmarks."""
    program = frozen()
    config = ("--config", str(running.folder / "broker" / "broker.toml"))
    words = ["outhaul-broker", "token", "create", "--tenant", TENANT, "--agent", "small", *config, "--json"]
    token = str(json.loads(must(words))["token"])
    file = folder / "small" / "agent.toml"
    file.parent.mkdir()
    file.write_text(_OPERATOR_FILE, "utf-8")
    command = [str(program / "outhaul-agent")]
    must([*command, "enroll", "--token", "-", "--config", str(file)], stdin=f"{token}\n")
    return _measured(
        "outhaul-agent", program, [*command, "run", "--config", str(file)], folder, _OURS_READY, starts, idle_s
    )


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
        log = folder / f"{name}-{number}.log"
        began = time.perf_counter()
        with _started(words, log) as process:
            while ready not in log.read_text("utf-8", errors="replace"):
                if process.poll() is not None or time.perf_counter() - began > CONNECT_S:
                    raise RuntimeError(f"{name} is not connected; its log:\n{log.read_text('utf-8')[-2000:]}")
                time.sleep(0.002)  # between two looks at its log
            times.append(time.perf_counter() - began)
            if number == starts - 1:
                time.sleep(idle_s)  # idle is what is measured
                family = [process.pid, *processes.descendants(process.pid)]
                resident, own = sum(map(_resident, family)), _own(family)
    return Footprint(name, _disk(installed), 1000 * statistics.median(times), resident, own, len(family))


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


def _own(family: Sequence[int]) -> float | None:
    try:
        return sum(_kib(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Private_Dirty") for pid in family) / 1024
    except PermissionError:  # the agent lets nobody but root look into its memory
        return None


def _kib(text: str, key: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key}:"))
