"""The rules of a link, both ends joined by a pretend network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import pytest

from protocol import limits
from protocol.codec import Record, decode, encode
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.framing import Buffer
from protocol.messages import (
    BLOBS,
    BRIEF,
    Accepted,
    Ack,
    AnyMessage,
    Beat,
    BlobChunk,
    BlobInfo,
    Cancel,
    Chunk,
    ColumnInfo,
    Completed,
    Credit,
    Fetch,
    Goodbye,
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
from protocol.states import Phase

ID = "cmd_1"
RUN = Run(id=ID, epoch=1, operation="echo", expires_in_s=60.0, credit=100_000)
HELLO = Hello(versions=[limits.VERSION], release="0", features=[], limits=Limits(max_running=4), journal="b", time=0.0)
WELCOME = Welcome(
    version=limits.VERSION,
    release="0",
    features=[],
    limits=Limits(stream_window_bytes=100_000, link_window_bytes=150_000),
    tenant="t",
    agent="a",
    time=0.0,
)


class ListLane:
    """A lane over a list of records."""

    def __init__(self, *records: Record) -> None:
        self.records = deque(records)

    def head(self) -> Record | None:
        return self.records[0] if self.records else None

    def sent(self) -> None:
        self.records.popleft()

    def granted(self, size: int) -> None:
        """Nothing is kept."""


class Pair:
    """Two sessions that have greeted each other, and a clock."""

    def __init__(self, features: list[str] | None = None) -> None:
        self.now = 0.0
        hello = msgspec.structs.replace(HELLO, features=features or [])
        welcome = msgspec.structs.replace(WELCOME, features=features or [])
        self.agent = Session(Side.AGENT, Limits(max_running=4), now=0.0)
        self.broker = Session(Side.BROKER, WELCOME.limits, now=0.0)
        self.agent.greet(hello)
        assert self.to_broker() == [Record(hello)]
        self.broker.welcome(welcome)
        assert self.to_agent() == [Record(welcome)]

    def to_broker(self) -> list[Record]:
        return self._carry(self.agent, self.broker)

    def to_agent(self) -> list[Record]:
        return self._carry(self.broker, self.agent)

    def agent_says(self, message: AnyMessage, payload: Buffer = b"") -> list[Record]:
        self.agent.say(message, payload)
        return self.to_broker()

    def broker_says(self, message: AnyMessage, payload: Buffer = b"") -> list[Record]:
        self.broker.say(message, payload)
        return self.to_agent()

    def _carry(self, one: Session, other: Session) -> list[Record]:
        heard: list[Record] = []
        while message := one.next_message(self.now):
            heard += other.receive(message, self.now)
        return heard

    def running(self) -> Pair:
        self.broker_says(RUN)
        self.agent_says(Accepted(ID, 1))
        self.agent_says(Started(ID, 1))
        return self


def chunk(offset: int, size: int) -> Record:
    return Record(Chunk(ID, 1, offset, 1), b"x" * size)


def test_a_command_runs_from_offer_to_oblivion() -> None:
    pair = Pair().running()
    begins = Record(RowSetBegins(ID, 1, 0, 0, []))
    ended = Record(Completed(ID, 1, "succeeded"), b"{}")
    pair.agent.attach(ID, ListLane(begins, chunk(0, 10), ended))
    assert pair.to_broker() == [begins, chunk(0, 10), ended]
    pair.broker_says(Ack(ID, 1))
    assert pair.agent.phase(ID) is pair.broker.phase(ID) is Phase.UNKNOWN


def test_cancel_may_cross_completed_on_the_wire() -> None:
    pair = Pair().running()
    pair.broker.say(Cancel(ID, 1))
    pair.agent_says(Completed(ID, 1, "succeeded"))
    assert pair.to_agent() == [Record(Cancel(ID, 1))]
    assert pair.agent.phase(ID) is Phase.ENDED


def test_a_chunk_waits_for_credit_and_a_small_result_does_not_wait_behind_it() -> None:
    pair = Pair().running()
    lane = ListLane(chunk(0, 60_000), chunk(60_000, 60_000))
    pair.agent.attach(ID, lane)
    other = Run(id="cmd_2", epoch=1, operation="echo", expires_in_s=60.0, credit=10)
    pair.broker_says(other)
    pair.agent_says(Accepted("cmd_2", 1))
    pair.agent_says(Started("cmd_2", 1))
    assert len(lane.records) == 1, "the second chunk is beyond the command's window"
    small = Record(Completed("cmd_2", 1, "succeeded"))
    pair.agent.attach("cmd_2", ListLane(small))
    assert pair.to_broker() == [small]
    assert pair.broker_says(Credit(ID, 60_000)) == []
    assert pair.to_broker() == [chunk(60_000, 60_000)]


def test_large_results_take_turns() -> None:
    pair = Pair().running()
    pair.broker_says(Run(id="cmd_2", epoch=1, operation="echo", expires_in_s=60.0, credit=100_000))
    pair.agent_says(Accepted("cmd_2", 1))
    pair.agent_says(Started("cmd_2", 1))
    first = ListLane(chunk(0, 10), chunk(10, 10))
    second = ListLane(Record(Chunk("cmd_2", 1, 0, 1), b"y"), Record(Chunk("cmd_2", 1, 1, 1), b"y"))
    pair.agent.attach(ID, first)
    pair.agent.attach("cmd_2", second)
    assert [r.message.id for r in pair.to_broker() if isinstance(r.message, Chunk)] == [ID, "cmd_2", ID, "cmd_2"]


def test_no_message_is_larger_than_a_peer_takes_however_large_the_headers_are() -> None:
    pair = Pair()
    wide = [ColumnInfo("c" * 300_000, "string")] * 2
    for number in range(4):
        run = msgspec.structs.replace(RUN, id=f"cmd_{number}")
        pair.broker.say(run)
        pair.to_agent()
        pair.agent.say(Accepted(run.id, 1))
        pair.agent.say(Started(run.id, 1))
        begins = Record(RowSetBegins(id=run.id, epoch=1, offset=0, index=0, columns=wide))
        pair.agent.attach(run.id, ListLane(begins))
    sizes = []
    while message := pair.agent.next_message(0.0):
        sizes.append(len(message))
        pair.broker.receive(message, 0.0)
    assert len(sizes) > 3
    assert max(sizes) <= limits.MAX_MESSAGE_BYTES


def test_a_held_result_goes_on_from_where_the_broker_has_it() -> None:
    pair = Pair()
    pair.agent_says(Holding([Held(ID, 3, ended=False, sent=50)]))
    assert pair.agent.phase(ID) is Phase.HELD
    with pytest.raises(LocalProtocolError, match="while it is held"):
        pair.agent.say(Completed(ID, 3, "succeeded"))
    pair.broker_says(Resume(ID, 3, offset=20, credit=1000))
    pair.agent.attach(ID, ListLane(Record(Chunk(ID, 3, 20, 1), b"x" * 30), Record(Completed(ID, 3, "succeeded"))))
    assert len(pair.to_broker()) == 2
    pair.broker_says(Ack(ID, 3))
    assert pair.agent.phase(ID) is Phase.UNKNOWN


AGENT_FAULTS: list[tuple[str, AnyMessage, bytes]] = [
    ("offset 7 where 0 comes next", Chunk(ID, 1, 7, 1), b"x"),
    ("without credit", Chunk(ID, 1, 0, 1), b"x" * 60_000),
    ("a chunk of", Chunk(ID, 1, 0, 1), b"x" * (limits.CHUNK_BYTES + 1)),
    ("a chunk of 0 bytes", Chunk(ID, 1, 0, 1), b""),
    ("while it is unknown", Started("cmd_9", 1), b""),
    ("already under way", Holding([Held(ID, 1, ended=False)]), b""),
    ("held twice", Holding([Held("cmd_2", 1, ended=False), Held("cmd_2", 2, ended=False)]), b""),
    ("attempt 2 while 1", Chunk(ID, 2, 0, 1), b"x"),
    ("not for the peer", Ack(ID, 1), b""),
    ("a second Hello", HELLO, b""),
]


@pytest.mark.parametrize(("complaint", "message", "payload"), AGENT_FAULTS, ids=[fault[0] for fault in AGENT_FAULTS])
def test_an_agent_that_breaks_the_rules_is_told_so_and_cut_off(
    complaint: str, message: AnyMessage, payload: bytes
) -> None:

    pair = Pair().running()
    pair.broker._talks[ID].window.take(50_000)
    with pytest.raises(RemoteProtocolError, match=complaint):
        pair.broker.receive(encode(Record(message, payload)), 0.0)
    assert pair.broker.stage is Stage.CLOSED
    (goodbye,) = decode(pair.broker.next_message(0.0))
    assert isinstance(goodbye.message, Goodbye)
    assert goodbye.message.code == "protocol"


def test_what_is_held_is_told_once() -> None:
    pair = Pair()
    pair.agent_says(Holding([]))
    with pytest.raises(RemoteProtocolError, match="a second Holding"):
        pair.broker.receive(encode(Record(Holding([]))), 0.0)


@pytest.mark.parametrize("message", [Credit(ID, -1), Resume("cmd_2", 1, 0, -1)])
def test_a_broker_can_not_grant_less_than_nothing(message: AnyMessage) -> None:
    pair = Pair()
    pair.agent_says(Holding([Held("cmd_2", 1, ended=False)]))
    with pytest.raises(RemoteProtocolError, match=r"not a message: Expected `int` >= 0"):
        pair.running().agent.receive(encode(Record(message)), 0.0)


def test_what_comes_after_the_end_is_not_acted_on() -> None:
    pair = Pair().running()
    run = Run(id="cmd_2", epoch=1, operation="echo", expires_in_s=60.0, credit=10)
    pair.broker.say(run)
    pair.agent.end("stopping")
    assert pair.to_agent() == []


GARBAGE: list[bytes | str] = [
    b"",
    b"\xff",
    b"[]",
    "text",
    b"\0\0\0\2\0\0\0\0[]",
    b"\0\0\0\2\0\0\0\0{}",
    b"\0\0\0\3\0\0\0\0{}",
    b"\xff\xff\xff\xff\0\0\0\0",
    b"\0\0\0\0\xff\xff\xff\xff",
    b'\0\0\0\x0e\0\0\0\0{"kind":"Fly"}',
    b'\0\0\0\x0f\0\0\0\1{"kind":"Beat"}x',
]


@pytest.mark.parametrize("data", GARBAGE)
def test_garbage_is_the_peers_fault(data: bytes | str) -> None:
    with pytest.raises(RemoteProtocolError):
        Pair().broker.receive(data, 0.0)


def test_an_unknown_key_of_a_later_release_is_ignored() -> None:
    header = b'{"kind":"Beat","mood":"good"}'
    assert Pair().broker.receive(len(header).to_bytes(4) + bytes(4) + header, 0.0) == []


@pytest.mark.parametrize("versions", [[], [2], [0, 7]])
def test_an_agent_of_another_version_is_told_so(versions: list[int]) -> None:
    broker = Session(Side.BROKER, WELCOME.limits, now=0.0)

    hello = Hello(versions=versions, release="9", features=[], limits=Limits(), journal="b", time=0.0)
    with pytest.raises(RemoteProtocolError, match="version"):
        broker.receive(encode(Record(hello)), 0.0)
    (goodbye,) = decode(broker.next_message(0.0))
    assert isinstance(goodbye.message, Goodbye)
    assert goodbye.message.code == "version"


def test_a_side_with_nothing_to_say_beats() -> None:
    pair = Pair()
    pair.now = pair.agent.next_tick()
    pair.agent.tick(pair.now)
    assert [r.message for r in decode(pair.agent.next_message(pair.now))] == [Beat()]


def test_who_announces_a_shorter_silence_beats_as_often_itself() -> None:
    """It may know of a line that is cut when it is silent; the other side is held to it by the greeting."""
    agent = Session(Side.AGENT, Limits(silence_s=18.0), now=0.0)
    agent.greet(HELLO)
    agent.next_message(0.0)
    agent.receive(encode(Record(WELCOME)), 0.0)
    assert agent.beat_s == 18.0 / limits.BEATS_IN_SILENCE == 8.0


def test_a_peer_that_can_bear_no_silence_gets_no_storm_of_beats() -> None:
    broker = Session(Side.BROKER, WELCOME.limits, now=0.0)
    hello = Hello(versions=[1], release="0", features=[], limits=Limits(silence_s=0.0), journal="b", time=0.0)
    broker.receive(encode(Record(hello)), 0.0)
    broker.welcome(WELCOME)
    broker.next_message(0.0)
    assert broker.next_tick() == limits.MIN_BEAT_S


@pytest.mark.parametrize("side", ["agent", "broker"])
def test_silence_ends_the_link_on_either_side(side: str) -> None:
    pair = Pair()
    session = getattr(pair, side)
    with pytest.raises(RemoteProtocolError, match="heard nothing for 45 s"):
        session.tick(limits.SILENCE_S)


def test_any_word_counts_as_a_sign_of_life() -> None:
    pair = Pair()
    pair.now = limits.SILENCE_S - 1
    pair.agent_says(Holding([]))
    pair.broker.tick(limits.SILENCE_S + 1)
    assert pair.broker.stage is Stage.OPEN


def test_a_peer_that_never_greets_is_let_go() -> None:
    broker = Session(Side.BROKER, WELCOME.limits, now=0.0)
    assert broker.next_tick() == limits.GREETING_S
    with pytest.raises(RemoteProtocolError, match="no greeting"):
        broker.tick(limits.GREETING_S)


BLOB = BlobInfo("blob_1", 100, "0" * 64)


def test_a_blob_takes_turns_and_may_cross_the_end_of_its_command() -> None:
    pair = Pair([BLOBS])
    pair.broker_says(msgspec.structs.replace(RUN, blob=BLOB))
    pair.agent_says(Accepted(ID, 1))
    pair.agent_says(Fetch(ID, 1, 0, 100))
    piece = Record(BlobChunk(ID, 1, 0, 0), b"x" * 60)
    pair.broker.attach(ID, ListLane(piece))
    assert pair.to_agent() == [piece]
    pair.broker.attach(ID, ListLane(Record(BlobChunk(ID, 1, 60, 0), b"x" * 40)))
    pair.agent.say(Completed(ID, 1, "cancelled"))
    late = pair.to_agent()
    assert [type(record.message) for record in late] == [BlobChunk]
    assert [type(record.message) for record in pair.to_broker()] == [Completed]
    assert pair.broker.phase(ID) is Phase.ENDED


def test_without_the_feature_there_are_no_blobs() -> None:
    pair = Pair()
    with pytest.raises(LocalProtocolError, match="without the feature 'blobs'"):
        pair.broker.say(msgspec.structs.replace(RUN, blob=BLOB))
    pair = Pair()
    pair.broker_says(RUN)
    pair.agent_says(Accepted(ID, 1))
    with pytest.raises(LocalProtocolError, match="without the feature 'blobs'"):
        pair.agent.say(Fetch(ID, 1, 0, 1))


@pytest.mark.parametrize("data", [b"", b"x" * (limits.CHUNK_BYTES + 1)], ids=["empty", "too large"])
def test_a_part_of_a_blob_has_a_size_that_is_one(data: bytes) -> None:
    pair = Pair([BLOBS])
    pair.broker_says(msgspec.structs.replace(RUN, blob=BLOB))
    pair.agent_says(Accepted(ID, 1))
    with pytest.raises(RemoteProtocolError, match="a chunk of"):
        pair.agent.receive(encode(Record(BlobChunk(ID, 1, 0, 0), data)), pair.now)


SAY: list[tuple[str, Callable[[Pair], None]]] = [
    ("not for the agent to say", lambda pair: pair.agent.say(RUN)),
    ("not for the broker to say", lambda pair: pair.broker.say(Accepted(ID, 1))),
    ("while it is unknown", lambda pair: pair.agent.say(Accepted("cmd_9", 1))),
    ("unknown on this link", lambda pair: pair.agent.attach("cmd_9", ListLane())),
]


@pytest.mark.parametrize(("complaint", "act"), SAY, ids=[case[0] for case in SAY])
def test_our_own_mistakes_are_local_errors(complaint: str, act: Callable[[Pair], None]) -> None:
    with pytest.raises(LocalProtocolError, match=complaint):
        act(Pair())


def test_a_session_shows_its_state() -> None:
    assert repr(Pair().running().broker) == "<Session broker open, 1 commands>"


DONE = Completed(ID, 1, "succeeded")


def test_what_a_command_begins_with_is_left_out_where_its_end_goes_with_it() -> None:
    pair = Pair([BRIEF])
    pair.broker_says(RUN)
    pair.broker_says(msgspec.structs.replace(RUN, id="cmd_2"))
    for message in (Accepted(ID, 1), Accepted("cmd_2", 1), Started(ID, 1)):
        pair.agent.say(message)
    pair.agent.attach(ID, ListLane(Record(DONE, b"{}")))
    assert pair.to_broker() == [Record(Accepted("cmd_2", 1)), Record(DONE, b"{}")]
    assert (pair.broker.phase(ID), pair.broker.phase("cmd_2")) == (Phase.ENDED, Phase.ACCEPTED)


def test_half_of_it_is_left_out_where_the_other_half_went_before() -> None:
    pair = Pair([BRIEF])
    pair.broker_says(RUN)
    pair.agent_says(Accepted(ID, 1))
    pair.agent.say(Started(ID, 1))
    pair.agent.attach(ID, ListLane(Record(DONE)))
    assert pair.to_broker() == [Record(DONE)]


def test_it_is_told_where_there_are_rows() -> None:
    pair = Pair([BRIEF])
    pair.broker_says(RUN)
    said = [Record(Accepted(ID, 1)), Record(Started(ID, 1)), Record(RowSetBegins(ID, 1, 0, 0, [])), Record(DONE)]
    pair.agent.say(said[0].message)
    pair.agent.say(said[1].message)
    pair.agent.attach(ID, ListLane(*said[2:]))
    assert pair.to_broker() == said


def test_a_peer_that_is_not_brief_is_told_all() -> None:
    pair = Pair()
    pair.broker_says(RUN)
    pair.agent.say(Accepted(ID, 1))
    pair.agent.say(Started(ID, 1))
    pair.agent.attach(ID, ListLane(Record(DONE)))
    assert [type(record.message) for record in pair.to_broker()] == [Accepted, Started, Completed]
