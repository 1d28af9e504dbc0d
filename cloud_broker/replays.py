"""Replaying many dead letters: durable runs, one after another at a rate, that survive a restart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from cloud_broker.dead_letters import DeadLetters
from cloud_broker.errors import (
    BrokerError,
    Conflict,
    IdempotencyKeyReused,
    ReplayRunNotFound,
    ResolveFirst,
    SignatureWanted,
    StoreUnavailable,
)
from cloud_broker.store.answers import IdempotencyConflict
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, CommandFilter
from cloud_broker.store.dead_letters import ReplayRun, Skipped
from cloud_broker.tenants import Scope
from protocol.ids import new_id

log = logging.getLogger(__name__)

PART: Final = 100  # dead letters looked up at once
MAX_OPEN: Final = 10  # runs of one tenant at once
LOOK_AGAIN_S: Final = 1.0  # seconds until a store that was full, or a tenant that was suspended, is asked again


@dataclass(slots=True, eq=False)
class _Worker:
    """One run at work; ``halt`` is set when it is to stop before the next one."""

    tenant: str
    halt: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class ReplayRuns:
    """
    All runs of all tenants.

    What a run has done is kept in the transaction that does it, so that it goes on after a crash
    where it was: nothing is left out, and nothing is replayed twice.
    """

    def __init__(self, store: Store, dead_letters: DeadLetters) -> None:
        self._store = store
        self._dead_letters = dead_letters
        self._workers: dict[str, _Worker] = {}

    async def start(self) -> None:
        """Go on with every run that is not done."""
        for run in await self._store.open_replay_runs():
            self._work(run)

    async def stop(self) -> None:
        """Let every run finish the one it is at; they go on with the next start."""
        workers = list(self._workers.values())
        for worker in workers:
            worker.halt.set()
        await asyncio.gather(*(worker.task for worker in workers if worker.task is not None))

    async def plan(self, scope: Scope, wanted: CommandFilter, most: int) -> tuple[int, int]:
        """Return how many dead letters a run would look at, and how many of them are in doubt, and left out."""
        return await self._store.count_dead_letters(scope, wanted, most)

    async def begin(
        self,
        scope: Scope,
        wanted: CommandFilter,
        most: int,
        rate: float,
        *,
        by: str,
        idempotency_key: str | None = None,
    ) -> ReplayRun:
        """
        Keep a run and begin with it; with a key that was used before, return the run that was begun then.

        Args:
            most: how many dead letters it may look at.
            rate: how many a second.
            by: id of the key that asks for it.

        Raises:
            IdempotencyKeyReused: the key was used for another request.
            Conflict: the tenant has too many at once.
        """
        fingerprint = hashlib.sha256(msgspec.json.encode((wanted, most, rate))).hexdigest()
        if sum(worker.tenant == scope.tenant for worker in self._workers.values()) >= MAX_OPEN:
            raise Conflict(f"{MAX_OPEN} replays are under way; wait for one, or cancel one")
        now = time.time()
        # Its own replays must not come back to it when they fail.
        wanted = replace(wanted, dead_letters=True, before=min(now, wanted.before or now))
        total, _ = await self._store.count_dead_letters(scope, wanted, most)
        run = ReplayRun(
            id=new_id("rpl", int(now * 1000), os.urandom),
            tenant=scope.tenant,
            wanted=wanted,
            total=total,
            rate=rate,
            by=by,
            created_at=now,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
        )
        try:
            run, new = await self._store.add_replay_run(scope, run)
        except IdempotencyConflict as exc:
            raise IdempotencyKeyReused(f"{exc}; use a new key for a new request") from exc
        if new:
            self._work(run)
        return run

    async def get(self, scope: Scope, run_id: str) -> ReplayRun:
        """Return a run as it is now. Raises ``ReplayRunNotFound``."""
        run = await self._store.replay_run(scope, run_id)
        if run is None:
            raise ReplayRunNotFound(f"there is no replay {run_id!r}")
        return run

    async def cancel(self, scope: Scope, run_id: str, by: str = "broker") -> ReplayRun:
        """Stop a run after the one it is at; what it has replayed stays so. Raises ``ReplayRunNotFound``."""
        await self.get(scope, run_id)
        if await self._store.end_replay_run(scope, run_id, "cancelled", time.time(), by=by):
            worker = self._workers.get(run_id)
            if worker is not None:
                worker.halt.set()
        return await self.get(scope, run_id)

    # --- the work ---------------------------------------------------------------------------------

    def _work(self, run: ReplayRun) -> None:
        worker = self._workers[run.id] = _Worker(run.tenant)
        worker.task = asyncio.create_task(self._see_through(run, worker.halt), name=f"replay {run.id}")

    async def _see_through(self, run: ReplayRun, halt: asyncio.Event) -> None:
        try:
            while not halt.is_set():
                try:
                    # What is kept of it tells where to go on, also after a fault in the middle.
                    await self._go_on(await self.get(Scope(run.tenant), run.id), halt)
                    return
                except StoreUnavailable:
                    await _halted(halt, LOOK_AGAIN_S)
        finally:
            del self._workers[run.id]

    async def _go_on(self, run: ReplayRun, halt: asyncio.Event) -> None:
        scope = Scope(run.tenant)
        cursor, left = run.cursor, run.total - run.replayed - run.skipped_count
        clock = asyncio.get_running_loop().time
        due = clock()
        while left > 0 and (found := await self._store.dead_letters_after(scope, run.wanted, cursor, min(left, PART))):
            for letter in found:
                if await _halted(halt, due - clock()) or not await self._allowed(scope, halt):
                    return
                due = max(due, clock()) + 1 / run.rate
                await self._one(scope, run, letter)
                cursor, left = letter.id, left - 1
        await self._store.end_replay_run(scope, run.id, "done", time.time())

    async def _allowed(self, scope: Scope, halt: asyncio.Event) -> bool:
        """Wait while the tenant is suspended; return False if the run is to stop meanwhile."""
        while (tenant := await self._store.tenant(scope.tenant)) is None or tenant.state == "suspended":
            if await _halted(halt, LOOK_AGAIN_S):
                return False
        return True

    async def _one(self, scope: Scope, run: ReplayRun, letter: Command) -> None:
        why = await self._replayed(scope, run, letter)
        if why is not None:
            await self._store.replay_skipped(scope, run.id, Skipped(letter.id, why))

    async def _replayed(self, scope: Scope, run: ReplayRun, letter: Command) -> str | None:
        """Replay one; return why not."""
        try:
            _, new = await self._dead_letters.replay(scope, letter.id, by=run.by, run=run.id)
        except StoreUnavailable:
            raise
        except ResolveFirst:
            return "it is in doubt: resolve it first"
        except SignatureWanted:
            return "it was signed: replay it by itself, with a new signature"
        except BrokerError as exc:
            return exc.detail
        except Exception:  # one command that can't be replayed must not keep the others
            log.exception("%s can't be replayed", letter.id, extra={"event": "replay_failed", "command": letter.id})
            return "the broker failed; its log says why"
        return None if new else "it was replayed by somebody else meanwhile"


async def _halted(halt: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until it is to stop; return whether it is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0.0)):
            await halt.wait()
    return halt.is_set()
