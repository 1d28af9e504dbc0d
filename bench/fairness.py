"""
What one tenant's flood does to another's latency.

The other submits one command after another, while the flood submits, waits and reads rows on many connections at once.
Run alone with ``python -m bench.fairness flood URL KEY`` the module is that flood, until it is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.figures import Figure, Goal, Lab, alternated
from config.dev.demo.pair import AGENT, Pair
from config.dev.demo.programs import Program, must

TENANT: Final = "quiet"
SUBMITTERS: Final = 96  # connections of the flood that submit, one command after another
WAITERS: Final = 64  # that wait for a command's end
READERS: Final = 8  # that read many rows
ROWS: Final = 50_000
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
    """Milliseconds of a submission, durable: of the middle one, and of one in a hundred."""

    p50_ms: float
    p99_ms: float


def measure(lab: Lab) -> list[Figure]:
    """Return what a submission takes while another tenant asks for all that it can get."""
    rounds, count = (1, 100) if lab.short else (5, 500)
    with quiet(lab.running) as key:
        flooded, calm = alternated(
            rounds, lambda: beside_a_flood(lab.running, key, count), lambda: alone(lab.running, key, count)
        )
    name, beside = "a submission during another tenant's flood", "none"
    return [
        Figure(
            f"{name}: p50",
            "ms",
            [one.p50_ms for one in flooded],
            [one.p50_ms for one in calm],
            beside,
            Goal("at most", 1.2),
        ),
        Figure(f"{name}: p99", "ms", [one.p99_ms for one in flooded], [one.p99_ms for one in calm], beside),
    ]


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
    return _latency(pair.url, key, count)


def beside_a_flood(pair: Pair, key: str, count: int) -> Latency:
    """Measure while another tenant asks for all that it can get."""
    words = [sys.executable, "-m", "bench.fairness", "flood", pair.url, pair.key]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as flood:
        try:
            assert flood.stdout is not None
            if flood.stdout.readline().strip() != STARTED:
                raise RuntimeError("the flood did not begin")
            return _latency(pair.url, key, count)
        finally:
            flood.kill()


def _latency(url: str, key: str, count: int) -> Latency:
    place = urlsplit(url)
    request = _submission(place.netloc, key)
    taken = []
    with socket.create_connection((place.hostname or "", place.port or 0)) as plain, plain.makefile("rb") as answers:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
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
    return Latency(statistics.median(taken), statistics.quantiles(taken, n=100)[98])


def _linked(url: str, key: str) -> bool:
    place = urlsplit(url)
    head = f"GET /v1/agents/{AGENT} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {key}\r\n"
    with socket.create_connection((place.hostname or "", place.port or 0)) as plain:
        plain.sendall(f"{head}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: plain.recv(65_536), b""))
    return b'"state":"online"' in answer


def _submission(host: str, key: str, operation: str = "echo", params: str = '{"text":"x"}') -> bytes:
    body = f'{{"agent":"{AGENT}","operation":"{operation}","params":{params}}}'.encode()
    return (
        f"POST /v1/commands HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


# --- the flood ----------------------------------------------------------------------------------


async def _flood(url: str, key: str) -> None:
    place = urlsplit(url)
    where = (place.hostname or "", place.port or 0)
    submitting = _submission(place.netloc, key)
    big = await _once(where, _submission(place.netloc, key, "lines", f'{{"count":{ROWS}}}'))
    last = await _once(where, submitting)
    told = f"HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {key}\r\n\r\n"
    rows = f"GET /v1/commands/{json.loads(big)['id']}/rows {told}".encode()
    waiting = f"GET /v1/commands/{json.loads(last)['id']}?wait=1 {told}".encode()
    async with asyncio.TaskGroup() as group:
        for number, request in enumerate([submitting] * SUBMITTERS + [waiting] * WAITERS + [rows] * READERS):
            group.create_task(_again_and_again(where, request), name=f"flood {number}")
        await asyncio.sleep(1.0)  # until it has its full force
        print(STARTED, flush=True)


async def _once(where: tuple[str, int], request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*where)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    writer.close()
    return body


async def _again_and_again(where: tuple[str, int], request: bytes) -> None:
    """Ask without end, whatever is answered; one that is refused asks again like all the others."""
    while True:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(*where)
            try:
                while True:
                    writer.write(request)
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    if b"content-length:" in head:
                        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
                        continue
                    while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
                        await reader.readexactly(size + 2)
                    await reader.readuntil(b"\r\n")
            finally:
                writer.close()


if __name__ == "__main__":
    asyncio.run(_flood(sys.argv[2], sys.argv[3]))
