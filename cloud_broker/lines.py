"""What the router keeps in memory: each open command, and each agent with what waits for it and what it works on."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from cloud_broker.bell import Bell
from cloud_broker.blob_feed import BlobFeed
from cloud_broker.breakers import Breaker
from cloud_broker.catalogues import Catalogue, Connection
from cloud_broker.link.conversation import Conversation
from cloud_broker.queues import Lane, Queue
from cloud_broker.results import LiveResult
from cloud_broker.store.commands import Command
from cloud_broker.tenants import Scope
from protocol.flow import Bucket
from protocol.messages import Ack
from protocol.states import PHASES

SICK_S: Final = 5.0  # seconds; longer than a command takes, and its cause may be over


@dataclass(slots=True, eq=False)
class Entry:
    """
    A command without a final state.

    Attributes:
        number: grows with each submission.
        sent: whether Run was said on a link that may still be answering.
        chosen: the link that it is to be sent on as soon as the store has it.
        result: of the attempt under way.
        spilled: whether an earlier attempt may have left a file of rows.
        writing: what an earlier attempt still writes to that file.
        uncredited: result bytes stored and not yet granted again on the link.
        heard_at: when its agent last said something about it, on the monotonic clock.
        told_to_stop: whether that was so long ago that the agent was told to stop it.
        finishing: whether the end of an attempt has come, and is being looked into or written.
        waking: set while it waits for its next try: calls when that may be sent.
        said_at: when its last attempt was said to an agent, or this broker began, on the monotonic clock.
        asked: the other agent that is finding out what became of its last attempt.
        asked_epoch: number of the last such question; attempts and questions are counted together.
        unsettled: what other agents said who could not tell, for people, by name.
        ask_at: when another question makes sense, on the monotonic clock.
        feed: the blob that goes to its agent, and on which link.
        waiters: who wait for its end.
        moves: rings when ``result`` changes, and at the end.
    """

    command: Command
    number: int
    line: Line | None = None
    sent: bool = False
    chosen: Conversation | None = None
    result: LiveResult | None = None
    spilled: bool = False
    writing: asyncio.Task[None] | None = None
    uncredited: int = 0
    heard_at: float = field(default_factory=time.monotonic)
    told_to_stop: bool = False
    finishing: bool = False
    waking: asyncio.TimerHandle | None = None
    said_at: float = field(default_factory=time.monotonic)
    asked: Line | None = None
    asked_epoch: int = 0
    unsettled: dict[str, str] = field(default_factory=dict)
    ask_at: float = 0.0
    feed: tuple[Conversation, BlobFeed] | None = None
    waiters: set[asyncio.Future[Command]] = field(default_factory=set)
    moves: Bell = field(default_factory=Bell)

    def hear(self) -> None:
        """The agent said something about it."""
        self.heard_at = time.monotonic()
        self.told_to_stop = False

    def drop_result(self, why: str) -> None:
        """Let go of what an attempt brought."""
        if self.result is not None:
            self.result.cut(why)
            self.spilled = self.spilled or self.result.on_disk
            self.writing = self.result.writing
            self.result = None
            self.moves.ring()

    @property
    def scope(self) -> Scope:
        return Scope(self.command.tenant)

    @property
    def lane(self) -> Lane:
        """With whom it stands in its queue."""
        return lane_of(self.command)


def lane_of(command: Command) -> Lane:
    """Return with whom a command stands in its queue: a group's is for those members only who have its version."""
    return Lane(command.connection, command.operation_digest if command.group is not None else "")


class Obstacle(NamedTuple):
    """Why nothing can be sent to a connection now, in the contract's words, and for how many seconds at most."""

    why: Literal["paused", "window", "breaker", "rate"]
    seconds: float


