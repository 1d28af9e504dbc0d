"""
Which command goes to which agent when, and what comes back.

The router holds every command that has no final state. It decides on the event loop, without waiting;
only the store is waited for: what must not be sent twice is marked as sent durably before it is
sent, and an outcome is kept durably before the agent may forget it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import msgspec

from cloud_broker import catalogues
from cloud_broker.catalogues import Catalogue, CatalogueInvalid
from cloud_broker.errors import ResultGone, StoreUnavailable
from cloud_broker.link.conversation import Conversation
from cloud_broker.queues import Order, Queue
from cloud_broker.results import LiveResult, Results
from cloud_broker.settlement import REPEATABLE, Decision, lost, settle
from cloud_broker.store.base import Agent, Command, CommandError, Finish, RowSetInfo, Store
from cloud_broker.tenants import Scope
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.framing import Buffer
from protocol.messages import (
    Accepted,
    Ack,
    Cancel,
    Chunk,
    Completed,
    Credit,
    Held,
    Hello,
    Holding,
    Resume,
    RowSetBegins,
    Run,
    Started,
)
from protocol.states import PHASES, CommandState, Phase

log = logging.getLogger(__name__)

Note = Callable[[], Coroutine[Any, Any, None]]  # something to tell the store

_OUTPUTS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
SWEEP_S: Final = 0.5  # seconds between two looks at what has expired
FAREWELL_S: Final = 2.0  # seconds
SPARE: Final = 1_000  # entries of ended commands that are not worth looking for
STORE_RETRY_S: Final = 1.0  # seconds; a full disk is asked again until there is room
CREDIT_BYTES: Final = limits.STREAM_WINDOW_BYTES // 4  # credits are given in parts of this, not for each chunk
LINK_CREDIT_BYTES: Final = limits.LINK_WINDOW_BYTES // 4  # all parts together that an agent is kept waiting for
REST_S: Final = 5.0  # seconds until an agent that begins nothing now is asked again
NOT_BEGUN: Final = frozenset({"agent_stopping", "journal_unavailable"})  # refusals that say: offer it again


@dataclass(slots=True, eq=False)
class Entry:
    """
    A command without a final state.

    Attributes:
        number: grows with each submission.
        sent: whether Run was said on a link that may still be answering.
        result: of the attempt under way.
        spilled: whether an earlier attempt may have left a file of rows.
        writing: what an earlier attempt still writes to that file.
        uncredited: result bytes stored and not yet granted again on the link.
        finishing: whether its end has come, and is being looked into or written.
        moved: set, and replaced, when ``result`` changes or the end is reached.
    """

    command: Command
    number: int
    line: Line | None = None
    sent: bool = False
    result: LiveResult | None = None
    spilled: bool = False
    writing: asyncio.Task[None] | None = None
    uncredited: int = 0
    finishing: bool = False
    waiters: set[asyncio.Future[Command]] = field(default_factory=set)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self) -> None:
        """Wake those who wait for another result or the end."""
        self.moved.set()
        self.moved = asyncio.Event()

    def drop_result(self, why: str) -> None:
        """Let go of what an attempt brought."""
        if self.result is not None:
            self.result.cut(why)
            self.spilled = self.spilled or self.result.on_disk
            self.writing = self.result.writing
            self.result = None
            self.move()

    @property
    def scope(self) -> Scope:
        return Scope(self.command.tenant)


@dataclass(slots=True, eq=False)
class Line:
    """
    One agent: its link, what waits for it, what it works on.

    Attributes:
        busy: commands under way, by connection.
        uncredited: result bytes of all of them, stored and not yet granted again on the link.
    """

    tenant: str
    agent: str
    group: str | None = None
    link: Conversation | None = None
    catalogue: Catalogue | None = None
    digest: str = ""
    queue: Queue = field(default_factory=Queue)
    flying: dict[str, Entry] = field(default_factory=dict)
    busy: Counter[str] = field(default_factory=Counter)
    uncredited: int = 0

    @property
    def ready(self) -> bool:
        """Whether commands can be sent now."""
        return self.link is not None and self.link.ready and self.link.open

    def free(self, connection: str) -> bool:
        """Whether the connection takes one more."""
        allowed = self.catalogue.max_concurrent.get(connection, 1) if self.catalogue else 1
        return self.busy[connection] < allowed


class Router:
    """The stage between the store and the links; the ``Desk`` of every conversation."""

    def __init__(self, store: Store, results: Results, now: Callable[[], float]) -> None:
        self._store = store
        self._results = results
        self._now = now
        self._entries: dict[str, Entry] = {}
        self._lines: dict[tuple[str, str], Line] = {}
        self._groups: dict[tuple[str, str], Queue] = {}
        self._order = Order()
        self._expiry: list[tuple[float, str]] = []
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # --- start and stop ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up every command that has no final state."""
        for command in await self._store.open_commands():
            entry = self._enter(command)
            entry.spilled = command.epoch > 0
            if command.state is CommandState.QUEUED:
                self._enqueue(entry)
            else:
                # Settled when its agent is back, or when its time is up.
                self._fly(entry, self._line(command.tenant, command.agent or ""), sent=True)
        self._spawn(self._sweep(), "sweep expired commands")

    async def farewell(self) -> None:
        """Say goodbye to all agents, and wait until they are gone, but not long."""
        links = self.links()
        for link in links:
            link.end("stopping", "the broker is stopping", retry_after_s=1.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                for link in links:
                    await link.gone.wait()

    async def stop(self) -> None:
        """End; what is open stays so in the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for entry in self._entries.values():
            if entry.result is not None:
                entry.result.cut("the broker is stopping")
                await entry.result.flushed()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error, extra={"event": "task_failed"})

    # --- the caller's side ------------------------------------------------------------------------

    def submit(self, command: Command) -> None:
        """Take a command that the store has."""
        entry = self._enter(command)
        self._enqueue(entry)
        self._dispatch_for(command)

    def entry(self, scope: Scope, command_id: str) -> Entry | None:
        """Return a command of this tenant that has no final state."""
        entry = self._entries.get(command_id)
        return entry if entry is not None and entry.command.tenant == scope.tenant else None

    async def wait(self, entry: Entry, timeout_s: float) -> Command:
        """Return the command once it is final, or as it is when the time is up."""
        if self._entries.get(entry.command.id) is not entry:
            return entry.command
        waiter: asyncio.Future[Command] = asyncio.get_running_loop().create_future()
        entry.waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            return entry.command
        finally:
            entry.waiters.discard(waiter)

    async def changed(self, entry: Entry, seen: LiveResult | None) -> None:
        """Wait until the command has another result than ``seen``, or its final state."""
        while self._entries.get(entry.command.id) is entry and entry.result is seen:
            await entry.moved.wait()

    def cancel(self, entry: Entry) -> None:
        """Pass the caller's wish on; the store has it already."""
        entry.command = replace(entry.command, cancel_requested=True)
        if entry.line is None:
            self._end(entry, _ended(CommandState.CANCELLED, self._now()))
        elif entry.line.link is not None and Cancel in PHASES[entry.line.link.phase(entry.command.id)]:
            entry.line.link.say(Cancel(entry.command.id, entry.command.epoch))

    def waiting_for(self, entry: Entry) -> str | None:
        """Why a queued command waits, in the contract's words."""
        command = entry.command
        if command.state is not CommandState.QUEUED:
            return None
        if command.ordering_key and not self._order.first(command.tenant, command.ordering_key, command.id):
            return "order"
        if not any(line.ready for line in self._lines_for(command)):
            return "agent"
        return None

    def line(self, scope: Scope, agent: str) -> Line | None:
        """Return what is known of an agent that was here since the start."""
        return self._lines.get((scope.tenant, agent))

    def know(self, agent: Agent) -> Line:
        """Return an agent's line, filled from the store if it is new."""
        line = self._line(agent.tenant, agent.name)
        line.group = agent.group
        if line.catalogue is None and agent.catalogue is not None:
            line.catalogue = catalogues.read(agent.catalogue)
            line.digest = agent.catalogue_digest
        return line

    def links(self) -> list[Conversation]:
        """Return every link there is."""
        return [line.link for line in self._lines.values() if line.link is not None]

    def revoke(self, scope: Scope, agent: str) -> None:
        """Cut an agent off."""
        line = self._lines.get((scope.tenant, agent))
        if line is not None and line.link is not None:
            line.link.end("revoked", "this agent was revoked")

    # --- queues -----------------------------------------------------------------------------------

    def _line(self, tenant: str, agent: str) -> Line:
        line = self._lines.get((tenant, agent))
        if line is None:
            line = self._lines[(tenant, agent)] = Line(tenant, agent)
        return line

    def _lines_for(self, command: Command) -> list[Line]:
        if command.group is None:
            line = self._lines.get((command.tenant, command.agent or ""))
            return [line] if line else []
        return [line for line in self._lines.values() if (line.tenant, line.group) == (command.tenant, command.group)]

    def _queue_of(self, command: Command) -> Queue:
        if command.group is not None:
            return self._groups.setdefault((command.tenant, command.group), Queue())
        return self._line(command.tenant, command.agent or "").queue

    def _enter(self, command: Command) -> Entry:
        self._number += 1
        entry = self._entries[command.id] = Entry(command, self._number)
        heapq.heappush(self._expiry, (command.expires_at, command.id))
        if command.ordering_key:
            self._order.join(command.tenant, command.ordering_key, command.id)
        return entry

    def _enqueue(self, entry: Entry) -> None:
        command = entry.command
        if entry.finishing:
            return
        if command.ordering_key and not self._order.first(command.tenant, command.ordering_key, command.id):
            return
        self._queue_of(command).put(command.connection, command.priority, entry.number, command.id)

    def _dispatch_for(self, command: Command) -> None:
        for line in self._lines_for(command):
            self._dispatch(line)

    def _dispatch(self, line: Line) -> None:
        """Send as much as the agent takes."""
        while line.ready and line.link is not None and line.link.hello is not None:
            if len(line.flying) >= line.link.hello.limits.max_running:
                return
            queues = [line.queue]
            if line.group is not None and (line.tenant, line.group) in self._groups:
                queues.append(self._groups[(line.tenant, line.group)])
            heads = [(head, queue) for queue in queues if (head := queue.head(line.free)) is not None]
            if not heads:
                return
            head, queue = min(heads, key=lambda pair: pair[0])
            entry = self._entries[head[2]]
            queue.pop(entry.command.connection)
            self._fly(entry, line, sent=False)
            self._send(entry, line, line.link)

    def _fly(self, entry: Entry, line: Line, *, sent: bool) -> None:
        entry.line = line
        entry.sent = sent
        line.flying[entry.command.id] = entry
        line.busy[entry.command.connection] += 1

    def _land(self, entry: Entry) -> None:
        line = entry.line
        if line is not None and line.flying.pop(entry.command.id, None) is not None:
            line.busy[entry.command.connection] -= 1
        entry.line = None
        entry.sent = False

    # --- sending ----------------------------------------------------------------------------------

    def _send(self, entry: Entry, line: Line, link: Conversation) -> None:
        command = entry.command
        boot = link.hello.boot if link.hello else ""
        entry.command = replace(
            command, state=CommandState.DISPATCHED, epoch=command.epoch + 1, agent=line.agent, boot=boot
        )
        durable = command.effect not in REPEATABLE
        note = partial(
            self._store.dispatched, entry.scope, command.id, entry.command.epoch, line.agent, boot, durable=durable
        )
        if durable:
            self._spawn(self._send_once_noted(entry, line, link, note), f"send {command.id}")
        else:
            self._spawn(_ignore(note), f"note {command.id}")
            self._say_run(entry, link)

    async def _send_once_noted(self, entry: Entry, line: Line, link: Conversation, note: Note) -> None:
        try:
            await note()
        except StoreUnavailable:
            await asyncio.sleep(STORE_RETRY_S)
            if not entry.finishing:
                self._again(entry, "it could not be noted as sent")
            return
        if entry.finishing:
            return
        if line.link is link and link.open and not entry.command.cancel_requested:
            self._say_run(entry, link)
        elif entry.command.cancel_requested:
            self._end(entry, _ended(CommandState.CANCELLED, self._now()))
        else:
            self._again(entry, "the link was lost before it was sent")

    def _say_run(self, entry: Entry, link: Conversation) -> None:
        command = entry.command
        entry.sent = True
        entry.uncredited = 0
        self._new_result(entry)
        link.say(
            Run(
                id=command.id,
                epoch=command.epoch,
                operation=command.operation,
                expires_in_s=command.expires_at - self._now(),
                credit=limits.STREAM_WINDOW_BYTES,
                correlation_id=command.correlation_id,
                traceparent=command.traceparent,
            ),
            command.params,
        )

    def _new_result(self, entry: Entry) -> LiveResult:
        entry.drop_result("a new attempt begins")
        entry.result = result = self._results.begin(entry.scope, entry.command.id, entry.writing)

        def stop_sending() -> None:
            link = entry.line.link if entry.line is not None else None
            if entry.result is result and link is not None and link.phase(entry.command.id) is Phase.RUNNING:
                link.say(Cancel(entry.command.id, entry.command.epoch))

        result.on_cut = stop_sending
        entry.move()
        return result

    # --- what agents say (Desk) -------------------------------------------------------------------

    async def joined(self, link: Conversation, hello: Hello) -> None:
        line = self._line(link.peer.tenant, link.peer.agent)
        previous, line.link = line.link, link
        if previous is not None:
            previous.end("superseded", "another link of this agent took over")
        log.info(
            "agent connected",
            extra={
                "event": "agent_connected",
                "tenant": line.tenant,
                "agent": line.agent,
                "release": hello.release,
                "address": link.peer.address,
            },
        )
        known = await self._store.agent(Scope(line.tenant), line.agent)
        if known is not None:
            line.group = known.group
            line.digest = line.digest or known.catalogue_digest
        await self._store.agent_seen(
            Scope(line.tenant),
            line.agent,
            self._now(),
            release=hello.release,
            system=hello.system,
            boot=hello.boot,
        )

    async def catalogue(self, link: Conversation, digest: str, catalogue: bytes) -> None:
        line = self._line(link.peer.tenant, link.peer.agent)
        if line.catalogue is not None and line.digest == digest:
            return
        if hashlib.sha256(catalogue).hexdigest() != digest:
            raise RemoteProtocolError("the catalogue does not have the digest that came with it")
        try:
            # A large one takes a while.
            read = await asyncio.to_thread(catalogues.read, catalogue)
        except CatalogueInvalid as exc:
            raise RemoteProtocolError(str(exc)) from exc
        if line.link is not link:
            return
        line.catalogue = read
        if line.digest != digest:
            line.digest = digest
            try:
                await self._store.put_catalogue(Scope(line.tenant), line.agent, catalogue, digest)
            except StoreUnavailable as exc:
                line.digest = ""
                log.warning("a catalogue was not kept: %s", exc, extra={"event": "note_lost", "agent": line.agent})
        self._dispatch(line)

    def holding(self, link: Conversation, holding: Holding) -> None:
        line = self._line(link.peer.tenant, link.peer.agent)
        if line.link is not link:
            return
        line.uncredited = 0
        for held in holding.commands:
            entry = line.flying.get(held.id)
            if entry is None or not entry.sent or entry.command.epoch != held.epoch:
                _forget(link, held.id, held.epoch)
        held_by_id = {held.id: held for held in holding.commands}
        for entry in list(line.flying.values()):
            entry.uncredited = 0
            # Of one whose end is being written the agent may not forget anything yet: `_write_end` tells it.
            if entry.sent and not entry.finishing:
                self._settle(entry, link, held_by_id.get(entry.command.id))
        link.ready = True
        self._dispatch(line)

    def _settle(self, entry: Entry, link: Conversation, held: Held | None) -> None:
        command = entry.command
        result = entry.result if entry.result is not None and entry.result.reason is None else None
        have = result.taken if result is not None else 0
        boot = link.hello.boot if link.hello else ""
        decision = settle(command, held, boot=boot, have=have)
        log.info(
            "command settled: %s",
            decision,
            extra={"event": "command_settled", "command": command.id, "decision": str(decision), "have": have},
        )
        if decision is Decision.RESUME:
            if result is None:
                self._new_result(entry)
            link.say(Resume(command.id, command.epoch, offset=have, credit=limits.STREAM_WINDOW_BYTES))
            if command.cancel_requested:
                link.say(Cancel(command.id, command.epoch))
        elif decision is Decision.AGAIN:
            _forget(link, command.id, command.epoch)
            self._again(entry, "the attempt was lost with its link")
        else:
            self._end(entry, _doubt(self._now(), held is not None))

    def accepted(self, link: Conversation, message: Accepted) -> None:
        """Nothing to note: ``dispatched`` says it."""

    def started(self, link: Conversation, message: Started) -> None:
        entry = self._flying(link, message.id)
        if entry is not None and entry.command.state is not CommandState.RUNNING:
            now = self._now()
            entry.command = replace(entry.command, state=CommandState.RUNNING, started_at=now)
            self._spawn(_ignore(partial(self._store.running, entry.scope, message.id, now)), f"note {message.id}")

    def row_set_begins(self, link: Conversation, message: RowSetBegins) -> None:
        entry = self._flying(link, message.id)
        if entry is not None and entry.result is not None:
            entry.result.begin(message)

    def chunk(self, link: Conversation, message: Chunk, data: Buffer) -> None:
        entry = self._flying(link, message.id)
        if entry is None or entry.result is None:
            link.say(Credit(message.id, len(data)))
            return
        if not entry.result.sets:
            raise RemoteProtocolError(f"{message.id}: rows before their row set")

        def stored(size: int, entry: Entry = entry) -> None:
            line = entry.line
            if line is None or line.link is not link:
                # A later link began with whole windows.
                return
            entry.uncredited += size
            line.uncredited += size
            if entry.uncredited >= CREDIT_BYTES or entry.finishing:
                self._grant(entry, link)
            elif line.uncredited >= LINK_CREDIT_BYTES:
                # Many results that each wait for a little would keep the whole link waiting.
                for other in line.flying.values():
                    self._grant(other, link)

        entry.result.append(data, message.rows, stored)

    def _grant(self, entry: Entry, link: Conversation) -> None:
        line = entry.line
        if entry.uncredited and link.open and line is not None and line.link is link:
            link.say(Credit(entry.command.id, entry.uncredited))
            line.uncredited -= entry.uncredited
        entry.uncredited = 0

    def completed(self, link: Conversation, message: Completed, outputs: bytes) -> None:
        if outputs:
            try:
                _OUTPUTS.decode(outputs)
            except msgspec.DecodeError as exc:
                raise RemoteProtocolError(f"{message.id}: outputs that are no JSON object: {exc}") from exc
        entry = self._flying(link, message.id)
        if entry is None:
            _forget(link, message.id, message.epoch)
        elif entry.finishing:
            # The agent may forget it once that end is kept.
            return
        elif message.error_code in NOT_BEGUN and not message.touched:
            _forget(link, message.id, message.epoch)
            self._rest(self._line(link.peer.tenant, link.peer.agent), link)
            self._again(entry, message.error_message)
        else:
            entry.finishing = True
            self._spawn(self._complete(entry, link, message, outputs), f"complete {message.id}")

    def _rest(self, line: Line, link: Conversation) -> None:
        """Send nothing more for a while to an agent that begins nothing, such as one that is stopping."""

        async def ask_again() -> None:
            await asyncio.sleep(REST_S)
            if line.link is link:
                link.ready = True
                self._dispatch(line)

        if link.ready:
            link.ready = False
            self._spawn(ask_again(), f"let {line.tenant}/{line.agent} rest")

    async def left(self, link: Conversation) -> None:
        line = self._line(link.peer.tenant, link.peer.agent)
        if line.link is link:
            line.link = None
            log.info(
                "agent disconnected",
                extra={"event": "agent_disconnected", "tenant": line.tenant, "agent": line.agent},
            )
            await self._store.agent_seen(Scope(line.tenant), line.agent, self._now())

    def _flying(self, link: Conversation, command_id: str) -> Entry | None:
        """Return the command if this link is the one it flies on; what an older link says is of no effect."""
        line = self._line(link.peer.tenant, link.peer.agent)
        return line.flying.get(command_id) if line.link is link else None

    # --- endings ----------------------------------------------------------------------------------

    async def _complete(self, entry: Entry, link: Conversation, message: Completed, outputs: bytes) -> None:
        finish = await self._verified(entry, message, outputs)
        self._grant(entry, link)
        await self._write_end(entry, finish)

    async def _verified(self, entry: Entry, message: Completed, outputs: bytes) -> Finish:
        """Return the final state that the agent's word and the rows that came amount to."""
        result = entry.result
        row_sets: tuple[RowSetInfo, ...] = ()
        inline: bytes | None = None
        state = CommandState(message.outcome)
        error = None
        if message.error_code:
            error = CommandError(
                message.error_kind or "technical",
                message.error_code,
                message.error_message[: limits.MAX_ERROR_CHARS],
                message.source_code[: limits.MAX_ERROR_CHARS],
            )
        try:
            # One that we cut, so that the agent was asked to stop, was cancelled by nobody.
            ours = result is not None and result.reason is not None and state is CommandState.CANCELLED
            if result is not None and (state is CommandState.SUCCEEDED or ours):
                row_sets, inline = await result.complete(message.row_sets)
            elif result is not None:
                result.cut(message.error_message or "the command did not succeed")
                await result.flushed()
        except ResultGone as exc:
            # The work was done, its rows are lost: that is a success only for nobody.
            state = CommandState.FAILED if entry.command.effect in REPEATABLE else CommandState.IN_DOUBT
            error = CommandError("technical", "result_lost", f"it ran, but its rows were lost: {exc.detail}")
        kept = "none" if not row_sets else "file" if inline is None else "inline"
        return Finish(
            state=state,
            finished_at=self._now(),
            outputs=outputs or None,
            row_sets=row_sets,
            error=error,
            warnings=tuple(warning[: limits.MAX_ERROR_CHARS] for warning in message.warnings[: limits.MAX_WARNINGS]),
            result=kept,  # type: ignore[arg-type]  # mypy does not see a literal through two conditions
            inline=inline if kept == "inline" else None,
        )

    def _end(self, entry: Entry, finish: Finish) -> None:
        """Write a final state that does not come from the agent."""
        if not entry.finishing:
            entry.finishing = True
            if entry.result is not None:
                entry.result.cut(finish.error.message if finish.error else str(finish.state))
            self._spawn(self._write_end(entry, finish), f"end {entry.command.id}")

    async def _write_end(self, entry: Entry, finish: Finish) -> None:
        command = entry.command
        line = entry.line
        self._queue_of(command).remove(command.id)
        while True:
            try:
                await self._store.finish(entry.scope, command.id, finish)
                break
            except StoreUnavailable:
                # The agent keeps the outcome until it is told that we have it.
                await asyncio.sleep(STORE_RETRY_S)
        entry.command = final = replace(
            entry.command,
            state=finish.state,
            finished_at=finish.finished_at,
            outputs=finish.outputs,
            row_sets=finish.row_sets,
            error=finish.error,
            warnings=finish.warnings,
            result=finish.result,
        )
        if entry.result is not None:
            entry.result.end()
        if finish.result != "file":
            await self._remove_file(entry)
        self._land(entry)
        del self._entries[command.id]
        entry.move()
        for waiter in entry.waiters:
            if not waiter.done():
                waiter.set_result(final)
        log.debug(
            "command ended: %s",
            final.state,
            extra={"event": "command_ended", "tenant": final.tenant, "command": final.id, "state": str(final.state)},
        )
        if command.ordering_key:
            following = self._order.leave(command.tenant, command.ordering_key, command.id)
            if following is not None and self._entries[following].line is None:
                self._enqueue(self._entries[following])
                self._dispatch_for(self._entries[following].command)
        if line is not None:
            if line.link is not None:
                _forget(line.link, command.id, command.epoch)
            self._dispatch(line)

    async def _remove_file(self, entry: Entry) -> None:
        """Remove what any attempt has written, once none writes any more."""
        entry.drop_result("it ended without these rows")
        if entry.writing is not None:
            await asyncio.wait((entry.writing,))
        if entry.spilled:
            await asyncio.to_thread(self._results.remove, entry.scope, entry.command.id)

    def _again(self, entry: Entry, why: str) -> None:
        """Put a command back into its queue, now: whatever comes next must find it there."""
        entry.drop_result(f"attempt {entry.command.epoch} ended without a result: {why}")
        line = entry.line
        self._land(entry)
        if entry.command.cancel_requested:
            self._end(entry, _ended(CommandState.CANCELLED, self._now()))
            return
        entry.command = replace(entry.command, state=CommandState.QUEUED)
        # If this note is lost with us, the command is settled as one that was sent, which is safe.
        self._spawn(_ignore(partial(self._store.requeue, entry.scope, entry.command.id)), f"note {entry.command.id}")
        self._enqueue(entry)
        self._dispatch_for(entry.command)
        if line is not None:
            self._dispatch(line)

    async def _sweep(self) -> None:
        while True:
            now = self._now()
            while self._expiry and self._expiry[0][0] <= now:
                _, command_id = heapq.heappop(self._expiry)
                entry = self._entries.get(command_id)
                if entry is None or entry.finishing:
                    continue
                if entry.line is None:
                    self._end(entry, _ended(CommandState.EXPIRED, now))
                elif entry.line.link is None:
                    again = not entry.sent or lost(entry.command) is Decision.AGAIN
                    self._end(entry, _ended(CommandState.EXPIRED, now) if again else _doubt(now, False))
                else:
                    # Under way: the agent ends it by the operation's own timeout. Look again later.
                    heapq.heappush(self._expiry, (now + limits.SILENCE_S, command_id))
            if len(self._expiry) > 2 * len(self._entries) + SPARE:
                # Most commands end long before their time is up.
                self._expiry = [item for item in self._expiry if item[1] in self._entries]
                heapq.heapify(self._expiry)
            await asyncio.sleep(SWEEP_S)


async def _ignore(note: Note) -> None:
    """Await a note that nobody waits for; a store that can't take it now costs only the note."""
    try:
        await note()
    except StoreUnavailable as exc:
        log.warning("a state was not noted: %s", exc, extra={"event": "note_lost"})


def _forget(link: Conversation, command_id: str, epoch: int) -> None:
    """Let the agent forget a command, if it holds it or has told its end on this link, and does so still."""
    if Ack in PHASES[link.phase(command_id)]:
        link.say(Ack(command_id, epoch))


def _ended(state: CommandState, now: float) -> Finish:
    error = None
    if state is CommandState.EXPIRED:
        error = CommandError("deadline", "expired", "its time was up before it could start")
    return Finish(state=state, finished_at=now, error=error)


def _doubt(now: float, held: bool) -> Finish:
    message = (
        "it ran, but the part of its rows that was on its way is lost"
        if held
        else "the agent was lost while it was under way: it may have happened, look in the ERP"
    )
    return Finish(state=CommandState.IN_DOUBT, finished_at=now, error=CommandError("unknown", "agent_lost", message))
