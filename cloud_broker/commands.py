"""Commands from submission to the caller's answer: the API's side of the path."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from cloud_broker import versions
from cloud_broker.catalogues import ARROW, Catalogue, Operation
from cloud_broker.chance import Chance
from cloud_broker.conditions import AgentCondition, condition
from cloud_broker.errors import (
    AgentNotFound,
    BrokerError,
    CommandNotFound,
    Conflict,
    IdempotencyKeyReused,
    OperationNotFound,
    ParametersInvalid,
    ResultGone,
    RowSetNotFound,
    StoreUnavailable,
    TooManyOpenCommands,
    Unavailable,
)
from cloud_broker.lines import Entry, Line
from cloud_broker.results import Results, RowReader
from cloud_broker.router import Router
from cloud_broker.store.agents import Agent
from cloud_broker.store.answers import IdempotencyConflict
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, RowSetInfo, Step
from cloud_broker.tenants import Scope
from protocol.ids import new_id
from protocol.states import CommandState

CHECKED_IN_A_ROUND: Final = 16  # submissions that are checked in one round of the event loop

Answer = tuple[Command, bool] | BrokerError
Asked = tuple[str | None, str | None, str, bool, str]

_NOTHING: Final = Catalogue({}, {})
_EXACT: Final = msgspec.json.Decoder(float_hook=Decimal)
_CANONICAL: Final = msgspec.json.Encoder(order="deterministic")


class Submission(msgspec.Struct, frozen=True):
    """
    What a caller asks for.

    Attributes:
        agent: by name; exactly one of agent and group.
        params: JSON bytes of an object, or the text of what is sealed.
        sealed: whether they are sealed to the agent, which is named then; nobody here can check them.
        seal_to: the caller's public key that the result is to be sealed to, or "".
        ttl_s: seconds until it may not start any more.
        signature: of the caller, or "". It is for the agent; nobody here could check it without being believed.
        rows_as: as what its rows are wanted: ``ndjson`` or ``arrow``.
    """

    operation: str
    params: bytes
    agent: str | None = None
    group: str | None = None
    ttl_s: float = 3600.0
    correlation_id: str = ""
    idempotency_key: str | None = None
    ordering_key: str | None = None
    priority: int = 0
    traceparent: str = ""
    key_id: str = ""
    sealed: bool = False
    seal_to: str = ""
    signature: str = ""
    rows_as: str = "ndjson"


# Not what is about the request only: its idempotency key, its trace, the key that it came with.
_THE_WORK: Final = ("operation", "agent", "group", "ttl_s", "correlation_id", "ordering_key", "priority", "seal_to")


def fingerprint(submission: Submission) -> str:
    """Return a digest that two submissions share only if they ask for the same."""
    asked = {name: getattr(submission, name) for name in _THE_WORK}
    asked["params"] = submission.params.decode() if submission.sealed else _EXACT.decode(submission.params)
    if submission.signature:
        # That it is signed, not how: who asks again may sign anew, and gets the same command back.
        asked["signed"] = True
    if submission.rows_as != "ndjson":
        asked["rows_as"] = submission.rows_as
    return hashlib.sha256(_CANONICAL.encode(asked)).hexdigest()


class Commands:
    """
    What the HTTP API asks about commands.

    Args:
        most_open: commands of one tenant that have no end yet; each is kept in memory. 0 for any number.
    """

    def __init__(self, store: Store, router: Router, results: Results, most_open: int = 0) -> None:
        self._most_open = most_open
        self._store = store
        self._router = router
        self._results = results
        self._chance = Chance()

    async def submit(self, scope: Scope, submission: Submission) -> tuple[Command, bool]:
        """
        Keep a command and send it on its way; return it, and whether it is new.

        Raises:
            AgentNotFound: no such agent or group of this tenant.
            OperationNotFound: the operator's file names no such operation.
            ParametersInvalid: they do not fit; nothing was kept.
            IdempotencyKeyReused: the key was used for another request.
            TooManyOpenCommands: the tenant has as many under way as it may.
            Unavailable: the agent has never been connected, so nobody knows what it can do; or the broker is stopping.
        """
        try:
            self._check_room(scope)
            command = await self.checked(scope, submission)
        except BrokerError:
            # The operator's file may have changed since the key was first used: its command is still the answer.
            if (earlier := await self._earlier(scope, submission)) is not None:
                return earlier, False
            raise
        entry = self._router.prepare(command)
        try:
            kept, new = await self._store.add_command(scope, entry.command)
        except BaseException as exc:  # whatever it was, its place at the agent is free again
            self._router.drop(entry)
            if isinstance(exc, IdempotencyConflict):
                raise _reused(submission) from exc
            raise
        if new:
            self._router.take(entry)
            return entry.command, True
        self._router.drop(entry)
        return self._current(scope, kept), False

    async def submit_many(self, scope: Scope, submissions: Sequence[Submission]) -> list[Answer]:
        """Keep commands in one transaction and send them on their way, in order; what ``submit`` raises is returned."""
        looked: list[Command | Answer] = []
        known: dict[Asked, Operation] = {}
        for number, submission in enumerate(submissions):
            if number % CHECKED_IN_A_ROUND == 0:
                await asyncio.sleep(0)  # one round of the loop: everybody else who is ready goes first
            looked.append(await self._looked_at(scope, submission, len(looked), known))
        # All at once: whoever is sent something meanwhile must not get between them.
        prepared = [self._router.prepare(one) if isinstance(one, Command) else one for one in looked]
        entries = [one for one in prepared if isinstance(one, Entry)]
        try:
            added = iter(await self._store.add_commands(scope, [entry.command for entry in entries]))
        except BaseException as exc:  # whatever it was, their places at the agents are free again
            for entry in entries:
                self._router.drop(entry)
            if isinstance(exc, StoreUnavailable):
                return [exc if isinstance(one, Entry) else one for one in prepared]
            raise
        return [
            self._told(scope, submission, one, next(added)) if isinstance(one, Entry) else one
            for submission, one in zip(submissions, prepared, strict=True)
        ]

    async def _looked_at(
        self, scope: Scope, submission: Submission, before: int, known: dict[Asked, Operation]
    ) -> Command | Answer:
        """Return the command to be kept, or what is to be answered; ``before`` is how many are kept with it."""
        try:
            self._check_room(scope, before)
            return await self.checked(scope, submission, known)
        except BrokerError as exc:
            try:
                earlier = await self._earlier(scope, submission)
            except BrokerError as other:
                return other
            return exc if earlier is None else (earlier, False)

    def _told(
        self, scope: Scope, submission: Submission, entry: Entry, added: tuple[Command, bool] | IdempotencyConflict
    ) -> Answer:
        if not isinstance(added, IdempotencyConflict) and added[1]:
            self._router.take(entry)
            return entry.command, True
        self._router.drop(entry)
        if isinstance(added, IdempotencyConflict):
            return _reused(submission)
        return self._current(scope, added[0]), False

    def has_room(self, scope: Scope, count: int) -> bool:
        """Whether a tenant may have so many more commands under way."""
        return not self._most_open or self._router.open_of(scope) + count <= self._most_open

    def _check_room(self, scope: Scope, before: int = 0) -> None:
        if not self.has_room(scope, before + 1):
            raise TooManyOpenCommands(
                f"The tenant has {self._most_open} commands under way, and may have no more; wait for some to end.",
                retry_after_s=5.0,
            )

    async def checked(
        self, scope: Scope, submission: Submission, known: dict[Asked, Operation] | None = None
    ) -> Command:
        """
        Return the command that was asked for, kept by nobody yet; raises what ``submit`` does of its words.

        Args:
            known: operations that were looked up just now, by who was asked for them.
        """
        if self._router.stopping:
            raise Unavailable("the broker is stopping and takes no commands; ask again", retry_after_s=5.0)
        operation = self._at_hand(scope, submission) or await self._looked_up(scope, submission, known)
        blob = None if submission.sealed else _check(operation, submission.params)
        now = time.time()
        command_id = new_id("cmd", int(now * 1000), self._chance)
        if blob is not None:
            await self._router.blobs.use(scope, blob, command_id)
        return Command(
            id=command_id,
            tenant=scope.tenant,
            agent=submission.agent,
            group=submission.group,
            operation=submission.operation,
            connection=operation.connection,
            effect=operation.effect,
            params=submission.params,
            fingerprint=fingerprint(submission) if submission.idempotency_key is not None else "",
            created_at=now,
            expires_at=now + submission.ttl_s,
            correlation_id=submission.correlation_id or f"cor{command_id.removeprefix('cmd')}",
            idempotency_key=submission.idempotency_key,
            ordering_key=submission.ordering_key,
            priority=submission.priority,
            traceparent=submission.traceparent,
            key_id=submission.key_id,
            sealed=submission.sealed,
            seal_to=submission.seal_to,
            signature=submission.signature,
            operation_digest=operation.digest,
            rows_as=submission.rows_as,
        )

    def take(self, command: Command) -> None:
        """Send a command on its way that was kept just now."""
        self._router.submit(command)

    async def _earlier(self, scope: Scope, submission: Submission) -> Command | None:
        if submission.idempotency_key is None:
            return None
        earlier = await self._store.command_by_key(scope, submission.idempotency_key)
        if earlier is None:
            return None
        try:
            same = earlier.fingerprint == fingerprint(submission)
        except (ValueError, RecursionError):
            same = False
        if not same:
            raise _reused(submission)
        return self._current(scope, earlier)

    def _current(self, scope: Scope, kept: Command) -> Command:
        """Return the command as the router has it, which is ahead of the store."""
        entry = self._router.entry(scope, kept.id)
        return entry.command if entry is not None else kept

    async def get(self, scope: Scope, command_id: str) -> Command:
        """
        Return a command.

        Raises:
            CommandNotFound: this tenant has none of this id.
        """
        entry = self._router.entry(scope, command_id)
        command = entry.command if entry is not None else await self._store.command(scope, command_id)
        if command is None:
            raise CommandNotFound(f"there is no command {command_id!r}")
        return command

    async def wait(self, scope: Scope, command_id: str, timeout_s: float) -> Command:
        """Return a command once it is final, or as it is when the time is up; raises ``CommandNotFound``."""
        entry = self._router.entry(scope, command_id)
        if entry is None:
            return await self.get(scope, command_id)
        return await self._router.wait(entry, timeout_s)

    async def cancel(self, scope: Scope, command_id: str, by: str = "broker") -> Command:
        """Ask for a command to be stopped; one that has ended is returned as it is. Raises ``CommandNotFound``."""
        entry = self._router.entry(scope, command_id)
        if entry is None:
            return await self.get(scope, command_id)
        if not entry.command.cancel_requested:
            asked = Step(command_id, time.time(), "cancel_requested", attempt=entry.command.epoch)
            await self._store.add_step(scope, asked)
        await self._store.request_cancel(scope, command_id, by=by)
        self._router.cancel(entry)
        return await self._router.wait(entry, timeout_s=1.0)

    def waiting_for(self, scope: Scope, command: Command) -> str | None:
        """Return why a queued command waits."""
        entry = self._router.entry(scope, command.id)
        return self._router.waiting_for(entry) if entry is not None else None

    async def row_sets(self, scope: Scope, command: Command) -> list[RowSetInfo]:
        """Return the row sets, so far where it is still under way."""
        entry = self._router.entry(scope, command.id)
        if entry is not None and entry.result is not None:
            return list(entry.result.row_sets())
        return list(command.row_sets)

    async def open_rows(self, scope: Scope, command_id: str, index: int) -> RowReader:
        """
        Return a reader of one row set, waiting until it has begun.

        Raises:
            CommandNotFound: no such command.
            RowSetNotFound: it ended without this row set.
            ResultGone: it ended without a result, or its rows were removed.
        """
        while (entry := self._router.entry(scope, command_id)) is not None:
            result = entry.result
            if result is not None:
                columns = await result.set_begun(index)
                if columns is not None:
                    chunks = functools.partial(result.chunks, index)
                    return RowReader(columns, chunks, result.sets[index].sealed, result.sets[index].rows_as)
            # Queued, or an attempt that ended: the command goes on, or has ended.
            await self._router.changed(entry, result)
        command = await self.get(scope, command_id)
        if command.state is not CommandState.SUCCEEDED:
            reason = command.error.message if command.error else "no more is known"
            raise ResultGone(f"the command ended as {command.state}: {reason}")
        if index >= len(command.row_sets):
            last = len(command.row_sets) - 1
            there = "has no row sets" if last < 0 else f"has the row sets 0 to {last}" if last else "has row set 0 only"
            raise RowSetNotFound(f"the result {there}; asked for {index}")
        inline = await self._store.inline_result(scope, command_id) if command.result == "inline" else None
        return self._results.reader(scope, command_id, command.row_sets[index], inline)

    def agent_condition(self, scope: Scope, agent: Agent) -> AgentCondition:
        """Return how an agent is."""
        return condition(agent, self._router.line(scope, agent.name), time.time(), time.monotonic())

    async def drain(self, scope: Scope, agent: str, *, drained: bool, by: str = "broker") -> None:
        """Give an agent nothing new, or commands again; what it works on comes to its end."""
        now = time.time()
        await self._store.drain_agent(scope, agent, now if drained else None, now, by=by)
        self._router.drain(scope, agent, drained=drained)

    def _at_hand(self, scope: Scope, submission: Submission) -> Operation | None:
        """Return the operation of an agent that is linked, where nothing is asked of it that not every agent can do."""
        if submission.agent is None or submission.seal_to or submission.rows_as == ARROW:
            return None
        line = self._router.line(scope, submission.agent)
        if line is None or line.link is None or line.catalogue is None:
            return None
        return line.catalogue.operations.get(submission.operation)

    async def _looked_up(self, scope: Scope, submission: Submission, known: dict[Asked, Operation] | None) -> Operation:
        asked = (submission.agent, submission.group, submission.operation, bool(submission.seal_to), submission.rows_as)
        operation = known.get(asked) if known is not None else None
        if operation is None:
            operation = await self._operation(scope, submission)
            if known is not None:
                known[asked] = operation
        return operation

    async def _operation(self, scope: Scope, submission: Submission) -> Operation:
        lines = await self._addressees(scope, submission)
        known = [line for line in lines if line.catalogue is not None]
        if not known:
            raise Unavailable(
                f"{submission.agent or submission.group} has not been connected yet, so its operations are not known; "
                "start the agent and try again",
                retry_after_s=5.0,
            )
        catalogues = [line.catalogue for line in known if line.catalogue is not None]
        ready = [line.catalogue for line in known if line.catalogue is not None and line.ready]
        operation = versions.chosen(submission.operation, ready, catalogues)
        if operation is not None:
            for line in known:
                able = line.catalogue is not None and line.catalogue.seals
                if submission.seal_to and not able:
                    raise Conflict(f"{line.agent} has no keys of its own, so nothing can be sealed: update its program")
                if submission.rows_as == ARROW and operation.name not in (line.catalogue or _NOTHING).arrow:
                    raise Conflict(_no_arrow(line.agent, operation))
            return operation
        names = sorted({name for line in known if line.catalogue is not None for name in line.catalogue.operations})
        raise OperationNotFound(
            f"{submission.agent or submission.group} has no operation {submission.operation!r}; "
            f"it has {', '.join(names) or 'none'}",
            operations=names,
        )

    async def _addressees(self, scope: Scope, submission: Submission) -> Sequence[Line]:
        if submission.agent is not None:
            line = self._router.line(scope, submission.agent)
            if line is not None and line.link is not None and line.catalogue is not None:
                return [line]
        # Not linked now, or not yet told what it can do: what the store knows of it.
        agents = await self._store.agents(scope)
        wanted = [
            agent
            for agent in agents
            if (agent.name == submission.agent if submission.agent is not None else agent.group == submission.group)
        ]
        if not wanted:
            kind, name = ("agent", submission.agent) if submission.agent is not None else ("group", submission.group)
            names = sorted({agent.name if kind == "agent" else agent.group or "" for agent in agents} - {""})
            raise AgentNotFound(f"there is no {kind} {name!r}; there are {', '.join(names) or 'none'}", agents=names)
        living = [agent for agent in wanted if agent.revoked_at is None]
        if not living:
            raise Conflict(f"{submission.agent or submission.group} is revoked and takes no commands")
        return [self._router.know(agent) for agent in living]


def _no_arrow(agent: str, operation: Operation) -> str:
    if operation.effect != "read":
        return f"{operation.name} is {operation.effect}; only rows of one SELECT that reads come as Arrow"
    return (
        f"{agent} can't give the rows of {operation.name} as Arrow: that takes one SELECT in its file, on PostgreSQL, "
        "MariaDB or SQLite, and an agent of 0.2.0 or later with the extra `arrow` installed. Ask without rows_as, "
        "which gives NDJSON and CSV"
    )


def _reused(submission: Submission) -> IdempotencyKeyReused:
    return IdempotencyKeyReused(
        f"the idempotency key {submission.idempotency_key!r} was used before, for another request; "
        "use a new key for a new request"
    )


def _check(operation: Operation, params: bytes) -> dict[str, Any] | None:
    """Raise ``ParametersInvalid`` unless they fit; return what names a blob, if something does."""
    try:
        decoded = msgspec.json.decode(params)
    except (ValueError, RecursionError) as exc:
        raise ParametersInvalid(f"params: not JSON: {exc}") from exc
    if not isinstance(decoded, dict):
        raise ParametersInvalid("params: wants an object")
    if reason := operation.no_blobs(decoded):
        raise ParametersInvalid(f"{operation.name}: {reason}")
    problems = operation.problems(decoded, len(params))
    if problems:
        raise ParametersInvalid(
            f"{operation.name}: " + "; ".join(f"{p.name}: {p.reason}" if p.name else p.reason for p in problems),
            errors=[{"name": problem.name, "reason": problem.reason} for problem in problems],
        )
    return operation.blob_in(decoded)
