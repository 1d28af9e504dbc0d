"""
Commands from the link through the operator's limits to a connector, and their results back.

Everything a command leaves behind is kept in its ``Result`` until the broker says that it has it,
so a link may come and go while work goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from agent import errors
from agent.connectors.base import Call, Connector, Outputs, Remark, Rows, RowSet
from agent.connectors.rows import MASKED
from agent.gate import Gate
from agent.parameters import decode
from agent.policy import judge, permitted
from agent.results import Result
from agent.settings import DropOperation, Effect, Operation, PickOperation, Settings
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.messages import Accepted, AnyMessage, Completed, Held, Run, Started

log = logging.getLogger(__name__)

STOP_GRACE_S: Final = 20.0  # seconds that running commands have when the agent stops; services have 30
TELL_GRACE_S: Final = 5.0  # seconds to tell the broker what has ended


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
        deadline: on the monotonic clock; it may not start after that.
        waiting: whether its task only waits for its turn, and may be cancelled.
        outputs: what a success returned besides rows.
    """

    run: Run
    params: bytes
    deadline: float
    result: Result
    task: asyncio.Task[None] | None = None
    operation: Operation | None = None
    effect: Effect = "at-most-once"
    waiting: bool = False
    started: bool = False
    cancelled: bool = False
    outputs: dict[str, Any] = field(default_factory=dict)
    succeeded: bool = False

    def stop_waiting(self) -> None:
        """End it if it has not started; one that has not even begun to wait looks for itself whether it still may."""
        if self.waiting and self.task is not None:
            self.task.cancel()


