"""
What becomes of a command that was with an agent of a group, and that agent is lost.

``elsewhere`` decides, from who can tell and from how much time has passed; ``Members`` looks again and again.

What that rests on:

* **The ledger** needs no clock. Another agent asks it for the lost attempt, as the lost agent itself would: it finds
  what was done, or leaves a tombstone, and then the attempt has no effect any more however late it comes. The agent
  sees to it that its ledger is the one that the lost agent worked with, by a word that that one left there.
* **All else** needs to know that the lost agent begins nothing any more. It was sent the command with a lease: it
  begins it within ``LEASE_S`` after that was said, or not at all, by a clock that also counts while its machine sleeps.
  Only agents that know how old a command is are taken at their word there. Once that time is over, a `verify` may be
  asked; it waits for as long as the work may take before it believes a "no".
* **A read** harms nobody if it runs twice.

Whoever comes back first ends the wait: the lost agent, with what it knows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from enum import StrEnum
from typing import Final, Protocol

from cloud_broker.catalogues import Operation
from cloud_broker.lines import Entry, Line, forget
from cloud_broker.link.conversation import Conversation
from cloud_broker.store.commands import Command, Step
from cloud_broker.tenants import Scope
from protocol import limits
from protocol.messages import GROUPS, Cancel, Completed, Run
from protocol.states import PHASES, Phase

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5  # seconds between two looks at what lost agents had
BACK_S: Final = 5.0  # seconds that a lost agent has to come back before its commands are moved or asked about
LEASE_S: Final = 30.0  # seconds within which an agent of a group begins a command, or not at all
# Seconds besides: Welcome, from which an agent counts, may have been under way for as long as a greeting may take.
MARGIN_S: Final = limits.GREETING_S + 5.0
ASK_AGAIN_S: Final = 30.0  # seconds until another agent is asked that could not tell for a while
NOT_HAPPENED: Final = "not_happened"  # the code with which an agent says that it is sure


class Elsewhere(StrEnum):
    """What to do about a command that is with a lost agent."""

    WAIT = "wait"  # for the agent
    MOVE = "move"  # back into the queue: it may run again
    ASK = "ask"  # another agent, what became of it


def leased(command: Command) -> bool:
    """Whether an agent must begin a command soon, or not at all."""
    return command.group is not None and command.effect != "read"


def begin_within_s(command: Command, now: float) -> float:
    """Return within how many seconds an agent that is sent a command now may begin it."""
    left_s = command.expires_at - now
    return min(left_s, LEASE_S) if leased(command) else left_s


def elsewhere(command: Command, operation: Operation | None, *, away_s: float, said_s: float) -> Elsewhere:
    """
    Decide about a command of a group that is with an agent that is away.

    Args:
        operation: as the agent's catalogue has it; ``None`` if that is not known.
        away_s: seconds since its link ended.
        said_s: seconds since the command was sent to it.
    """
    if away_s < BACK_S:
        return Elsewhere.WAIT
    if command.effect == "read":
        return Elsewhere.MOVE
    if operation is None or operation.digest != command.operation_digest or not operation.settled_by:
        return Elsewhere.WAIT
    begun_s = LEASE_S + MARGIN_S
    if command.effect == "idempotent":
        # Not at once: a late one must not undo what came after it.
        return Elsewhere.MOVE if said_s > begun_s + operation.timeout_s else Elsewhere.WAIT
    if operation.settled_by == "ledger":
        return Elsewhere.ASK
    return Elsewhere.ASK if operation.settled_by == "verify" and said_s > begun_s else Elsewhere.WAIT


class Stage(Protocol):
    """The router, as far as it is needed here."""

    stopping: bool

    def flying(self) -> list[tuple[Line, Entry]]:
        """Return the commands of groups that are with an agent that is away."""

    def group_of(self, line: Line) -> list[Line]:
        """Return the agents that serve what this one does, itself included."""

    def entry(self, scope: Scope, command_id: str) -> Entry | None:
        """Return a command of this tenant that has no final state."""

    def again(self, entry: Entry, why: str) -> None:
        """Put a command back into its queue."""

    def adopt(self, entry: Entry, line: Line) -> None:
        """Let a command be with the agent that found out what came of its last attempt, as its next one."""

    def note_step(self, entry: Entry, step: Step) -> None:
        """Keep something of a command's life, for people."""

    def dispatch(self, line: Line) -> None:
        """Send as much as the agent takes."""


