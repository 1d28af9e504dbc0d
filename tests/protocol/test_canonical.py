"""One text for one JSON value; a second implementation says the same wherever both have an opinion."""

from __future__ import annotations

import json
from time import process_time
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.canonical import MAX_DEPTH, NotCanonical, canonical, encode

SAFE = 2**53 - 1  # as far as RFC 8785 takes integers
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-SAFE, SAFE) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=30,
)


@settings(deadline=None)
@given(VALUES, st.booleans(), st.sampled_from([None, 0, 3]))
def test_it_agrees_with_another_implementation(value: Any, ascii_only: bool, indent: int | None) -> None:
    wanted = rfc8785.dumps(value)
    assert canonical(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == wanted
    assert encode(value) == wanted


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_in_the_form_of_the_standard_stays_so(value: float) -> None:
    wanted = rfc8785.dumps([value])
    assert canonical(wanted) == wanted


@given(VALUES)
def test_what_is_canonical_stays_as_it_is(value: Any) -> None:
    once = canonical(json.dumps(value).encode())
    assert canonical(once) == once
    assert json.loads(once) == value


@pytest.mark.parametrize(
    "number", ["0", "-0", "1.10", "1e5", "1E+05", "-0.0", "123456789012345678901234567890", "0." + "1" * 400]
)
def test_numbers_stay_digit_for_digit(number: str) -> None:
    assert canonical(f" [ {number} ] ".encode()) == f"[{number}]".encode()


def test_keys_stand_in_the_order_of_their_utf16_code_units() -> None:
    # The example of RFC 8785, section 3.2.3: U+1F600 is two surrogates, which come before U+FB33.
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    found = canonical(json.dumps(dict.fromkeys(keys, 0)).encode())
    assert list(json.loads(found)) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_no_form_of_a_character_is_taken_for_another() -> None:
    assert canonical('["\u00e9"]'.encode()) != canonical('["e\u0301"]'.encode())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "wants JSON"),
        (b"{", "wants JSON"),
        (b"[1,]", "wants JSON"),
        (b"[01]", "wants JSON"),
        (b"[1.]", "wants JSON"),
        (b"[+1]", "wants JSON"),
        (b'["\x01"]', "wants JSON"),
        (b"\xef\xbb\xbf[]", "wants JSON"),
        (b"[] []", "wants JSON"),
        (b"\xff", "wants UTF-8"),
        (b'{"a":1,"a":1}', "stands twice"),
        (b'[{"b":{"a":1,"\\u0061":2}}]', "stands twice"),
        (b"[NaN]", "NaN is no JSON number"),
        (b"[-Infinity]", "no JSON number"),
        (b'["\\ud800"]', "half a surrogate pair"),
        (b'{"\\udc00":1}', "half a surrogate pair"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "levels"),
        (b"[" * 100_000, "levels"),
    ],
)
def test_what_two_readers_could_take_differently_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(NotCanonical, match=why):
        canonical(text)


def test_as_many_levels_as_the_agent_reads_are_taken() -> None:
    text = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert canonical(text) == text


@pytest.mark.parametrize("value", [1.5, b"bytes", {1: 2}, object(), float("nan"), ["\ud800"]])
def test_what_has_no_one_text_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonical):
        encode(value)


@pytest.mark.parametrize("first", range(0, 0x3000, 0x400))
def test_every_character_is_written_as_the_other_implementation_does(first: int) -> None:
    text = "".join(map(chr, range(first, first + 0x400)))
    wanted = rfc8785.dumps([text])
    assert canonical(json.dumps([text]).encode()) == wanted
    assert encode([text]) == wanted


def test_a_key_that_stands_twice_among_many_is_found_at_once() -> None:
    keys = b",".join(b'"%d":0' % number for number in range(100_000))
    began = process_time()
    with pytest.raises(NotCanonical, match="'99999' stands twice"):
        canonical(b"{" + keys + b',"99999":1}')
    # Looking at each key for each key took minutes, in which nothing else ran.
    assert process_time() - began < 5