class Dispatcher:
    """All commands of one agent."""

    def __init__(self, settings: Settings, connectors: Mapping[str, Connector]) -> None:
        self._settings = settings
        self._connectors = connectors
        self._gates = {name: Gate(connection) for name, connection in settings.connections.items()}
        self._commands: dict[str, Running] = {}
        self._voice: Voice = Silence()
        self._stopping = False
        self._forgotten = asyncio.Event()  # set, and replaced, when a command is forgotten or the link is lost
        self._aside: set[asyncio.Task[None]] = set()
        self._leaving: set[Running] = set()  # those that were forgotten before their end

    def __repr__(self) -> str:
        return f"<Dispatcher {self.running} running, {len(self._commands)} held>"

    @property
    def running(self) -> int:
        """How many commands have not ended."""
        return sum(not running.result.ended for running in self._commands.values())

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
            self._voice.say(Started(command_id, running.run.epoch))

    def offer(self, run: Run, params: bytes) -> None:
        """
        A new command.

        Raises:
            RemoteProtocolError: the broker sends far more than it was told that we take.
        """
        if len(self._commands) >= 2 * self._settings.max_running:
            raise RemoteProtocolError(f"{run.id}: {len(self._commands)} commands are here, and that is too many")
        result = Result(run.id, run.epoch, lambda: self._voice.wake())
        running = Running(run, params, time.monotonic() + run.expires_in_s, result)
        self._commands[run.id] = running
        self._voice.attach(result)
        running.task = asyncio.create_task(self._see_through(running), name=f"command {run.id}")

    def cancel(self, command_id: str) -> None:
        """The caller wants it no more."""
        running = self._commands.get(command_id)
        if running is None or running.result.ended:
            return
        running.cancelled = True
        if running.operation is not None:
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
        elif running.succeeded and running.operation is not None and _settles(running.operation):
            connector = self._connectors[running.operation.connection]
            task = asyncio.create_task(self._settle(connector, running), name=f"settle {command_id}")
            self._aside.add(task)
            task.add_done_callback(self._aside.discard)

    def _leave(self, running: Running) -> None:
        """Nobody waits for it any more. It does not start, a read stops; what may have an effect runs to its end."""
        running.result.abandon()
        if running.operation is None:
            running.cancelled = True
            running.stop_waiting()
        elif running.effect == "read":
            self._connectors[running.operation.connection].cancel(running.run.id)
        if running.task is not None:
            self._leaving.add(running)
            running.task.add_done_callback(lambda _: self._leaving.discard(running))

    async def stop(self) -> None:
        """Take nothing new, let what runs come to its end, but not for longer than the grace."""
        self._stopping = True
        there = [*self._commands.values(), *self._leaving]
        for running in there:
            running.stop_waiting()
        tasks = [running.task for running in there if running.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TELL_GRACE_S):
                # What has ended is told while there is somebody to tell it to.
                while self._commands and not isinstance(self._voice, Silence):
                    await self._forgotten.wait()
        if self._aside:
            await asyncio.wait(self._aside, timeout=STOP_GRACE_S)

    # --- one command ------------------------------------------------------------------------------

    async def _see_through(self, running: Running) -> None:
        began = time.monotonic()
        warnings: list[str] = []
        try:
            await self._perform(running, warnings)
        except errors.CommandError as exc:
            self._fail(running, exc, warnings)
        except asyncio.CancelledError:
            if running.started:
                self._fail(running, errors.OutcomeUnknown("the agent was stopped while it was under way"), warnings)
                raise
            if not running.cancelled:
                self._fail(running, errors.AgentStopping("the agent is stopping", touched=False), warnings)
                raise
            self._fail(running, errors.Cancelled("cancelled before it started", touched=False), warnings)
        except Exception as exc:  # a mistake of ours must end as the command's honest outcome, not as silence
            log.exception("command broke the agent", extra={"event": "command_broke", "command": running.run.id})
            self._fail(running, errors.OutcomeUnknown(f"{type(exc).__name__} in the agent"), warnings)
        log.info(
            "command ended",
            extra={
                "event": "command_ended",
                "command": running.run.id,
                "operation": running.run.operation,
                "correlation_id": running.run.correlation_id,
                "succeeded": running.succeeded,
                "seconds": round(time.monotonic() - began, 3),
            },
        )

    async def _perform(self, running: Running, warnings: list[str]) -> None:
        run = running.run
        if self._stopping:
            raise errors.AgentStopping("the agent is stopping", touched=False)
        operation = permitted(self._settings, run.operation)
        running.effect = operation.effect
        decode(operation, running.params)
        self._voice.say(Accepted(run.id, run.epoch))
        gate = self._gates[operation.connection]
        await self._turn(running, gate)
        try:
            await self._run(running, operation, warnings)
        finally:
            gate.leave()
        outputs = msgspec.json.encode(running.outputs)
        if len(outputs) > limits.MAX_OUTPUT_BYTES:
            raise errors.OutcomeUnknown(
                f"it ran, but its outputs of {len(outputs)} bytes are more than the {limits.MAX_OUTPUT_BYTES} that go "
                "over the link; let the operation return less"
            )
        running.succeeded = True
        running.result.complete(
            Completed(
                id=run.id,
                epoch=run.epoch,
                outcome="succeeded",
                row_sets=running.result.manifest(),
                warnings=warnings,
            ),
            outputs,
        )

    async def _turn(self, running: Running, gate: Gate) -> None:
        """Wait until it may start: an earlier attempt at it has ended, and the gate lets it through."""
        if running.cancelled:
            raise errors.Cancelled("cancelled before it started", touched=False)
        earlier = [other.task for other in self._leaving if other.run.id == running.run.id and other.task is not None]
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

    async def _run(self, running: Running, operation: Operation, warnings: list[str]) -> None:
        run = running.run
        running.operation = operation
        running.started = True
        self._voice.say(Started(run.id, run.epoch))
        pieces = self._connectors[operation.connection].run(
            Call(run.id, run.operation, running.params, operation.timeout)
        )
        try:
            async for piece in pieces:
                if isinstance(piece, Rows):
                    await running.result.rows(piece.data, piece.count)
                elif isinstance(piece, RowSet):
                    running.result.begin(piece.columns)
                elif isinstance(piece, Outputs):
                    running.outputs = _masked(piece.values, operation.mask)
                elif isinstance(piece, Remark) and len(warnings) < limits.MAX_WARNINGS:
                    warnings.append(piece.message[: limits.MAX_ERROR_CHARS])
        finally:
            await pieces.aclose()

    def _fail(self, running: Running, error: errors.CommandError, warnings: list[str]) -> None:
        verdict = judge(error, running.effect, cancelled=running.cancelled)
        running.result.complete(
            Completed(
                id=running.run.id,
                epoch=running.run.epoch,
                outcome=verdict.outcome,
                error_kind=verdict.kind,
                error_code=verdict.code,
                error_message=error.message,
                source_code=error.source_code,
                touched=error.touched,
                warnings=warnings,
            ),
            b"",
        )

    async def _settle(self, connector: Connector, running: Running) -> None:
        call = Call(running.run.id, running.run.operation, running.params, 60.0)
        try:
            await connector.settle(call, running.outputs)
        except errors.CommandError as exc:
            # The files stay where they are and are picked again: nothing is lost.
            log.warning(
                "picked files were not put away: %s",
                exc.message,
                extra={"event": "settle_failed", "command": running.run.id},
            )


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
