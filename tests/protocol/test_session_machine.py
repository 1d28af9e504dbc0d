"""Two sessions that talk, whatever comes in which order, on links that are cut: the rules hold, the bytes arrive."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol import limits
from protocol.codec import Record
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
    Limits,
    Resume,
    RowSetBegins,
    Run,
    Started,
    Welcome,
)
from protocol.session import Session, Side, Stage
from protocol.states import PHASES, Phase

WINDOW = 3 * limits.CHUNK_BYTES
AGENT = Limits(max_running=8, remembers=limits.REMEMBERS)
BROKER = Limits(stream_window_bytes=WINDOW, link_window_bytes=2 * WINDOW, sends_again=limits.SENDS_AGAIN)


@dataclass
class Work:
    """One command, as both ends know it; the agent keeps all of its result."""

    id: str
    records: list[Record] = field(default_factory=list)
    position: int = 0  # of the next record to send
    made: bytes = b""
    ended: bool = False
    here: bool = False  # whether the agent has it
    started: bool = False
    taken: bytes = b""  # what the broker has
    done: bool = False  # whether the broker has its end

    def head(self) -> Record | None:
        return self.records[self.position] if self.position < len(self.records) else None

    def sent(self) -> None:
        self.position += 1

    def granted(self, size: int) -> None:
        """All of it is kept."""

    def rewind(self, offset: int) -> None:
        self.position = next(
            (
                i
                for i, (message, _) in enumerate(self.records)
                if not isinstance(message, Chunk | RowSetBegins) or message.offset >= offset
            ),
            len(self.records),
        )


class TwoEnds(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.works: dict[str, Work] = {}
        self.now = 0.0

    @initialize()
    def begin(self) -> None:
        self.link()

    def link(self) -> None:
        self.agent = Session(Side.AGENT, AGENT, now=self.now)
        self.broker = Session(Side.BROKER, BROKER, now=self.now)
        self.to_broker: deque[bytes] = deque()
        self.to_agent: deque[bytes] = deque()
        self.owed_by: dict[str, int] = {}
        self.agent.greet(Hello([limits.VERSION], "0", [], AGENT, "mark", 0.0))
        self.pump()
        self.broker.welcome(Welcome(limits.VERSION, "0", [], BROKER, "acme", "plant-1", 0.0))
        self.pump()
        assert self.agent.stage is self.broker.stage is Stage.OPEN
        held = [Held(work.id, 1, work.ended, 0, len(work.made)) for work in self.works.values() if work.here]
        self.agent.say(Holding(held))
        self.pump()

    # --- the wire -----------------------------------------------------------------------------------

    def pump(self) -> None:
        while self.write() or self.hear_as_broker() or self.hear_as_agent():
            pass

    @rule()
    def one_end_writes(self) -> None:
        self.write()

    @rule()
    def the_broker_hears(self) -> None:
        self.hear_as_broker()

    @rule()
    def the_agent_hears(self) -> None:
        self.hear_as_agent()

    def write(self) -> bool:
        """Each end writes what it may."""
        wrote = False
        for session, wire in ((self.agent, self.to_broker), (self.broker, self.to_agent)):
            if data := session.next_message(self.now):
                wire.append(data)
                wrote = True
        return wrote

    def hear_as_broker(self) -> bool:
        if not self.to_broker:
            return False
        for message, payload in self.broker.receive(self.to_broker.popleft(), self.now):
            if isinstance(message, Holding):
                for held in message.commands:
                    self.settle(held)
            elif isinstance(message, Chunk):
                work = self.works[message.id]
                assert message.offset == len(work.taken), "a gap, or a byte twice"
                work.taken += bytes(payload)
                self.owed_by[work.id] = self.owed_by.get(work.id, 0) + len(payload)
            elif isinstance(message, Completed):
                self.works[message.id].done = True
        return True

    def settle(self, held: Held) -> None:
        work = self.works[held.id]
        if work.done:
            self.broker.say(Ack(held.id, held.epoch))
        else:
            self.broker.say(Resume(held.id, held.epoch, offset=len(work.taken), credit=WINDOW))

    def hear_as_agent(self) -> bool:
        if not self.to_agent:
            return False
        for message, _ in self.agent.receive(self.to_agent.popleft(), self.now):
            if isinstance(message, Run):
                work = self.works[message.id]
                work.here = True
                self.agent.attach(work.id, work)
            elif isinstance(message, Resume):
                work = self.works[message.id]
                work.rewind(message.offset)
                self.agent.attach(work.id, work)
            elif isinstance(message, Ack):
                assert self.works[message.id].done, "forgotten before its end was there"
                self.works[message.id].here = False
        return True

    @rule()
    def cut(self) -> None:
        """Whatever is on its way is lost."""
        self.now += 1.0
        # What never arrived is offered again, which is the broker's own business: here it is forgotten.
        for work in [work for work in self.works.values() if not work.here and not work.done]:
            del self.works[work.id]
        self.link()

    # --- the broker -----------------------------------------------------------------------------------

    @precondition(lambda self: len(self.works) < 6)
    @rule()
    def offer(self) -> None:
        work = Work(f"cmd_{self.now}_{len(self.works)}_{len(self.to_agent)}_{self.agent.stale}")
        if work.id not in self.works and self.broker.phase(work.id) is Phase.UNKNOWN:
            self.works[work.id] = work
            self.broker.say(Run(work.id, 1, "op", 60.0, WINDOW), b"{}")

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        for work in self.some(data):
            if Cancel in PHASES[self.broker.phase(work.id)]:
                self.broker.say(Cancel(work.id, 1))

    @rule()
    def grant(self) -> None:
        for command_id, owed in self.owed_by.items():
            # Of one whose end was acknowledged nothing is wanted any more.
            if owed and Credit in PHASES[self.broker.phase(command_id)]:
                self.broker.say(Credit(command_id, owed))
        self.owed_by.clear()

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        for work in self.some(data):
            if work.done and Ack in PHASES[self.broker.phase(work.id)]:
                self.broker.say(Ack(work.id, 1))

    # --- the agent -------------------------------------------------------------------------------------

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        for work in self.some(data):
            if work.here and not work.started:
                for message in (Accepted(work.id, 1), Started(work.id, 1)):
                    if type(message) in PHASES[self.agent.phase(work.id)]:
                        self.agent.say(message)
                work.started = True
                work.records.append(Record(RowSetBegins(work.id, 1, 0, 0, [])))

    @rule(data=st.data(), size=st.integers(1, limits.CHUNK_BYTES))
    def produce(self, data: st.DataObject, size: int) -> None:
        for work in self.some(data):
            if work.started and not work.ended:
                piece = bytes([len(work.records) % 251]) * size
                work.records.append(Record(Chunk(work.id, 1, len(work.made), 1), piece))
                work.made += piece

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        for work in self.some(data):
            if work.started and not work.ended:
                work.ended = True
                work.records.append(Record(Completed(work.id, 1, "succeeded"), b"{}"))

    def some(self, data: st.DataObject) -> list[Work]:
        return data.draw(st.lists(st.sampled_from(list(self.works.values())), max_size=3)) if self.works else []

    # --- what always holds --------------------------------------------------------------------------------

    @invariant()
    def what_arrived_is_what_was_made(self) -> None:
        for work in self.works.values():
            assert work.made.startswith(work.taken)
            assert not work.done or work.taken == work.made

    @invariant()
    def no_more_is_on_its_way_than_was_granted(self) -> None:
        for work in self.works.values():
            if not work.done and self.broker.phase(work.id) in (Phase.OFFERED, Phase.ACCEPTED, Phase.RUNNING):
                assert self.owed_by.get(work.id, 0) <= WINDOW

    def teardown(self) -> None:
        """Left alone, all of it comes to its end."""
        for work in self.works.values():
            if work.started and not work.ended:
                work.ended = True
                work.records.append(Record(Completed(work.id, 1, "succeeded"), b"{}"))
        for _ in range(100):
            self.pump()
            self.grant()
        for work in self.works.values():
            assert not work.started or work.done, f"{work.id} never arrived"


TwoEnds.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
test_two_ends = TwoEnds.TestCase
