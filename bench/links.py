"""
Ten thousand agents on one broker: what a link takes, and how fast all are back after a restart.

Beside it a bare websockets server with the same TLS, certificates and event loop, dialled by the same swarm. The agents
of the swarm have certificates of the broker's own authority and stand in its store, as if they had enrolled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.figures import Figure, Goal, Lab, alternated
from bench.swarm import Words
from cloud_broker.client.errors import OuthaulError
from cloud_broker.identity.authorities import Authorities
from cloud_broker.store.agents import Agent
from cloud_broker.store.sqlite import SqliteStore
from cloud_broker.tenants import Scope
from config.dev.databases import HOST, free_port
from config.dev.demo.pair import AGENT, TENANT, Pair, pair

OPERATIONS: Final = 8  # in each agent's catalogue, as an operator's file of some size has them
IDLE_S: Final = 30.0  # seconds in which is looked at what idle links take
BACK_S: Final = 300.0  # seconds in which all must be back
LOOK_S: Final = 0.5  # seconds between two looks at how many are; when they came they tell themselves
CALL_S: Final = 0.1  # seconds between two commands meanwhile
PROCESSES: Final = 2  # of a swarm
TOUCHED_BYTES: Final = 128 * 1024  # for each agent: twice what a link takes
TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100  # of a processor's second in /proc

_FILE: Final = """
agent = "{agent}"
state_dir = "state"
link.proxy = "none"
connections.probe.type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
params.text = {{ type = "string" }}
"""
_OPERATION: Final = """
[operations.rows-{number}]
connection = "probe"
synthetic = "rows"
description = "Rows of chance, as many as one asks for: number {number}."
[operations.rows-{number}.params]
count = {{ type = "integer", min = 0, max = 100000 }}
width = {{ type = "integer", default = {width}, min = 1, max = 64 }}
"""


@dataclass(frozen=True, slots=True)
class Storm:
    """
    How all came back after a restart.

    Attributes:
        rate: links a second, from the first to the last.
        kib: resident memory of the server beyond that without links, for each link.
        busy_ms: milliseconds of processor that the server took for each link meanwhile.
        idle_ms: milliseconds of processor for one link in a minute, once all are there; 0 where it was not looked at.
        echoes_ms: how long each command took meanwhile.
    """

    rate: float
    kib: float
    busy_ms: float
    idle_ms: float = 0.0
    echoes_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Server:
    """
    What is dialled.

    Attributes:
        start: returns its process id once it takes connections.
        stop: ends it without a word.
        beside: what is done while all come back; told to end, it returns what it measured.
        swarms: its own, which stand still while another is measured.
    """

    start: Callable[[], int]
    stop: Callable[[], None]
    beside: Callable[[threading.Event], list[float]]
    swarms: list[subprocess.Popen[str]]

    def empty_mib(self, settle_s: float) -> float:
        """Return what it takes in memory without links."""
        pid = self.start()
        try:
            time.sleep(settle_s)  # idle is what is measured
            return _resident_kib(pid) / 1024
        finally:
            self.stop()

    def storm(self, agents: int, empty_mib: float, *, idle_s: float = 0.0) -> Storm:
        """Start it and let all come in; then it is idle for a while."""
        pid, done = self.start(), threading.Event()
        echoes: list[float] = []
        caller = threading.Thread(target=lambda: echoes.extend(self.beside(done)), name="a caller meanwhile")
        try:
            for swarm in self.swarms:
                swarm.send_signal(signal.SIGCONT)
            caller.start()
            began = _processor_s(pid)
            rate = agents / self._all_back(agents)
            busy_ms = 1000 * (_processor_s(pid) - began) / agents
            done.set()
            caller.join()
            time.sleep(min(idle_s, 5.0))  # what the storm left to do
            before = _processor_s(pid)
            time.sleep(idle_s)
            idle_ms = 1000 * (_processor_s(pid) - before) / agents * 60 / idle_s if idle_s else 0.0
            return Storm(rate, (_resident_kib(pid) - 1024 * empty_mib) / agents, busy_ms, idle_ms, echoes)
        finally:
            done.set()
            for swarm in self.swarms:
                swarm.send_signal(signal.SIGSTOP)
            self.stop()

    def _all_back(self, agents: int) -> float:
        deadline = time.monotonic() + BACK_S
        while True:
            told = [_ask(swarm) for swarm in self.swarms]
            linked = sum(one[0] for one in told)
            if linked == agents:
                return max(one[2] for one in told) - min(one[1] for one in told)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{linked} of {agents} agents are linked after {BACK_S:.0f} s")
            time.sleep(LOOK_S)


def measure(lab: Lab) -> list[Figure]:
    """Return what links take and how fast they are back, and what a broker without any takes."""
    few, many = (20, 20) if lab.short else (2_000, 10_000)
    rounds, settle_s = (1, 0.5) if lab.short else (3, 3.0)
    with _site(lab) as site:
        _enrol(site, site.folder / "swarm", many)
        with _served(site, few, "few") as (ours, bare):
            empty, bare_empty = ours.empty_mib(settle_s), bare.empty_mib(settle_s)
            found = alternated(rounds, lambda: ours.storm(few, empty), lambda: bare.storm(few, bare_empty))
        figures = [
            Figure("a broker without agents: resident", "MiB", [empty], goal=Goal("at most", 100.0)),
            *_figures(few, *found),
        ]
        if lab.short:
            return figures
        _touch(many * TOUCHED_BYTES)
        with _served(site, many, "many") as (ours, bare):
            ours_many = ours.storm(many, empty, idle_s=IDLE_S)
            bare_many = bare.storm(many, bare_empty, idle_s=IDLE_S)
    return [
        *figures,
        *_figures(many, [ours_many], [bare_many]),
        Figure("an idle link in a minute", "ms of processor", [ours_many.idle_ms], [bare_many.idle_ms], _beside()),
    ]


def _touch(size: int) -> None:
    """Use so much memory once: a virtual machine is given it then, which whoever is measured first would wait for."""
    with mmap.mmap(-1, size) as memory:
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1


def _figures(agents: int, ours: list[Storm], bare: list[Storm]) -> list[Figure]:
    name = f"{agents:,} agents"
    echoes = sorted(ms for storm in ours for ms in storm.echoes_ms) or [0.0]
    return [
        Figure(f"each of {name}: resident", "KiB", [one.kib for one in ours], goal=Goal("at most", 72.0)),
        Figure(f"each of {name}: resident, {_beside()}", "KiB", [one.kib for one in bare]),
        Figure(
            f"{name} back after a restart",
            "links/s",
            [one.rate for one in ours],
            [one.rate for one in bare],
            _beside(),
            Goal("at least", 0.8),
        ),
        Figure(
            f"{name} back: the server's processor for each",
            "ms",
            [one.busy_ms for one in ours],
            [one.busy_ms for one in bare],
            _beside(),
        ),
        Figure(f"{name} back: a command meanwhile, p50", "ms", [statistics.median(echoes)]),
        Figure(f"{name} back: a command meanwhile, p99", "ms", [echoes[int(0.99 * (len(echoes) - 1))]]),
    ]


def _beside() -> str:
    return f"websockets {version('websockets')}, uvloop {version('uvloop')}"


# --- the two servers ------------------------------------------------------------------------------


@contextlib.contextmanager
def _site(lab: Lab) -> Iterator[Pair]:
    """Run a broker of our own, for it is killed again and again; and one true agent."""
    file = _FILE.format(agent=AGENT) + "".join(
        _OPERATION.format(number=number, width=8 + number) for number in range(OPERATIONS)
    )
    (lab.folder / "links").mkdir()
    with pair(lab.folder / "links", file, {}, usual_ports=False) as site:
        yield site


@contextlib.contextmanager
def _served(site: Pair, agents: int, name: str) -> Iterator[tuple[Server, Server]]:
    """Stop the broker, and return it and its peer, each with a swarm that waits for it."""
    folder = site.folder
    site.agent.stop()
    site.broker.kill()
    certificates = sorted((folder / "swarm").glob("*.pem"))[:agents]
    with contextlib.ExitStack() as stack:
        bare_port = free_port()
        servers = [
            Server(
                lambda: _start_broker(site),
                lambda: _stop_broker(site),
                lambda done: _echoes(site, done),
                _swarm(stack, site, folder / f"{name}-ours", certificates, site.link_port),
            ),
            _bare(stack, site, bare_port, _swarm(stack, site, folder / f"{name}-bare", certificates, bare_port)),
        ]
        yield servers[0], servers[1]


def _start_broker(site: Pair) -> int:
    site.broker.start()
    site.broker.wait_until(lambda: _listens(site.link_port), "listening")
    site.agent.start()
    site.agent.wait_until(site.online, "linked")
    return site.broker.pid


def _stop_broker(site: Pair) -> None:
    site.agent.stop()
    site.broker.kill()


def _echoes(site: Pair, done: threading.Event) -> list[float]:
    """Call the true agent now and then, until told; return how long each call took, in milliseconds."""
    took = []
    with site.caller() as client:
        while not done.wait(CALL_S):
            began = time.perf_counter()
            with contextlib.suppress(OuthaulError):
                if client.call(AGENT, "echo", {"text": "x"}, wait_s=30.0).state == "succeeded":
                    took.append(1000 * (time.perf_counter() - began))
    return took


def _bare(stack: contextlib.ExitStack, site: Pair, port: int, swarms: list[subprocess.Popen[str]]) -> Server:
    data = site.folder / "broker" / "data"
    words = [sys.executable, "-m", "bench.bare_links", str(port), *(str(data / name) for name in _PAPERS)]
    running: list[subprocess.Popen[bytes]] = []

    def start() -> int:
        running.append(subprocess.Popen(words))
        deadline = time.monotonic() + 30.0
        while not _listens(port):
            if running[0].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the bare server does not listen")
            time.sleep(0.05)  # between two looks
        return running[0].pid

    def stop() -> None:
        while running:
            process = running.pop()
            process.kill()
            process.wait()

    def wait(done: threading.Event) -> list[float]:
        done.wait()
        return []

    stack.callback(stop)
    return Server(start, stop, wait, swarms)


_PAPERS: Final = ("server.crt", "server.key", "ca.crt")


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False


# --- the swarm --------------------------------------------------------------------------------------


def _enrol(site: Pair, folder: Path, count: int) -> None:
    """Make agents with certificates, as enrolment would; all have one key, for keys are not what is measured."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    csr = request.public_bytes(Encoding.DER)
    data = site.folder / "broker" / "data"
    authority = Authorities.load(data).issuing
    agents = []
    for number in range(count):
        name = f"swarm-{number:05}"
        der, serial, not_after = authority.sign_agent(csr, TENANT, name, time.time())
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        (folder / f"{name}.pem").write_bytes(pem + key_pem)
        agents.append(Agent(TENANT, name, None, serial, not_after, time.time(), issuer=authority.fingerprint))
    document = asyncio.run(_registered(data, agents))
    (site.folder / "catalogue.json").write_bytes(document)


