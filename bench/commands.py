"""Commands from caller to agent and back, beside the commits that keeping them durable takes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from urllib.parse import urlsplit

from bench.figures import Figure, Lab, alternated
from config.dev.demo.pair import AGENT, Pair

CALLERS = 32
OK = b"HTTP/1.1 200"


def measure(lab: Lab) -> list[Figure]:
    """Return how many commands are submitted, run and waited for."""
    rounds, count = (1, 100) if lab.short else (5, 5_000)
    ours, alone = alternated(rounds, lambda: through_outhaul(lab.running, count), lambda: bare(lab.folder, count))
    beside = f"SQLite {sqlite3.sqlite_version}, two commits each"
    return [Figure(f"commands with their results, {CALLERS} callers", "commands/s", ours, alone, beside)]


def through_outhaul(pair: Pair, count: int) -> float:
    """Return commands a second, with 32 callers that each wait for the end of one before the next."""
    return asyncio.run(_all_callers(pair, count))


async def _all_callers(pair: Pair, count: int) -> float:
    place = urlsplit(pair.url)
    body = json.dumps({"agent": AGENT, "operation": "echo", "params": {"text": "x" * 200}}).encode()
    request = (
        f"POST /v1/commands HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {pair.key}\r\n"
        f"Prefer: wait=30\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    started = time.perf_counter()
    async with asyncio.TaskGroup() as callers:
        for number in range(CALLERS):
            share = count // CALLERS + (number < count % CALLERS)
            callers.create_task(_caller(place.hostname or "", place.port or 0, request, share), name=f"caller {number}")
    return count / (time.perf_counter() - started)


async def _caller(host: str, port: int, request: bytes, count: int) -> None:
    # Bare HTTP: a full client would take more of the two processors than broker and agent together.
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for _ in range(count):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            answer = await reader.readexactly(_length(head))
            if not head.startswith(OK) or json.loads(answer)["state"] != "succeeded":
                raise RuntimeError(f"a command did not succeed: {head.splitlines()[0]!r} {answer[:300]!r}")
    finally:
        writer.close()
        await writer.wait_closed()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise RuntimeError(f"an answer without its length: {head!r}")


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
