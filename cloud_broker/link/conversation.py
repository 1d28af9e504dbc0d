"""One link to one agent: carries a Session over a transport and turns records into calls on the router."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from dataclasses import dataclass
from typing import Final, Protocol

from cloud_broker.link.base import LinkLost, Peer, Transport
from protocol import limits
from protocol.errors import ProtocolError, RemoteProtocolError
from protocol.framing import Buffer
from protocol.messages import (
    BLOBS,
    GROUPS,
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
    """

    features: tuple[str, ...] = ()
    lineage: str = ""
    trust: tuple[str, ...] = ()


class Desk(Protocol):
    """Who acts on what an agent says."""

    async def greeting(self, link: Conversation, hello: Hello) -> Greeting:
        """Return what to welcome an agent with, or raise ``Refused``."""

    async def audit(self, link: Conversation) -> str:
        """Return where the tenant's audit trail stands, as ``NUMBER:HASH``, or ""."""

    async def joined(self, link: Conversation, hello: Hello) -> None:
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
        gone: set when the link has ended.
        ready: whether it has told what it holds, so that commands may be sent.
    """

    def __init__(self, transport: Transport, peer: Peer, desk: Desk, *, release: str, own: Limits) -> None:
        self.peer = peer
        self.number = next(_numbers)
        self.hello: Hello | None = None
        self.ready = False
        self.given = ""
        self.gone = asyncio.Event()
        self.last_heard = time.time()
        self._transport = transport
        self._desk = desk
        self._release = release
        self._own = own
        self._session = Session(Side.BROKER, own, now=time.monotonic())
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._welcomed_at = time.monotonic()

    def __repr__(self) -> str:
        return f"<Conversation {self.peer.tenant}/{self.peer.agent} {self._session.stage}>"

    @property
    def open(self) -> bool:
        """Whether anything can still be said."""
        return self._session.stage is Stage.OPEN and not self._closing.is_set()

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

    def say(self, message: AnyMessage, payload: Buffer = b"") -> None:
        """Queue a message; without effect once the link has ended."""
        if self._session.stage is not Stage.CLOSED:
            self._session.say(message, payload)
            self._wake.set()

    def attach(self, command_id: str, lane: Lane) -> None:
        """Let what a command still has to be sent take turns; ``wake`` tells when there is more of it."""
        if self._session.stage is Stage.OPEN:
            self._session.attach(command_id, lane)
            self._wake.set()

    def wake(self) -> None:
        """There is something new to send."""
        self._wake.set()

    def phase(self, command_id: str) -> Phase:
        """Where the conversation about a command stands on this link."""
        return self._session.phase(command_id)

    def epoch(self, command_id: str) -> int:
        """Which attempt at a command this link is about; 0 if it is about none."""
        return self._session.epoch(command_id)

    def end(self, code: str, reason: str, retry_after_s: float = 0.0) -> None:
        """Say goodbye and close."""
        self._session.end(code, reason, retry_after_s)
        self._closing.set()
        self._wake.set()

    async def serve(self) -> None:
        """Carry the conversation to its end; returns when the link is closed."""
        name = f"{self.peer.tenant}/{self.peer.agent}"
        writer = asyncio.create_task(self._write(), name=f"write to {name}")
        reader = asyncio.create_task(self._read(), name=f"read from {name}")
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if not writer.done():
                # A last word, such as what rule was broken; a peer that does not take it is not waited for.
                self._closing.set()
                self._wake.set()
                await asyncio.wait((writer,), timeout=1.0)
        finally:
            for task in (reader, writer):
                task.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
            await self._transport.close()
            if self.hello is not None:
                await self._desk.left(self)
            self.gone.set()
        for result in results:
            if isinstance(result, RemoteProtocolError):
                log.warning(
                    "link closed: %s", result, extra={"event": "link_broken", "agent": name, "reason": str(result)}
                )
            elif isinstance(result, Exception) and not isinstance(result, LinkLost):
                raise result

    async def _write(self) -> None:
        session = self._session
        while True:
            self._wake.clear()
            while data := session.next_message(time.monotonic()):
                await self._transport.send(data)
            if self._closing.is_set() or session.stage is Stage.CLOSED:
                return
            try:
                async with asyncio.timeout(max(0.0, session.next_tick() - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                try:
                    session.tick(time.monotonic())
                except ProtocolError:
                    # The Goodbye is queued; a peer that is gone will not take it, so the attempt is bounded.
                    with contextlib.suppress(TimeoutError, LinkLost):
                        async with asyncio.timeout(1.0):
                            await self._transport.send(session.next_message(time.monotonic()))
                    raise

    async def _read(self) -> None:
        while True:
            data = await self._receive()
            try:
                records = self._session.receive(data, time.monotonic())
                self.last_heard = time.time()
                for message, payload in records:
                    await self._act(message, payload)
            except RemoteProtocolError as exc:
                self._session.end("protocol", str(exc))
                raise
            finally:
                self._wake.set()

    async def _receive(self) -> bytes:
        """Return the next message. Silence is noticed here too: on a dead line the writer may be stuck in a send."""
        while True:
            try:
                async with asyncio.timeout(self._own.silence_s):
                    return await self._transport.receive()
            except TimeoutError:
                self._session.tick(time.monotonic())

    async def _act(self, message: AnyMessage, payload: Buffer) -> None:
        if isinstance(message, Chunk):
            self._desk.chunk(self, message, payload)
        elif isinstance(message, Accepted):
            self._desk.accepted(self, message)
        elif isinstance(message, Started):
            self._desk.started(self, message)
        elif isinstance(message, RowSetBegins):
            self._desk.row_set_begins(self, message)
        elif isinstance(message, Completed):
            self._desk.completed(self, message, bytes(payload))
        elif isinstance(message, Fetch):
            self._desk.fetch(self, message)
        elif isinstance(message, Hello):
            await self._greet(message)
        elif isinstance(message, Condition):
            self._desk.condition(self, message)
        elif isinstance(message, Beat):
            self._desk.beat(self, message)
        elif isinstance(message, Holding):
            self._desk.holding(self, message)
        elif isinstance(message, Catalogue):
            if len(payload) > limits.MAX_CATALOGUE_BYTES:
                raise RemoteProtocolError(f"a catalogue of {len(payload)} bytes")
            await self._desk.catalogue(self, message.digest, bytes(payload))
        elif isinstance(message, Renew):
            await self._desk.renew(self, message, bytes(payload))
        elif isinstance(message, Trusts):
            await self._desk.trusts(self, message)
        elif isinstance(message, Goodbye):
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
        audit = await self._desk.audit(self)
        self.hello, self.given = hello, greeting.lineage
        self._welcomed_at = time.monotonic()
        self._session.welcome(
            Welcome(
                version=limits.VERSION,
                release=self._release,
                features=[*greeting.features, *({GROUPS, BLOBS} & set(hello.features))],
                limits=self._own,
                tenant=self.peer.tenant,
                agent=self.peer.agent,
                time=time.time(),
                lineage=greeting.lineage,
                audit=audit,
            )
        )
        if greeting.trust:
            self._session.say(Trust(list(greeting.trust)))
        self._wake.set()
        await self._desk.joined(self, hello)
