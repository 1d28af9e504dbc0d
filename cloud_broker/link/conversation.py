"""One link to one agent: carries a Session over a transport and turns records into calls on the router."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from cloud_broker.link.base import LinkLost, Peer, Transport
from protocol import limits
from protocol.errors import ProtocolError, RemoteProtocolError
from protocol.framing import Buffer
from protocol.messages import (
    FEATURES,
    Accepted,
    AnyMessage,
    Beat,
    Catalogue,
    Chunk,
    Completed,
    Condition,
    Fetch,
    Goodbye,
    Hello,
    Holding,
    Limits,
    Renew,
    RowSetBegins,
    Started,
    Trust,
    Trusts,
    Welcome,
)
from protocol.session import Lane, Session, Side, Stage
from protocol.states import Phase

log = logging.getLogger(__name__)

SOON_S: Final = 0.01  # seconds that a word in no hurry waits for one to go with
LAST_WORD_S: Final = 1.0  # seconds that a peer has to take it
LATE_S: Final = 0.02  # seconds that the clock is looked at too late, rather than too early and then again and again

_numbers: Final = itertools.count(1)


class Refused(Exception):
    """The agent is not taken, though its certificate is good; ``code`` and ``reason`` are those of Goodbye."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Greeting:
    """
    What Welcome tells this agent besides; see there.

    Attributes:
        trust: the authorities of a ``Trust`` to follow it; empty where the agent trusts those already.
        audit: where the tenant's audit trail stands, as ``NUMBER:HASH``, or "".
    """

    features: tuple[str, ...] = ()
    lineage: str = ""
    trust: tuple[str, ...] = ()
    audit: str = ""


class Desk(Protocol):
    """Who acts on what an agent says."""

    async def greeting(self, link: Conversation, hello: Hello) -> Greeting:
        """Return what to welcome an agent with, or raise ``Refused``."""

    def joined(self, link: Conversation, hello: Hello) -> None:
        """The agent greeted; an older link of the same agent is superseded."""

    async def catalogue(self, link: Conversation, digest: str, catalogue: bytes) -> None:
        """What may be run there."""

    def holding(self, link: Conversation, holding: Holding) -> None:
        """What it still holds; commands may be sent from here on."""

    def condition(self, link: Conversation, message: Condition) -> None:
        """How it is."""

    def beat(self, link: Conversation, message: Beat) -> None:
        """Where its journal stands."""

    async def renew(self, link: Conversation, message: Renew, csr: bytes) -> None:
        """It asks for its next certificate."""

    async def trusts(self, link: Conversation, message: Trusts) -> None:
        """Whom it trusts."""

    def accepted(self, link: Conversation, message: Accepted) -> None:
        """It has the command."""

    def started(self, link: Conversation, message: Started) -> None:
        """The work began."""

    def row_set_begins(self, link: Conversation, message: RowSetBegins) -> None:
        """A row set begins."""

    def chunk(self, link: Conversation, message: Chunk, data: Buffer) -> None:
        """Some rows."""

    def fetch(self, link: Conversation, message: Fetch) -> None:
        """It wants a part of a command's blob."""

    def completed(self, link: Conversation, message: Completed, outputs: bytes) -> None:
        """A command ended."""

    async def left(self, link: Conversation) -> None:
        """The link ended."""


