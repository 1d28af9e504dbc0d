"""
What one tenant's flood does to another's latency.

The other has a share: so many submissions a second, one after another. The flood sends a hundred times as many whatever
is answered, on many connections; and then as many as those connections can. Run alone with ``python -m bench.fairness
flood URL PER_S`` the module is that flood, until it is ended; the key comes on standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

from bench.callers import read
from bench.disk import settle
from bench.figures import Figure, Goal, Lab, alternated
from config.dev.demo.pair import AGENT, Pair
from config.dev.demo.programs import Program, must
from config.dev.locked import ROOT

TENANT: Final = "quiet"
SHARE_PER_S: Final = 5.0  # submissions a second of the tenant that sends no more than its share
TIMES: Final = 100  # its share, of the flood
ALL_PER_S: Final = 100_000.0  # more than the flood's connections can; each submits again as soon as it is answered
CONNECTIONS: Final = 96  # of the flood
TICK_S: Final = 0.002  # between two looks of the flood how many are due
WARM_TICKS: Final = 500  # until it has its full force
STARTED: Final = "flooding"
FILE: Final = f"""
agent = "{AGENT}"
state_dir = "state"
link.proxy = "none"

[connections.probe]
type = "synthetic"

[operations.echo]
connection = "probe"
synthetic = "echo"
params.text = {{ type = "string" }}
"""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of a submission, durable: of the middle one, and of one in ten."""

    p50_ms: float
    p90_ms: float


def measure(lab: Lab) -> list[Figure]:
    """Return what a submission takes while another tenant sends more than its share, and all that it can."""
    rounds, count = (1, 10) if lab.short else (5, 30)
    floods = {
        f"{TIMES} times its share": TIMES * SHARE_PER_S,
        f"all that {CONNECTIONS} connections can": ALL_PER_S,
    }
    with quiet(lab.running) as key:
        flooded, calm = alternated(
            rounds,
            lambda: [beside_a_flood(lab.running, key, count, per_s) for per_s in floods.values()],
            lambda: [alone(lab.running, key, count)],
        )
    figures = []
    for number, (flood, per_s) in enumerate(floods.items()):
        name, goal = f"a submission while another tenant sends {flood}", Goal("at most", 1.2)
        p50, p90 = [one[number].p50_ms for one in flooded], [one[number].p90_ms for one in flooded]
        promised = goal if per_s < ALL_PER_S else None
        figures += [
            Figure(f"{name}: p50", "ms", p50, [one.p50_ms for (one,) in calm], "nobody else", promised),
            Figure(f"{name}: p90", "ms", p90, [one.p90_ms for (one,) in calm], "nobody else"),
        ]
    return figures


@contextlib.contextmanager
def quiet(pair: Pair) -> Iterator[str]:
    """Give the broker another tenant with an agent of its own; yield the key of its caller."""
    broker = ("--config", str(pair.folder / "broker" / "broker.toml"))
    must(["outhaul-broker", "tenant", "create", TENANT, *broker])
    key = json.loads(must(["outhaul-broker", "key", "create", "--tenant", TENANT, "--scope", "*", *broker, "--json"]))[
        "key"
    ]
    words = ["outhaul-broker", "token", "create", "--tenant", TENANT, "--agent", AGENT, *broker, "--json"]
    token = json.loads(must(words))["token"]
    file = pair.folder / "quiet" / "agent.toml"
    file.parent.mkdir()
    file.write_text(FILE, "utf-8")
    must(["outhaul-agent", "enroll", "--token", "-", "--config", str(file)], stdin=token + "\n")
    agent = Program(["outhaul-agent", "run", "--config", str(file)], pair.folder / "quiet.log")
    agent.start()
    try:
        agent.wait_until(lambda: _linked(pair.url, str(key)), "linked")
        yield str(key)
    finally:
        agent.stop()


def alone(pair: Pair, key: str, count: int) -> Latency:
    """Measure without a flood."""
    settle()  # of what the flood before it left to be written
    return _latency(pair.url, key, count)


def beside_a_flood(pair: Pair, key: str, count: int, per_s: float) -> Latency:
    """Measure while another tenant submits so often a second."""
    settle()
    words = [sys.executable, "-m", "bench.fairness", "flood", pair.url, str(per_s)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as flood:
        try:
            assert flood.stdin is not None
            assert flood.stdout is not None
            flood.stdin.write(pair.key + "\n")
            flood.stdin.flush()
            if flood.stdout.readline().strip() != STARTED:
                raise RuntimeError("the flood did not begin")
            return _latency(pair.url, key, count)
        finally:
            flood.kill()


def _latency(url: str, key: str, count: int) -> Latency:
    place = urlsplit(url)
    request = _submission(place.netloc, key)
    pauses = random.Random(count)  # noqa: S311 - so that it does not keep step with anything; no secret
    taken = []
    with socket.create_connection((place.hostname or "", place.port or 0)) as plain, plain.makefile("rb") as answers:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            time.sleep(pauses.uniform(0.5, 1.5) / SHARE_PER_S)  # what a tenant sends by itself comes at no beat
            started = time.perf_counter()
            plain.sendall(request)
            status, length = answers.readline(), 0
            while (line := answers.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            body = answers.read(length)
            if b" 202 " not in status and b" 200 " not in status:
                raise RuntimeError(f"a submission failed: {status!r} {body[:300]!r}")
            taken.append(1000 * (time.perf_counter() - started))
    return Latency(statistics.median(taken), statistics.quantiles(taken, n=10)[-1])


def _linked(url: str, key: str) -> bool:
    place = urlsplit(url)
    head = f"GET /v1/agents/{AGENT} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {key}\r\n"
    with socket.create_connection((place.hostname or "", place.port or 0)) as plain:
        plain.sendall(f"{head}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: plain.recv(65_536), b""))
    return b'"state":"online"' in answer


def _submission(host: str, key: str) -> bytes:
    body = f'{{"agent":"{AGENT}","operation":"echo","params":{{"text":"x"}}}}'.encode()
    return (
        f"POST /v1/commands HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


# --- the flood ----------------------------------------------------------------------------------


class Flooder(asyncio.Protocol):
    """One connection of the flood; back among the ``free`` ones when it was answered, whatever that was."""

    def __init__(self, request: bytes, free: list[Flooder]) -> None:
        self._request = request
        self._free = free
        self._heard = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._free.append(self)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if read(self._heard).whole:
            self._heard = b""
            self._free.append(self)

    def submit(self) -> None:
        """Send one more."""
        assert self._transport is not None
        self._transport.write(self._request)


async def _flood(url: str, key: str, per_s: float) -> None:
    place = urlsplit(url)
    request = _submission(place.netloc, key)
    loop = asyncio.get_running_loop()
    free: list[Flooder] = []
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Flooder(request, free), place.hostname or "", place.port or 0)
    began, sent = loop.time(), 0
    for tick in itertools.count():
        due = round(per_s * (loop.time() - began))
        # What finds no connection free stays due: who floods waits for nobody.
        while sent < due and free:
            free.pop().submit()
            sent += 1
        if tick == WARM_TICKS:
            print(STARTED, flush=True)
        await asyncio.sleep(TICK_S)  # between two looks at what is due


if __name__ == "__main__":
    asyncio.run(_flood(sys.argv[2], sys.stdin.readline().strip(), float(sys.argv[3])))
