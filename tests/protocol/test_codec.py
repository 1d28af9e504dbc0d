"""Messages to bytes and back, and what happens to bytes that are none."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import codec, limits
from protocol.codec import Record
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import AGENT_SAYS, BROKER_SAYS, WITH_PAYLOAD, Accepted, AnyMessage, Beat, Chunk, Completed, Run

text = st.text(max_size=40)
MOST = 2**53 - 1  # that any journal, store or other language can keep
numbers = st.integers(0, MOST)
messages = st.one_of(
    st.builds(Run, id=text, epoch=numbers, operation=text, expires_in_s=st.floats(0, 1e9), credit=numbers),
    st.builds(Chunk, id=text, epoch=numbers, offset=numbers, rows=numbers),
    st.builds(Completed, id=text, epoch=numbers, outcome=st.just("rejected"), error_message=text),
)
records = st.lists(st.builds(Record, messages, st.binary(max_size=200)), min_size=1, max_size=5)


@given(records)
def test_what_is_sent_is_what_arrives(sent: list[Record]) -> None:
    assert codec.decode(codec.encode_all(sent)) == sent


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_the_peers_fault(data: bytes) -> None:
    try:
        codec.decode(data)
    except RemoteProtocolError:
        return


@given(records, st.data())
def test_a_cut_message_is_the_peers_fault(sent: list[Record], data: st.DataObject) -> None:
    whole = codec.encode_all(sent)
    cut = data.draw(st.integers(0, len(whole) - 1))
    ends = {len(codec.encode_all(sent[:count])) for count in range(1, len(sent))}
    if cut in ends:
        assert codec.decode(whole[:cut]) == sent[: len(codec.decode(whole[:cut]))]
    else:
        with pytest.raises(RemoteProtocolError):
            codec.decode(whole[:cut])


@given(records, st.data())
def test_a_flipped_bit_never_breaks_the_decoder(sent: list[Record], data: st.DataObject) -> None:
    whole = bytearray(codec.encode_all(sent))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    try:
        codec.decode(bytes(whole))
    except RemoteProtocolError:
        return


def test_deep_nesting_is_the_peers_fault() -> None:
    header = b'{"kind":"Beat","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(RemoteProtocolError):
        codec.decode(len(header).to_bytes(4) + bytes(4) + header)


def test_a_payload_only_goes_with_messages_that_have_one() -> None:
    with pytest.raises(LocalProtocolError, match="Beat has no payload"):
        codec.encode(Record(Beat(), b"x"))


def test_every_message_is_said_by_somebody() -> None:
    assert set(AGENT_SAYS) | set(BROKER_SAYS) == set(AnyMessage.__args__)
    assert set(WITH_PAYLOAD) <= set(AGENT_SAYS) | set(BROKER_SAYS)


def test_a_default_costs_no_bytes() -> None:
    assert codec.encode(Record(Beat()))[8:] == b'{"kind":"Beat"}'


@pytest.mark.parametrize("count", [-1, MOST + 1, 2**80])
def test_a_count_is_never_less_than_nothing_nor_more_than_can_be_kept(count: int) -> None:
    with pytest.raises(RemoteProtocolError, match="epoch"):
        codec.decode(codec.encode(Record(Accepted("cmd_1", count))))


def test_the_largest_command_fits_into_a_message() -> None:
    run = Run(id="c" * 40, epoch=1, operation="o" * 64, expires_in_s=1.0, credit=1)
    assert len(codec.encode(Record(run, bytes(limits.MAX_COMMAND_BYTES)))) <= limits.MAX_MESSAGE_BYTES


def test_headers_are_json_that_any_language_reads() -> None:
    chunk = Chunk(id="cmd_1", epoch=2, offset=3, rows=4)
    assert msgspec.json.decode(codec.encode(Record(chunk, b"abc"))[8:-3]) == {
        "kind": "Chunk",
        "id": "cmd_1",
        "epoch": 2,
        "offset": 3,
        "rows": 4,
    }
