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
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import grown
from bench.figures import Figure, Goal, Lab
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
REMOVED_EACH: Final = 50  # as the broker does
FAR: Final = 2_000_000_000.0  # later than all of them ended


@dataclass(frozen=True, slots=True)
class Pace:
    """Commands a second, and the milliseconds of the middle one and of one in a hundred."""

    per_s: float
    p50_ms: float
    p99_ms: float


def measure(lab: Lab) -> list[Figure]:
    """Return what the store does, and what slows it."""
    rounds, count = (1, 300) if lab.short else (5, 6_400)
    full = grown.store(lab.folder if lab.short else KEPT, FEW if lab.short else MANY)
    return [
        *asyncio.run(_beside_many(lab.folder, full, rounds, count, FEW if lab.short else MANY)),
        *asyncio.run(_while_removing(lab.folder, rounds, 2_000 if lab.short else 200_000)),
        _together(lab.folder, rounds, count),
    ]


async def _beside_many(folder: Path, full: Path, rounds: int, count: int, many: int) -> list[Figure]:
    """Hold a store with many finished commands against an empty one."""
    figures = []
    async with _opened(full) as large, _opened(folder / "small.db") as small:
        for callers, each in ((1, max(100, count // 16)), (64, count)):
            await _pace(large, each, callers), await _pace(small, each, callers)
            ours, empty = [], []
            for _ in range(rounds):
                ours.append((await _pace(large, each, callers)).per_s)
                empty.append((await _pace(small, each, callers)).per_s)
            name = f"commands kept and ended beside {many:,} finished ones, {callers} at once"
            figures.append(Figure(name, "commands/s", ours, empty, "an empty store", Goal("at least", 0.9)))
    return figures


async def _while_removing(folder: Path, rounds: int, many: int) -> list[Figure]:
    """Hold submissions while retention removes commands, and gives their space back, against those while it rests."""
    ours, quiet = [], []
    for number in range(rounds if many < 10_000 else min(rounds, 3)):
        path = grown.store(folder / f"aged-{number}", many)
        async with _opened(path) as store:
            quiet.append((await _pace(store, 300, 1)).p99_ms)
            removing = asyncio.create_task(_removed(store), name="retention")
            ours.append((await _pace(store, 300, 1)).p99_ms)
            removing.cancel()
            await asyncio.wait((removing,))
    name = "a command kept and ended while retention removes others: p99"
    return [Figure(name, "ms", ours, quiet, "the same without")]


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


async def _pace(store: SqliteStore, count: int, callers: int) -> Pace:
    taken: list[float] = []

    async def caller(each: int) -> None:
        for _ in range(each):
            began = time.perf_counter()
            one, _ = await store.add_command(ACME, submitted())
            await store.finish(ACME, one.id, _ended())
            taken.append(1000 * (time.perf_counter() - began))

    began = time.perf_counter()
    await asyncio.gather(*(caller(count // callers) for _ in range(callers)))
    return Pace(len(taken) / (time.perf_counter() - began), statistics.median(taken), _p99(taken))


def _p99(taken: Sequence[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


def submitted() -> Command:
    """Return a command as a caller sends it, with an idempotency key of its own."""
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
        idempotency_key=uuid.uuid4().hex,
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
        one = submitted()
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
