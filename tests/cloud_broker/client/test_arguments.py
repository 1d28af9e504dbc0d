"""Words of a command line become typed parameters, or are refused with what was wanted."""

from __future__ import annotations

import base64
import io
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.parameters import schema
from agent.settings import Settings
from agent.settings_reader import read
from cloud_broker.client import arguments
from cloud_broker.client.errors import WordsError

DECIMAL = {"anyOf": [{"type": "string", "pattern": r"^-?[0-9]+(?:\.[0-9]+)?$"}, {"type": "number"}]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "customer": {"type": "string"},
        "count": {"type": "integer"},
        "limit": {"type": ["integer", "null"]},
        "ratio": {"type": "number"},
        "total": DECIMAL,
        "urgent": {"type": "boolean"},
        "lines": {"type": ["object", "array", "string", "number", "boolean"]},
        "address": {"type": "object"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "numbers": {"type": "array", "items": {"type": "integer"}},
        "level": {"type": "integer", "enum": [1, 2]},
        "kind": {"enum": ["a", "b"]},
        "photo": {"type": "string", "contentEncoding": "base64"},
        "anything": {},
    },
    "required": ["customer"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["customer=C042"], {"customer": "C042"}),
        (["customer="], {"customer": ""}),
        (["customer=007"], {"customer": "007"}),
        (["customer=a=b"], {"customer": "a=b"}),
        (["customer=a:=b"], {"customer": "a:=b"}),
        (["customer=null"], {"customer": "null"}),
        (["count=7"], {"count": 7}),
        (["count=-7"], {"count": -7}),
        (["count=123456789012345678901234567890"], {"count": 123456789012345678901234567890}),
        (["limit=null"], {"limit": None}),
        (["limit="], {"limit": None}),
        (["limit=3"], {"limit": 3}),
        (["ratio=0.1"], {"ratio": Decimal("0.1")}),
        (["ratio=2"], {"ratio": 2}),
        (["ratio=1e3"], {"ratio": Decimal("1e3")}),
        (["total=12.50"], {"total": "12.50"}),
        (["total=100000000000000000000.0000000001"], {"total": "100000000000000000000.0000000001"}),
        (["total:=12.5"], {"total": Decimal("12.5")}),
        (["urgent=true"], {"urgent": True}),
        (["urgent=No"], {"urgent": False}),
        (['lines=[{"sku":"A1"}]'], {"lines": [{"sku": "A1"}]}),
        (["lines=12"], {"lines": 12}),
        (["lines=some text"], {"lines": "some text"}),
        (['address={"city":"Köln"}'], {"address": {"city": "Köln"}}),
        (["tags=a"], {"tags": ["a"]}),
        (["tags=a", "tags=b"], {"tags": ["a", "b"]}),
        (['tags=["a","b"]'], {"tags": ["a", "b"]}),
        (["numbers=1", "numbers=2"], {"numbers": [1, 2]}),
        (["level=2"], {"level": 2}),
        (["kind=b"], {"kind": "b"}),
        (["photo=aGFsbG8="], {"photo": "aGFsbG8="}),
        (["customer:=null"], {"customer": None}),
        (["anything=x"], {"anything": "x"}),
    ],
)
def test_a_value_is_read_as_its_parameter_wants_it(words: list[str], wanted: dict[str, Any]) -> None:
    found = arguments.parameters(words, SCHEMA, {})
    assert found == wanted
    assert [type(value) for value in found.values()] == [type(value) for value in wanted.values()]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["custmer=C042"], r"has no parameter 'custmer'\. Did you mean customer\?"),
        (["zzz=1"], r"has no parameter 'zzz'\. There is: address, anything, count"),
        (["C042"], "wants name=value, found 'C042'"),
        (["=x"], "wants name=value, found '=x'"),
        (["count=seven"], "count: wants a whole number, found 'seven'"),
        (["count=1.5"], "count: wants a whole number, found '1.5'"),
        (["ratio=nan"], "ratio: wants a number, found 'nan'"),
        (["urgent=maybe"], "urgent: wants true or false, found 'maybe'"),
        (["count:=NaN"], "NaN is no JSON number"),
        (["count:={"], "count: wants JSON"),
        (["lines=[1"], "lines: wants JSON"),
        (["address=x"], "address: wants an object as JSON"),
        (["numbers=x"], "numbers: wants a whole number"),
        (["customer=a", "customer=b"], "customer is given twice"),
        (["photo=@no-such-file"], "no-such-file can't be read: No such file"),
    ],
)
def test_a_word_that_does_not_fit_is_refused_in_words(words: list[str], told: str) -> None:
    with pytest.raises(WordsError, match=told):
        arguments.parameters(words, SCHEMA, {})


@pytest.mark.parametrize("word", ["ratio={}", "total:={}", 'lines=[{{"qty": {}}}]', "lines:=[{}]"])
def test_no_number_is_rounded(word: str) -> None:
    exact = "12345678901234567890.1234567890"
    value = next(iter(arguments.parameters([word.format(exact)], SCHEMA, {}).values()))
    while isinstance(value, list | dict):
        value = value[0] if isinstance(value, list) else value["qty"]
    assert str(value) == exact


def test_without_a_schema_every_value_is_text() -> None:
    assert arguments.parameters(["count=7", "total:=8"], None, {}) == {"count": "7", "total": 8}


def test_words_come_over_the_values_given_before() -> None:
    assert arguments.parameters(["count=7"], SCHEMA, {"count": 1, "customer": "x"}) == {"count": 7, "customer": "x"}


def test_names_given_as_json_are_checked_too() -> None:
    with pytest.raises(WordsError, match="Did you mean customer"):
        arguments.parameters([], SCHEMA, {"custmer": "x"})