async def _registered(data: Path, agents: list[Agent]) -> bytes:
    """Put agents into the store; return what the true one said may be run there."""
    store = SqliteStore(data / "broker.db")
    await store.open()
    try:
        await asyncio.gather(*(store.add_agent(agent) for agent in agents))
        true = await store.agent(Scope(TENANT), AGENT)
        assert true is not None
        return true.catalogue or b""
    finally:
        await store.close()


def _swarm(
    stack: contextlib.ExitStack, site: Pair, folder: Path, certificates: list[Path], port: int
) -> list[subprocess.Popen[str]]:
    """Start a swarm, which stands still until it is wanted."""
    data = site.folder / "broker" / "data"
    trusted = Authorities.load(data).issuing.fingerprint
    started = []
    for number in range(PROCESSES):
        own = folder / str(number)
        own.mkdir(parents=True)
        for file in certificates[number::PROCESSES]:
            (own / file.name).symlink_to(file)
        Words(port, str(data / "ca.crt"), trusted, str(site.folder / "catalogue.json")).write(own)
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.swarm", str(own)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.callback(_end, process)
        started.append(process)
    for process in started:
        _ask(process)  # it has all its certificates
        process.send_signal(signal.SIGSTOP)
    return started


def _ask(swarm: subprocess.Popen[str]) -> tuple[int, float, float]:
    """Return how many are linked, and when the first and the last of them was answered."""
    assert swarm.stdin is not None
    assert swarm.stdout is not None
    swarm.stdin.write("\n")
    swarm.stdin.flush()
    linked, first, last = json.loads(swarm.stdout.readline())
    return linked, first, last


def _end(swarm: subprocess.Popen[str]) -> None:
    swarm.kill()
    swarm.wait()
    for pipe in (swarm.stdin, swarm.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _resident_kib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")))


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