class Conversation:
    """
    One link, from its greeting to its end.

    Attributes:
        number: counts the connections of this process.
        peer: who is at the other end.
        hello: its greeting; ``None`` until it came.
        given: the text that it was given with Welcome, or "".
        ready: whether it has told what it holds, so that commands may be sent.
    """

    # There are ten thousand of it.
    __slots__ = (
        "__weakref__",
        "_closing",
        "_desk",
        "_failure",
        "_gone",
        "_later",
        "_own",
        "_reading",
        "_release",
        "_session",
        "_tick_at",
        "_transport",
        "_welcomed_at",
        "_writing",
        "given",
        "hello",
        "last_heard",
        "number",
        "peer",
        "ready",
    )

    def __init__(self, transport: Transport, peer: Peer, desk: Desk, *, release: str, own: Limits) -> None:
        self.peer = peer
        self.number = next(_numbers)
        self.hello: Hello | None = None
        self.ready = False
        self.given = ""
        self.last_heard = time.time()
        self._transport = transport
        self._desk = desk
        self._release = release
        self._own = own
        self._session = Session(Side.BROKER, own, now=time.monotonic())
        # Ten thousand links that say nothing have nothing but this each: no task that writes, one timer.
        self._reading = asyncio.timeout(None)
        self._writing: asyncio.Task[None] | None = None
        self._tick_at: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None  # until what may wait is sent
        self._failure: Exception | None = None
        self._closing = False
        self._gone: asyncio.Future[None] | None = None
        self._welcomed_at = time.monotonic()

    def __repr__(self) -> str:
        return f"<Conversation {self.peer.tenant}/{self.peer.agent} {self._session.stage}>"

    @property
    def open(self) -> bool:
        """Whether anything can still be said."""
        return self._session.stage is Stage.OPEN and not self._closing

    @property
    def ended(self) -> bool:
        """Whether the link has ended, and all who had to know were told."""
        return self._gone is not None and self._gone.done()

    @property
    def features(self) -> frozenset[str]:
        """What both sides can do besides; nothing before the greeting."""
        return self._session.features

    @property
    def age_s(self) -> float:
        """Seconds since Welcome; never 0, which would say nothing."""
        return max(0.001, time.monotonic() - self._welcomed_at)

    @property
    def window(self) -> int:
        """Bytes of a result that may be on their way: the agent keeps as many, to send them again on another link."""
        told = self.hello.limits.stream_window_bytes if self.hello is not None else 0
        return min(limits.STREAM_WINDOW_BYTES, told or limits.SMALL_WINDOW_BYTES)

    def say(self, message: AnyMessage, payload: Buffer = b"", *, soon: bool = False) -> None:
        """
        Queue a message; without effect once the link has ended.

        Args:
            soon: it may wait for a moment, to go with what follows.
        """
        if self._session.stage is not Stage.CLOSED:
            self._session.say(message, payload)
            if not soon:
                self.wake()
            elif self._later is None:
                self._later = asyncio.get_running_loop().call_later(SOON_S, self._late)

    def attach(self, command_id: str, lane: Lane) -> None:
        """Let what a command still has to be sent take turns; ``wake`` tells when there is more of it."""
        if self._session.stage is Stage.OPEN:
            self._session.attach(command_id, lane)
            self.wake()

    def wake(self) -> None:
        """There is something new to send."""
        if self._writing is None and self._tick_at is not None:
            self._writing = asyncio.create_task(self._write(), name="write to an agent")

    def _late(self) -> None:
        self._later = None
        if self._session.unsaid:
            self.wake()

    def phase(self, command_id: str) -> Phase:
        """Where the conversation about a command stands on this link."""
        return self._session.phase(command_id)

    def epoch(self, command_id: str) -> int:
        """Which attempt at a command this link is about; 0 if it is about none."""
        return self._session.epoch(command_id)

    def end(self, code: str, reason: str, retry_after_s: float = 0.0) -> None:
        """Say goodbye and close."""
        self._session.end(code, reason, retry_after_s)
        self._closing = True
        self.wake()

    async def gone(self) -> None:
        """Wait until the link has ended."""
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._gone)

    async def serve(self) -> None:
        """Carry the conversation to its end; returns when the link is closed."""
        try:
            await self._carry()
        finally:
            if self._tick_at is not None:
                self._tick_at.cancel()
                self._tick_at = None
            if self._later is not None:
                self._later.cancel()
            if self._writing is not None:
                self._writing.cancel()
                await asyncio.wait((self._writing,))
            await self._transport.close()
            if self.hello is not None:
                await self._desk.left(self)
            if self._gone is None:
                self._gone = asyncio.get_running_loop().create_future()
            if not self._gone.done():
                self._gone.set_result(None)
        if isinstance(self._failure, RemoteProtocolError):
            name, why = f"{self.peer.tenant}/{self.peer.agent}", str(self._failure)
            log.warning("link closed: %s", why, extra={"event": "link_broken", "agent": name, "reason": why})
        elif self._failure is not None and not isinstance(self._failure, LinkLost):
            raise self._failure

    async def _carry(self) -> None:
        """Read until the link is to end; what has to be said then is said."""
        try:
            async with self._reading:
                self._look_at_clock()
                await self._read()
        except TimeoutError:
            if not self._reading.expired():
                raise
        except (LinkLost, ProtocolError) as exc:
            self._failure = self._failure or exc
        self._closing = True
        if not isinstance(self._failure, LinkLost):
            # A last word, such as what rule was broken; a peer that does not take it is not waited for.
            self.wake()
            if self._writing is not None:
                await asyncio.wait((self._writing,), timeout=LAST_WORD_S)

    def _stop(self, failure: Exception | None = None) -> None:
        """Read no more."""
        self._failure = self._failure or failure
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._reading.reschedule(asyncio.get_running_loop().time())

    async def _write(self) -> None:
        """Send what there is."""
        session = self._session
        try:
            while data := session.next_message(time.monotonic()):
                await self._transport.send(data)
        except Exception as exc:  # whoever reads ends the link with it
            self._stop(exc)
        finally:
            self._writing = None
        if self._closing or session.stage is Stage.CLOSED:
            self._stop()

    def _look_at_clock(self) -> None:
        """Do what is due by the session's clock; what is said or heard in between puts it off."""
        now, session = time.monotonic(), self._session
        first, delay = self._tick_at is None, session.beat_s / 2
        try:
            if session.stage is Stage.CLOSED and not first:
                self._stop()  # the peer does not take our goodbye
            elif self._writing is None:
                if now >= session.next_tick():
                    session.tick(now)
                    self.wake()
                    delay = min(session.beat_s, max(session.silent_at - now, 0.0))
                else:
                    delay = session.next_tick() - now
            elif now >= session.silent_at:
                # On a dead line the writer may be stuck.
                session.tick(now)
        except ProtocolError as exc:
            self._stop(exc)
        self._tick_at = asyncio.get_running_loop().call_later(delay + LATE_S, self._look_at_clock)
        if first and session.stage is not Stage.GREETING:
            self.wake()  # a goodbye that was said before anybody carried it

    async def _read(self) -> None:
        while True:
            # Nothing of a message stays while the next one is waited for.
            await self._heard(await self._transport.receive())

    async def _heard(self, data: bytes) -> None:
        try:
            records = self._session.receive(data, time.monotonic())
            self.last_heard = time.time()
            for message, payload in records:
                if not self._act(message, payload):
                    await self._act_on_link(message, payload)
        except RemoteProtocolError as exc:
            self._session.end("protocol", str(exc))
            raise

    def _act(self, message: AnyMessage, payload: Buffer) -> bool:
        """Act on what is about a command, which nearly everything is; return False if this is about something else."""
        # Types are compared: to ask `isinstance` of a struct costs much more.
        if type(message) is Chunk:
            self._desk.chunk(self, message, payload)
        elif type(message) is Accepted:
            self._desk.accepted(self, message)
        elif type(message) is Started:
            self._desk.started(self, message)
        elif type(message) is RowSetBegins:
            self._desk.row_set_begins(self, message)
        elif type(message) is Completed:
            self._desk.completed(self, message, bytes(payload))
        elif type(message) is Fetch:
            self._desk.fetch(self, message)
            self.wake()
        else:
            return False
        return True

    async def _act_on_link(self, message: AnyMessage, payload: Buffer) -> None:
        if type(message) is Hello:
            await self._greet(message)
        elif type(message) is Condition:
            self._desk.condition(self, message)
        elif type(message) is Beat:
            self._desk.beat(self, message)
        elif type(message) is Holding:
            self._desk.holding(self, message)
        elif type(message) is Catalogue:
            if len(payload) > limits.MAX_CATALOGUE_BYTES:
                raise RemoteProtocolError(f"a catalogue of {len(payload)} bytes")
            await self._desk.catalogue(self, message.digest, bytes(payload))
        elif type(message) is Renew:
            await self._desk.renew(self, message, bytes(payload))
        elif type(message) is Trusts:
            await self._desk.trusts(self, message)
        elif type(message) is Goodbye:
            raise LinkLost(f"the agent said goodbye: {message.code} {message.reason}")

    async def _greet(self, hello: Hello) -> None:
        try:
            greeting = await self._desk.greeting(self, hello)
        except Refused as exc:
            self.end(exc.code, exc.reason)
            return
        if self._session.stage is Stage.CLOSED:
            # Said goodbye to meanwhile, by a broker that stops for instance.
            return
        # Kept as long as the link: only what is asked for later.
        self.hello = msgspec.structs.replace(hello, release="", features=[], system="", head="", lineage="", trusts=[])
        self.given = greeting.lineage
        self._welcomed_at = time.monotonic()
        self._session.welcome(
            Welcome(
                version=limits.VERSION,
                release=self._release,
                features=[*greeting.features, *({*FEATURES} & {*hello.features})],
                limits=self._own,
                tenant=self.peer.tenant,
                agent=self.peer.agent,
                time=time.time(),
                lineage=greeting.lineage,
                audit=greeting.audit,
            )
        )
        if greeting.trust:
            self._session.say(Trust(list(greeting.trust)))
        self.wake()
        if self._tick_at is not None:
            # From now on there are beats.
            self._tick_at.cancel()
            self._look_at_clock()
        self._desk.joined(self, hello)
