"""One file out of rows, wherever the pieces are cut."""

from __future__ import annotations

import base64
import json

import pytest

from protocol.raw_content import MAX_HEAD_BYTES, NotContent, RawContent


def rows(**files: bytes) -> bytes:
    """Return rows as an agent gives them, a file each; ``__`` in a name stands for a quote."""
    return b"".join(
        json.dumps(
            {"file": name.replace("__", '","content":"'), "content": base64.b64encode(data).decode()},
            separators=(",", ":"),
        ).encode()
        + b"\n"
        for name, data in files.items()
    )


def taken(data: bytes, name: str | None, size: int) -> tuple[bytes, RawContent]:
    found = RawContent(name)
    return b"".join(found.feed(data[i : i + size]) for i in range(0, len(data), size)), found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 100_000])
@pytest.mark.parametrize("name", ["a", "b", "c", "x__y"])
def test_a_file_is_found_wherever_its_rows_are_cut(size: int, name: str) -> None:
    files = {"a": b"first", "b": bytes(range(256)) * 3, "x__y": b"a name that looks like the end of one", "c": b""}
    content, found = taken(rows(**files), name.replace("__", '","content":"'), size)
    assert content == files[name]
    assert found.whole


def test_without_a_name_the_first_is_taken() -> None:
    content, found = taken(rows(a=b"first", b=b"second"), None, 7)
    assert (content, found.whole) == (b"first", True)


def test_a_file_that_ends_too_early_is_not_whole() -> None:
    content, found = taken(rows(a=b"first file")[:-8], None, 100)
    assert b"first file".startswith(content)
    assert (found.found, found.whole) == (True, False)


def test_a_name_that_is_not_there_is_not_found() -> None:
    content, found = taken(rows(a=b"first", b=b"second"), "d", 9)
    assert (content, found.found) == (b"", False)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1}\n',
        b'{"file":"a","content":null}\n',
        b'{"file":"a","content":"***"}\n',
        b"x" * (MAX_HEAD_BYTES + 1),
        b'{"file","content":"AAAA"}\n',
    ],
)
def test_other_rows_are_refused(data: bytes) -> None:
    found = RawContent("a")
    with pytest.raises(NotContent):
        found.feed(data)
