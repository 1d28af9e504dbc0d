"""NDJSON to CSV: a table of values, and any value in any pieces against Python's own reader."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_broker.api.csv_rows import csv_of
from cloud_broker.errors import ResultGone
from protocol.csv_text import header_line, row_writer


async def converted(columns: Sequence[dict[str, str]], pieces: Sequence[bytes]) -> bytes:
    async def given_pieces() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return b"".join([part async for part in csv_of(columns, given_pieces())])


def column(name: str, kind: str = "string") -> dict[str, str]:
    return {"name": name, "type": kind, "source_type": ""}


@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [
        ("string", b'"plain"', "plain"),
        ("string", b'""', '""'),
        ("string", b"null", ""),
        ("string", b'"a,b"', '"a,b"'),
        ("string", b'"say \\"hi\\""', '"say ""hi"""'),
        ("string", b'"two\\nlines"', '"two\nlines"'),
        ("string", b'"cr\\rhere"', '"cr\rhere"'),
        ("string", b'" kept "', " kept "),
        ("string", b'"\\u00e9\xc3\xa9\\ud83d\\ude00"', "éé\U0001f600"),
        ("decimal", b'"1.10"', "1.10"),
        ("integer", b"123456789012345678901234567890", "123456789012345678901234567890"),
        ("number", b"1.50e3", "1.50e3"),
        ("number", b"0.10", "0.10"),
        ("boolean", b"true", "true"),
        ("boolean", b"false", "false"),
        ("binary", b'"AAEC"', "AAEC"),
        ("datetime", b'"2026-01-31T12:00:00.123456789+01:00"', "2026-01-31T12:00:00.123456789+01:00"),
        ("json", b'{"a": [1.10, "x"]}', '"{""a"": [1.10, ""x""]}"'),
        ("json", b'"text"', '"""text"""'),
        ("json", b"null", ""),
        ("string", b'{"a":1}', '"{""a"":1}"'),
    ],
)
def test_a_value_becomes_a_field(kind: str, value: bytes, field: str) -> None:
    line_of = row_writer([column("a", kind), column("b")])

    assert line_of(b'{"b":null,"a":' + value + b"}") == f"{field},\r\n"


def test_names_are_quoted_like_values() -> None:
    assert header_line(["no", "a,b", 'c"d']) == b'no,"a,b","c""d"\r\n'


async def test_a_lone_null_leaves_no_empty_line() -> None:
    assert await converted([column("a")], [b'{"a":null}\n{"a":"x"}\n']) == b'a\r\n""\r\nx\r\n'


async def test_no_rows_are_a_header() -> None:
    assert await converted([column("a"), column("b")], []) == b"a,b\r\n"


async def test_rows_that_end_in_the_middle_of_one_are_cut() -> None:
    with pytest.raises(ResultGone, match="middle"):
        await converted([column("a")], [b'{"a":1}\n{"a"'])


async def test_a_row_larger_than_any_piece_is_joined_once() -> None:
    value = b"x" * 8_000_000
    row = b'{"a":"' + value + b'"}\n'

    text = await converted([column("a")], [row[start : start + 10_000] for start in range(0, len(row), 10_000)])

    assert text == b"a\r\n" + value + b"\r\n"


TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    rows=st.lists(st.tuples(TEXTS, st.one_of(st.none(), TEXTS), st.integers()), max_size=20),
    cuts=st.lists(st.integers(min_value=0, max_value=2000), max_size=8),
)
async def test_any_rows_in_any_pieces_are_read_back_by_the_csv_module(
    rows: list[tuple[str, str | None, int]], cuts: list[int]
) -> None:
    def line(row: tuple[Any, ...]) -> bytes:
        return json.dumps(dict(zip("abc", row, strict=True)), ensure_ascii=False).encode() + b"\n"

    whole = b"".join(line(row) for row in rows)
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [whole[start:end] for start, end in itertools.pairwise(places)]
    columns = [column("a"), column("b"), column("c", "integer")]

    text = (await converted(columns, pieces)).decode()

    found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert found == [["a", "b", "c"], *([a, b or "", str(c)] for a, b, c in rows)]