def test_a_file_is_text_bytes_or_json_as_its_parameter_wants_it(tmp_path: Path) -> None:
    text, data, document = tmp_path / "a.txt", tmp_path / "a.bin", tmp_path / "a.json"
    text.write_text("Grüße\n", encoding="utf-8")
    data.write_bytes(b"\x00\xff")
    document.write_text('[{"sku": 1}]', encoding="utf-8")
    words = [f"customer=@{text}", f"photo=@{data}", f"lines=@{document}"]
    assert arguments.parameters(words, SCHEMA, {}) == {
        "customer": "Grüße\n",
        "photo": "AP8=",
        "lines": [{"sku": 1}],
    }
    with pytest.raises(WordsError, match=r"a\.bin is no text in UTF-8: invalid start byte at byte 1"):
        arguments.parameters([f"customer=@{data}"], SCHEMA, {})


def test_a_file_may_be_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"from a pipe")))
    assert arguments.parameters(["customer=@-"], SCHEMA, {}) == {"customer": "from a pipe"}


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.csv", "sku,qty\nA1,2\n\nA2,\n", [{"sku": "A1", "qty": "2"}, {"sku": "A2", "qty": ""}]),
        ("a.csv", '\ufeffsku;qty\r\n"A;1";2\r\n', [{"sku": "A;1", "qty": "2"}]),
        ("a.CSV", "sku\tqty\n007\t1\n", [{"sku": "007", "qty": "1"}]),
        ("a.csv", "sku,qty\n", []),
        ("a.ndjson", '{"sku": "A1", "qty": 2}\n\n{"sku": null}\n', [{"sku": "A1", "qty": 2}, {"sku": None}]),
    ],
)
def test_rows_of_a_drop_come_from_a_file(tmp_path: Path, name: str, content: str, wanted: list[dict[str, Any]]) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert arguments.rows_of(f"@{tmp_path / name}") == wanted


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "sku,qty\nA1\n", "line 2: wants 2 values, found 1"),
        ("a.csv", "sku,sku\n", "a column is named twice"),
        ("a.csv", 'sku\n"A1\n', "is no CSV"),
        ("a.ndjson", '{"sku": 1}\n[1]\n', "line 2: wants a JSON object, found a list"),
        ("a.ndjson", "{\n", "line 1: wants JSON"),
    ],
)
def test_rows_that_are_none_are_refused_with_their_line(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(WordsError, match=told):
        arguments.rows_of(f"@{tmp_path / name}")


@pytest.mark.parametrize("text", ["[1]", "7", "null", "{", "@no-such-file"])
def test_params_want_a_json_object(text: str) -> None:
    with pytest.raises(WordsError):
        arguments.object_of(text, "--params")


def test_what_the_agent_tells_of_its_parameters_is_understood() -> None:
    settings = read(
        {
            "agent": "plant-1",
            "state_dir": "x",
            "connections": {"erp": {"type": "odbc", "connection_string": "x"}},
            "operations": {
                "op": {
                    "connection": "erp",
                    "sql": "SELECT 1",
                    "params": {
                        kind: {"type": kind}
                        for kind in (
                            "string",
                            "integer",
                            "decimal",
                            "number",
                            "boolean",
                            "date",
                            "binary",
                            "json",
                            "uuid",
                        )
                    }
                    | {"note": {"type": "integer", "nullable": True, "default": 3}},
                }
            },
        },
        Settings,
    )
    found = schema(settings.operations["op"])
    words = [
        "string=1",
        "integer=1",
        "decimal=1.10",
        "number=1",
        "boolean=yes",
        "date=2026-01-31",
        "json={}",
        "note=null",
    ]
    assert arguments.parameters(words, found, {}) == {
        "string": "1",
        "integer": 1,
        "decimal": "1.10",
        "number": 1,
        "boolean": True,
        "date": "2026-01-31",
        "json": {},
        "note": None,
    }
    described = {name: (kind, required, default) for name, kind, required, default, _ in arguments.described(found)}
    assert described["decimal"] == ("a decimal", "yes", None)
    assert described["json"] == ("any JSON", "yes", None)
    assert described["date"] == ("date", "yes", None)
    assert described["binary"] == ("bytes", "yes", None)
    assert described["note"] == ("a whole number or null", "", 3)


CONTENT = {
    "type": "object",
    "properties": {
        "content": {
            "type": ["string", "object"],
            "contentEncoding": "base64",
            "properties": {"blob": {"type": "string"}},
            "required": ["blob"],
        }
    },
}


def test_a_large_file_is_sent_apart_where_a_blob_may_stand_for_it(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x" * arguments.INLINE_BYTES)
    large.write_bytes(b"x" * (arguments.INLINE_BYTES + 1))
    assert arguments.parameters([f"content=@{small}"], CONTENT, {}) == {
        "content": base64.b64encode(small.read_bytes()).decode()
    }
    assert arguments.parameters([f"content=@{large}"], CONTENT, {}) == {"content": arguments.FileContent(large)}
    assert (
        arguments.parameters([f"photo=@{large}"], SCHEMA, {})["photo"] == base64.b64encode(large.read_bytes()).decode()
    )
    with pytest.raises(WordsError, match="can't be read"):
        arguments.parameters([f"content=@{tmp_path / 'none'}"], CONTENT, {})


@pytest.mark.parametrize("text", ["1234", "null", "true"])
def test_base64_that_looks_like_json_is_base64(text: str) -> None:
    assert arguments.parameters([f"content={text}"], CONTENT, {}) == {"content": text}


def test_a_blob_may_be_named_by_hand() -> None:
    assert arguments.parameters(['content={"blob": "blob_1"}'], CONTENT, {}) == {"content": {"blob": "blob_1"}}
