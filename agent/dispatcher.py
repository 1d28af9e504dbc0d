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
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from agent import awake, errors
from agent.attempts import Attempts, Running
from agent.connectors.base import Call, Connector
from agent.journal.base import Claim, Journal, Resolution
from agent.pauses import Pause, refusal
from agent.results import Result
from agent.sealing import Seals
from agent.settings import DropOperation, Operation, PickOperation, Settings
from agent.signatures import Signatures, params_sha256
from agent.spool import SpoolFolder
from agent.status import ConnectionStatus
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.framing import Buffer
from protocol.messages import PROOFS, AnyMessage, BlobChunk, BlobGone, Condition, Held, Run, Started
from protocol.signing import signature_digest

log = logging.getLogger(__name__)

STOP_GRACE_S: Final = 20.0  # seconds that running commands have when the agent stops; services have 30
LATE_GRACE_S: Final = 3.0  # seconds to end what was stopped then, a driver's process included
TELL_GRACE_S: Final = 5.0  # seconds to tell the broker what has ended
SETTLE_GRACE_S: Final = 2.0  # seconds to put picked files away; they are picked again otherwise


class Voice(Protocol):
    """
    The link, as the dispatcher sees it.

    Attributes:
        features: what both sides can do besides.
    """

    @property
    def features(self) -> frozenset[str]: ...

    def say(self, message: AnyMessage, *, soon: bool = False) -> None:
        """Say something about a command, if the link and the rules let us now; ``soon``: it may wait for a moment."""

    def attach(self, result: Result) -> None:
        """Let a result take turns on the link."""

    def wake(self) -> None:
        """There is something new to send."""


class Silence:
    """The voice while there is no link."""

    features = frozenset[str]()

    def say(self, message: AnyMessage, *, soon: bool = False) -> None:
        """Nobody hears it; the next link is told what we hold."""

    def attach(self, result: Result) -> None:
        """It is attached when the broker asks for the rest of it."""

    def wake(self) -> None:
        """Nobody sleeps."""


