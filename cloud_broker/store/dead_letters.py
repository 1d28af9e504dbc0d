"""What a store keeps of commands that ended badly: what became of each, and runs that replay many."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Final, Literal

from cloud_broker.store.answers import Page
from cloud_broker.store.commands import Command, CommandError, CommandFilter, Resolution, Step
from cloud_broker.tenants import Scope
from protocol.states import CommandState

MAX_SKIPPED: Final = 100  # that one run names


@dataclass(frozen=True, slots=True)
class Skipped:
    """A dead letter that a run left as it is."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class ReplayRun:
    """
    Many dead letters, replayed one after another, oldest first.

    Attributes:
        wanted: which; its ``before`` is no later than the run itself, or it would replay its own replays.
        total: how many there were when it began, at most as many as were asked for.
        rate: how many a second.
        by: id of the key that asked for it.
        cursor: id of the last one looked at; "" before the first.
        skipped: the first ``MAX_SKIPPED`` of those left out; ``skipped_count`` is how many there are.
        fingerprint: of what was asked for; tells one use of an idempotency key from another.
    """

    id: str
    tenant: str
    wanted: CommandFilter
    total: int
    rate: float
    by: str
    created_at: float
    state: Literal["running", "done", "cancelled"] = "running"
    cursor: str = ""
    replayed: int = 0
    skipped_count: int = 0
    skipped: tuple[Skipped, ...] = ()
    finished_at: float | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""


class DeadLetterStore(abc.ABC):
    """The part of a store that is about dead letters."""

    @abc.abstractmethod
    async def add_step(self, scope: Scope, step: Step) -> None:
        """Keep a step of a command's life."""

    @abc.abstractmethod
    async def steps(self, scope: Scope, command_id: str) -> list[Step]:
        """Return the steps of a command that are not in its own row, oldest first."""

    @abc.abstractmethod
    async def resolve(
        self, scope: Scope, command_id: str, state: CommandState, resolution: Resolution, error: CommandError | None
    ) -> bool:
        """Write what a person found out; return False, changing nothing, unless the command is in doubt."""

    @abc.abstractmethod
    async def replay(
        self, scope: Scope, original: str, command: Command, run: str | None = None
    ) -> tuple[Command, bool]:
        """
        In one transaction: keep ``command``, whose ``replay_of`` is ``original``, mark that one as replayed by it,
        and let the run, if there is one, have replayed it.

        Return it and True, or the one that replayed ``original`` before and False.

        Raises:
            LookupError: there is no such command that has ended.
            IdempotencyConflict: another command has its idempotency key.
        """

    @abc.abstractmethod
    async def count_dead_letters(self, scope: Scope, wanted: CommandFilter, limit: int) -> tuple[int, int]:
        """Return how many dead letters there are, at most ``limit``, and how many of them are in doubt."""

    @abc.abstractmethod
    async def dead_letters_after(self, scope: Scope, wanted: CommandFilter, cursor: str, limit: int) -> list[Command]:
        """Return dead letters whose ids are greater than ``cursor``, oldest first; without their params."""

    @abc.abstractmethod
    async def add_replay_run(self, scope: Scope, run: ReplayRun) -> tuple[ReplayRun, bool]:
        """
        Keep a new run; return it and True, or the one with the same idempotency key and False.

        Raises:
            IdempotencyConflict: that one has another fingerprint.
        """

    @abc.abstractmethod
    async def replay_run(self, scope: Scope, run_id: str) -> ReplayRun | None:
        """Return one run."""

    @abc.abstractmethod
    async def replay_runs(self, scope: Scope, cursor: str | None, limit: int) -> Page:
        """Return runs, newest first."""

    @abc.abstractmethod
    async def open_replay_runs(self) -> list[ReplayRun]:
        """Return every run of every tenant that is to go on, oldest first."""

    @abc.abstractmethod
    async def replay_skipped(self, scope: Scope, run_id: str, skipped: Skipped) -> None:
        """Let a run have left one out."""

    @abc.abstractmethod
    async def end_replay_run(
        self, scope: Scope, run_id: str, state: Literal["done", "cancelled"], now: float, *, by: str = "broker"
    ) -> bool:
        """Return False, changing nothing, unless it runs."""