class Members:
    """Looks after what lost agents of groups had."""

    def __init__(self, router: Stage) -> None:
        self._router = router

    async def sweep(self) -> None:
        """Look now and then, for good."""
        while True:
            self.look(time.monotonic())
            await asyncio.sleep(LOOK_S)  # time itself is what changes: leases and pauses run out

    def look(self, now: float) -> None:
        """Decide about every command of a group whose agent is away, on the monotonic clock."""
        for line, entry in self._router.flying():
            if entry.finishing or not entry.sent or entry.asked is not None or self._router.stopping:
                continue
            operation = line.catalogue.operations.get(entry.command.operation) if line.catalogue else None
            decision = elsewhere(entry.command, operation, away_s=now - line.lost_at, said_s=now - entry.said_at)
            if decision is Elsewhere.MOVE:
                self._router.again(entry, f"{line.agent}, which had it, is lost")
            elif decision is Elsewhere.ASK and now >= entry.ask_at:
                self._ask(entry, line, now)

    # --- asking another agent -----------------------------------------------------------------------

    def _ask(self, entry: Entry, lost: Line, now: float) -> None:
        command = entry.command
        there = [line for line in self._router.group_of(lost) if _may_be_asked(line, entry, now)]
        if not there:
            return
        line = min(there, key=lambda line: line.load(command.connection, now))
        assert line.link is not None  # noqa: S101 - it may be asked
        entry.asked_epoch = max(command.epoch, entry.asked_epoch) + 1
        entry.asked, line.asked[command.id] = line, entry.asked_epoch
        log.info(
            "%s is asked what became of %s, which %s had",
            line.agent,
            command.id,
            lost.agent,
            extra={"event": "member_asked", "command": command.id, "agent": line.agent, "lost": lost.agent},
        )
        lost_at = lost.catalogue.connections.get(command.connection) if lost.catalogue else None
        line.link.say(
            Run(
                id=command.id,
                epoch=entry.asked_epoch,
                operation=command.operation,
                expires_in_s=LEASE_S,
                credit=line.link.window,
                correlation_id=command.correlation_id,
                traceparent=command.traceparent,
                group=command.group or "",
                idempotency_key=command.idempotency_key or "",
                signature=command.signature,
                sealed=command.sealed,
                seal_to=command.seal_to,
                rows_as=command.rows_as,
                said_s=line.link.age_s,
                settles=command.epoch,
                place=lost_at.place if lost_at is not None else "",
            ),
            command.params,
        )

    def stop_asking(self, entry: Entry) -> None:
        """Nobody needs the answer any more: the lost agent is back, or the command has its end."""
        line, entry.asked = entry.asked, None
        if line is None or line.link is None:
            return
        command_id = entry.command.id
        if Cancel in PHASES[line.link.phase(command_id)] and line.link.epoch(command_id) == entry.asked_epoch:
            line.link.say(Cancel(command_id, entry.asked_epoch))

    def left(self, line: Line) -> None:
        """An agent is lost, and with it the answers to what it was asked."""
        line.lost_at = time.monotonic()
        for command_id in line.asked:
            entry = self._router.entry(Scope(line.tenant), command_id)
            if entry is not None and entry.asked is line:
                entry.asked = None
        line.asked.clear()

    def back(self, line: Line) -> None:
        """An agent is back, and tells by itself what became of what it had."""
        for entry in line.flying.values():
            self.stop_asking(entry)

    def answered(self, link: Conversation, line: Line, message: Completed) -> Entry | None:
        """
        Take the answer of an agent that was asked.

        Returns:
            The command, which is with that agent from here on, if the answer is the end of its attempt.
        """
        del line.asked[message.id]
        entry = self._router.entry(Scope(line.tenant), message.id)
        lost = entry.line if entry is not None else None
        wanted = entry is not None and entry.asked is line and not entry.finishing
        if entry is None or lost is None or not wanted or lost.link is not None:
            forget(link, message.id, message.epoch)
            self._router.dispatch(line)
            return None
        entry.asked = None
        if message.outcome == "succeeded" or (message.outcome == "failed" and message.error_code == NOT_HAPPENED):
            what = "it happened" if message.outcome == "succeeded" else "it did not happen"
            self._note(entry, lost, "lost", f"{line.agent} found out what came of it: {what}")
            self._router.adopt(entry, line)
            return entry
        forget(link, message.id, message.epoch)
        if message.outcome == "in_doubt":
            # It can't tell, and won't be able to; another agent may.
            entry.unsettled[line.agent] = message.error_message[: limits.MAX_ERROR_CHARS]
            self._note(entry, lost, "asked", f"{line.agent} can't tell what came of it: {entry.unsettled[line.agent]}")
        else:
            entry.ask_at = time.monotonic() + ASK_AGAIN_S
        self._router.dispatch(line)
        return None

    def _note(self, entry: Entry, lost: Line, step: str, detail: str) -> None:
        command = entry.command
        self._router.note_step(
            entry,
            Step(
                command.id,
                time.time(),
                step,
                attempt=command.epoch,
                agent=lost.agent,
                phase=str(command.state),
                started_at=command.dispatched_at,
                detail=detail,
            ),
        )


def _may_be_asked(line: Line, entry: Entry, now: float) -> bool:
    """Whether an agent can be asked now what became of a command that another one had."""
    link, command = line.link, entry.command
    return (
        link is not None
        and line.ready
        and not line.full
        and GROUPS in link.features
        and line.agent not in entry.unsettled
        and line.has(entry.lane)
        and line.obstacle(command.connection, now) is None
        and link.phase(command.id) is Phase.UNKNOWN
    )
