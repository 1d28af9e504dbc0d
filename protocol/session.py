"""
One conversation between an agent and a broker, without I/O and without a clock.

Both sides use it: what one may send is what the other may receive, by the tables in ``states.py``.
To carry it over a transport, do these five things:

1. after connecting, let the agent side ``greet``;
2. pass each message that arrives to ``receive`` and act on the records it returns;
3. whenever something was queued (``say``, ``attach``, a lane that grew), write ``next_message`` until it is empty;
4. call ``tick`` at the time that ``next_tick`` tells, and after it do step 3 again;
5. when ``receive`` or ``tick`` raises RemoteProtocolError, write what ``next_message`` still has and close.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import StrEnum
from typing import Final, Protocol, TypeGuard, get_args

from protocol import codec, limits
from protocol.codec import Record
from protocol.errors import LocalProtocolError, RemoteProtocolError, VersionMismatch
from protocol.flow import Window
from protocol.framing import Buffer
from protocol.messages import (
    AGENT_SAYS,
    BLOBS,
    BRIEF,
    BROKER_SAYS,
    GROUPS,
    RENEWAL,
    Accepted,
    Ack,
    AnyMessage,
    Beat,
    BlobChunk,
    BlobGone,
    Cancel,
    Chunk,
    Completed,
    Credit,
    Enrol,
    Enrolled,
    Fetch,
    Goodbye,
    Hello,
    Holding,
    Limits,
    Recover,
    Renew,
    Renewed,
    Resume,
    RowSetBegins,
    Run,
    Started,
    Trust,
    Trusts,
    Welcome,
)
from protocol.parcel import Parcel
from protocol.states import PHASES, Phase


class Side(StrEnum):
    """Which end of the link we are."""

    AGENT = "agent"
    BROKER = "broker"


class Stage(StrEnum):
    """Where the conversation as a whole stands."""

    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


class Lane(Protocol):
    """
    What one command still has to say, in order; the sender's spool.

    Lanes take turns, one record each, so that a large result delays no small one.
    """

    def head(self) -> Record | None:
        """Return the next record without removing it; ``None`` if there is none now."""

    def sent(self) -> None:
        """The head was written; move on."""

    def granted(self, size: int) -> None:
        """The peer has ``size`` bytes more for sure."""


AboutAttempt = (
    Run | Accepted | Started | RowSetBegins | Chunk | Completed | Fetch | BlobChunk | BlobGone | Cancel | Ack | Resume
)
AboutCommand = AboutAttempt | Credit
# Here types are compared, not asked with isinstance: msgspec's answer to that takes longer than all the rest.
ABOUT_COMMANDS: Final = frozenset(get_args(AboutCommand))
_SAYS: Final = {Side.AGENT: frozenset(AGENT_SAYS), Side.BROKER: frozenset(BROKER_SAYS)}
_OF_BLOBS: Final = frozenset((Fetch, BlobChunk, BlobGone))
_OF_ENROLMENT: Final = frozenset((Enrol, Recover, Enrolled))
_OF_RENEWAL: Final = frozenset((Renew, Renewed, Trust, Trusts))


class _Talk:
    """What a session knows of one command."""

    __slots__ = ("epoch", "offset", "phase", "window")

    def __init__(self, epoch: int, phase: Phase) -> None:
        self.epoch = epoch
        self.phase = phase
        self.window = Window(0)
        self.offset = 0  # of the next chunk in the whole result


class Session:
    """
    The rules of one link, for either side.

    Attributes:
        side: which end we are.
        stage: GREETING until Hello and Welcome have passed.
        peer: what binds us, from the greeting; our defaults until then.
        stale: how many records of an older attempt were dropped.
        credited: how many Credits were heard: after one there may be more to send.
        features: what both sides can do besides, from the greeting.
    """

    def __init__(self, side: Side, own: Limits, *, now: float) -> None:
        self.side = side
        self.stage = Stage.GREETING
        self.own = own
        self.peer = Limits()
        self.stale = 0
        self.credited = 0
        self.features: frozenset[str] = frozenset()
        self.beat_s = limits.BEAT_S
        self._says = _SAYS[side]
        self._hears = _SAYS[Side.BROKER if side is Side.AGENT else Side.AGENT]
        self._talks: dict[str, _Talk] = {}
        self._control: deque[Record] = deque()
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        self._link_window = Window(0)
        self._told_what_is_held = False
        self._last_heard = now
        self._last_said = now
        self._opened = now

    def __repr__(self) -> str:
        return f"<Session {self.side} {self.stage}, {len(self._talks)} commands>"

    def phase(self, command_id: str) -> Phase:
        """Where the conversation about a command stands."""
        talk = self._talks.get(command_id)
        return talk.phase if talk else Phase.UNKNOWN

    @property
    def unsaid(self) -> bool:
        """Whether something waits ahead of all results."""
        return bool(self._control)

    def epoch(self, command_id: str) -> int:
        """Which attempt at a command the conversation is about; 0 if it is about none."""
        talk = self._talks.get(command_id)
        return talk.epoch if talk else 0

    # --- what we say ------------------------------------------------------------------------------

    def say(self, message: AnyMessage, payload: Buffer = b"") -> None:
        """
        Queue a message ahead of all results.

        Raises:
            LocalProtocolError: the rules forbid it now.
        """
        self._may_say(message)
        try:
            self._step(message)
        except RemoteProtocolError as exc:
            raise LocalProtocolError(str(exc)) from exc
        if type(message) is Run:
            self._talks[message.id].window.give(message.credit)
        elif type(message) is Resume:
            self._resumed(message)
        elif type(message) is Credit:
            self._granted(message)
        self._control.append(Record(message, payload))

    def attach(self, command_id: str, lane: Lane) -> None:
        """Let a command's lane take turns; what it gives is checked when it is taken."""
        if command_id not in self._talks:
            raise LocalProtocolError(f"{command_id}: unknown on this link")
        self._lanes[command_id] = lane

    def detach(self, command_id: str) -> None:
        """Take a command's lane away."""
        self._lanes.pop(command_id, None)

    def next_message(self, now: float) -> bytes:
        """
        Return the next websocket message, or nothing if there is none to send now.

        Raises:
            LocalProtocolError: a lane gave what the rules forbid.
        """
        # As they are written: headers of a few records with many columns or row sets would be more than a message.
        parcel = Parcel(brief=self.side is Side.AGENT and BRIEF in self.features)
        while self._control and parcel.size < limits.BATCH_BYTES:
            parcel.add(self._control.popleft())
        blocked = 0
        while parcel.size < limits.BATCH_BYTES and blocked < len(self._lanes):
            command_id, lane = next(iter(self._lanes.items()))
            self._lanes.move_to_end(command_id)
            taken = self._take(command_id, lane)
            if taken is None:
                blocked += 1
                continue
            blocked = 0
            parcel.add(taken)
        if parcel.size:
            self._last_said = now
        return parcel.message()

    def _take(self, command_id: str, lane: Lane) -> Record | None:
        record = lane.head()
        if record is None:
            return None
        talk = self._talks[command_id]
        message = record.message
        if type(message) is Chunk:
            size = len(record.payload)
            if not (talk.window.covers(size) and self._link_window.covers(size)):
                return None
        self._may_say(message)
        try:
            self._step(message, len(record.payload))
        except RemoteProtocolError as exc:
            raise LocalProtocolError(str(exc)) from exc
        lane.sent()
        if talk.phase is Phase.ENDED:
            self._lanes.pop(command_id, None)
        return record

    def _may_say(self, message: AnyMessage) -> None:
        if type(message) not in self._says:
            raise LocalProtocolError(f"{type(message).__name__} is not for the {self.side} to say")
        if self.stage is Stage.CLOSED:
            raise LocalProtocolError(f"{type(message).__name__} after the end")

    # --- what we hear -----------------------------------------------------------------------------

    def receive(self, message: Buffer | str, now: float) -> list[Record]:
        """
        Take in one websocket message and return what it means for us, in order.

        Records of an older attempt are counted and dropped.

        Raises:
            RemoteProtocolError: the peer broke the rules; a Goodbye that says so is queued.
        """
        self._last_heard = now
        try:
            if len(self._control) > limits.MAX_UNSENT:
                raise RemoteProtocolError(f"{len(self._control)} answers wait, and the peer asks on without reading")
            return [record for record in codec.decode(message) if self._hear(record)]
        except RemoteProtocolError as exc:
            code = "version" if isinstance(exc, VersionMismatch) else "protocol"
            self._end(Goodbye(code=code, reason=str(exc)[: limits.MAX_ERROR_CHARS]))
            raise

    def _hear(self, record: Record) -> bool:
        message = record.message
        if self.stage is Stage.CLOSED:
            # What was on its way when one side said goodbye: no rule holds for it any more, so nobody may act on it.
            return False
        if type(message) not in self._hears:
            raise RemoteProtocolError(f"{type(message).__name__} is not for the peer of the {self.side} to say")
        if _is_about_command(message):
            talk = self._talks.get(message.id)
            if talk is not None and _is_about_attempt(message) and message.epoch < talk.epoch:
                self.stale += 1
                return False
        self._step(message, len(record.payload))
        if type(message) is Run:
            if len(record.payload) > self.own.max_command_bytes:
                raise RemoteProtocolError(f"{message.id}: parameters of {len(record.payload)} bytes")
            self._talks[message.id].window.give(message.credit)
        elif type(message) is Resume:
            self._resumed(message)
        elif type(message) is Credit:
            self.credited += 1
            self._granted(message)
            if lane := self._lanes.get(message.id):
                lane.granted(message.bytes)
            return False
        elif type(message) is Goodbye:
            self.stage = Stage.CLOSED
        elif type(message) is Beat:
            return bool(message.audit or message.head)
        return True

    # --- the rules, the same for what is said and what is heard -----------------------------------

    def _step(self, message: AnyMessage, payload_size: int = 0) -> None:
        if self.stage is Stage.OPEN and _is_about_command(message):
            # First of all: nearly everything is.
            self._command(message, payload_size)
            return
        if type(message) is Goodbye:
            return
        if type(message) in _OF_ENROLMENT:
            raise RemoteProtocolError(f"{type(message).__name__} on a link; enrolment has a connection of its own")
        if self.stage is Stage.GREETING:
            self._greeting(message)
        elif type(message) is Hello or type(message) is Welcome:
            raise RemoteProtocolError(f"a second {type(message).__name__}")
        elif type(message) is Holding:
            self._holding(message)
        elif type(message) in _OF_RENEWAL and RENEWAL not in self.features:
            raise RemoteProtocolError(f"{type(message).__name__} without the feature {RENEWAL!r}")

    def _greeting(self, message: AnyMessage) -> None:
        if type(message) is Hello:
            if not message.versions or limits.VERSION not in message.versions:
                raise VersionMismatch(f"the agent speaks versions {message.versions}, the broker {limits.VERSION}")
            _remembered(message.limits, self.own if self.side is Side.BROKER else Limits())
            if self.side is Side.BROKER:
                self.peer = message.limits
        elif type(message) is Welcome:
            if message.version != limits.VERSION:
                raise VersionMismatch(f"the broker speaks version {message.version}, the agent {limits.VERSION}")
            _remembered(self.own if self.side is Side.AGENT else self.peer, message.limits)
            if self.side is Side.AGENT:
                self.peer = message.limits
            # Both ends count the same window: the broker to see that it is kept.
            window = self.peer if self.side is Side.AGENT else self.own
            self._link_window = Window(window.link_window_bytes)
            self.features = frozenset(message.features)
            # The shorter silence counts for both: who announced it may know of a line that is cut sooner.
            silence_s = min(self.peer.silence_s, self.own.silence_s)
            self.beat_s = max(limits.MIN_BEAT_S, min(message.beat_s, silence_s / limits.BEATS_IN_SILENCE))
            self.stage = Stage.OPEN
        elif type(message) is not Beat:
            raise RemoteProtocolError(f"{type(message).__name__} before the greeting")

    def _holding(self, message: Holding) -> None:
        if self._told_what_is_held:
            raise RemoteProtocolError("a second Holding")
        self._told_what_is_held = True
        for held in message.commands:
            if held.id in self._talks:
                raise RemoteProtocolError(f"{held.id}: held twice, or already under way")
            self._talks[held.id] = _Talk(held.epoch, Phase.HELD)

    def _command(self, message: AboutCommand, payload_size: int) -> None:
        talk = self._talks.get(message.id)
        phase = talk.phase if talk else Phase.UNKNOWN
        following = PHASES[phase].get(type(message))
        if following is None:
            raise RemoteProtocolError(f"{message.id}: {type(message).__name__} while it is {phase}")
        if type(message) is Run:
            if message.settles and GROUPS not in self.features:
                raise RemoteProtocolError(f"{message.id}: to be settled, without the feature {GROUPS!r}")
            if message.blob is not None and BLOBS not in self.features:
                raise RemoteProtocolError(f"{message.id}: with a blob, without the feature {BLOBS!r}")
            talk = self._talks[message.id] = _Talk(message.epoch, following)
        elif talk is None:
            raise AssertionError("the table lets nothing but Run begin")
        elif _is_about_attempt(message) and message.epoch != talk.epoch:
            raise RemoteProtocolError(f"{message.id}: attempt {message.epoch} while {talk.epoch} is under way")
        if type(message) is RowSetBegins:
            self._at(talk, message.id, message.offset)
        elif type(message) is Chunk:
            self._at(talk, message.id, message.offset)
            # An empty one would take no credit, so nothing would bound how many come.
            if not 0 < payload_size <= limits.CHUNK_BYTES:
                raise RemoteProtocolError(f"{message.id}: a chunk of {payload_size} bytes")
            if not (talk.window.covers(payload_size) and self._link_window.covers(payload_size)):
                raise RemoteProtocolError(f"{message.id}: {payload_size} bytes without credit")
            talk.window.take(payload_size)
            self._link_window.take(payload_size)
            talk.offset = message.offset + payload_size
        elif type(message) in _OF_BLOBS and BLOBS not in self.features:
            raise RemoteProtocolError(f"{message.id}: {type(message).__name__} without the feature {BLOBS!r}")
        elif type(message) is BlobChunk and not 0 < payload_size <= limits.CHUNK_BYTES:
            raise RemoteProtocolError(f"{message.id}: a chunk of {payload_size} bytes")
        talk.phase = following
        if following is Phase.FORGOTTEN:
            del self._talks[message.id]
            self._lanes.pop(message.id, None)

    @staticmethod
    def _at(talk: _Talk, command_id: str, offset: int) -> None:
        if offset != talk.offset:
            raise RemoteProtocolError(f"{command_id}: offset {offset} where {talk.offset} comes next")

    def _resumed(self, message: Resume) -> None:
        talk = self._talks[message.id]
        talk.offset = message.offset
        talk.window = Window(message.credit)

    def _granted(self, message: Credit) -> None:
        self._link_window.give(message.bytes)
        talk = self._talks.get(message.id)
        if talk is not None:
            talk.window.give(message.bytes)

    # --- greeting, life and end -------------------------------------------------------------------

    def greet(self, hello: Hello) -> None:
        """Queue the agent's first word."""
        self.say(hello)

    def welcome(self, welcome: Welcome) -> None:
        """Queue the broker's answer to Hello; the session is open from here."""
        self.say(welcome)

    def next_tick(self) -> float:
        """Return when ``tick`` is due, on the clock that ``now`` is read from."""
        if self.stage is Stage.GREETING:
            return self._opened + limits.GREETING_S
        return min(self._last_said + self.beat_s, self.silent_at)

    @property
    def silent_at(self) -> float:
        """When the peer will have been silent for too long, on the same clock."""
        return self._last_heard + self.own.silence_s

    def tick(self, now: float) -> None:
        """
        Queue a Beat if we have been silent for too long.

        Raises:
            RemoteProtocolError: the peer has been silent for too long, or never greeted.
        """
        if self.stage is Stage.GREETING and now >= self._opened + limits.GREETING_S:
            self._end(Goodbye(code="silence", reason="no greeting"))
            raise RemoteProtocolError(f"no greeting within {limits.GREETING_S:g} s")
        if self.stage is Stage.OPEN and now >= self._last_heard + self.own.silence_s:
            self._end(Goodbye(code="silence", reason="heard nothing"))
            raise RemoteProtocolError(f"heard nothing for {now - self._last_heard:.0f} s")
        if self.stage is Stage.OPEN and now >= self._last_said + self.beat_s:
            self._control.append(Record(Beat()))

    def end(self, code: str, reason: str = "", retry_after_s: float = 0.0) -> None:
        """Queue a Goodbye; nothing may be said after it."""
        self._end(Goodbye(code=code, reason=reason[: limits.MAX_ERROR_CHARS], retry_after_s=retry_after_s))

    def _end(self, goodbye: Goodbye) -> None:
        if self.stage is not Stage.CLOSED:
            self._lanes.clear()
            self._control.append(Record(goodbye))
            self.stage = Stage.CLOSED


def _is_about_command(message: AnyMessage) -> TypeGuard[AboutCommand]:
    return type(message) in ABOUT_COMMANDS


def _is_about_attempt(message: AboutCommand) -> TypeGuard[AboutAttempt]:
    return type(message) is not Credit


def _remembered(agent: Limits, broker: Limits) -> None:
    """See that no command is sent again after its agent has forgotten that it ran."""
    if broker.sends_again and agent.remembers <= broker.sends_again:
        raise RemoteProtocolError(
            f"the agent remembers {agent.remembers} ended commands and the broker may send one again after "
            f"{broker.sends_again}: it could run twice"
        )
