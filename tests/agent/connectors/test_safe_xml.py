"""XML that comes in pieces is taken, or refused, as it is in one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from agent.connectors.safe_xml import Arriving, XmlRefused, parse

DOCUMENTS: list[tuple[str, bytes]] = [
    ("plain", b"<a> <row>1</row><b/> <row x='2'>&lt;&#65;</row></a>"),
    ("remarks", b"<?xml version='1.0'?><!-- x --><a><?p?><row>1<!-- y -->2</row><![CDATA[<x>]]></a>"),
    ("utf-8", "<?xml version='1.0' encoding='utf-8'?><a><row>ü€𝄞</row></a>".encode()),
    ("utf-16", "<?xml version='1.0' encoding='utf-16'?><a><row>ü€</row></a>".encode("utf-16")),
    ("latin-1", "<?xml version='1.0' encoding='iso-8859-1'?><a><row>ü</row></a>".encode("iso-8859-1")),
    ("mark", b"\xef\xbb\xbf<a><row/></a>"),
    ("tiny", b"<a/>"),
    ("no prefix", b"<x:a/>"),
    ("deep", b"<a>" * 300 + b"</a>" * 300),
    ("dtd", b"<!DOCTYPE a><a><row/></a>"),
    ("entity", b"<!DOCTYPE a [<!ENTITY e 'x'>]><a><row>&e;</row></a>"),
    ("outside", b"<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><a><row>&e;</row></a>"),
    ("undeclared", b"<a>&nbsp;</a>"),
    ("undeclared, and a document behind it", b"<a>&nbsp;<row/></a><a><row/></a>"),
    ("two", b"<a/><b/>"),
    ("cut", b"<a><row></row>"),
    ("crossed", b"<a><row></a></row>"),
    ("bad bytes", b"<a><row>\xff\xfe</row></a>"),
    ("nothing", b""),
    ("no xml", b"hello"),
]


def whole(data: bytes) -> bytes | None:
    """Return the document as it reads in one, or ``None`` if it is refused."""
    try:
        return etree.tostring(parse(data))
    except XmlRefused:
        return None


def arrived(data: bytes, cuts: list[int], name: str) -> bytes | None:
    """Return the same where it comes in pieces."""
    arriving = Arriving(name)
    ends = sorted(cut % (len(data) + 1) for cut in cuts)
    try:
        for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
            for node in arriving.feed(data[start:end]):
                assert node.tag == name
        return etree.tostring(arriving.close())
    except XmlRefused:
        return None


@pytest.mark.parametrize("name", ["", "row"])
@pytest.mark.parametrize("data", [data for _, data in DOCUMENTS], ids=[name for name, _ in DOCUMENTS])
def test_pieces_of_any_size_are_one_document(data: bytes, name: str) -> None:
    for size in (1, 2, 3, 5, 17, 1_000):
        assert arrived(data, list(range(size, len(data), size)), name) == whole(data)


@given(
    st.sampled_from([data for _, data in DOCUMENTS]),
    st.binary(max_size=8),
    st.integers(0, 100),
    st.lists(st.integers(0, 2_000), max_size=5),
    st.sampled_from(["", "row"]),
)
def test_whatever_comes_is_refused_in_pieces_where_it_is_refused_in_one(
    data: bytes, odd: bytes, at: int, cuts: list[int], name: str
) -> None:
    data = data[:at] + odd + data[at:]
    assert arrived(data, cuts, name) == whole(data)


def test_elements_come_when_they_end() -> None:
    arriving = Arriving("row")
    assert arriving.feed(b"<a><row>1") == []
    (first,) = arriving.feed(b"</row><row>2</row")
    assert first.text == "1"
    (second,) = arriving.feed(b"></a>")
    assert second.text == "2"
    assert len(arriving.close()) == 2


def test_a_doctype_is_refused_with_the_first_element() -> None:
    arriving = Arriving("row")
    with pytest.raises(XmlRefused, match="DOCTYPE"):
        arriving.feed(b"<!DOCTYPE a><a><row/>")
