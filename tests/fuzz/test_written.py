"""What is written to a file is read back as it was, whatever was in it; or it is refused before a byte is written."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.connectors.file import documents, tables
from agent.errors import ContentInvalid
from agent.settings import FileFormat

often = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))

ENCODINGS = ("utf-8", "utf-16", "cp1252", "cp037", "iso8859-15", "gb18030", "utf-8-sig")
BOM = "\ufeff"  # at the start of a file it belongs to the encoding, not to the first value
hostile = st.sampled_from(
    ["", " ", "\n", "\r", "\r\n", '"', '""', ";", "\t", "\0", "\x1a", "\x85", "\u2028", "=1+1", "@x"]
)
values = st.one_of(
    hostile, st.text(max_size=12).filter(lambda text: text[:1] != BOM), st.text('";\r\n\t ,', max_size=6)
)


@st.composite
def forms(draw: st.DrawFn) -> FileFormat:
    return FileFormat(
        type="csv",
        delimiter=draw(st.sampled_from([",", ";", "\t", "|"])),
        quote=draw(st.sampled_from(['"', "'"])),
        newline=draw(st.sampled_from(["\n", "\r\n"])),
        header=draw(st.booleans()),
        columns=("a", "b"),
    )


@often
@given(forms(), st.sampled_from(ENCODINGS), st.lists(st.tuples(values, values), min_size=1, max_size=5))
def test_csv_is_read_back_as_it_was_written(form: FileFormat, encoding: str, rows: list[tuple[str, str]]) -> None:
    content = _written(form, encoding, rows)
    if content is None:
        return
    columns, *found = tables.read(io.BytesIO(content), form, encoding)
    assert columns == ["a", "b"]
    # A line end within a value comes back as it is; that of EBCDIC is one line end of many.
    assert [tuple(row) for row in found] == rows


@often
@given(st.sampled_from(ENCODINGS), st.lists(st.tuples(values, values), min_size=1, max_size=5))
def test_fixed_width_is_read_back_but_for_what_fills_it_up(encoding: str, rows: list[tuple[str, str]]) -> None:
    form = FileFormat(type="fixed-width", columns=("a", "b"), widths=(12, 14), align=("left", "right"), fill=" ")
    content = _written(form, encoding, rows)
    if content is None:
        return
    columns, *found = tables.read(io.BytesIO(content), form, encoding)
    assert columns == ["a", "b"]
    assert [tuple(row) for row in found] == [(a.rstrip(" "), b.lstrip(" ")) for a, b in rows]


def _written(form: FileFormat, encoding: str, rows: list[tuple[str, str]]) -> bytes | None:
    try:
        return b"".join(tables.written([{"a": a, "b": b} for a, b in rows], form, encoding))
    except ContentInvalid:
        return None


plain = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8))
names = st.sampled_from(["a", "b-c", "d.e", "@f", "#text", "", " ", "<a>", "a b", "@xmlns", "g:h", "1"])
trees = st.recursive(
    plain, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)), max_leaves=8
)


@often
@given(st.dictionaries(names, trees, min_size=1, max_size=2), st.sampled_from(ENCODINGS))
def test_xml_that_is_written_is_xml_and_no_markup_comes_from_a_value(document: Any, encoding: str) -> None:
    try:
        content = documents.xml_bytes(document, FileFormat(type="xml"), encoding)
    except ContentInvalid:
        return
    again = documents.xml_document(documents.parse_xml(content.decode(encoding)))
    assert len(again) == 1
    assert _names_in(again) <= _names_in(document)


def _names_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        # A text beside attributes or elements gets a name of its own.
        return {"#text", *value, *(name for child in value.values() for name in _names_in(child))}
    return {name for child in value for name in _names_in(child)} if isinstance(value, list) else {"#text"}


@often
@given(st.dictionaries(st.text(max_size=5), trees), st.sampled_from(ENCODINGS))
def test_json_that_is_written_is_read_back(document: Any, encoding: str) -> None:
    try:
        content = documents.json_bytes(document, encoding)
    except ContentInvalid:
        return
    (row,) = documents.json_rows(content.decode(encoding))
    assert json.loads(row) == json.loads(json.dumps(msgspec.to_builtins(document)))


@pytest.mark.parametrize("value", ["=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-1"])
def test_a_value_stays_what_it_is_even_if_a_spreadsheet_would_run_it(value: str) -> None:
    # Changing it would falsify an order: whoever opens the file in a spreadsheet has to know whose values it holds.
    form = FileFormat(type="csv", columns=("a", "b"))
    content = b"".join(tables.written([{"a": value, "b": "x"}], form, "utf-8"))
    assert list(tables.read(io.BytesIO(content), form, "utf-8"))[1:] == [[value, "x"]]
