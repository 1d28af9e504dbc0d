"""The part of the embedded store that is about what went wrong: steps, resolutions, replays, runs of them."""

from __future__ import annotations

import dataclasses
import sqlite3
from typing import Literal

import msgspec

from cloud_broker.audit.trail import Act
from cloud_broker.store import acts, records, together
from cloud_broker.store.answers import IdempotencyConflict, Page
from cloud_broker.store.commands import Command, CommandError, CommandFilter, Resolution, Step
from cloud_broker.store.dead_letters import MAX_SKIPPED, ReplayRun, Skipped
from cloud_broker.store.queries import QUERIES
from cloud_broker.store.sqlite_audit import SqliteAudit, note
from cloud_broker.tenants import Scope
from protocol.states import LIFE, CommandState


class SqliteDeadLetters(SqliteAudit):
    """What a command's own row does not tell, and what people do about it."""

    async def add_step(self, scope: Scope, step: Step) -> None:
        await self._change("add_step", **records.bound_step(scope.tenant, step.command_id, step))

    async def steps(self, scope: Scope, command_id: str) -> list[Step]:
        return await self._all(records.step, "steps", tenant=scope.tenant, id=command_id)

    async def resolve(
        self, scope: Scope, command_id: str, state: CommandState, resolution: Resolution, error: CommandError | None
    ) -> bool:
        if state not in LIFE[CommandState.IN_DOUBT]:
            raise ValueError(f"what was in doubt can't become {state}")
        bound = records.bound_resolution(scope.tenant, command_id, state, resolution, error)

        def work(connection: sqlite3.Connection) -> bool:
            connection.execute(QUERIES["keep_doubt"], bound)
            row = connection.execute(QUERIES["resolve"], bound).fetchone()
            if row is None:
                return False
            note(connection, acts.resolved(scope.tenant, command_id, state, resolution, *row))
            return True

        return await self._write(work)

    async def replay(
        self, scope: Scope, original: str, command: Command, run: str | None = None
    ) -> tuple[Command, bool]:
        command = msgspec.structs.replace(command, replay_of=original)
        bound = {
            "tenant": scope.tenant,
            "id": command.id,
            "idempotency_key": command.idempotency_key,
            "replay_of": original,
            "run": run,
        }
        step = Step(original, command.created_at, "replayed", detail=command.id)
        kept = records.bound_step(scope.tenant, original, step)

        def work(connection: sqlite3.Connection) -> tuple[Command, bool]:
            row = connection.execute(QUERIES["command_by_replay_of"], bound).fetchone()
            if row is not None:
                return records.command(row), False
            if connection.execute(QUERIES["replayed"], bound).rowcount == 0:
                raise LookupError(f"there is no ended command {original} that was never replayed")
            (added,) = together.run(connection, "add_commands", [records.new_row(command)])
            if added.rowcount == 0:
                raise IdempotencyConflict(f"the key {command.idempotency_key!r} was used for another request")
            connection.execute(QUERIES["add_step"], kept)
            note(connection, acts.replayed(scope.tenant, original, command, run))
            note(connection, acts.submitted(scope.tenant, command))
            if run is not None:
                connection.execute(QUERIES["run_replayed"], bound)
            return command, True

        return await self._write(work)

    async def count_dead_letters(self, scope: Scope, wanted: CommandFilter, limit: int) -> tuple[int, int]:
        bound = records.bound_wishes(scope.tenant, dataclasses.replace(wanted, dead_letters=True), None, limit)
        found = await self._all(lambda row: (int(row[0]), int(row[1])), "count_dead_letters", **bound)
        return found[0]

    async def dead_letters_after(self, scope: Scope, wanted: CommandFilter, cursor: str, limit: int) -> list[Command]:
        bound = records.bound_wishes(scope.tenant, dataclasses.replace(wanted, dead_letters=True), cursor, limit)
        return await self._all(records.command, "dead_letters_after", **bound)

    async def add_replay_run(self, scope: Scope, run: ReplayRun) -> tuple[ReplayRun, bool]:
        bound = records.bound_run(run) | {"tenant": scope.tenant}

        def work(connection: sqlite3.Connection) -> tuple[ReplayRun, bool]:
            if connection.execute(QUERIES["add_replay_run"], bound).rowcount == 1:
                note(connection, acts.replays_begun(scope.tenant, run))
                return run, True
            earlier = records.run(connection.execute(QUERIES["run_by_idempotency_key"], bound).fetchone())
            if earlier.fingerprint != run.fingerprint:
                raise IdempotencyConflict(f"the key {run.idempotency_key!r} was used for another request")
            return earlier, False

        return await self._write(work)

    async def replay_run(self, scope: Scope, run_id: str) -> ReplayRun | None:
        return await self._one(records.run, "replay_run", tenant=scope.tenant, id=run_id)

    async def replay_runs(self, scope: Scope, cursor: str | None, limit: int) -> Page:
        found = await self._all(records.run, "replay_runs", tenant=scope.tenant, cursor=cursor, limit=limit + 1)
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    async def open_replay_runs(self) -> list[ReplayRun]:
        return await self._all(records.run, "open_replay_runs")

    async def replay_skipped(self, scope: Scope, run_id: str, skipped: Skipped) -> None:
        bound = {"id": run_id, "skipped_id": skipped.id, "why": skipped.why, "most": MAX_SKIPPED}
        await self._change("run_skipped", tenant=scope.tenant, **bound)

    async def end_replay_run(
        self, scope: Scope, run_id: str, state: Literal["done", "cancelled"], now: float, *, by: str = "broker"
    ) -> bool:
        act = Act(scope.tenant, by, "replays_ended", f"replays:{run_id}", now, detail={"state": state})
        bound = {"tenant": scope.tenant, "id": run_id, "state": state, "now": now}
        return await self._change_noted(act, "end_replay_run", **bound) == 1
