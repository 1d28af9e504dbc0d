"""One link to the broker: carries a Session over a transport, between the supervisor and the dispatcher."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import Callable
from typing import Final

import msgspec

from agent import awake
from agent.anchors import Anchors
from agent.dispatcher import Dispatcher
from agent.errors import LinkError
from agent.identity.papers import MemoryPapers, Papers
from agent.journal.base import Journal
from agent.link.base import Ended, Transport
from agent.results import Result
from protocol import limits
from protocol.errors import ProtocolError, RemoteProtocolError
from protocol.framing import Buffer
from protocol.messages import (
    FEATURES,
    Ack,
    AnyMessage,
    Beat,
    BlobChunk,
    BlobGone,
    Cancel,
    Catalogue,
    Condition,
    Goodbye,
    Hello,
    Holding,
    Limits,
    Renewed,
    Resume,
    Run,
    Trust,
    Welcome,
)
from protocol.session import Session, Side, Stage
from protocol.states import PHASES

log = logging.getLogger(__name__)

SKEW_S: Final = 300.0  # seconds between the clocks of agent and broker that are worth a word
SOON_S: Final = 0.01  # seconds that a word in no hurry waits for one to go with
TICK_S: Final = 0.01  # seconds between two looks at the clock at least
STUCK_SILENCES: Final = 4  # times the silence after which a link is given up: then nobody is left to give it up
SYSTEM: Final = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"


class Conversation:
    """
    One link, from Hello to its end; the dispatcher's voice meanwhile.

    Args:
        catalogue: returns digest and bytes of what may be run here.
        papers: what the link says of the agent itself.
        journal: its mark goes into the greeting.
        anchors: where it stands, and what is kept of the broker's audit trail.
        silence_s: seconds without a word after which the link is given up.
        beat: called with each beat of the broker: what is to be done now and then needs no clock of its own.
    """

    def __init__(
        self,
        transport: Transport,
        dispatcher: Dispatcher,
        *,
        release: str,
        journal: Journal,
        max_running: int,
        catalogue: Callable[[], tuple[str, bytes]],
        papers: Papers | None = None,
        anchors: Anchors | None = None,
        silence_s: float = limits.SILENCE_S,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._beat = beat
        self._transport = transport
        self._dispatcher = dispatcher
        self._catalogue = catalogue
        self._papers = papers or MemoryPapers()
        self._anchors = anchors or Anchors(journal)
        self._own = Limits(
            max_running=max_running,
            stream_window_bytes=limits.STREAM_WINDOW_BYTES,
            silence_s=silence_s,
            remembers=limits.REMEMBERS,
        )
        self._session = Session(Side.AGENT, self._own, now=time.monotonic())
        position, head = self._anchors.greeting()
        self._hello = Hello(
            versions=[limits.VERSION],
            release=release,
            features=[],
            limits=self._own,
            journal=journal.mark,
            position=position,
            head=head,
            time=time.time(),
            system=SYSTEM,
        )
        self._wake = asyncio.Event()  # the writer looks whether there is something to send
        self._pressing = True  # whether it sends what it finds, or only what presses
        self._later: asyncio.TimerHandle | None = None  # until what may wait is sent
        self._tick_at: asyncio.TimerHandle | None = None
        self._silence: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # fails if it was too long
        self._sending = False
        self._closing = asyncio.Event()
        self._goodbye: Goodbye | None = None
        self._ended = Ended()  # by us
        self._greeted = False  # whether the broker knows what we hold
        self._welcomed_at = 0.0
        self._condition = Condition()  # as the broker knows it
        self._moved_at = time.monotonic()

    @property
    def stuck(self) -> bool:
        """Whether it has neither sent, heard nor given up for so long that it never will."""
        return time.monotonic() - self._moved_at > STUCK_SILENCES * self._own.silence_s

    def __repr__(self) -> str:
        return f"<Conversation {self._session.stage}>"

    # --- the dispatcher's voice -------------------------------------------------------------------

    def say(self, message: AnyMessage, *, soon: bool = False) -> None:
        """
        Say something about a command, unless the broker has not asked about it yet on this link.

        Args:
            soon: it may wait for a moment, to go with what follows.
        """
        command_id: str = getattr(message, "id", "")
        if self._session.stage is Stage.OPEN and type(message) in PHASES[self._session.phase(command_id)]:
            self._session.say(message)
            if not soon:
                self.wake()
            elif self._later is None:
                self._later = asyncio.get_running_loop().call_later(SOON_S, self._late)

    def attach(self, result: Result) -> None:
        """Let a result take turns."""
        if self._session.stage is Stage.OPEN:
            self._session.attach(result.id, result)
            if result.head() is not None:
                self.wake()

    def wake(self) -> None:
        """There is something new to send."""
        self._pressing = True
        self._wake.set()

    def _late(self) -> None:
        self._later = None
        if self._session.unsaid:
            self.wake()

    # --- the papers' voice --------------------------------------------------------------------------

    @property
    def features(self) -> frozenset[str]:
        """What both sides can do besides."""
        return self._session.features

    def tell(self, message: AnyMessage, payload: Buffer = b"") -> None:
        """Say something that is about no command; without effect once the link has ended."""
        if self._session.stage is Stage.OPEN:
            self._session.say(message, payload)
            self.wake()

    # --- from Hello to the end --------------------------------------------------------------------

    def end(self, code: str, reason: str) -> None:
        """Say goodbye and close."""
        self._session.end(code, reason)
        self._ended = Ended(code, reason)
        self._closing.set()
        self.wake()

    def announce(self) -> None:
        """Tell the broker the catalogue, again if it changed."""
        if self._session.stage is Stage.OPEN:
            digest, document = self._catalogue()
            self._session.say(Catalogue(digest=digest), document)
            self.wake()

    @property
    def welcomed(self) -> bool:
        """Whether the broker knows what we hold."""
        return self._greeted

    def tell_head(self) -> None:
        """Tell the broker where the journal stands, if that is due."""
        if self._greeted and self._session.stage is Stage.OPEN and (head := self._anchors.to_tell()):
            self.tell(Beat(head=head))

    def tell_condition(self) -> None:
        """Tell the broker how the agent is, if it changed."""
        condition = self._dispatcher.condition()
        known = self._condition
        changed = (
            condition.problems != known.problems
            or condition.shut.keys() != known.shut.keys()
            or condition.paused != known.paused
        )
        if self._greeted and self._session.stage is Stage.OPEN and changed:
            self._condition = condition
            self._session.say(condition)
            self.wake()

    async def serve(self) -> Ended:
        """
        Carry the conversation to its end, and tell how it ended.

        Raises:
            LinkError: the broker broke the rules, or fell silent.
        """
        shown = await self._papers.shown()
        self._session.greet(
            msgspec.structs.replace(
                self._hello,
                lineage=shown.lineage,
                trusts=list(shown.trusts),
                features=[*shown.features, *FEATURES],
            )
        )
        writer = asyncio.create_task(self._write(), name="write to the broker")
        reader = asyncio.create_task(self._read(), name="read from the broker")
        self._look_at_clock()
        try:
            await asyncio.wait((reader, writer, self._silence), return_when=asyncio.FIRST_COMPLETED)
            if not writer.done():
                # A last word, such as which rule was broken; a broker that does not take it is not waited for.
                self._closing.set()
                self.wake()
                await asyncio.wait((writer,), timeout=1.0)
        finally:
            self._dispatcher.unlinked(self)
            for waiting in (reader, writer, self._silence, self._tick_at, self._later):
                if waiting is not None:
                    waiting.cancel()
            results = await asyncio.gather(reader, writer, self._silence, return_exceptions=True)
        if self._goodbye is not None:
            return Ended(self._goodbye.code, self._goodbye.reason, self._goodbye.retry_after_s)
        for result in results:
            if isinstance(result, RemoteProtocolError):
                raise LinkError(f"the broker broke the rules of the link: {result}") from result
            if isinstance(result, Exception) and not isinstance(result, LinkError):
                raise result
        reason = next((str(result) for result in results if isinstance(result, LinkError)), "")
        return self._ended if self._ended.code != "lost" else Ended("lost", reason)

    async def _write(self) -> None:
        session = self._session
        while True:
            self._wake.clear()
            self._pressing = False
            self._moved_at = time.monotonic()
            self._sending = True
            while data := session.next_message(time.monotonic()):
                await self._transport.send(data)
            self._sending = False
            if self._closing.is_set() or session.stage is Stage.CLOSED:
                return
            await self._wake.wait()
            while not self._pressing:
                self._wake.clear()
                await self._wake.wait()

    def _look_at_clock(self) -> None:
        """Do what is due by the session's clock: one timer costs less than one for each message."""
        session, now = self._session, time.monotonic()
        if self._tick_at is not None:
            self._tick_at.cancel()
        if session.stage is Stage.CLOSED or self._silence.done():
            return
        # On a dead line the writer may be stuck: a beat would only wait behind what it sends.
        due = session.silent_at if self._sending and session.stage is Stage.OPEN else session.next_tick()
        if now >= due:
            try:
                session.tick(now)
            except ProtocolError as exc:
                self._silence.set_exception(exc)
                return
            self.wake()
            due = min(now + session.beat_s, session.silent_at)
        self._tick_at = asyncio.get_running_loop().call_later(max(TICK_S, due - now), self._look_at_clock)

    async def _read(self) -> None:
        while self._session.stage is not Stage.CLOSED:
            data = await self._transport.receive()
            self._moved_at = now = time.monotonic()
            credited = self._session.credited
            try:
                records = self._session.receive(data, now)
                for message, payload in records:
                    await self._act(message, payload)
            except RemoteProtocolError as exc:
                self._session.end("protocol", str(exc))
                raise
            # What else is to be said now has woken the writer by itself.
            if self._session.credited > credited:
                self.wake()
            elif records and type(records[-1].message) is Run:
                # In the round of the loop in which what came begins, and often ends: the writer's turn is after that.
                self._wake.set()

    async def _act(self, message: AnyMessage, payload: Buffer) -> None:
        # Types are compared: what msgspec does for isinstance takes longer than all the rest.
        if type(message) is Run:
            self._dispatcher.offer(message, bytes(payload), self._age_s(message))
        elif type(message) is Ack:
            self._dispatcher.forget(message.id)
        elif type(message) is BlobChunk or type(message) is BlobGone:
            self._dispatcher.blob(message, payload)
        elif type(message) is Cancel:
            self._dispatcher.cancel(message.id)
        elif type(message) is Resume:
            self._dispatcher.resume(message.id, message.offset)
        elif type(message) is Welcome:
            await self._welcomed(message)
        elif type(message) is Beat:
            self._anchors.heard(message.audit)
            self._beat()
        elif type(message) is Renewed or type(message) is Trust:
            self._papers.heard(message, bytes(payload))
        elif type(message) is Goodbye:
            self._goodbye = message

    def _age_s(self, run: Run) -> float:
        """Return how long ago a Run was said: it may have waited for a process, or a machine, that slept."""
        return max(0.0, awake.now() - self._welcomed_at - run.said_s) if run.said_s else 0.0

    async def _welcomed(self, welcome: Welcome) -> None:
        self._welcomed_at = awake.now()
        skew = time.time() - welcome.time
        if abs(skew) > SKEW_S:
            log.warning(
                "this machine's clock is %.0f s %s the broker's; set one of them right",
                abs(skew),
                "ahead of" if skew > 0 else "behind",
                extra={"event": "clock_skew", "seconds": round(skew)},
            )
        log.info(
            "welcomed as %s/%s",
            welcome.tenant,
            welcome.agent,
            extra={"event": "welcomed", "tenant": welcome.tenant, "agent": welcome.agent, "broker": welcome.release},
        )
        self._look_at_clock()  # which beat is wanted is known now
        # Before Holding: what it says makes the broker forget the lineage that we showed.
        await self._papers.welcomed(self, welcome)
        if self._session.stage is not Stage.OPEN:
            return
        self.announce()
        self._session.say(Holding(commands=self._dispatcher.held()))
        self._greeted = True
        self._anchors.welcomed(welcome.tenant, welcome.audit)
        self.tell_condition()
        self._dispatcher.linked(self)
