"""What a table makes of widths and of text that a terminal would obey."""

from __future__ import annotations

import json

import pytest

from cloud_broker.client.tables import Number, compact, fitted
from protocol.plain_text import plain


@pytest.mark.parametrize(
    ("widths", "room", "wanted"),
    [
        ([3, 4], 80, [3, 4]),
        ([3, 400], 80, [3, 77]),
        ([300, 10, 400], 90, [40, 10, 40]),
        ([100, 100], 50, [25, 25]),
        ([5, 5, 5], 2, [1, 1, 1]),
        ([], 80, []),
    ],
)
def test_narrow_columns_stay_whole(widths: list[int], room: int, wanted: list[int]) -> None:
    assert fitted(widths, room) == wanted


def test_no_text_moves_the_cursor() -> None:
    assert plain("a\x1b[2J\r\n\tb\x9b\u202eü\ud800") == r"a\x1b[2J\r\n\tb\x9b\u202eü\ud800"


def test_numbers_stand_as_they_were_written() -> None:
    text = '{"a": [1.10, 12345678901234567890123, true, null, "1.10"], "b": {}}'
    assert compact(json.loads(text, parse_float=Number, parse_int=Number)) == text
