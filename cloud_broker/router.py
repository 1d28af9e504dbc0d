"""
Which command goes to which agent when, and what comes back.

The router holds every command that has no final state. It decides on the event loop, without waiting;
only the store is waited for: what must not be sent twice is marked as sent durably before it is
sent, and an outcome is kept durably before the agent may forget it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec.structs import replace

from cloud_broker import catalogues, versions
from cloud_broker.background import Background, Note, store_pause, until_kept
from cloud_broker.blobs import Blobs
from cloud_broker.catalogues import Catalogue
from cloud_broker.deadlines import Deadlines
from cloud_broker.errors import StoreUnavailable
from cloud_broker.lines import Entry, Line, forget, lane_of
from cloud_broker.link.conversation import Conversation
from cloud_broker.members import Members, begin_within_s
from cloud_broker.queues import Lane, Order, Queue
from cloud_broker.results import LiveResult, Results
from cloud_broker.retries import Again, Schedule
from cloud_broker.settlement import REPEATABLE, ended
from cloud_broker.store.agents import Agent
from cloud_broker.store.base import Store
from cloud_broker.store.commands import Command, Finish, Step
from cloud_broker.tenants import Scope
from protocol.messages import (
    BLOBS,
    BlobInfo,
    Cancel,
    Run,
)
from protocol.states import PHASES, CommandState, Phase

log = logging.getLogger(__name__)

FAREWELL_S: Final = 2.0  # seconds
LOOK_AGAIN_S: Final = 60.0  # seconds; a connection that can't be used is looked at again then, whatever it said
SHORTEST_S: Final = 0.001  # seconds; what an event loop's clock tells apart
BEGUN_S: Final = 0.1  # seconds that a command runs before that is noted by itself, and not with its end


class Router:
    """
    The stage between the store and the links.

    Attributes:
        schedule: of the tries after a failed one.
        stopping: whether nothing more is taken or sent.
        background: what is done beside.
        deadlines: of the open commands.
        members: what becomes of commands that were with a lost agent of a group.
        blobs: that commands name.
    """

    def __init__(
        self, store: Store, results: Results, blobs: Blobs, now: Callable[[], float], schedule: Schedule | None = None
    ) -> None:
        self.schedule = schedule or Schedule()
        self.stopping = False
        self._store = store
        self._results = results
        self.blobs = blobs
        self._now = now
        self._entries: dict[str, Entry] = {}
        self._open: Counter[str] = Counter()  # entries by tenant
        self._lines: dict[tuple[str, str], Line] = {}
        # Of ten thousand lines few have work, and few are of one group: nobody looks through all of them for those.
        self._working: dict[Line, None] = {}
        self._grouped: dict[tuple[str, str], dict[Line, None]] = {}
        self._groups: dict[tuple[str, str], Queue] = {}
        self._order = Order()
        self._number = 0
        self._begun: list[Entry] = []  # those that began just now, which the store does not know
        self.background = Background()
        self.deadlines = Deadlines(self._entries, self._working, now, self.end)
        self.members = Members(self)

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up every command that has no final state."""
        # What was sent before comes before what never was: of one ordering key, the other way round would overtake it.
        for command in sorted(await self._store.open_commands(), key=_never_sent):
            entry = self._new(command)
            self._enter(entry)
            entry.spilled = command.epoch > 0
            if command.state is CommandState.QUEUED and command.cancel_requested:
                # The broker ended between the wish and its answer.
                self.end(entry, ended(CommandState.CANCELLED, self._now()))
            elif command.state is CommandState.QUEUED:
                if command.not_before is not None:
                    # The clock may have been set meanwhile: no wait is longer than the longest.
                    self._rest(entry, min(command.not_before - self._now(), self.schedule.most_s))
                self._enqueue(entry)
            else:
                # Settled when its agent is back, or when its time is up.
                line = self.line_of(command.tenant, command.agent or "")
                if command.group is not None and line.catalogue is None:
                    # It may not come back, and others of its group are asked by what is known of it.
                    agent = await self._store.agent(Scope(command.tenant), line.agent)
                    line = self.know(agent) if agent is not None else line
                self._fly(entry, line, sent=True)
        self.background.spawn(self.deadlines.sweep(), "sweep expired commands")
        self.background.spawn(self.members.sweep(), "look after what lost members had")

    def stop_taking(self) -> None:
        """Send nothing more, and let nobody wait for what will not come."""
        self.stopping = True
        for entry in self._entries.values():
            for waiter in entry.waiters:
                if not waiter.done():
                    waiter.set_result(entry.command)

    async def farewell(self) -> None:
        """Keep the ends that have come, say goodbye to all agents, and wait until they are gone, but not long."""
        # What can't be kept by then, such as on a full disk, its agent holds and tells again.
        await self.background.kept(FAREWELL_S)
        links = self.links()
        for link in links:
            link.end("stopping", "the broker is stopping", retry_after_s=1.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                for link in links:
                    await link.gone()

    async def stop(self) -> None:
        """End; what is open stays so in the store."""
        self.stopping = True
        await self.background.stop()
        timers = [entry.waking for entry in self._entries.values()] + [line.waking for line in self._lines.values()]
        for timer in timers:
            if timer is not None:
                timer.cancel()
        for entry in self._entries.values():
            if entry.result is not None:
                entry.result.cut("the broker is stopping")
                await entry.result.flushed()

    # --- the caller's side ------------------------------------------------------------------------

    def submit(self, command: Command) -> None:
        """Take a command that the store has."""
        self.take(self._new(command))

    def prepare(self, command: Command) -> Entry:
        """
        Return a command that the store is about to be given.

        If its agent can be sent it at once it has a place there, and its own record says so: then that it is sent need
        not be kept by itself. ``take`` or ``drop`` follows.
        """
        entry = self._new(command)
        line = self._at_once(command)
        if line is not None and line.link is not None:
            entry.chosen = line.link
            self._fly(entry, line, sent=False)
            self._mark_sent(entry, line, line.link)
        return entry

    def take(self, entry: Entry) -> None:
        """Take a command that the store has by now."""
        self._enter(entry)
        if entry.line is not None and entry.chosen is not None:
            if not self._stopped(entry, entry.line, entry.chosen):
                self._say_run(entry, entry.chosen)
            return
        self._enqueue(entry)
        self._dispatch_for(entry.command)

    def drop(self, entry: Entry) -> None:
        """Let go of a command that the store did not take."""
        line = entry.line
        self._land(entry)
        self.blobs.ended(entry.command.id)
        if line is not None:
            self.dispatch(line)

    def open_of(self, scope: Scope) -> int:
        """Return how many commands of a tenant have no final state."""
        return self._open[scope.tenant]

    def entry(self, scope: Scope, command_id: str) -> Entry | None:
        """Return a command of this tenant that has no final state."""
        entry = self._entries.get(command_id)
        return entry if entry is not None and entry.command.tenant == scope.tenant else None

    async def wait(self, entry: Entry, timeout_s: float) -> Command:
        """Return the command once it is final, or as it is when the time is up."""
        if self.stopping or self._entries.get(entry.command.id) is not entry:
            return entry.command
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Command] = loop.create_future()
        entry.waiters.add(waiter)
        up = loop.call_later(timeout_s, _time_is_up, entry, waiter)
        try:
            return await waiter
        finally:
            up.cancel()
            entry.waiters.discard(waiter)

    async def changed(self, entry: Entry, seen: LiveResult | None) -> None:
        """Wait until the command has another result than ``seen``, or its final state."""
        while self._entries.get(entry.command.id) is entry and entry.result is seen:
            await entry.moves.rung()

    def cancel(self, entry: Entry) -> None:
        """Pass the caller's wish on; the store has it already."""
        entry.command = command = replace(entry.command, cancel_requested=True)
        link = entry.line.link if entry.line is not None else None
        if entry.line is None:
            self.end(entry, ended(CommandState.CANCELLED, self._now()))
        # The agent may be telling the end of an older attempt just now.
        elif link is not None and Cancel in PHASES[link.phase(command.id)] and link.epoch(command.id) == command.epoch:
            link.say(Cancel(command.id, command.epoch))

    def waiting_for(self, entry: Entry) -> str | None:
        """Why a queued command waits, in the contract's words."""
        command = entry.command
        if command.state is not CommandState.QUEUED:
            return None
        if command.ordering_key and not self._order.first(command.tenant, command.ordering_key, command.id):
            return "order"
        if entry.waking is not None:
            return "retry"
        lines = [line for line in self._lines_for(command) if line.has(lane_of(command))]
        ready = [line for line in lines if line.ready]
        if not ready:
            return "drained" if any(line.well for line in lines) else "agent"
        now = time.monotonic()
        obstacles = [obstacle for line in ready if (obstacle := line.obstacle(command.connection, now)) is not None]
        if len(obstacles) < len(ready):
            return None
        return min(obstacles, key=lambda obstacle: obstacle.seconds).why

    def line(self, scope: Scope, agent: str) -> Line | None:
        """Return what is known of an agent that was here since the start."""
        return self._lines.get((scope.tenant, agent))

    def know(self, agent: Agent) -> Line:
        """Return an agent's line, filled from the store if it is new."""
        line = self.line_of(agent.tenant, agent.name)
        self.join(line, agent.group)
        line.drained = agent.drained_at is not None
        if line.catalogue is None and agent.catalogue is not None:
            line.catalogue = catalogues.read(agent.catalogue)
            line.digest = agent.catalogue_digest
        return line

    def links(self) -> list[Conversation]:
        """Return every link there is."""
        return [line.link for line in self._lines.values() if line.link is not None]

    def revoke(self, scope: Scope, agent: str, reason: str = "this agent was revoked") -> None:
        """Cut an agent off."""
        line = self._lines.get((scope.tenant, agent))
        if line is not None and line.link is not None:
            line.link.end("revoked", reason)

    def drain(self, scope: Scope, agent: str, *, drained: bool) -> None:
        """Give an agent nothing new, or commands again; what it works on comes to its end."""
        line = self._lines.get((scope.tenant, agent))
        if line is not None:
            line.drained = drained
            self.dispatch(line)

    def join(self, line: Line, group: str | None) -> None:
        """Note of which group an agent is."""
        if line.group == group:
            return
        if line.group is not None:
            self._grouped[(line.tenant, line.group)].pop(line, None)
        line.group = group
        if group is not None:
            self._grouped.setdefault((line.tenant, group), {})[line] = None

    def group_of(self, line: Line) -> list[Line]:
        """Return the agents that serve what this one does, itself included."""
        if line.group is None:
            return [line]
        return list(self._grouped[(line.tenant, line.group)])

    def flying(self) -> list[tuple[Line, Entry]]:
        """Return the commands of groups that are with an agent that is away."""
        return [
            (line, entry)
            for line in self._working
            if line.link is None
            for entry in line.flying.values()
            if entry.command.group is not None
        ]

    # --- queues -----------------------------------------------------------------------------------

    def line_of(self, tenant: str, agent: str) -> Line:
        """Return what is kept of an agent, new if nothing was."""
        line = self._lines.get((tenant, agent))
        if line is None:
            line = self._lines[(tenant, agent)] = Line(tenant, agent)
        return line

    def _lines_for(self, command: Command) -> list[Line]:
        if command.group is None:
            line = self._lines.get((command.tenant, command.agent or ""))
            return [line] if line else []
        return list(self._grouped.get((command.tenant, command.group), ()))

    def _queue_of(self, command: Command) -> Queue:
        if command.group is not None:
            return self._groups.setdefault((command.tenant, command.group), Queue())
        return self.line_of(command.tenant, command.agent or "").queue

    def _new(self, command: Command) -> Entry:
        self._number += 1
        return Entry(command, self._number)

    def _enter(self, entry: Entry) -> None:
        command = entry.command
        self._entries[command.id] = entry
        self._open[command.tenant] += 1
        self.deadlines.watch(command)
        if command.ordering_key:
            self._order.join(command.tenant, command.ordering_key, command.id)

    def _at_once(self, command: Command) -> Line | None:
        """Return the agent that a command can be sent to before all that waits, because nothing does."""
        if command.group is not None or command.ordering_key or self.stopping:
            return None
        line = self._lines.get((command.tenant, command.agent or ""))
        if line is None or not line.ready or line.full or line.queue or not line.free(command.connection):
            return None
        if line.group is not None and self._groups.get((line.tenant, line.group)):
            return None
        now = time.monotonic()
        if line.obstacle(command.connection, now) is not None:
            return None
        line.sending(command.connection, command.id, now)
        return line

    def _enqueue(self, entry: Entry) -> None:
        command = entry.command
        if entry.finishing or entry.waking is not None:
            return
        if command.ordering_key and not self._order.first(command.tenant, command.ordering_key, command.id):
            return
        self._queue_of(command).put(entry.lane, command.priority, entry.number, command.id)

    def _dispatch_for(self, command: Command) -> None:
        now = time.monotonic()
        for line in sorted(self._lines_for(command), key=lambda line: line.load(command.connection, now)):
            self.dispatch(line)

    def dispatch(self, line: Line) -> None:
        """Send as much as the agent takes."""
        group = self._groups.get((line.tenant, line.group)) if line.group is not None else None
        while (
            (line.queue or group)
            and not self.stopping
            and line.ready
            and line.link is not None
            and line.link.hello is not None
        ):
            if line.full:
                return
            now = time.monotonic()
            waits: list[float] = []
            free = partial(_takes, line, now, waits)
            queues = (line.queue,) if group is None else (line.queue, group)
            heads = [(head, queue) for queue in queues if (head := queue.head(free)) is not None]
            if not heads:
                if waits:
                    self._look_again(line, min(waits))
                return
            head, queue = min(heads, key=lambda pair: pair[0])
            entry = self._entries[head[2]]
            if line.link.phase(entry.command.id) is not Phase.UNKNOWN:
                # It was asked about this very command, and has not answered yet.
                return
            queue.pop(entry.lane)
            line.sending(entry.command.connection, entry.command.id, now)
            self._fly(entry, line, sent=False)
            self._send(entry, line, line.link)

    def _look_again(self, line: Line, seconds: float) -> None:
        """Dispatch once more when the first of the line's connections may be free of what keeps commands from it."""
        if line.waking is not None:
            line.waking.cancel()
        delay = min(max(seconds, SHORTEST_S), LOOK_AGAIN_S)
        line.waking = asyncio.get_running_loop().call_later(delay, self.dispatch, line)

    def _rest(self, entry: Entry, seconds: float) -> None:
        """Let a command wait for its next try."""
        entry.waking = asyncio.get_running_loop().call_later(max(0.0, seconds), self._wake, entry)

    def _wake(self, entry: Entry) -> None:
        entry.waking = None
        self._enqueue(entry)
        self._dispatch_for(entry.command)

    def _fly(self, entry: Entry, line: Line, *, sent: bool) -> None:
        entry.line = line
        entry.sent = sent
        line.flying[entry.command.id] = entry
        self._working[line] = None
        line.busy[entry.command.connection] += 1

    def adopt(self, entry: Entry, line: Line) -> None:
        """Let a command be with the agent that found out what came of its last attempt, as its next one."""
        # In memory only: were it kept, and the answer were not, that agent's journal would seem to say that nothing
        # had begun.
        self._land(entry)
        journal = line.link.hello.journal if line.link is not None and line.link.hello is not None else ""
        entry.command = replace(entry.command, epoch=entry.asked_epoch, agent=line.agent, journal=journal)
        self._fly(entry, line, sent=True)
        self.new_result(entry)

    def note_step(self, entry: Entry, step: Step) -> None:
        """Keep something of a command's life, for people."""
        self.background.note(partial(self._store.add_step, entry.scope, step), f"note {entry.command.id}")

    def stranded(self, line: Line, members: Sequence[Line]) -> list[Lane]:
        """Return what waits in an agent's group, and none of these members has in the version that it is for."""
        queue = self._groups.get((line.tenant, line.group or ""))
        lanes = queue.lanes() if queue is not None else []
        return [lane for lane in lanes if lane.digest and not any(member.has(lane) for member in members)]

    def check_again(self, line: Line, members: Sequence[Line]) -> None:
        """Check what no member of an agent's group has in its version any more against the version that they have."""
        queue = self._groups.get((line.tenant, line.group or ""), Queue())
        known = [member.catalogue for member in members if member.catalogue is not None]
        for lane in self.stranded(line, members):
            for command_id in queue.clear(lane):
                self._moved(self._entries[command_id], known)

    def _moved(self, entry: Entry, known: Sequence[Catalogue]) -> None:
        command = entry.command
        operation, why = versions.fitting(command, known)
        if operation is None:
            self.end(entry, versions.changed(command, why, self._now()))
            return
        entry.command = replace(command, operation_digest=operation.digest)
        self._enqueue(entry)

    def _land(self, entry: Entry) -> None:
        line = entry.line
        if line is not None and line.flying.pop(entry.command.id, None) is not None:
            if not line.flying:
                del self._working[line]
            line.busy[entry.command.connection] -= 1
            line.breaker(entry.command.connection).ended(entry.command.id, None, time.monotonic())
        entry.line = entry.chosen = None
        entry.sent = False

    # --- sending ----------------------------------------------------------------------------------

    def _mark_sent(self, entry: Entry, line: Line, link: Conversation) -> None:
        command = entry.command
        entry.unsettled.clear()
        entry.ask_at = 0.0
        entry.command = replace(
            command,
            state=CommandState.DISPATCHED,
            epoch=max(command.epoch, entry.asked_epoch) + 1,
            agent=line.agent,
            journal=link.hello.journal if link.hello else "",
            dispatched_at=self._now(),
            not_before=None,
            error=None,
        )

    def _send(self, entry: Entry, line: Line, link: Conversation) -> None:
        self._mark_sent(entry, line, link)
        command = entry.command
        durable = command.effect not in REPEATABLE
        note = partial(
            self._store.dispatched,
            entry.scope,
            command.id,
            command.epoch,
            line.agent,
            command.journal,
            command.dispatched_at or 0.0,
            durable=durable,
        )
        if durable:
            self.background.spawn(self._send_once_noted(entry, line, link, note), f"send {command.id}")
        else:
            self.background.note(note, f"note {command.id}")
            self._say_run(entry, link)

    async def _send_once_noted(self, entry: Entry, line: Line, link: Conversation, note: Note) -> None:
        while True:
            try:
                await note()
                noted = True
            except StoreUnavailable:
                noted = False
                await store_pause()
            if entry.finishing or self._stopped(entry, line, link):
                return
            if noted:
                self._say_run(entry, link)
                return

    def _stopped(self, entry: Entry, line: Line, link: Conversation) -> bool:
        """See whether something came between the choice of a link and the sending; if so, act on it."""
        if entry.command.cancel_requested:
            self.end(entry, ended(CommandState.CANCELLED, self._now()))
        elif line.link is not link or not link.open or self.stopping:
            self.again(entry, "the link was lost before it was sent")
        elif entry.command.expires_at <= self._now():
            self.end(entry, ended(CommandState.EXPIRED, self._now()))
        else:
            return False
        return True

    def _say_run(self, entry: Entry, link: Conversation) -> None:
        command = entry.command
        entry.sent = True
        entry.uncredited = 0
        entry.said_at = time.monotonic()
        entry.hear()
        self.new_result(entry)
        link.say(
            Run(
                id=command.id,
                epoch=command.epoch,
                operation=command.operation,
                expires_in_s=begin_within_s(command, self._now()),
                credit=link.window,
                correlation_id=command.correlation_id,
                traceparent=command.traceparent,
                group=command.group or "",
                idempotency_key=command.idempotency_key or "",
                signature=command.signature,
                sealed=command.sealed,
                seal_to=command.seal_to,
                rows_as=command.rows_as,
                said_s=link.age_s,
                blob=self._blob_for(command.id, link),
            ),
            command.params,
        )

    def _blob_for(self, command_id: str, link: Conversation) -> BlobInfo | None:
        blob = self.blobs.named_by(command_id)
        # An agent that can't fetch one refuses the parameters, which name it.
        return BlobInfo(blob.id, blob.bytes, blob.sha256) if blob is not None and BLOBS in link.features else None

    def new_result(self, entry: Entry) -> LiveResult:
        """Begin the result of an attempt."""
        entry.drop_result("a new attempt begins")
        entry.result = result = self._results.begin(entry.scope, entry.command.id, entry.writing)

        def stop_sending() -> None:
            link = entry.line.link if entry.line is not None else None
            if entry.result is result and link is not None and link.phase(entry.command.id) is Phase.RUNNING:
                link.say(Cancel(entry.command.id, entry.command.epoch))

        result.on_cut = stop_sending
        entry.moves.ring()
        return result

    def began(self, entry: Entry, *, over: bool = False) -> None:
        """The work on a command began, as its agent says; ``over`` if it has ended as well."""
        now, first = self._now(), entry.command.started_at
        entry.command = replace(entry.command, state=CommandState.RUNNING, started_at=now if first is None else first)
        if over:
            return
        if not self._begun:
            asyncio.get_running_loop().call_later(BEGUN_S, self._note_begun)
        self._begun.append(entry)

    def _note_begun(self) -> None:
        """Note those that still run; of the others their end says when they began."""
        begun, self._begun = self._begun, []
        if self.stopping:
            return
        for entry in begun:
            command = entry.command
            if command.state is CommandState.RUNNING and not entry.finishing:
                note = partial(self._store.running, entry.scope, command.id, command.started_at or self._now())
                self.background.note(note, f"note {command.id}")

    # --- endings ----------------------------------------------------------------------------------

    def end(self, entry: Entry, finish: Finish) -> None:
        """Write a final state that does not come from the agent."""
        if not entry.finishing:
            entry.finishing = True
            if entry.waking is not None:
                entry.waking.cancel()
            if entry.result is not None:
                entry.result.cut(finish.error.message if finish.error else str(finish.state))
            self.write_end(entry, finish)

    def write_end(self, entry: Entry, finish: Finish) -> None:
        """Keep the final state; then tell all who wait, and let the agent forget. ``entry.finishing`` is set."""
        command = entry.command
        self._queue_of(command).remove(command.id)
        self.members.stop_asking(entry)
        if finish.started_at != command.started_at:
            finish = replace(finish, started_at=command.started_at)
        # No task for each: thousands end in a second, and all but a few of them only wait for the disk.
        kept = self._store.finish(entry.scope, command.id, finish)
        self.background.await_end(kept, partial(self._end_kept, entry, finish))

    def _end_kept(self, entry: Entry, finish: Finish, kept: asyncio.Future[bool]) -> None:
        if kept.cancelled():
            return
        error = kept.exception()
        if isinstance(error, StoreUnavailable):
            again = self._write_end_again(entry, finish)
            self.background.spawn(again, f"end {entry.command.id}", ending=True)
        elif error is not None:
            log.error("%s: its end was not kept", entry.command.id, exc_info=error, extra={"event": "task_failed"})
        else:
            self._has_ended(entry, finish)

    async def _write_end_again(self, entry: Entry, finish: Finish) -> None:
        await store_pause()
        await until_kept(lambda: self._store.finish(entry.scope, entry.command.id, finish))
        self._has_ended(entry, finish)

    def _has_ended(self, entry: Entry, finish: Finish) -> None:
        """See to the rows of a command whose final state is kept, and let go of it."""
        entry.command = replace(
            entry.command,
            state=finish.state,
            finished_at=finish.finished_at,
            outputs=finish.outputs,
            row_sets=finish.row_sets,
            error=finish.error,
            warnings=finish.warnings,
            result=finish.result,
            proof=finish.proof,
        )
        if entry.result is not None:
            entry.result.end()
        if finish.result != "file":
            entry.drop_result("it ended without these rows")
            if entry.writing is not None or entry.spilled:
                self.background.spawn(self._remove_file(entry), f"end {entry.command.id}", ending=True)
                return
        self._let_go(entry)

    async def _remove_file(self, entry: Entry) -> None:
        """Remove what any attempt has written, once none writes any more."""
        if entry.writing is not None:
            await asyncio.wait((entry.writing,))
        if entry.spilled:
            await asyncio.to_thread(self._results.remove, entry.scope, entry.command.id)
        self._let_go(entry)

    def _let_go(self, entry: Entry) -> None:
        """Tell all who wait that a command has ended, and let its agent forget it."""
        command, line = entry.command, entry.line
        self._land(entry)
        del self._entries[command.id]
        self.blobs.ended(command.id)
        self._open[command.tenant] -= 1
        entry.moves.ring()
        for waiter in entry.waiters:
            if not waiter.done():
                waiter.set_result(command)
        if log.isEnabledFor(logging.DEBUG):
            told = {"tenant": command.tenant, "command": command.id, "state": str(command.state)}
            log.debug("command ended: %s", command.state, extra={"event": "command_ended", **told})
        if command.ordering_key:
            following = self._order.leave(command.tenant, command.ordering_key, command.id)
            if following is not None and self._entries[following].line is None:
                self._enqueue(self._entries[following])
                self._dispatch_for(self._entries[following].command)
        if line is not None:
            if line.link is not None and command.id not in line.strays:
                forget(line.link, command.id, command.epoch)
            self.dispatch(line)

    def again(self, entry: Entry, why: str) -> None:
        """Put a command back into its queue, now: whatever comes next must find it there."""
        command = entry.command
        line = entry.line
        self._take_back(entry, why)
        if command.cancel_requested:
            self.end(entry, ended(CommandState.CANCELLED, self._now()))
            return
        entry.command = replace(command, state=CommandState.QUEUED)
        step = Step(
            command.id,
            self._now(),
            "requeued",
            attempt=command.epoch,
            agent=command.agent or "",
            phase=str(command.state),
            started_at=command.dispatched_at,
            detail=why,
        )
        # If this note is lost with us, the command is settled as one that was sent, which is safe.
        requeue = partial(self._store.requeue, entry.scope, command.id, step=step, failures=command.failures)
        self.background.note(requeue, f"note {command.id}")
        self._enqueue(entry)
        self._dispatch_for(entry.command)
        if line is not None:
            self.dispatch(line)

    async def retry(self, entry: Entry, failed: Step, again: Again) -> None:
        """Keep why an attempt failed, and let the command wait for its next; ``entry.finishing`` is set."""
        command = entry.command
        await until_kept(
            lambda: self._store.requeue(
                entry.scope, command.id, step=failed, failures=again.failures, not_before=again.not_before
            )
        )
        line = entry.line
        self._take_back(entry, failed.error.message if failed.error else "it failed")
        if line is not None and line.link is not None:
            forget(line.link, command.id, command.epoch)
        entry.command = replace(
            entry.command,
            state=CommandState.QUEUED,
            failures=again.failures,
            not_before=again.not_before,
            error=failed.error,
        )
        entry.finishing = False
        # Nobody looked at its time while its end was looked into.
        self.deadlines.watch(command)
        if entry.command.cancel_requested:
            self.end(entry, ended(CommandState.CANCELLED, self._now()))
        else:
            wait_s = max(0.0, again.not_before - self._now())
            self._rest(entry, wait_s)
            log.info(
                "attempt failed, another follows in %.1f s",
                wait_s,
                extra={
                    "event": "attempt_failed",
                    "tenant": command.tenant,
                    "command": command.id,
                    "code": failed.error.code if failed.error else "",
                    "failures": again.failures,
                },
            )
        if line is not None:
            self.dispatch(line)

    def _take_back(self, entry: Entry, why: str) -> None:
        entry.drop_result(f"attempt {entry.command.epoch} ended without a result: {why}")
        self._land(entry)


def _time_is_up(entry: Entry, waiter: asyncio.Future[Command]) -> None:
    if not waiter.done():
        waiter.set_result(entry.command)


def _never_sent(command: Command) -> bool:
    return command.state is CommandState.QUEUED and command.epoch == 0


def _takes(line: Line, now: float, waits: list[float], lane: Lane) -> bool:
    """Whether an agent takes a command of a lane now; what it would have to wait for is added to ``waits``."""
    if not (line.has(lane) and line.free(lane.connection)):
        return False
    obstacle = line.obstacle(lane.connection, now)
    if obstacle is not None:
        waits.append(obstacle.seconds)
    return obstacle is None


def full_jitter() -> float:
    """Return a number in [0, 1)."""
    return random.random()  # noqa: S311 - it spreads load, it keeps no secret
