"""Bytes worth trying: the corpus, changed here and there, and now and then anything at all."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from tests.fuzz.targets import seeds

MOST_BYTES: Final = 20_000

# What parsers trip over: ends of numbers, of texts and of nesting.
TOKENS: Final = (
    b"",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b'"',
    b"'",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[" * 300,
    b"{}",
    b"[]",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"9" * 30,
    b"9" * 5_000,
    b"NaN",
    b"\n",
    b"\r\n",
    b":",
    b";",
    b",",
    b"/",
    b"\\",
    b"..",
    b"%00",
    b"&x;",
    b"<a>",
    b"]]>",
    b"<!DOCTYPE a>",
    "٣".encode(),
    "\u202e".encode(),
)


@st.composite
def changed(draw: st.DrawFn, target: str) -> bytes:
    """One of a target's seeds with one to four changes."""
    known = seeds(target)
    data = draw(st.sampled_from(known))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        put = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8), _piece(known)))
        data = data[:start] + put + data[end:]
    return data[:MOST_BYTES]


@st.composite
def _piece(draw: st.DrawFn, known: list[bytes]) -> bytes:
    data = draw(st.sampled_from(known))
    start = draw(st.integers(0, len(data)))
    return data[start : start + draw(st.integers(0, 60))]


def inputs(target: str) -> st.SearchStrategy[bytes]:
    """What a target is given."""
    return st.one_of(changed(target), changed(target), st.binary(max_size=200))
