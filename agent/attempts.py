"""
One command at a time: its turn, its claim in the journal, its run, and its end, which is kept before it is told.

Where the end was not heard, an inquiry finds out what became of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from agent import awake, blobs, errors
from agent.blobs import Blobs
from agent.connectors.base import Call, Connector, Outputs, Ready, Remark, Rows, RowSet
from agent.gate import Gate
from agent.inquiry import By, Elsewhere, Found, Inquiry, settled_by
from agent.journal.base import Claim, Entry, Journal
from agent.leaving import Leaving
from agent.policy import REPEATABLE, fits, judge, permitted, stopped_by_pause, told_before
from agent.results import Result, rows_lost
from agent.row_formats import asked_for
from agent.sealing import Opened, Seals
from agent.settings import DropOperation, Operation, Settings
from agent.signatures import End, Signatures, Signed
from agent.spool import Spool, SpoolFolder
from protocol import limits
from protocol.messages import Accepted, AnyMessage, BlobInfo, Completed, Run, Started

log = logging.getLogger(__name__)

Outcome = tuple[Completed, bytes]  # how a command ended, and its outputs
Work = Callable[[], Awaitable[Outcome]]

JOURNAL_RETRY_S: Final = 1.0  # seconds; what can't be kept now is kept when the disk has room again


class Running(msgspec.Struct, eq=False):
    """
    A command that the broker has not told us to forget.

    Attributes:
        claim: what the journal has of it, or will have.
        run: as the broker said it; ``None`` for one that an earlier process left.
        signed: the caller's signature, once it was checked; ``None`` where none came and none is wanted.
        clear: the same with its parameters in clear, once they were opened.
        deadline: on the clock of ``awake``; it may not start after that.
        waiting: whether its task only waits for its turn, and may be cancelled.
        blob: the file with the blob that its parameters name, once it is there.
        paused: set when a pause turned it away or stopped it: what its caller is told.
        journaled: whether the journal has it, so that its outcome goes there before it is told.
        rows_kept: whether all its rows are durable.
        inquiry: at work where its end was not heard.
        outputs: what a success returned besides rows.
    """

    claim: Claim
    deadline: float
    result: Result
    run: Run | None = None
    signed: Signed | None = None
    task: asyncio.Task[None] | None = None
    operation: Operation | None = None
    blob: Path | None = None
    spool: Spool | None = None
    clear: Claim | None = None
    waiting: bool = False
    started: bool = False
    cancelled: bool = False
    paused: str = ""
    journaled: bool = False
    rows_kept: bool = False
    inquiry: Inquiry | None = None
    outputs: dict[str, Any] = {}
    warnings: list[str] = []
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


class Attempts:
    """
    Sees commands through.

    Attributes:
        gates: of the connections.
        blobs: that commands name.
        stopping: whether nothing more may begin.
    """

    def __init__(
        self,
        settings: Settings,
        connectors: Mapping[str, Connector],
        journal: Journal,
        spool: SpoolFolder,
        say: Callable[[AnyMessage, bool], None],
        before: Callable[[str], Sequence[asyncio.Task[None]]],
        signatures: Signatures,
        shared: Callable[[], bool] = lambda: False,
        seals: Seals | None = None,
        places: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            places: of the connections, by name, as the catalogue tells them.
            signatures: checks those of callers, and puts the agent's under each end.
            shared: returns whether who is told takes one signature for several ends.
            say: tells the broker, if there is one to tell; whether that may wait for a moment.
            before: returns the tasks of earlier attempts at a command that have not ended.
            seals: opens and seals; ``None`` refuses what is sealed.
        """
        self.stopping = False
        self.gates = {name: Gate(connection) for name, connection in settings.connections.items()}
        self.blobs = Blobs(spool.path.with_name("blobs"), lambda message: say(message, False))
        self._settings = settings
        self._connectors = connectors
        self._journal = journal
        self._spool = spool
        self._say = say
        self._before = before
        self._signatures = signatures
        self._shared = shared
        self._seals = seals
        self._places = places or {}
        self._unproved: list[tuple[Result, End]] = []

    async def new(self, running: Running) -> None:
        """See a new command through."""
        settles = running.run is not None and running.run.settles > 0
        await self._see_through(running, lambda: self._settle(running) if settles else self._perform(running))

    async def left_open(self, running: Running, entry: Entry) -> None:
        """Find out about a command that an earlier process had begun."""
        why = "the agent was stopped in the middle of it"
        await self._see_through(running, lambda: self._find_out(running, why, entry))

    def restore_end(self, running: Running, entry: Entry, completed: Completed) -> None:
        """Have the end that an earlier process kept, to be told again."""
        outputs = entry.outputs or b""
        try:
            if completed.outcome == "succeeded":
                self._restore_rows(running, entry)
                running.succeeded = True
                # Sealed ones only their caller can read.
                readable = outputs if not entry.claim.seal_to else b""
                running.outputs = msgspec.json.decode(readable, type=dict[str, Any]) if readable else {}
        except errors.OutcomeUnknown as exc:
            completed, outputs = rows_lost(completed, exc.message), b""
        self._tell(running, completed, outputs)

    def _restore_rows(self, running: Running, entry: Entry) -> None:
        if entry.rows or entry.spooled:
            running.spool = Spool.restored(self._spool, entry.claim.id, entry.rows, entry.spooled)
            running.result.restore(running.spool)
            running.rows_kept = True

    async def _see_through(self, running: Running, work: Work) -> None:
        began = time.monotonic()
        try:
            outcome = await self._outcome(running, work)
            await self._end(running, *outcome)
        except asyncio.CancelledError:
            # Stopped where the next process finds out from the journal what became of it.
            if self.stopping:
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
            try:
                return await work()
            except errors.CommandError as exc:
                if _is_uncertain(exc, running):
                    return await self._find_out(running, exc.message)
                return self._failed(running, exc)
        except asyncio.CancelledError:
            if running.cancelled and not running.started:
                return self._failed(running, errors.Cancelled("cancelled before it started", touched=False))
            if running.paused and not running.started and not self.stopping:
                return self._failed(running, errors.Paused(running.paused, touched=False))
            if not running.started or running.claim.effect in REPEATABLE:
                return self._failed(running, errors.AgentStopping("the agent is stopping", touched=False))
            if settled_by(running.operation, running.claim.effect) is not By.NOBODY:
                raise
            return self._failed(running, errors.OutcomeUnknown("the agent was stopped while it was under way"))
        except Exception as exc:  # a mistake of ours must end as the command's honest outcome, not as silence
            log.exception("command broke the agent", extra={"event": "command_broke", "command": running.id})
            broken = errors.OutcomeUnknown(f"{type(exc).__name__} in the agent", touched=running.started)
            return self._failed(running, broken)

    async def _perform(self, running: Running) -> Outcome:
        claim = running.claim
        if self.stopping:
            raise errors.AgentStopping("the agent is stopping", touched=False)
        operation = permitted(self._settings, claim.operation)
        claim = self._checked(running, operation)
        values = fits(claim.operation, operation, self.opened(running).params)
        content = values.get("content") if type(operation) is DropOperation else None
        blob = blobs.wanted(operation, content, running.run, signed=running.signed is not None)
        self._say(Accepted(claim.id, claim.epoch), True)
        gate = self.gates[operation.connection]
        if blob is not None and self._earlier(claim) is None:
            # Before its turn: whoever waits for the same connection need not wait for the link too.
            await self._fetch(running, blob)
        await self._turn(running, gate)
        try:
            earlier = self._earlier(claim)
            if earlier is not None:
                return self._again(running, operation, earlier)
            if operation.effect not in REPEATABLE:
                running.spool = running.result.spool(self._spool)
                await self._begin(running, gate)
            elif running.signed is not None:
                running.signed.still_valid(time.time())
                await self._journal.show(running.signed.shown)
                gate.check()
            _in_time(running)
            await self._run(running, operation)
        finally:
            gate.leave()
        return self._success(running)

    async def _settle(self, running: Running) -> Outcome:
        """Find out what became of a command that another agent of the group was given, and lost."""
        run, claim = running.run, running.claim
        if run is None:
            raise AssertionError("only a Run asks for that")
        operation = permitted(self._settings, claim.operation)
        # As strictly as if it were to run: what is asked, and what is told, is the same.
        self._checked(running, operation)
        fits(claim.operation, operation, self.opened(running).params)
        self._say(Accepted(claim.id, claim.epoch), True)
        running.operation = operation
        lost = msgspec.structs.replace(self.opened(running), epoch=run.settles)
        # What is asked knows the command by its id and parameters. With which signature the lost agent was given it
        # only the broker says, and a proof must not.
        running.claim = msgspec.structs.replace(running.claim, signature_sha256=None)
        running.waiting = True  # nothing runs: whoever wants no answer any more may have it stopped
        try:
            found = await Inquiry(lost, self._settings, self._connectors, self.gates, Elsewhere(run.place)).answer()
        finally:
            running.waiting = False
        return self._concluded(running, found, "the agent that had it was lost", None)

    def _checked(self, running: Running, operation: Operation) -> Claim:
        """Return the claim, with who signed it; before anything of it is opened or decoded."""
        if running.run is not None:
            running.signed = self._signatures.check(running.run, running.claim.params, operation, time.time())
        if running.signed is not None:
            running.claim = msgspec.structs.replace(running.claim, signer=running.signed.signer)
        return running.claim

    def opened(self, running: Running) -> Claim:
        """
        Return what is to be run, in clear; from here on its result is sealed if its caller wants that.

        Raises:
            CannotUnseal: it is sealed to another key, or for something else.
        """
        if running.clear is None:
            if self._seals is None and (running.claim.sealed or running.claim.seal_to):
                raise errors.CannotUnseal("this agent has no keys of its own", touched=False)
            opened = self._seals.open(running.claim) if self._seals is not None else Opened(running.claim)
            running.clear, running.result.seal = opened.claim, opened.seal
        return running.clear

    async def _fetch(self, running: Running, blob: BlobInfo) -> None:
        if running.cancelled:
            raise errors.Cancelled("cancelled before it started", touched=False)
        if running.run is None or (left_s := running.deadline - awake.now()) <= 0:
            raise errors.DeadlinePassed("its time was up before it could start", touched=False)
        running.waiting = True
        try:
            async with asyncio.timeout(left_s):
                if earlier := self._before(running.id):
                    await asyncio.wait(earlier)
                running.blob = await self.blobs.fetch(running.run, blob)
        except TimeoutError:
            raise errors.DeadlinePassed("its time was up before its content was here", touched=False) from None
        finally:
            running.waiting = False

    async def _turn(self, running: Running, gate: Gate) -> None:
        """Wait until it may start: an earlier attempt at it has ended, and the gate lets it through."""
        if running.cancelled:
            raise errors.Cancelled("cancelled before it started", touched=False)
        earlier = self._before(running.id)
        left_s = running.deadline - awake.now()
        running.waiting = True
        try:
            if left_s <= 0:
                # A timeout acts where something is waited for, which may be nowhere.
                raise TimeoutError
            if not earlier and gate.free:
                return await gate.enter()
            async with asyncio.timeout(left_s):
                if earlier:
                    await asyncio.wait(earlier)
                await gate.enter()
        except TimeoutError:
            raise errors.DeadlinePassed("its time was up before it could start", touched=False) from None
        finally:
            running.waiting = False

    def _earlier(self, claim: Claim) -> Entry | None:
        try:
            return told_before(claim, self._journal.find(claim.id))
        except errors.JournalUnavailable as exc:
            if claim.effect in REPEATABLE:
                return None
            raise errors.OutcomeUnknown(f"an earlier delivery of it is in the journal, but {exc.message}") from exc

    def _again(self, running: Running, operation: Operation, earlier: Entry) -> Outcome:
        """Return the outcome that this very command had before; it is not run."""
        running.operation = operation
        completed = earlier.completed
        if completed is None:
            raise AssertionError("told_before gives none that has not ended")
        running.result.seal = None  # it was sealed when it was kept
        # What is proved is what ran: a broker could give another signed command of the same parameters this one's id.
        running.claim = msgspec.structs.replace(
            running.claim,
            params_sha256=earlier.claim.params_sha256,
            signature_sha256=earlier.claim.signature_sha256,
        )
        running.warn("this is the outcome of an earlier delivery of the same command; it was not run again")
        completed = msgspec.structs.replace(completed, epoch=running.claim.epoch, warnings=running.warnings)
        if completed.outcome == "succeeded":
            if completed.row_sets or earlier.outputs is None:
                return rows_lost(completed, "it happened at an earlier delivery; its result is no longer kept"), b""
            running.succeeded = True
        return completed, earlier.outputs or b""

    async def _begin(self, running: Running, gate: Gate) -> None:
        """Have it in the journal before the first byte goes to the ERP."""
        shown = None
        if running.signed is not None:
            running.signed.still_valid(time.time())
            shown = running.signed.shown
        running.journaled = True  # also if we are stopped meanwhile: what was asked for is kept nevertheless
        try:
            await self._journal.begin(running.claim, shown)
        except errors.CommandError:
            running.journaled = False
            raise
        _in_time(running)
        if running.cancelled:
            raise errors.Cancelled("cancelled before it started", touched=False)
        if self.stopping:
            raise errors.AgentStopping("the agent is stopping", touched=False)
        gate.check()

    async def _run(self, running: Running, operation: Operation) -> None:
        claim = running.claim
        rows_as = asked_for(running.run, operation, self._settings.connections[operation.connection])
        running.operation = operation
        running.started, running.paused = True, ""  # a pause that was over before it could begin is no longer said
        # Where the journal stands is told before an effect that must not be made twice, as the machine may be put back.
        self._say(Started(claim.id, claim.epoch, self._journal.position), operation.effect in REPEATABLE)
        params, place = self.opened(running).params, self._places.get(operation.connection, "")
        call = Call(
            claim.id,
            claim.operation,
            params,
            operation.timeout,
            claim.epoch,
            claim.fingerprint,
            place,
            running.deadline,
            rows_as,
            content=str(running.blob or ""),
            content_sha256=running.run.blob.sha256 if running.run is not None and running.run.blob is not None else "",
        )
        pieces = self._connectors[operation.connection].run(call)
        until = time.monotonic() + operation.timeout
        try:
            async for piece in pieces:
                if type(piece) is Rows:
                    await self._kept(running, running.result.rows(piece.data, piece.count), until)
                elif type(piece) is RowSet:
                    await self._kept(running, running.result.begin(piece.columns, piece.rows_as), until)
                elif type(piece) is Outputs:
                    running.outputs = Leaving(operation).outputs(piece.values)
                elif type(piece) is Remark:
                    running.warn(piece.message)
                elif type(piece) is Ready:
                    await self._kept(running, running.result.close(), until)
                    await self._keep_before_commit(running)
            await self._kept(running, running.result.close(), until)
        finally:
            await pieces.aclose()
        if running.spool is not None and running.result.end and not running.rows_kept:
            await self._patiently(running, partial(self._keep_rows, running))

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

    async def _keep_before_commit(self, running: Running) -> None:
        try:
            await self._keep_rows(running)
        except errors.JournalUnavailable as exc:
            # The source has not committed, and now it will not.
            raise errors.OutcomeUnknown(f"its rows can't be kept: {exc.message}") from exc

    async def _keep_rows(self, running: Running) -> None:
        """
        Make the rows durable: all of them are there.

        Raises:
            JournalUnavailable: they can't be kept now.
        """
        if running.spool is None:
            return
        try:
            rows, spooled = await running.spool.keep()
        except OSError as exc:
            raise errors.JournalUnavailable(f"the spool can't be written: {exc.strerror}") from exc
        await self._journal.keep_rows(running.id, rows, spooled)
        running.rows_kept = True

    async def _patiently(self, running: Running, keep: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Keep something of a command that has happened: there is no other way than to wait for the disk."""
        while True:
            try:
                return await keep()
            except errors.JournalUnavailable as exc:
                log.error(
                    "an outcome can't be kept yet: %s", exc.message, extra={"event": "end_waits", "command": running.id}
                )
                await asyncio.sleep(JOURNAL_RETRY_S)

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
        # As the file had it then: what it says now does not change what was done.
        verdict = judge(error, running.claim.effect, cancelled=running.cancelled, paused=bool(running.paused))
        if verdict.code == errors.Paused.code:
            error = stopped_by_pause(error, running.paused)
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
        claim = running.claim
        try:
            claim = self.opened(running)
        except errors.CannotUnseal as exc:  # the agent has other keys than when it began: only a person can tell
            if entry is None or entry.resolution is None:
                return self._failed(running, errors.OutcomeUnknown(f"{why}, and {exc.message}"))
        running.inquiry = Inquiry(claim, self._settings, self._connectors, self.gates)
        running.inquiry.cancelled = running.cancelled
        if entry is not None and entry.resolution is not None:
            running.inquiry.resolve(entry.resolution)
        try:
            found = await running.inquiry.answer()
        finally:
            running.inquiry = None
        log.info(
            "found out: %s",
            found.why,
            extra={"event": "command_found_out", "command": running.id, "happened": found.happened},
        )
        if found.happened:
            await running.result.close()
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
        if (running.result.came or found.rows) and not running.rows_kept:
            return rows_lost(self._success(running)[0], f"{why}, and not all of its rows had come"), b""
        if running.operation is not None:
            running.outputs = Leaving(running.operation).outputs(found.outputs)
        rows = "" if running.rows_kept or found.rows is not None else "; rows, if there were any, are lost"
        running.warn(f"{why}; it did happen: {found.why}{rows}")
        return self._success(running)

    async def _end(self, running: Running, completed: Completed, outputs: bytes) -> None:
        """Keep the outcome, then tell it."""
        if running.result.seal is not None:
            completed, outputs = running.result.seal.end(completed, outputs)
        if running.journaled:
            now = time.time()
            await self._patiently(running, lambda: self._journal.end(running.id, completed, outputs, now))
        elif running.claim.effect in REPEATABLE:
            self._journal.note(running.claim, completed, time.time())
        damaged = completed.error_code == errors.ContentDamaged.code
        if running.run is None or running.run.blob is not None:
            self.blobs.done(running.id, again=completed.retryable and not damaged)
        self._tell(running, completed, outputs)

    def _tell(self, running: Running, completed: Completed, outputs: bytes) -> None:
        position, head = self._journal.stand()
        completed = msgspec.structs.replace(completed, position=position, head=head)
        if not self._unproved:
            # At the end of this round of the event loop: one signature serves all that end in it.
            asyncio.get_running_loop().call_soon(self.tell)
        self._unproved.append((running.result, End(running.claim, completed, outputs)))

    def tell(self) -> None:
        """Prove and tell the ends that there are now."""
        ended, self._unproved = self._unproved, []
        if not ended:
            return
        proved = self._signatures.proved([end for _, end in ended], time.time(), shared=self._shared())
        for (result, end), completed in zip(ended, proved, strict=True):
            result.complete(completed, end.outputs)


def _in_time(running: Running) -> None:
    """
    Refuse what may not begin any more.

    Raises:
        DeadlinePassed: its time is up.
    """
    if awake.now() >= running.deadline:
        raise errors.DeadlinePassed("its time was up before it could start", touched=False)


def _is_uncertain(error: errors.CommandError, running: Running) -> bool:
    """Whether what happened is still to be found out, and may be."""
    if running.operation is None or not running.started:
        return False
    verdict = judge(error, running.claim.effect, cancelled=running.cancelled, paused=bool(running.paused))
    return verdict.outcome == "in_doubt"
