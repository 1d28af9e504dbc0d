"""
The broker's embedded store: many commands at once, beside millions that have ended, while old ones are removed.

Each command is one submission and one end, both durable. Run alone: ``python -m bench.store``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import grown
from bench.disk import settle
from bench.figures import Figure, Goal, Lab
from cloud_broker.client.requests import new_key
from cloud_broker.store import kinds
from cloud_broker.store.commands import Command, Finish
from cloud_broker.store.connections import connect_to_write
from cloud_broker.store.queries import QUERIES, SCHEMA
from cloud_broker.store.sqlite import SqliteStore
from cloud_broker.tenants import Scope
from config.dev.locked import ROOT
from protocol.ids import new_id
from protocol.states import CommandState

ACME: Final = Scope(grown.TENANT)
MANY: Final = 10_000_000  # finished commands
FEW: Final = 5_000  # of the short form
KEPT: Final = ROOT / ".dev" / "bench"  # what takes minutes to make
REMOVED_EACH: Final = 20  # as the broker does
FAR: Final = 2_000_000_000.0  # later than all of them ended


@dataclass(frozen=True, slots=True)
class Pace:
    """Commands a second, and the milliseconds of the middle one and of one in a hundred."""

    per_s: float
    p50_ms: float
    p99_ms: float


def measure(lab: Lab) -> list[Figure]:
    """Return what the store does, and what slows it."""
    rounds, count = (1, 300) if lab.short else (15, 1_600)
    full = grown.store(lab.folder if lab.short else KEPT, FEW if lab.short else MANY)
    return [
        *asyncio.run(_beside_many(lab.folder, full, rounds, count, FEW if lab.short else MANY)),
        *asyncio.run(_while_removing(lab.folder, rounds, max(50, count // 8), 2_000 if lab.short else 100_000)),
        _together(lab.folder, rounds, count),
    ]


async def _beside_many(folder: Path, full: Path, rounds: int, count: int, many: int) -> list[Figure]:
    """
    Hold a store with many finished commands against an empty one.

    What callers' keys are decides how much of the index of all of them changes: those that our client makes begin with
    the time and go to its end, those that are nothing but chance go each to a page of its own.
    """
    figures = []
    async with _opened(full) as large, _opened(folder / "small.db") as small:
        for keys, key, goal in (("", new_key, Goal("at least", 0.9)), (" with keys of chance", _chance, None)):
            for callers, each in ((1, max(100, count // 8)), (64, count)):
                ours, empty = await _in_turns((large, small), rounds, each, callers, key)
                name = f"commands{keys} kept and ended beside {many:,} finished ones, {callers} at once"
                figures.append(Figure(name, "commands/s", ours, empty, "an empty store", goal))
    return figures


async def _in_turns(
    stores: Sequence[SqliteStore], rounds: int, count: int, callers: int, key: Callable[[], str]
) -> list[list[float]]:
    """Return the paces of each store; who comes first changes with each round, and the first round is not counted."""
    found: list[list[float]] = [[] for _ in stores]
    for number in range(rounds + 1):
        for which in sorted(range(len(stores)), reverse=number % 2 == 1):
            settle()
            pace = await _pace(stores[which], count, callers, key)
            if number > 0:
                found[which].append(pace.per_s)
    return found


def _chance() -> str:
    return uuid.uuid4().hex


async def _while_removing(folder: Path, rounds: int, count: int, many: int) -> list[Figure]:
    """Hold submissions while retention removes commands, and gives their space back, against those while it rests."""
    ours: list[Pace] = []
    quiet: list[Pace] = []
    async with _opened(grown.store(folder / "aged", many)) as store:
        await _pace(store, count, 1)
        for number in range(rounds):
            for busy in (True, False) if number % 2 else (False, True):
                settle()
                if busy:
                    removing = asyncio.create_task(_removed(store), name="retention")
                    ours.append(await _pace(store, count, 1))
                    removing.cancel()
                    await asyncio.wait((removing,))
                else:
                    quiet.append(await _pace(store, count, 1))
    name = "a command kept and ended while retention removes others"
    return [
        Figure(f"{name}: p50", "ms", [one.p50_ms for one in ours], [one.p50_ms for one in quiet], "the same without"),
        Figure(f"{name}: p99", "ms", [one.p99_ms for one in ours], [one.p99_ms for one in quiet], "the same without"),
    ]


async def _removed(store: SqliteStore) -> None:
    while await store.forget_before(FAR, REMOVED_EACH):
        pass
    await store.shrink()


def _together(folder: Path, rounds: int, count: int) -> Figure:
    """Hold what the store does with many callers against a loop that commits each write by itself."""
    ours, bare = [], []
    for number in range(rounds):
        ours.append(asyncio.run(_alone(folder / f"together-{number}.db", count)))
        bare.append(one_by_one(folder / f"alone-{number}.db", max(100, count // 8)))
    return Figure("commands kept and ended, 64 at once", "commands/s", ours, bare, "each write by itself")


async def _alone(path: Path, count: int) -> float:
    async with _opened(path) as store:
        return (await _pace(store, count, 64)).per_s


@contextlib.asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    try:
        if await store.tenant(ACME.tenant) is None:
            await store.create_tenant(ACME.tenant, time.time())
        yield store
    finally:
        await store.close()


async def _pace(store: SqliteStore, count: int, callers: int, key: Callable[[], str] = new_key) -> Pace:
    taken: list[float] = []

    async def caller(each: int) -> None:
        for _ in range(each):
            began = time.perf_counter()
            one, _ = await store.add_command(ACME, submitted(key()))
            await store.finish(ACME, one.id, _ended())
            taken.append(1000 * (time.perf_counter() - began))

    began = time.perf_counter()
    await asyncio.gather(*(caller(count // callers) for _ in range(callers)))
    return Pace(len(taken) / (time.perf_counter() - began), statistics.median(taken), _p99(taken))


def _p99(taken: Sequence[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


def submitted(key: str) -> Command:
    """Return a command as a caller sends it, with this idempotency key."""
    now = time.time()
    return Command(
        id=new_id("cmd", int(now * 1000), os.urandom),
        tenant=ACME.tenant,
        agent="plant-1",
        group=None,
        operation="echo",
        connection="probe",
        effect="read",
        params=b'{"text": "' + b"x" * 200 + b'"}',
        fingerprint=hashlib.sha256(os.urandom(8)).hexdigest(),
        created_at=now,
        expires_at=now + 3_600,
        correlation_id=new_id("cor", int(now * 1000), os.urandom),
        idempotency_key=key,
        key_id="key_1",
    )


def _ended() -> Finish:
    return Finish(CommandState.SUCCEEDED, time.time(), outputs=b'{"text": "ok"}', by="agent:plant-1")


def one_by_one(path: Path, count: int) -> float:
    """Return commands a second with two commits each, the least that a store without group commit does."""
    connection = connect_to_write(path)
    connection.executescript(SCHEMA)
    started = time.perf_counter()
    for _ in range(count):
        one = submitted(new_key())
        for kind, given in ((kinds.ADD, [one]), (kinds.FINISH, kinds.End(ACME.tenant, one.id, _ended()))):
            connection.execute(QUERIES["begin"])
            kind.make(connection, [given])
            connection.keep_notes()
            connection.execute(QUERIES["commit"])
    seconds = time.perf_counter() - started
    connection.close()
    return count / seconds


def main() -> None:
    """Print the pace of an empty store."""
    print(f"SQLite {sqlite3.sqlite_version}: commands/s, p50 and p99 in ms")
    for callers in (1, 64, 512):
        with tempfile.TemporaryDirectory() as folder:
            pace = asyncio.run(_one_pace(Path(folder) / "store.db", callers))
        print(f"{callers:4} at once: {pace.per_s:8,.0f} {pace.p50_ms:8.2f} {pace.p99_ms:8.2f}")


async def _one_pace(path: Path, callers: int) -> Pace:
    async with _opened(path) as store:
        return await _pace(store, 6_400, callers)


if __name__ == "__main__":
    main()