@dataclass(slots=True, eq=False)
class Line:
    """
    One agent: its link, what waits for it, what it works on.

    Attributes:
        journal: mark of its journal, as last told, and ``position``, the most records that it was ever said to have.
        kept_position: what the store knows of it.
        put_back: whether its journal is an earlier state of itself, so that its mark says nothing now.
        strays: attempts that it holds though they no longer count, each with whether sending must wait for its end.
        resting: whether it begins nothing now, and is asked again in a while.
        problems: why it refuses commands though the link is up, as it said.
        shut: connections outside of their windows, and when they open, on the monotonic clock.
        paused: connections that somebody at the agent's machine stopped, with what they said.
        busy: commands under way, by connection.
        uncredited: result bytes of all of them, stored and not yet granted again on the link.
        waking: calls when a connection takes commands again.
        greeted: number of the youngest connection on which it greeted.
        drained: whether somebody wishes that it is given nothing new.
        lost_at: when its last link ended, or this broker began, on the monotonic clock.
        asked: commands of other agents that it finds out about, with the number of the question.
        sick_until: connections on which it failed just now, and until when others of its group are preferred, on the
            monotonic clock.
    """

    tenant: str
    agent: str
    group: str | None = None
    link: Conversation | None = None
    catalogue: Catalogue | None = None
    digest: str = ""
    journal: str = ""
    position: int = 0
    kept_position: int = 0
    put_back: bool = False
    strays: dict[str, bool] = field(default_factory=dict)
    resting: bool = False
    problems: tuple[str, ...] = ()
    shut: Mapping[str, float] = field(default_factory=dict)
    paused: Mapping[str, str] = field(default_factory=dict)
    queue: Queue = field(default_factory=Queue)
    flying: dict[str, Entry] = field(default_factory=dict)
    busy: Counter[str] = field(default_factory=Counter)
    uncredited: int = 0
    waking: asyncio.TimerHandle | None = None
    greeted: int = 0
    drained: bool = False
    lost_at: float = field(default_factory=time.monotonic)
    asked: dict[str, int] = field(default_factory=dict)
    sick_until: dict[str, float] = field(default_factory=dict)
    _breakers: dict[str, Breaker] = field(default_factory=dict)
    _buckets: dict[str, Bucket] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether commands can be sent now."""
        return self.well and not self.drained

    @property
    def well(self) -> bool:
        """Whether it takes commands, as far as it says itself."""
        return self.online and not self.resting and not self.problems

    @property
    def full(self) -> bool:
        """Whether it has as much under way as it takes."""
        hello = self.link.hello if self.link is not None else None
        return hello is None or len(self.flying) + len(self.asked) >= hello.limits.max_running

    def has(self, lane: Lane) -> bool:
        """Whether it may have the commands of a lane: its version of their operation is the one they are for."""
        return not lane.digest or (self.catalogue is not None and lane.digest in self.catalogue.digests)

    def load(self, connection: str, now: float) -> tuple[bool, float, int]:
        """Return how busy it is; among agents of a group the least is preferred, and one that failed just now last."""
        sick = self.sick_until.get(connection, now) > now
        return sick, self.busy[connection] / self._limits(connection).max_concurrent, len(self.flying)

    def failed(self, connection: str, now: float, *, again: bool) -> None:
        """Note that work on a connection failed there for a technical reason (``again``), or that it went through."""
        if again:
            self.sick_until[connection] = now + SICK_S
        else:
            self.sick_until.pop(connection, None)

    @property
    def online(self) -> bool:
        """Whether there is a link, and what it holds was told."""
        return self.link is not None and self.link.ready and self.link.open

    def _limits(self, connection: str) -> Connection:
        known = self.catalogue.connections if self.catalogue else {}
        return known.get(connection, _UNKNOWN)

    def free(self, connection: str) -> bool:
        """Whether the connection has a place for one more."""
        return self.busy[connection] < self._limits(connection).max_concurrent

    def breaker(self, connection: str) -> Breaker:
        """Return what spares the connection when it does not answer."""
        breaker = self._breakers.get(connection)
        if breaker is None:
            breaker = self._breakers[connection] = Breaker(self._limits(connection).guard)
        # The operator may have changed the file since.
        breaker.guard = self._limits(connection).guard
        return breaker

    def _bucket(self, connection: str, now: float) -> Bucket | None:
        rate = self._limits(connection).rate_per_s
        if rate is None:
            return None
        bucket = self._buckets.get(connection)
        if bucket is None or bucket.per_second != rate:
            bucket = self._buckets[connection] = Bucket(rate, now)
        return bucket

    def obstacle(self, connection: str, now: float) -> Obstacle | None:
        """Return what keeps commands from the connection now, on the monotonic clock; ``None`` if nothing does."""
        if connection in self.paused:
            return Obstacle("paused", math.inf)
        if (seconds := self.shut.get(connection, now) - now) > 0.0:
            return Obstacle("window", seconds)
        if (seconds := self.breaker(connection).wait(now)) > 0.0:
            return Obstacle("breaker", seconds)
        bucket = self._bucket(connection, now)
        if bucket is not None and (seconds := bucket.wait(now)) > 0.0:
            return Obstacle("rate", seconds)
        return None

    def sending(self, connection: str, command_id: str, now: float) -> None:
        """A command is sent to a connection without an obstacle."""
        self.breaker(connection).sent(command_id)
        bucket = self._bucket(connection, now)
        if bucket is not None:
            bucket.take(now)

    def flying_on(self, link: Conversation, command_id: str) -> Entry | None:
        """Return the command if this link is the one it flies on; what an older link says is of no effect."""
        return self.flying.get(command_id) if self.link is link else None


def forget(link: Conversation, command_id: str, epoch: int) -> None:
    """Let the agent forget an attempt, if it holds it or has told its end on this link, and does so still."""
    if Ack in PHASES[link.phase(command_id)] and link.epoch(command_id) == epoch:
        link.say(Ack(command_id, epoch), soon=True)


_UNKNOWN = Connection()  # of a connection that the catalogue does not name
