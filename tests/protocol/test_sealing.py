"""Frames of a sealed result, with a cipher that only remembers; texts of keys and parameters."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import sealing
from protocol.framing import Buffer
from protocol.sealing import Opener, SealBroken, Sealer

WRAPPED = bytes(range(80))
PART = 3
TAG = 16


def encrypt(nonce: bytes, data: Buffer) -> bytes:
    """Seals nothing, but tells its nonce: what opens must know it."""
    return bytes(data) + nonce + bytes(TAG - len(nonce))


def decrypt(nonce: bytes, data: Buffer) -> bytes:
    if bytes(data)[-TAG:] != nonce + bytes(TAG - len(nonce)):
        raise SealBroken("another nonce")
    return bytes(data)[:-TAG]


def unwrap(epoch: int, wrapped: bytes) -> sealing.Cipher:
    if (epoch, wrapped) != (7, WRAPPED):
        raise SealBroken("sealed to somebody else")
    return decrypt


def sealed(*texts: bytes, part: int = PART, last: bool = True) -> list[bytes]:
    """The head and each frame; an empty last one behind them."""
    sealer = Sealer(encrypt, part)
    frames = [sealer.frame(text) for text in texts]
    return [sealing.head(7, part, WRAPPED), *frames, *([sealer.frame(b"", last=True)] if last else [])]


def opened(pieces: Sequence[bytes], part: int = PART) -> bytes:
    opener = Opener(part, unwrap)
    found = b"".join([text for piece in pieces for text in opener.feed(piece)])
    opener.close()
    return found


@given(st.lists(st.binary(max_size=200), max_size=8), st.lists(st.integers(1, 97), min_size=1, max_size=20))
def test_what_was_sealed_is_opened_however_it_is_cut_on_its_way(texts: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(sealed(*texts))
    pieces, at, turn = [], 0, 0
    while at < len(whole):
        size = cuts[turn % len(cuts)]
        pieces.append(whole[at : at + size])
        at, turn = at + size, turn + 1
    assert opened(pieces) == b"".join(texts)


@given(st.lists(st.binary(max_size=20), min_size=2, max_size=6), st.data())
def test_no_frame_can_be_left_out_doubled_or_moved(texts: list[bytes], data: st.DataObject) -> None:
    first, *frames = sealed(*texts)
    one = data.draw(st.integers(0, len(frames) - 1))
    changed = list(frames)
    match data.draw(st.sampled_from(["drop", "double", "move"])):
        case "drop":
            del changed[one]
        case "double":
            changed.insert(one, changed[one])
        case _:
            other = data.draw(st.integers(0, len(frames) - 1).filter(lambda number: number != one))
            changed[one], changed[other] = changed[other], changed[one]
    with pytest.raises(SealBroken):
        opened([first, *changed])


@given(st.lists(st.binary(max_size=20), max_size=4), st.integers(min_value=0))
def test_a_part_that_is_cut_anywhere_is_no_part(texts: list[bytes], at: int) -> None:
    whole = b"".join(sealed(*texts))
    with pytest.raises(SealBroken, match="its end is missing"):
        opened([whole[: at % len(whole)]])


@given(st.binary(max_size=300))
def test_whatever_comes_in_its_place_is_refused(data: bytes) -> None:
    with pytest.raises(SealBroken):
        opened([data])


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        (sealed(b"a", part=PART + 1), "row set 4, where row set 3 was wanted"),
        (sealed(b"a", part=sealing.END), "the end, where row set 3 was wanted"),
        ([b"ohr2", *sealed(b"a")], "not sealed, or by a later release"),
        ([sealing.head(8, PART, WRAPPED)], "sealed to somebody else"),
        ([sealing.head(7, PART, bytes(80))], "sealed to somebody else"),
        ([*sealed(b"a"), b"\0"], "follows after its end"),
        ([*sealed(b"a"), *sealed(b"a")[1:]], "follows after its end"),
        ([sealed()[0], struct.pack(">I", 15)], "a frame of 15 bytes"),
        ([sealed()[0], struct.pack(">I", 1 << 30)], "a frame of 1073741824 bytes"),
        ([sealed()[0], b"".join(sealed(b"a")[1:]).replace(b"\0\0\0\x11", b"\x80\0\0\x11", 1)], "another nonce"),
        (sealed(b"a", last=False), "its end is missing"),
    ],
)
def test_what_was_changed_says_why_it_is_refused(pieces: list[bytes], why: str) -> None:
    with pytest.raises(SealBroken, match=why):
        opened(pieces)


def test_a_reader_holds_one_frame_at_most() -> None:
    opener = Opener(PART, unwrap)
    for piece in sealed(*([b"x" * sealing.FRAME_BYTES] * 50)):
        assert b"".join(opener.feed(piece)) in (b"", b"x" * sealing.FRAME_BYTES)
        assert len(opener._rest) == 0
    opener.close()


@given(st.binary(max_size=3 * sealing.FRAME_BYTES))
def test_long_rows_are_cut_into_frames(data: bytes) -> None:
    sealer = Sealer(encrypt, PART)
    frames = sealer.frames(data)
    count = -(-len(data) // sealing.FRAME_BYTES)
    assert len(frames) == len(data) + count * (TAG + 4)
    assert opened([sealing.head(7, PART, WRAPPED), frames, sealer.frame(b"", last=True)]) == data


def test_no_two_frames_of_an_attempt_have_the_same_nonce() -> None:
    parts = (0, 1, 999, sealing.END)
    nonces = {sealing.nonce(part, number, last) for part in parts for number in range(300) for last in (False, True)}
    assert len(nonces) == len(parts) * 300 * 2
    assert {len(nonce) for nonce in nonces} == {12}


# --- texts --------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_read_as_it_is_written(key: bytes) -> None:
    assert sealing.key_bytes(sealing.key_text(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x25519:",
        "ed25519:" + base64.b64encode(bytes(32)).decode(),
        "x25519:" + base64.b64encode(bytes(31)).decode(),
        "x25519:" + base64.b64encode(bytes(33)).decode(),
        "x25519:" + base64.b64encode(bytes(32)).decode() + "\n",
        "x25519:" + "A" * 42 + "B=",  # bits beyond the last byte
        "x25519:é",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="wants x25519: and 32 bytes"):
        sealing.key_bytes(text)


@given(st.binary(min_size=80, max_size=200))
def test_sealed_parameters_are_read_as_they_are_written(data: bytes) -> None:
    text = sealing.params_text(data)
    assert text.isascii()
    assert sealing.params_bytes(text) == data


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "ohs1.",
        "ohs2." + "A" * 120,
        "ohs1." + "A" * 40,
        "ohs1." + "A" * 120 + "=",
        "ohs1." + "A" * 118 + "B",  # bits beyond the last byte
        "ohs1." + "A" * 121,
        "ohs1." + "+/" * 60,
        "ohs1. " + "A" * 120,
        "ohs1." + "é" * 120,
    ],
)
def test_what_is_no_sealed_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"wants ohs1\. and sealed parameters"):
        sealing.params_bytes(text)


names = st.text(max_size=12)


@given(st.tuples(names, names, names, names), st.tuples(names, names, names, names))
def test_no_two_places_are_bound_alike(one: tuple[str, str, str, str], other: tuple[str, str, str, str]) -> None:
    assert (sealing.params_info(*one) == sealing.params_info(*other)) == (one == other)
    assert sealing.params_info(*one) != sealing.result_info(*one[:3], 1)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_the_secret_stands_before_the_parameters(secret: bytes, params: bytes) -> None:
    assert sealing.without_secret(sealing.with_secret(secret, params)) == (secret, params)


def test_the_content_key_needs_both_halves() -> None:
    key = sealing.content_key(bytes(32), b"s" * 32)
    assert len(key) == 32
    assert len({key, sealing.content_key(b"c" * 32, b"s" * 32), sealing.content_key(bytes(32), b"")}) == 3
