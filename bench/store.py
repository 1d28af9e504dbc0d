"""
Commands a second through the broker's embedded store, beside a loop that commits each by itself.

Each command is one submission and one end, both durable. Run: ``python -m bench.store``.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Final

from cloud_broker.store.base import Finish
from cloud_broker.store.queries import QUERIES, SCHEMA
from cloud_broker.store.records import bound_command, bound_finish
from cloud_broker.store.sqlite import SqliteStore
from protocol.states import CommandState
from tests.contracts.store import ACME, command

SECONDS: Final = 3.0  # of each measurement
ROUNDS: Final = 3  # alternating, as disks have moods


def one_by_one(path: Path) -> float:
    """Return commands a second with two commits each, the least that a store without group commit does."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name in ("write_ahead", "durable"):
        connection.execute(QUERIES[name])
    connection.executescript(SCHEMA)
    started, count = time.monotonic(), 0
    while time.monotonic() < started + SECONDS:
        one = command(idempotency_key=f"k{count}")
        end = bound_finish("acme", one.id, Finish(CommandState.SUCCEEDED, time.time(), outputs=b"{}"))
        for name, bound in (("add_command", bound_command(one)), ("finish", end)):
            connection.execute(QUERIES["begin"])
            connection.execute(QUERIES[name], bound)
            connection.execute(QUERIES["commit"])
        count += 1
    connection.close()
    return count / (time.monotonic() - started)


async def grouped(path: Path, callers: int) -> tuple[float, float]:
    """Return commands a second with so many callers at once, and writes per commit."""
    store = SqliteStore(path)
    await store.open()
    await store.create_tenant("acme", time.time())
    started = time.monotonic()
    numbers = itertools.count()

    async def caller() -> int:
        done = 0
        while time.monotonic() < started + SECONDS:
            one, _ = await store.add_command(ACME, command(idempotency_key=f"k{next(numbers)}"))
            await store.finish(ACME, one.id, Finish(CommandState.SUCCEEDED, time.time(), outputs=b"{}"))
            done += 1
        return done

    count = sum(await asyncio.gather(*(caller() for _ in range(callers))))
    taken, commits = time.monotonic() - started, store.commits
    await store.close()
    return count / taken, 2 * count / commits


def main() -> None:
    """Print a table."""
    print("one by one   callers   grouped   writes/commit   times")
    for callers in (1, 64, 512):
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                alone = one_by_one(Path(folder) / "alone.db")
                together, size = asyncio.run(grouped(Path(folder) / "together.db", callers))
            print(f"{alone:10,.0f}   {callers:7}   {together:7,.0f}   {size:13.1f}   {together / alone:5.1f}")


if __name__ == "__main__":
    main()
