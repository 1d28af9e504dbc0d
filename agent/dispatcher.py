"""
Commands from the link through the operator's limits to a connector, and their results back.

Everything a command leaves behind is kept in its ``Result`` until the broker says that it has it,
so a link may come and go while work goes on. What must not run twice is in the journal as well, so
that the process may come and go too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from agent import errors
from agent.connectors.base import Call, Connector, Outputs, Ready, Remark, Rows, RowSet
from agent.connectors.rows import MASKED
from agent.gate import Gate
from agent.inquiry import By, Found, Inquiry, settled_by
from agent.journal.base import Claim, Entry, Journal, Resolution
from agent.parameters import decode
from agent.policy import REPEATABLE, judge, permitted, told_before
from agent.results import Result, rows_lost
from agent.settings import DropOperation, Operation, PickOperation, Settings
from agent.spool import Spool, SpoolFolder
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.messages import Accepted, AnyMessage, Completed, Condition, Held, Run, Started

log = logging.getLogger(__name__)

Outcome = tuple[Completed, bytes]  # how a command ended, and its outputs
Work = Callable[[], Awaitable[Outcome]]

STOP_GRACE_S: Final = 20.0  # seconds that running commands have when the agent stops; services have 30
TELL_GRACE_S: Final = 5.0  # seconds to tell the broker what has ended
SETTLE_GRACE_S: Final = 2.0  # seconds to put picked files away; they are picked again otherwise
JOURNAL_RETRY_S: Final = 1.0  # seconds; an outcome that can't be kept now is kept when the disk has room again


class Voice(Protocol):
    """The link, as the dispatcher sees it."""

    def say(self, message: AnyMessage) -> None:
        """Say something about a command, if the link and the rules let us now."""

    def attach(self, result: Result) -> None:
        """Let a result take turns on the link."""

    def wake(self) -> None:
        """There is something new to send."""


class Silence:
    """The voice while there is no link."""

    def say(self, message: AnyMessage) -> None:
        """Nobody hears it; the next link is told what we hold."""

    def attach(self, result: Result) -> None:
        """It is attached when the broker asks for the rest of it."""

    def wake(self) -> None:
        """Nobody sleeps."""


@dataclass(slots=True, eq=False)
class Running:
    """
    A command that the broker has not told us to forget.

    Attributes:
        claim: what the journal has of it, or will have.
        deadline: on the monotonic clock; it may not start after that.
        waiting: whether its task only waits for its turn, and may be cancelled.
        journaled: whether the journal has it, so that its outcome goes there before it is told.
        inquiry: at work where its end was not heard.
        outputs: what a success returned besides rows.
    """

    claim: Claim
    deadline: float
    result: Result
    task: asyncio.Task[None] | None = None
    operation: Operation | None = None
    spool: Spool | None = None
    waiting: bool = False
    started: bool = False
    cancelled: bool = False
    journaled: bool = False
    inquiry: Inquiry | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    succeeded: bool = False

    @property
    def id(self) -> str:
        return self.claim.id

    def stop_waiting(self) -> None:
        """End it if it has not started; one that has not even begun to wait looks for itself whether it still may."""
        if self.waiting and self.task is not None:
            self.task.cancel()

    def warn(self, text: str) -> None:
        """Tell the caller something besides."""
        if len(self.warnings) < limits.MAX_WARNINGS:
            self.warnings.append(text[: limits.MAX_ERROR_CHARS])


class Dispatcher:
    """All commands of one agent."""

    def __init__(
        self, settings: Settings, connectors: Mapping[str, Connector], journal: Journal, spool: SpoolFolder
    ) -> None:
        self._settings = settings
        self._connectors = connectors
        self._journal = journal
        self._spool = spool
        self._gates = {name: Gate(connection) for name, connection in settings.connections.items()}
        self._commands: dict[str, Running] = {}
        self._voice: Voice = Silence()
        self._stopping = False
        self._taken_up = 0  # commands of an earlier process
        self._forgotten = asyncio.Event()  # set, and replaced, when a command is forgotten or the link is lost
        self._aside: set[asyncio.Task[None]] = set()
        self._leaving: set[Running] = set()  # those that were forgotten before their end

    def __repr__(self) -> str:
        return f"<Dispatcher {self.running} running, {len(self._commands)} held>"

    @property
    def running(self) -> int:
        """How many commands have not ended."""
        return sum(not running.result.ended for running in self._commands.values())

    @property
    def inquiring(self) -> list[str]:
        """Ids of the commands whose end is being found out."""
        return [*(r.id for r in (*self._commands.values(), *self._leaving) if r.inquiry is not None)]

    def condition(self) -> Condition:
        """Return how the agent is."""
        shut = {name: seconds for name, gate in self._gates.items() if (seconds := gate.opens_in()) > 0}
        trouble = self._journal.trouble
        problems = [trouble[: limits.MAX_ERROR_CHARS]] if trouble else []
        if self._stopping:
            problems.append("the agent is stopping")
        return Condition(problems=problems, shut=shut)

    # --- what an earlier process left ---------------------------------------------------------------

    def recover(self) -> None:
        """Take up all that the broker has not told us to forget; call it once, before the first link."""
        left = self._journal.unacknowledged()
        self._taken_up = len(left)
        self._spool.open({entry.claim.id for entry in left if entry.spooled})
        for entry in left:
            claim = entry.claim
            result = Result(claim.id, claim.epoch, lambda: self._voice.wake())
            running = Running(claim, math.inf, result, started=True, journaled=True)
            running.operation = self._settings.operations.get(claim.operation)
            self._commands[claim.id] = running
            if entry.completed is not None:
                self._restore_end(running, entry, entry.completed)
            else:
                running.task = asyncio.create_task(self._take_up(running, entry), name=f"take up {claim.id}")
            log.info(
                "taken up: %s",
                entry.state,
                extra={"event": "command_taken_up", "command": claim.id, "state": entry.state},
            )

    def _restore_end(self, running: Running, entry: Entry, completed: Completed) -> None:
        outputs = entry.outputs or b""
        try:
            if completed.outcome == "succeeded":
                self._restore_rows(running, entry)
                running.succeeded = True
                running.outputs = msgspec.json.decode(outputs, type=dict[str, Any]) if outputs else {}
        except errors.OutcomeUnknown as exc:
            completed, outputs = rows_lost(completed, exc.message), b""
        running.result.complete(completed, outputs)

    def _restore_rows(self, running: Running, entry: Entry) -> None:
        if entry.rows or entry.spooled:
            running.spool = Spool.restored(self._spool, entry.claim.id, entry.rows, entry.spooled)
            running.result.restore(running.spool)

    async def _take_up(self, running: Running, entry: Entry) -> None:
        why = "the agent was stopped in the middle of it"
        await self._see_through(running, lambda: self._find_out(running, why, entry))

    # --- the link's side --------------------------------------------------------------------------

    def linked(self, voice: Voice) -> None:
        """A link is there."""
        self._voice = voice

    def unlinked(self, voice: Voice) -> None:
        """A link is gone; without effect if another took its place."""
        if self._voice is voice:
            self._voice = Silence()
            self._forgotten.set()
            self._forgotten = asyncio.Event()

    def held(self) -> list[Held]:
        """Return what to tell the broker of a new link."""
        return [running.result.held() for running in self._commands.values()]

    def resume(self, command_id: str, offset: int) -> None:
        """The broker wants the rest of a held command."""
        running = self._commands[command_id]
        running.result.resume(offset)
        self._voice.attach(running.result)
        if running.started and not running.result.ended:
            self._voice.say(Started(command_id, running.claim.epoch, self._journal.position))

    def offer(self, run: Run, params: bytes) -> None:
        """
        A new command.

        Raises:
            RemoteProtocolError: the broker sends far more than it was told that we take.
        """
        if len(self._commands) >= 2 * self._settings.max_running + self._taken_up:
            raise RemoteProtocolError(f"{run.id}: {len(self._commands)} commands are here, and that is too many")
        operation = self._settings.operations.get(run.operation)
        claim = Claim(
            id=run.id,
            epoch=run.epoch,
            fingerprint=hashlib.sha256(run.operation.encode() + b"\0" + params).hexdigest(),
            operation=run.operation,
            effect=operation.effect if operation is not None else "at-most-once",
            params=params,
            correlation_id=run.correlation_id,
            at=time.time(),
        )
        result = Result(run.id, run.epoch, lambda: self._voice.wake())
        running = Running(claim, time.monotonic() + run.expires_in_s, result)
        self._commands[run.id] = running
        self._voice.attach(result)
        running.task = asyncio.create_task(
            self._see_through(running, lambda: self._perform(running)), name=f"command {run.id}"
        )

    def cancel(self, command_id: str) -> None:
        """The caller wants it no more."""
        running = self._commands.get(command_id)
        if running is None or running.result.ended:
            return
        running.cancelled = True
        if running.inquiry is not None:
            running.inquiry.cancelled = True
        elif running.started and running.operation is not None:
            self._connectors[running.operation.connection].cancel(command_id)
        else:
            running.stop_waiting()

    def forget(self, command_id: str) -> None:
        """The broker has all of it, or wants none of it."""
        running = self._commands.pop(command_id, None)
        self._forgotten.set()
        self._forgotten = asyncio.Event()
        if running is None:
            return
        if not running.result.ended:
            self._leave(running)
            return
        self._drop(running)
        if running.succeeded and running.operation is not None and _settles(running.operation):
            connector = self._connectors[running.operation.connection]
            task = asyncio.create_task(self._settle(connector, running), name=f"settle {command_id}")
            self._aside.add(task)
            task.add_done_callback(self._aside.discard)

    def _drop(self, running: Running) -> None:
        running.result.abandon()
        if running.journaled:
            self._journal.acknowledge(running.id)

    def _leave(self, running: Running) -> None:
        """Nobody waits for it any more. It does not start, a read stops; what may have an effect runs to its end."""
        running.result.abandon()
        if not running.started:
            running.cancelled = True
            running.stop_waiting()
        elif running.operation is not None and running.operation.effect == "read":
            self._connectors[running.operation.connection].cancel(running.id)
        if running.task is not None:
            self._leaving.add(running)
            running.task.add_done_callback(lambda _: self._left(running))

    def _left(self, running: Running) -> None:
        self._leaving.discard(running)
        if running.result.ended:
            self._drop(running)

    async def resolve(self, command_id: str, resolution: Resolution) -> None:
        """
        A person at this machine found out what became of a command.

        Raises:
            KeyError: the journal knows none of this id.
            JournalUnavailable: it could not be kept now.
        """
        here = [running for running in (*self._commands.values(), *self._leaving) if running.id == command_id]
        if any(running.inquiry is None and not running.result.ended for running in here):
            log.warning(
                "%s is under way: what was found out of it is not believed",
                command_id,
                extra={"event": "resolution_ignored", "command": command_id},
            )
            return
        await self._journal.resolve(command_id, resolution)
        for running in here:
            if running.inquiry is not None:
                running.inquiry.resolve(resolution)

    def take_no_more(self) -> None:
        """Begin nothing from here on; ``stop`` follows."""
        self._stopping = True

    async def stop(self) -> None:
        """Take nothing new, let what runs come to its end, but not for longer than the grace."""
        self.take_no_more()
        there = [*self._commands.values(), *self._leaving]
        for running in there:
            running.stop_waiting()
        tasks = [running.task for running in there if running.task is not None]
        # Nobody can say how long an answer takes: the next process asks again.
        for running in there:
            if running.inquiry is not None and running.task is not None:
                running.task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELL_GRACE_S):
                # What has ended is told while there is somebody to tell it to.
                while self._to_tell() and not isinstance(self._voice, Silence):
                    await self._forgotten.wait()
        if self._aside:
            await asyncio.wait(self._aside, timeout=SETTLE_GRACE_S)
        self.close()

    def close(self) -> None:
        """Close what is open; all that is kept stays for the next process."""
        for running in (*self._commands.values(), *self._leaving):
            if running.spool is not None:
                running.spool.close()

    def _to_tell(self) -> bool:
        return any(running.result.ended for running in self._commands.values())

    # --- one command ------------------------------------------------------------------------------

    async def _see_through(self, running: Running, work: Work) -> None:
        began = time.monotonic()
        try:
            outcome = await self._outcome(running, work)
            await self._end(running, *outcome)
        except asyncio.CancelledError:
            # Stopped where the next process finds out from the journal what became of it.
            if self._stopping:
                return
            raise
        log.info(
            "command ended",
            extra={
                "event": "command_ended",
                "command": running.id,
                "operation": running.claim.operation,
                "correlation_id": running.claim.correlation_id,
                "succeeded": running.succeeded,
                "seconds": round(time.monotonic() - began, 3),
            },
        )

    async def _outcome(self, running: Running, work: Work) -> Outcome:
        """Do the work and return how it ended, whatever happens."""
        try:
            return await work()
        except errors.CommandError as exc:
            if _is_uncertain(exc, running):
                return await self._find_out(running, exc.message)
            return self._failed(running, exc)
        except asyncio.CancelledError:
            if running.cancelled and not running.started:
                return self._failed(running, errors.Cancelled("cancelled before it started", touched=False))
            if not running.started or running.claim.effect in REPEATABLE:
                return self._failed(running, errors.AgentStopping("the agent is stopping", touched=False))
            if running.operation is not None and settled_by(running.operation) is not By.NOBODY:
                raise
            return self._failed(running, errors.OutcomeUnknown("the agent was stopped while it was under way"))
        except Exception as exc:  # a mistake of ours must end as the command's honest outcome, not as silence
            log.exception("command broke the agent", extra={"event": "command_broke", "command": running.id})
            broken = errors.OutcomeUnknown(f"{type(exc).__name__} in the agent", touched=running.started)
            return self._failed(running, broken)

    async def _perform(self, running: Running) -> Outcome:
        claim = running.claim
        if self._stopping:
            raise errors.AgentStopping("the agent is stopping", touched=False)
        operation = permitted(self._settings, claim.operation)
        decode(operation, claim.params)
        self._voice.say(Accepted(claim.id, claim.epoch))
        gate = self._gates[operation.connection]
        await self._turn(running, gate)
        try:
            earlier = told_before(claim, self._journal.find(claim.id))
            if earlier is not None:
                return self._again(running, operation, earlier)
            if operation.effect not in REPEATABLE:
                running.spool = running.result.spool(self._spool)
                await self._begin(running)
            await self._run(running, operation)
        finally:
            gate.leave()
        return self._success(running)

    async def _turn(self, running: Running, gate: Gate) -> None:
        """Wait until it may start: an earlier attempt at it has ended, and the gate lets it through."""
        if running.cancelled:
            raise errors.Cancelled("cancelled before it started", touched=False)
        earlier = [other.task for other in self._leaving if other.id == running.id and other.task is not None]
        left_s = running.deadline - time.monotonic()
        running.waiting = True
        try:
            if left_s <= 0:
                # A timeout acts where something is waited for, which may be nowhere.
                raise TimeoutError
            async with asyncio.timeout(left_s):
                if earlier:
                    await asyncio.wait(earlier)
                await gate.enter()
        except TimeoutError:
            raise errors.DeadlinePassed("its time was up before it could start", touched=False) from None
        finally:
            running.waiting = False

    def _again(self, running: Running, operation: Operation, earlier: Entry) -> Outcome:
        """Return the outcome that this very command had before; it is not run."""
        running.operation = operation
        completed = earlier.completed
        if completed is None:
            raise AssertionError("told_before gives none that has not ended")
        running.warn("this is the outcome of an earlier delivery of the same command; it was not run again")
        completed = msgspec.structs.replace(completed, epoch=running.claim.epoch, warnings=running.warnings)
        if completed.outcome == "succeeded":
            if completed.row_sets or earlier.outputs is None:
                return rows_lost(completed, "it happened at an earlier delivery; its result is no longer kept"), b""
            running.succeeded = True
        return completed, earlier.outputs or b""

    async def _begin(self, running: Running) -> None:
        """Have it in the journal before the first byte goes to the ERP."""
        await self._journal.begin(running.claim)
        running.journaled = True
        if time.monotonic() >= running.deadline:
            raise errors.DeadlinePassed("its time was up before it could start", touched=False)
        if running.cancelled or self._stopping:
            raise errors.AgentStopping("the agent is stopping", touched=False)

    async def _run(self, running: Running, operation: Operation) -> None:
        claim = running.claim
        running.operation = operation
        running.started = True
        self._voice.say(Started(claim.id, claim.epoch, self._journal.position))
        call = Call(claim.id, claim.operation, claim.params, operation.timeout, claim.epoch, claim.fingerprint)
        pieces = self._connectors[operation.connection].run(call)
        until = time.monotonic() + operation.timeout
        try:
            async for piece in pieces:
                if isinstance(piece, Rows):
                    await self._kept(running, running.result.rows(piece.data, piece.count), until)
                elif isinstance(piece, RowSet):
                    await self._kept(running, running.result.begin(piece.columns), until)
                elif isinstance(piece, Outputs):
                    running.outputs = _masked(piece.values, operation.mask)
                elif isinstance(piece, Remark):
                    running.warn(piece.message)
                elif isinstance(piece, Ready):
                    await self._keep_rows(running)
        finally:
            await pieces.aclose()
        if running.spool is not None and running.result.end:
            await self._keep_rows(running)

    async def _kept(self, running: Running, putting: Coroutine[Any, Any, None], until: float) -> None:
        """Put away a part of the result; a spool without room is waited for until the operation's time is up."""
        if running.spool is None:
            return await putting
        try:
            async with asyncio.timeout(max(0.1, until - time.monotonic())):
                await putting
        except TimeoutError:
            raise errors.OutcomeUnknown(
                "there was no room for its rows in the spool until its time was up; make room on the agent's disk"
            ) from None

    async def _keep_rows(self, running: Running) -> None:
        """Make the rows durable, before the source commits or the end is kept."""
        if running.spool is None:
            return
        try:
            rows, spooled = await running.spool.keep()
            await self._journal.keep_rows(running.id, rows, spooled)
        except (OSError, errors.JournalUnavailable) as exc:
            raise errors.OutcomeUnknown(f"its rows can't be kept: {exc}") from exc

    # --- how it ended ------------------------------------------------------------------------------

    def _success(self, running: Running) -> Outcome:
        outputs = msgspec.json.encode(running.outputs)
        if len(outputs) > limits.MAX_OUTPUT_BYTES:
            return self._failed(
                running,
                errors.ResultLost(
                    f"it ran, but its outputs of {len(outputs)} bytes are more than the {limits.MAX_OUTPUT_BYTES} that "
                    "go over the link; let the operation return less"
                ),
            )
        running.succeeded = True
        completed = Completed(
            id=running.id,
            epoch=running.claim.epoch,
            outcome="succeeded",
            row_sets=running.result.manifest(),
            warnings=running.warnings,
        )
        return completed, outputs

    def _failed(self, running: Running, error: errors.CommandError) -> Outcome:
        effect = running.operation.effect if running.operation is not None else running.claim.effect
        verdict = judge(error, effect, cancelled=running.cancelled)
        completed = Completed(
            id=running.id,
            epoch=running.claim.epoch,
            outcome=verdict.outcome,
            error_kind=verdict.kind,
            error_code=verdict.code,
            error_message=error.message,
            source_code=error.source_code,
            touched=error.touched,
            retryable=error.may_work_later and verdict.outcome == "failed",
            warnings=running.warnings,
        )
        return completed, b""

    async def _find_out(self, running: Running, why: str, entry: Entry | None = None) -> Outcome:
        """
        Find out what became of a command whose end was not heard.

        Args:
            why: it was not heard.
            entry: what an earlier process kept of it.
        """
        running.inquiry = Inquiry(running.claim, self._settings, self._connectors, self._gates)
        running.inquiry.cancelled = running.cancelled
        try:
            found = await running.inquiry.answer()
        finally:
            running.inquiry = None
        log.info(
            "found out: %s",
            found.why,
            extra={"event": "command_found_out", "command": running.id, "happened": found.happened},
        )
        return self._concluded(running, found, why, entry)

    def _concluded(self, running: Running, found: Found, why: str, entry: Entry | None) -> Outcome:
        if found.happened is None:
            return self._failed(running, errors.OutcomeUnknown(f"{why}, and {found.why}"))
        if not found.happened:
            return self._failed(running, errors.NotHappened(f"{why}; it did not happen: {found.why}", touched=False))
        if entry is not None:
            try:
                self._restore_rows(running, entry)
            except errors.OutcomeUnknown as exc:
                return rows_lost(self._success(running)[0], exc.message), b""
        mask = running.operation.mask if running.operation is not None else ()
        running.outputs = _masked(found.outputs, mask)
        running.warn(f"{why}; it did happen: {found.why}")
        return self._success(running)

    async def _end(self, running: Running, completed: Completed, outputs: bytes) -> None:
        """Keep the outcome, then tell it."""
        if running.journaled:
            await self._keep_end(running, completed, outputs)
        elif running.claim.effect in REPEATABLE:
            self._journal.note(msgspec.structs.replace(running.claim, params=b""), completed, time.time())
        running.result.complete(msgspec.structs.replace(completed, position=self._journal.position), outputs)

    async def _keep_end(self, running: Running, completed: Completed, outputs: bytes) -> None:
        while True:
            try:
                return await self._journal.end(running.id, completed, outputs, time.time())
            except errors.JournalUnavailable as exc:
                log.error(
                    "an outcome can't be kept yet: %s", exc.message, extra={"event": "end_waits", "command": running.id}
                )
                await asyncio.sleep(JOURNAL_RETRY_S)

    async def _settle(self, connector: Connector, running: Running) -> None:
        call = Call(running.id, running.claim.operation, running.claim.params, 60.0)
        try:
            await connector.settle(call, running.outputs)
        except errors.CommandError as exc:
            # The files stay where they are and are picked again: nothing is lost.
            log.warning(
                "picked files were not put away: %s",
                exc.message,
                extra={"event": "settle_failed", "command": running.id},
            )


def _is_uncertain(error: errors.CommandError, running: Running) -> bool:
    """Whether what happened is still to be found out, and may be."""
    operation = running.operation
    if operation is None or not running.started:
        return False
    return judge(error, operation.effect, cancelled=running.cancelled).outcome == "in_doubt"


def _settles(operation: Operation) -> bool:
    """Whether something is left to do at the source once the broker has the result."""
    if isinstance(operation, PickOperation):
        return operation.then != "keep"
    return isinstance(operation, DropOperation) and operation.effect == "once"


def _masked(values: dict[str, Any], mask: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: MASKED if name in mask and value is not None else value  # drivers mask rows, we make sure of outputs
        for name, value in values.items()
    }
