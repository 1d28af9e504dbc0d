"""
Commands from caller to agent and back, durable on both sides.

Many at once beside calls through Crossbar.io, which keeps nothing; one at a time beside what it can't do without: the
writes that have to be on the disk, and three times the way over a link.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import ssl
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from websockets.asyncio.client import connect

from bench import crossbar
from bench.callers import called
from bench.crossbar import OUTSTANDING, certificate
from bench.figures import Figure, Goal, Lab, alternated
from bench.programs import program, until_listening
from config.dev.databases import HOST, free_port
from config.dev.demo.pair import AGENT, Pair, pair
from config.dev.locked import ROOT

CALLERS: Final = 64
RECORD_BYTES: Final = 512  # of a synced write: what one command leaves at a time
MESSAGE_BYTES: Final = 300  # of a message over the link
ROUND_TRIPS: Final = 3  # that one command may take: caller to broker, broker to agent, and to tell that all is kept
OPERATOR_FILE: Final = f"""
agent = "{AGENT}"
state_dir = "state"
link.proxy = "none"
connections.probe.type = "synthetic"
[operations.look]
connection = "probe"
synthetic = "echo"
effect = "read"
params.text = {{ type = "string" }}
[operations.book]
connection = "probe"
synthetic = "echo"
effect = "once"
params.text = {{ type = "string" }}
"""
# By default a tenant has so many requests a second.
BROKER_SETTINGS: Final = "[limits]\nrequests_per_s = 0\n"


def measure(lab: Lab) -> list[Figure]:
    """Return how many commands are submitted, run and waited for, and how long one takes alone."""
    if lab.short:
        found, least = alternated(1, lambda: through_outhaul(lab.running, 128), lambda: bare(lab.folder, 128))
        return [Figure(f"commands with their results, {CALLERS} callers", "commands/s", found, least, _sqlite())]
    folder = lab.folder / "commands"
    folder.mkdir()
    with pair(folder / "pair", OPERATOR_FILE, {}, usual_ports=False, broker_settings=BROKER_SETTINGS) as ours:
        with crossbar.running(lab) as peer:
            many = _many(ours, lambda: peer(10_000))
        with echo(folder / "echo") as round_trip_s:
            alone = [
                _alone(ours, operation, effect, writes, folder, round_trip_s)
                for operation, effect, writes in (("look", "read", 2), ("book", "once", 4))
            ]
    return [many, *alone]


def _many(ours: Pair, peer: Callable[[], float]) -> Figure:
    found, others = alternated(3, lambda: called(ours, "look", CALLERS, 10_000).per_s, peer)
    name = f"commands with their results, {CALLERS} callers"
    beside = f"{crossbar.PACKAGE.replace('==', ' ')}, {OUTSTANDING} calls at once"
    return Figure(name, "commands/s", found, others, beside, Goal("at least", 1.2))


def _alone(
    ours: Pair, operation: str, effect: str, writes: int, folder: Path, round_trip_s: Callable[[], float]
) -> Figure:
    found, least = alternated(
        3,
        lambda: 1000 * called(ours, operation, 1, 300).median_s,
        lambda: 1000 * (writes * synced_write_s(folder) + ROUND_TRIPS * round_trip_s()),
    )
    beside = f"{writes} synced writes and {ROUND_TRIPS} round trips of websockets"
    return Figure(f"one command alone, effect {effect}, median", "ms", found, least, beside, Goal("at most", 1.5))


def through_outhaul(running: Pair, count: int) -> float:
    """Return commands a second, of many callers that each wait for the end of one before the next."""
    return called(running, "echo", CALLERS, count).per_s


def synced_write_s(folder: Path, count: int = 300) -> float:
    """Return the median seconds of a write at the end of a file that is on the disk when it returns."""
    path = folder / "synced"
    sync = os.fsync if sys.platform == "win32" else os.fdatasync
    each = []
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            began = time.perf_counter()
            file.write(bytes(RECORD_BYTES))
            sync(file.fileno())
            each.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(each)


@contextlib.contextmanager
def echo(folder: Path) -> Iterator[Callable[[], float]]:
    """Run a bare websockets server with mutual TLS; yields what returns the median seconds of a round trip."""
    folder.mkdir()
    shown = certificate(folder)
    key, port = folder / "key.pem", free_port()
    words = [sys.executable, "-m", "bench.bare_links", str(port), str(shown), str(key), str(shown)]
    log = folder / "echo.log"
    with program(words, log, cwd=ROOT) as process:
        until_listening(port, process, log)
        yield lambda: asyncio.run(_round_trip_s(port, shown, key))


async def _round_trip_s(port: int, shown: Path, key: Path, count: int = 300) -> float:
    tls = ssl.create_default_context(cafile=str(shown))
    tls.load_cert_chain(shown, key)
    each = []
    async with connect(f"wss://{HOST}:{port}", ssl=tls, compression=None, ping_interval=None) as connection:
        for _ in range(count):
            began = time.perf_counter()
            await connection.send(bytes(MESSAGE_BYTES))
            await connection.recv()
            each.append(time.perf_counter() - began)
    return statistics.median(each)


def bare(folder: Path, count: int) -> float:
    """Return commands a second of a loop that keeps each command and its result, durable and one by one."""
    path = folder / "bare.db"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE commands (id TEXT PRIMARY KEY, key TEXT UNIQUE, body BLOB, result BLOB)")
    started = time.perf_counter()
    for number in range(count):
        connection.execute("INSERT INTO commands VALUES (?, ?, ?, NULL)", (f"c{number}", f"k{number}", b"x" * 300))
        connection.execute("UPDATE commands SET result = ? WHERE id = ?", (b"x" * 300, f"c{number}"))
    seconds = time.perf_counter() - started
    connection.close()
    return count / seconds


def _sqlite() -> str:
    return f"SQLite {sqlite3.sqlite_version}, two commits each"