class Dispatcher:
    """
    All commands of one agent.

    Attributes:
        stirred: called when a command comes.
    """

    def __init__(
        self,
        settings: Settings,
        connectors: Mapping[str, Connector],
        journal: Journal,
        spool: SpoolFolder,
        signatures: Signatures | None = None,
        seals: Seals | None = None,
        places: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            signatures: without it no caller's signature fits, and no end has the agent's.
            seals: without it what is sealed is refused.
            places: of the connections, by name, as the catalogue tells them.
        """
        self.stirred: Callable[[], None] = lambda: None
        self._settings = settings
        self._connectors = connectors
        self._journal = journal
        self._spool = spool
        self._commands: dict[str, Running] = {}
        self._voice: Voice = Silence()
        self._taken_up = 0  # commands of an earlier process
        self._forgotten = asyncio.Event()  # set, and replaced, when a command is forgotten or the link is lost
        self._aside: set[asyncio.Task[None]] = set()
        self._leaving: set[Running] = set()  # those that were forgotten before their end
        self._paused: dict[str, Pause] = {}
        self._attempts = Attempts(
            settings,
            connectors,
            journal,
            spool,
            lambda message, soon: self._voice.say(message, soon=soon),
            self._before,
            signatures or Signatures(settings),
            lambda: PROOFS in self._voice.features,
            seals,
            places,
        )

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
        shut = {name: seconds for name, gate in self._attempts.gates.items() if (seconds := gate.opens_in()) > 0}
        trouble = self._journal.trouble
        problems = [trouble[: limits.MAX_ERROR_CHARS]] if trouble else []
        if self._attempts.stopping:
            problems.append("the agent is stopping")
        paused = {name: one.told[: limits.MAX_ERROR_CHARS] for name, one in self._paused.items()}
        return Condition(problems=problems, shut=shut, paused=paused)

    def obey(self, paused: Mapping[str, Pause]) -> None:
        """
        Let nothing begin on paused connections, and stop what runs where that was said too.

        Args:
            paused: all that are, by name; the others go on.
        """
        self._paused = dict(paused)
        for name, gate in self._attempts.gates.items():
            gate.pause(refusal(name, paused[name]) if name in paused else "")
        for running in (*self._commands.values(), *self._leaving):
            operation = self._settings.operations.get(running.claim.operation)
            one = paused.get(operation.connection) if operation is not None else None
            if operation is None or one is None or running.result.ended or running.paused:
                continue
            if not running.started:
                running.paused = refusal(operation.connection, one)
                running.stop_waiting()
            elif one.stop and running.inquiry is None:
                running.paused = refusal(operation.connection, one)
                self._connectors[operation.connection].cancel(running.id)

    def connections(self) -> dict[str, ConnectionStatus]:
        """Return how each connection is."""
        at_work, held = Counter[str](), Counter[str]()
        for running in (*self._commands.values(), *self._leaving):
            operation = self._settings.operations.get(running.claim.operation)
            if operation is not None and not running.result.ended:
                there = at_work if running.started and running.inquiry is None else held
                there[operation.connection] += 1
        return {
            name: ConnectionStatus(
                paused=bool(gate.paused), shut=gate.opens_in() > 0, running=at_work[name], held=held[name]
            )
            for name, gate in self._attempts.gates.items()
        }

    # --- what an earlier process left ---------------------------------------------------------------

    def recover(self) -> None:
        """Take up all that the broker has not told us to forget; call it once, before the first link."""
        left = self._journal.unacknowledged()
        self._taken_up = len(left)
        self._attempts.blobs.open()
        self._spool.open({entry.claim.id for entry in left if entry.spooled})
        for entry in left:
            claim = entry.claim
            result = Result(claim.id, claim.epoch, lambda: self._voice.wake())
            running = Running(claim, math.inf, result, started=True, journaled=True)
            running.operation = self._settings.operations.get(claim.operation)
            self._commands[claim.id] = running
            if entry.completed is not None:
                self._attempts.restore_end(running, entry, entry.completed)
            else:
                running.task = asyncio.create_task(self._attempts.left_open(running, entry), name=f"take up {claim.id}")
            log.info(
                "taken up: %s",
                entry.state,
                extra={"event": "command_taken_up", "command": claim.id, "state": entry.state},
            )
        self._attempts.tell()

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
        self._attempts.blobs.again(command_id)
        if running.started and not running.result.ended:
            self._voice.say(Started(command_id, running.claim.epoch, self._journal.position))

    def offer(self, run: Run, params: bytes, age_s: float = 0.0) -> None:
        """
        A new command.

        Args:
            age_s: seconds since it was said.

        Raises:
            RemoteProtocolError: the broker sends far more than it was told that we take.
        """
        if len(self._commands) >= 2 * self._settings.max_running + self._taken_up:
            raise RemoteProtocolError(f"{run.id}: {len(self._commands)} commands are here, and that is too many")
        self.stirred()
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
            sealed=run.sealed,
            seal_to=run.seal_to,
            params_sha256=params_sha256(run, params),
            signature_sha256=signature_digest(run.signature),
        )
        result = Result(run.id, run.epoch, lambda: self._voice.wake())
        running = Running(claim, awake.now() + run.expires_in_s - age_s, result, run)
        self._commands[run.id] = running
        self._voice.attach(result)
        running.task = asyncio.create_task(self._attempts.new(running), name=f"command {run.id}")

    def blob(self, message: BlobChunk | BlobGone, data: Buffer) -> None:
        """Something of a blob, or that there is none; raises RemoteProtocolError for what was not asked for."""
        self._attempts.blobs.heard(message, data)

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
        self._attempts.stopping = True

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
            for grace_s in (LATE_GRACE_S, 0.0):
                for task in late:
                    task.cancel()
                # Twice: after the first an outcome may wait for a disk, which the next process need not.
                if late:
                    _, late = await asyncio.wait(late, timeout=grace_s)
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

    def _before(self, command_id: str) -> list[asyncio.Task[None]]:
        """Return the tasks of attempts at a command that was forgotten before its end."""
        return [other.task for other in self._leaving if other.id == command_id and other.task is not None]

    def _to_tell(self) -> bool:
        return any(running.result.ended for running in self._commands.values())

    async def _settle(self, connector: Connector, running: Running) -> None:
        claim = running.claim
        try:
            params = self._attempts.opened(running).params
            call = Call(claim.id, claim.operation, params, 60.0, claim.epoch, claim.fingerprint)
            await connector.settle(call, running.outputs)
        except errors.CommandError as exc:
            # The files stay where they are and are picked again: nothing is lost.
            log.warning(
                "picked files were not put away: %s",
                exc.message,
                extra={"event": "settle_failed", "command": running.id},
            )


def _settles(operation: Operation) -> bool:
    """Whether something is left to do at the source once the broker has the result."""
    if type(operation) is PickOperation:
        return operation.then != "keep"
    return type(operation) is DropOperation and operation.effect == "once"
