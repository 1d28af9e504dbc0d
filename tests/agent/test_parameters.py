from __future__ import annotations

import base64
import json
import math
import re
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from time import monotonic, process_time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent import exact_json
from agent.errors import ParametersInvalid
from agent.parameters import MAX_PROBLEMS, decode, params_of, schema
from agent.patterns import matcher
from agent.settings import (
    CallOperation,
    DropOperation,
    FileFormat,
    Operation,
    Param,
    PickOperation,
    ProcedureOperation,
    SqlOperation,
    SyntheticOperation,
)


def operation(**params: Param) -> ProcedureOperation:
    return ProcedureOperation(connection="erp", procedure="p", params=params)


def read(param: Param, written: str) -> Any:
    """Decode one parameter, given as JSON text."""
    return decode(operation(value=param), b'{"value":%s}' % written.encode())["value"]


def refusal(of: Operation, raw: bytes | str) -> str:
    with pytest.raises(ParametersInvalid) as caught:
        decode(of, raw.encode() if isinstance(raw, str) else raw)
    assert caught.value.touched is False
    return caught.value.message


# --- values -------------------------------------------------------------------------------------

TAKEN: list[tuple[dict[str, Any], str, Any]] = [
    ({"type": "string"}, '""', ""),
    ({"type": "string"}, '"Grüße \\u00e9 \\ud83d\\ude00"', "Grüße é 😀"),
    ({"type": "string", "max_length": 1}, '"\\ud83d\\ude00"', "😀"),
    ({"type": "string", "pattern": "C[0-9]+"}, '"C042"', "C042"),
    ({"type": "string", "enum": ["a", "b"]}, '"b"', "b"),
    ({"type": "string", "nullable": True, "pattern": "x"}, "null", None),
    ({"type": "integer"}, "-0", 0),
    ({"type": "integer"}, "9" * 4000, int("9" * 4000)),
    ({"type": "integer", "min": -5, "max": 5}, "-5", -5),
    ({"type": "integer", "enum": [1, 2]}, "2", 2),
    ({"type": "decimal"}, '"0.10"', Decimal("0.10")),
    ({"type": "decimal"}, "0.1", Decimal("0.1")),
    ({"type": "decimal"}, "12345678901234567890.123456789", Decimal("12345678901234567890.123456789")),
    ({"type": "decimal"}, "1e3", Decimal("1000")),
    ({"type": "decimal"}, "1.5e-3", Decimal("0.0015")),
    ({"type": "decimal"}, "7", Decimal(7)),
    ({"type": "decimal", "scale": 2}, '"-1.25"', Decimal("-1.25")),
    ({"type": "decimal", "scale": 0}, '"12"', Decimal(12)),
    ({"type": "decimal", "precision": 3}, '"0.123"', Decimal("0.123")),
    ({"type": "decimal", "min": 0.1}, '"0.1"', Decimal("0.1")),
    ({"type": "decimal", "max": "999999999999999999.99"}, '"999999999999999999.99"', Decimal("999999999999999999.99")),
    ({"type": "number"}, "0.1", 0.1),
    ({"type": "number"}, "3", 3.0),
    ({"type": "number"}, "-1.5E2", -150.0),
    ({"type": "boolean"}, "true", True),
    ({"type": "date"}, '"2024-02-29"', date(2024, 2, 29)),
    ({"type": "date", "min": "2024-01-01"}, '"2024-01-01"', date(2024, 1, 1)),
    ({"type": "datetime"}, '"2026-01-31T14:00:00"', datetime(2026, 1, 31, 14)),
    ({"type": "datetime"}, '"2026-01-31t14:00:00.5z"', datetime(2026, 1, 31, 14, 0, 0, 500_000, UTC)),
    ({"type": "datetime"}, '"2026-01-31 14:00:00.000001-05:30"',
     datetime(2026, 1, 31, 14, 0, 0, 1, timezone(-timedelta(hours=5, minutes=30)))),
    ({"type": "time"}, '"23:59:59.123456"', time(23, 59, 59, 123456)),
    ({"type": "time"}, '"08:00:00Z"', time(8, tzinfo=UTC)),
    ({"type": "binary"}, '"AAEC/w=="', b"\x00\x01\x02\xff"),
    ({"type": "binary", "max_length": 4}, '"AAEC/w=="', b"\x00\x01\x02\xff"),
    ({"type": "json"}, '{"a":[1,0.10,null]}', {"a": [1, Decimal("0.10"), None]}),
    ({"type": "json"}, "false", False),
    ({"type": "uuid"}, '"123E4567-e89b-12d3-a456-426614174000"', uuid.UUID("123e4567-e89b-12d3-a456-426614174000")),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "written", "found"), TAKEN)
def test_a_value_is_read_by_its_type_without_loss(keys: dict[str, Any], written: str, found: Any) -> None:
    value = read(Param(**keys), written)
    assert value == found
    assert type(value) is type(found)
    if isinstance(value, datetime | time):
        assert value.utcoffset() == found.utcoffset()
    if isinstance(value, Decimal):
        assert str(value) == str(found)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "string"}, "1"),
    ({"type": "string"}, "null"),
    ({"type": "string"}, '["a"]'),
    ({"type": "string"}, '"a\\u0000b"'),
    ({"type": "string", "max_length": 2}, '"abc"'),
    ({"type": "string", "min_length": 2}, '"a"'),
    ({"type": "string", "pattern": "C[0-9]+"}, '"xC042"'),
    ({"type": "string", "pattern": "C[0-9]+"}, '"C042\\n"'),
    ({"type": "string", "pattern": "a*"}, '"%s"' % ("a" * 1001)),
    ({"type": "string", "pattern": "\\d"}, '"\u0663"'),
    ({"type": "string", "enum": ["a"]}, '"A"'),
    ({"type": "integer"}, "1.0"),
    ({"type": "integer"}, "1e3"),
    ({"type": "integer"}, '"1"'),
    ({"type": "integer"}, "true"),
    ({"type": "integer", "max": 5}, "6"),
    ({"type": "integer", "min": 5}, "4"),
    ({"type": "integer", "enum": [0, 1]}, "false"),
    ({"type": "decimal"}, "true"),
    ({"type": "decimal"}, '"1e3"'),
    ({"type": "decimal"}, '"NaN"'),
    ({"type": "decimal"}, '"Infinity"'),
    ({"type": "decimal"}, '" 1"'),
    ({"type": "decimal"}, '"+1"'),
    ({"type": "decimal"}, '"1."'),
    ({"type": "decimal"}, '".5"'),
    ({"type": "decimal"}, '"1_000"'),
    ({"type": "decimal"}, '"\u0663"'),
    ({"type": "decimal"}, '""'),
    ({"type": "decimal", "scale": 2}, '"1.234"'),
    ({"type": "decimal", "scale": 2}, "0.001"),
    ({"type": "decimal", "precision": 3}, '"12.34"'),
    ({"type": "decimal", "precision": 3}, "1e3"),
    ({"type": "decimal", "min": 0.1}, "0.09999999999999999999"),
    ({"type": "decimal", "max": 10}, '"10.0000000000000000000000001"'),
    ({"type": "number"}, '"1"'),
    ({"type": "number"}, "true"),
    ({"type": "number"}, "1e999"),
    ({"type": "number"}, "9" * 400),
    ({"type": "number", "max": 1}, "1.0000000001"),
    ({"type": "boolean"}, "1"),
    ({"type": "boolean"}, '"true"'),
    ({"type": "date"}, '"2023-02-29"'),
    ({"type": "date"}, '"20240229"'),
    ({"type": "date"}, '"2024-02-29T00:00:00"'),
    ({"type": "date"}, '"0000-01-01"'),
    ({"type": "date"}, '"2024-W01-1"'),
    ({"type": "date", "max": "2024-01-01"}, '"2024-01-02"'),
    ({"type": "datetime"}, '"2026-01-31"'),
    ({"type": "datetime"}, '"2026-01-31T24:00:00"'),
    ({"type": "datetime"}, '"2026-01-31T23:59:60"'),
    ({"type": "datetime"}, '"2026-01-31T14:00"'),
    ({"type": "datetime"}, '"2026-01-31T14:00:00.1234567"'),
    ({"type": "datetime"}, '"2026-01-31T14:00:00+24:00"'),
    ({"type": "datetime"}, "1769868000"),
    ({"type": "datetime", "min": "2026-01-01T00:00:00Z"}, '"2026-01-31T14:00:00"'),
    ({"type": "time"}, '"14:00"'),
    ({"type": "time"}, '"25:00:00"'),
    ({"type": "binary"}, '"AAEC/w="'),
    ({"type": "binary"}, '"AAEC_w=="'),
    ({"type": "binary"}, '"AA EC"'),
    ({"type": "binary"}, '"\u00e9"'),
    ({"type": "binary", "max_length": 3}, '"AAEC/w=="'),
    ({"type": "binary", "min_length": 5}, '"AAEC/w=="'),
    ({"type": "json"}, "null"),
    ({"type": "uuid"}, '"123e4567e89b12d3a456426614174000"'),
    ({"type": "uuid"}, '"{123e4567-e89b-12d3-a456-426614174000}"'),
]


@pytest.mark.parametrize(("keys", "written"), REFUSED)
def test_what_does_not_fit_is_refused_with_what_was_wanted_and_found(keys: dict[str, Any], written: str) -> None:
    message = refusal(operation(value=Param(**keys)), f'{{"value":{written}}}')
    assert re.fullmatch(r"value: wants [^\n]+, found [^\n]+", message)
    assert len(message) < 300


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "wants JSON"),
        (b"[1]", "wants an object, found a list of 1"),
        (b"null", "wants an object, found null"),
        (b"{} x", "wants JSON"),
        (b'{"a":1,}', "wants JSON"),
        (b"\xef\xbb\xbf{}", "wants JSON"),
        (b'{"a":"\xff"}', "wants UTF-8, found the byte 0xff at position 6"),
        (b'{"a":1,"a":1}', "'a' stands twice"),
        (b'{"a":{"b":1,"c":2,"b":3}}', "'b' stands twice"),
        (b'{"a":NaN}', "NaN is no JSON number"),
        (b'{"a":-Infinity}', "-Infinity is no JSON number"),
        (b'{"a":1e99999999999999999999}', "too large or too long"),
        (b'{"a":1e-5000}', "too large or too long"),
        (b'{"a":0.' + b"1" * 2000 + b"}", "too large or too long"),
        (b'{"a":' + b"1" * 5000 + b"}", "more digits"),
        (b'{"a":"\\ud800"}', "half a surrogate pair"),
        (b'{"\\uDC00":1}', "half a surrogate pair"),
        (b'{"a":"\x01"}', "wants JSON"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "at most 64 levels"),
        (b"[" * 100_000, "at most 64 levels"),
        (b'{"a":[' + b"[" * 64 + b"]" * 64 + b"]}", "at most 64 levels"),
    ],
)
def test_bytes_that_two_readers_could_take_differently_are_refused(raw: bytes, complaint: str) -> None:
    assert complaint in refusal(CallOperation(connection="c", call="X"), raw)


def test_a_key_that_stands_twice_among_many_is_found_at_once() -> None:
    keys = b",".join(b'"%d":0' % number for number in range(100_000))
    began = process_time()
    assert "'99999' stands twice" in refusal(CallOperation(connection="c", call="X"), b"{" + keys + b',"99999":1}')
    # Looking at each key for each key took minutes, in which nothing else ran.
    assert process_time() - began < 5


def test_sixty_four_levels_and_any_number_of_objects_beside_each_other_are_fine() -> None:
    deep: Any = 1
    for _ in range(62):
        deep = [deep]
    written = {"a": deep, "b": [{"x": [1]} for _ in range(1000)]}
    assert decode(CallOperation(connection="c", call="X"), json.dumps({"v": written}).encode())["v"] == written


# --- objects ------------------------------------------------------------------------------------


def test_values_come_in_the_declared_order_with_defaults_and_nothing_that_only_comes_back() -> None:
    op = operation(
        z=Param(type="integer"),
        out=Param(direction="out"),
        since=Param(type="date", default="2000-01-01"),
        both=Param(type="integer", direction="inout"),
        rate=Param(type="decimal", default=0.1),
        note=Param(required=False),
    )
    found = decode(op, b'{"both":2,"z":1}')
    expected = {"z": 1, "since": date(2000, 1, 1), "both": 2, "rate": Decimal("0.1"), "note": None}
    assert list(found.items()) == list(expected.items())


def test_all_problems_are_told_at_once() -> None:
    op = operation(
        customer=Param(max_length=3),
        total=Param(type="decimal", scale=2),
        day=Param(type="date"),
        no=Param(direction="out"),
    )
    message = refusal(op, b'{"customer":"abcd","total":"1.234","no":"1","extra":true}')
    assert message.splitlines() == [
        'customer: wants text of at most 3 characters, found "abcd"',
        "total: wants a decimal such as '12.50' with at most 2 digits after the point, found \"1.234\"",
        "day: wants a date such as '2026-01-31', found nothing",
        "no: comes back in the outputs and can't be given",
        "extra: is not declared; the parameters are customer, total, day",
    ]


def test_an_operation_without_parameters_takes_none() -> None:
    op = PickOperation(connection="c", pick="*", format=FileFormat(type="raw"))
    assert decode(op, b"{}") == {}
    assert refusal(op, b'{"a":1}') == "a: is not declared; there are no parameters"


def test_a_refused_secret_is_not_shown() -> None:
    op = operation(api_key=Param(max_length=1), user_password=Param(max_length=1), iban=Param(max_length=1))
    op = replace(op, mask=("iban",))
    message = refusal(op, b'{"api_key":"hush","user_password":"hush","iban":"hush"}')
    assert "hush" not in message
    assert message.count("(not shown)") == 3


def test_a_long_value_is_shortened_and_many_problems_are_counted() -> None:
    message = refusal(operation(a=Param(type="integer")), json.dumps({"a": "x" * 5000}))
    assert "(5000 characters)" in message
    assert len(message) < 200
    message = refusal(operation(), json.dumps({f"n{number}": 1 for number in range(500)}))
    assert message.endswith(f"and {500 - MAX_PROBLEMS} more")


def test_a_null_is_no_default_and_an_absent_value_is_no_null() -> None:
    op = operation(a=Param(type="integer", nullable=True, default=5), b=Param(type="integer", nullable=True))
    assert decode(op, b'{"a":null,"b":null}') == {"a": None, "b": None}
    assert decode(op, b'{"b":1}') == {"a": 5, "b": 1}
    assert "b: wants a whole number or null, found nothing" in refusal(op, b"{}")


# --- kinds --------------------------------------------------------------------------------------

CSV = FileFormat(type="csv", columns=("order_no", "qty"))


def drop(form: FileFormat, name: str = "ORD-{order_no}.csv", **params: Param) -> DropOperation:
    return DropOperation(connection="edi", drop=name, format=form, params=params)


def test_a_drop_takes_its_names_and_its_rows() -> None:
    found = decode(drop(CSV), b'{"rows":[{"qty":1.50,"order_no":"A1"}],"order_no":"A1"}')
    assert found == {"order_no": "A1", "rows": [{"qty": Decimal("1.50"), "order_no": "A1"}]}
    assert list(found) == ["order_no", "rows"]
    assert decode(drop(CSV, order_no=Param(type="integer")), b'{"rows":[],"order_no":7}')["order_no"] == 7


@pytest.mark.parametrize(
    ("form", "content", "complaint"),
    [
        (CSV, {}, "rows: wants the content of the file, found nothing"),
        (CSV, {"rows": {}}, "rows: wants a list of objects, found an object"),
        (CSV, {"rows": [1]}, "rows[1]: wants an object, found 1"),
        (CSV, {"rows": [{"order_no": "1"}]}, "rows[1].qty: wants a value, or null, found nothing"),
        (CSV, {"rows": [{"order_no": 1, "qty": 1, "x": 1}]}, "rows[1].x: is no column; the columns are order_no, qty"),
        (CSV, {"rows": [{"order_no": 1, "qty": [1]}]}, "rows[1].qty: wants text, a number, true, false or null"),
        (CSV, {"rows": [{"order_no": 1, "qty": "\0"}]}, "rows[1].qty: wants text"),
        (FileFormat(type="csv"), {"rows": [{"a": 1}, {"b": 1}]}, "rows[2].a: wants a value"),
        (CSV, {"rows": [{}] * 1000}, "more"),
        (FileFormat(type="xml"), {"document": [1]}, "document: wants an object, or XML as text, found a list of 1"),
        (FileFormat(type="json"), {"document": None}, "document: wants any JSON value but null, found null"),
        (FileFormat(type="raw"), {"content": 1}, "content: wants bytes in base64, found 1"),
        (FileFormat(type="raw"), {"content": "no base64"}, 'content: wants bytes in base64, found "no base64"'),
        (FileFormat(type="raw"), {"content": "é"}, "content: wants bytes in base64"),
        (FileFormat(type="raw"), {"content": "QQ"}, "content: wants bytes in base64"),
        (FileFormat(type="raw"), {"rows": []}, "rows: is not declared; the parameters are order_no, content"),
    ],
)
def test_content_of_the_wrong_shape_is_refused(form: FileFormat, content: dict[str, Any], complaint: str) -> None:
    assert complaint in refusal(drop(form), json.dumps({"order_no": "1", **content}))


@pytest.mark.parametrize(
    ("form", "content"),
    [
        (CSV, {"rows": []}),
        (CSV, {"rows": [{"order_no": "1", "qty": None}]}),
        (FileFormat(type="csv"), {"rows": [{"a": 1}, {"a": True}]}),
        (FileFormat(type="fixed-width", columns=("a",), widths=(3,)), {"rows": [{"a": "x"}]}),
        (FileFormat(type="xml"), {"document": {"order": {"no": "1"}}}),
        (FileFormat(type="json"), {"document": [1, {"a": None}]}),
        (FileFormat(type="xml"), {"document": "<order no='1'/>"}),
    ],
)
def test_content_of_the_right_shape_passes_and_fits_the_schema(form: FileFormat, content: dict[str, Any]) -> None:
    given_ = {"order_no": "1", **content}
    assert decode(drop(form), json.dumps(given_).encode()) == given_
    assert jsonschema_rs.validator_for(schema(drop(form))).is_valid(given_)


def test_raw_content_is_bytes_in_base64() -> None:
    given_ = {"order_no": "1", "content": "AP8="}
    raw = drop(FileFormat(type="raw"))
    assert decode(raw, json.dumps(given_).encode())["content"] == b"\x00\xff"
    validator = jsonschema_rs.validator_for(schema(raw))
    assert validator.is_valid(given_)
    assert not validator.is_valid({**given_, "content": "no base64"})
    assert schema(raw)["properties"]["content"]["contentEncoding"] == "base64"


@pytest.mark.parametrize(
    "op", [CallOperation(connection="c", call="X"), SyntheticOperation(connection="c", synthetic="echo")]
)
def test_what_has_its_types_elsewhere_takes_any_object(op: Operation) -> None:
    assert decode(op, b'{"a":{"b":0.10}}') == {"a": {"b": Decimal("0.10")}}
    assert jsonschema_rs.validator_for(schema(op)).is_valid({"a": 1})


@pytest.mark.parametrize(
    "op",
    [
        CallOperation(connection="c", call="X", params={"a": Param(type="integer")}),
        SyntheticOperation(connection="c", synthetic="echo", params={"a": Param(type="integer")}),
    ],
)
def test_what_is_declared_is_all_there_is(op: Operation) -> None:
    assert decode(op, b'{"a":1}') == {"a": 1}
    assert "b: is not declared" in refusal(op, b'{"a":1,"b":1}')


@pytest.mark.parametrize(
    ("kind", "raw", "found"),
    [
        ("rows", b'{"count":3}', {"count": 3, "width": 8}),
        ("sleep", b'{"seconds":0.5}', {"seconds": 0.5}),
        ("fail", b"{}", {"kind": "failed", "message": "failed as asked"}),
    ],
)
def test_synthetic_operations_bring_their_parameters_along(kind: Any, raw: bytes, found: dict[str, Any]) -> None:
    assert decode(SyntheticOperation(connection="c", synthetic=kind), raw) == found


def test_the_operators_own_word_goes_before_what_a_kind_brings_along() -> None:
    op = SyntheticOperation(connection="c", synthetic="rows", params={"count": Param(type="integer", max=5)})
    assert list(params_of(op)) == ["count", "width"]
    assert "up to 5" in refusal(op, b'{"count":6}')


# --- the schema ---------------------------------------------------------------------------------


def test_the_schema_says_what_the_file_says() -> None:
    op = operation(
        customer=Param(max_length=20, description="Its number.", pattern="C[0-9]+"),
        since=Param(type="date", default="2000-01-01", nullable=True),
        total=Param(type="decimal", min=0, scale=2, default=0.5),
        kind=Param(enum=("a", "b"), nullable=True),
        no=Param(direction="out"),
    )
    found = schema(op)
    assert found["required"] == ["customer", "kind"]
    assert found["additionalProperties"] is False
    customer = {
        "type": "string",
        "maxLength": 20,
        "pattern": "^(?:C[0-9]+)$",
        "description": "Its number. Wants text of at most 20 characters that matches C[0-9]+.",
    }
    assert found["properties"]["customer"] == customer
    assert found["properties"]["since"]["type"] == ["string", "null"]
    assert found["properties"]["since"]["default"] == "2000-01-01"
    assert found["properties"]["total"]["default"] == "0.5"
    text, number = found["properties"]["total"]["anyOf"]
    assert text == {"type": "string", "pattern": r"^-?[0-9]+(?:\.[0-9]{1,2})?$"}
    assert number == {"type": "number", "minimum": 0}
    assert found["properties"]["kind"] == {"type": ["string", "null"], "enum": ["a", "b", None]}
    assert "no" not in found["properties"]


@pytest.mark.parametrize(("keys", "written", "_found"), TAKEN)
def test_the_schema_takes_every_value_that_is_read(keys: dict[str, Any], written: str, _found: Any) -> None:
    found = jsonschema_rs.validator_for(schema(operation(value=Param(**keys))))
    assert found.is_valid(json.loads(f'{{"value":{written}}}'))


bounds = st.integers(-100, 100)
small = st.integers(0, 5)


@st.composite
def declared(draw: st.DrawFn) -> Param:
    """A parameter that an operator could have written."""
    kind = draw(st.sampled_from(sorted({keys["type"] for keys, *_ in TAKEN})))
    keys: dict[str, Any] = {"type": kind, "nullable": draw(st.booleans())}
    if kind in ("integer", "decimal", "number"):
        keys |= draw(st.fixed_dictionaries({}, optional={"min": bounds, "max": bounds}))
    if kind in ("decimal", "number"):
        keys |= draw(st.fixed_dictionaries({}, optional={"min": st.floats(-9, 9), "max": st.floats(-9, 9)}))
    if kind == "decimal":
        keys |= draw(st.fixed_dictionaries({}, optional={"scale": small, "precision": st.integers(1, 5)}))
    if kind in ("string", "binary"):
        keys |= draw(st.fixed_dictionaries({}, optional={"min_length": small, "max_length": small}))
    if kind == "string":
        patterns = [
            r"[A-Z]+",
            r"\d{2,3}",
            r"a|b",
            r"(?i)ab",
            r"\w+\s\w*",
            r"[^a]",
            r"\Aab\Z",
            "a.b",
            r"\S\b",
            r"a{,2}",
            r"[]a]",
        ]
        keys |= draw(st.fixed_dictionaries({}, optional={"pattern": st.sampled_from(patterns)}))
    if kind == "integer":
        keys |= draw(st.fixed_dictionaries({}, optional={"enum": st.lists(bounds, min_size=1, max_size=3).map(tuple)}))
    return Param(**keys)


numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), bounds)
texts = st.one_of(
    st.text(max_size=6),
    st.text("aAbB 12\n\r\u2028\u00a0٣", max_size=4),
    st.decimals(-200, 200, places=2).map(str),
    st.dates().map(str),
    st.datetimes(timezones=st.one_of(st.none(), st.just(UTC))).map(datetime.isoformat),
    st.times().map(str),
    st.uuids().map(str),
    st.binary(max_size=6).map(lambda data: base64.b64encode(data).decode()),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=3,
)


@given(declared(), values)
def test_whatever_is_read_fits_the_schema_and_whatever_the_schema_refuses_is_refused(param: Param, value: Any) -> None:
    op = operation(value=param)
    raw = json.dumps({"value": value}).encode()
    fits = jsonschema_rs.validator_for(schema(op)).is_valid({"value": value})
    try:
        decode(op, raw)
    except ParametersInvalid:
        return
    assert fits


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_a_decimal_keeps_every_digit_as_text_and_as_number(number: Decimal) -> None:
    plain = format(number, "f")
    assume(len(plain) < 900)
    assert str(read(Param(type="decimal"), f'"{plain}"')) == str(Decimal(plain))
    assert read(Param(type="decimal"), plain) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_survives_json(number: float) -> None:
    found = read(Param(type="number"), json.dumps(number))
    assert found == number
    assert math.copysign(1, found) == math.copysign(1, number)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_being_refused(raw: bytes) -> None:
    try:
        exact_json.loads(raw)
    except exact_json.NotExact:
        return
    assert exact_json.loads(raw) is not ...


@given(values)
def test_json_is_read_as_everyone_reads_it(value: Any) -> None:
    found = exact_json.loads(json.dumps(value).encode())
    assert json.loads(json.dumps(found, default=float)) == value


# --- patterns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+", "(a*)*b", "(a|a)*", "(a|ab)*", r"(\w+\s?)*", "(.*,)*", "([a-z]+)*", "(x+x+)+y",
        r"^(([a-z])+.)+[A-Z]([a-z])+$", "(a?){50}", "((a+)b?)*", "(?:a+|b)*", "(a+?)+", "(?:(?:a+))+", "x(y(a+)+)",
    ],
)  # fmt: skip
def test_no_pattern_takes_long_whatever_the_text(pattern: str) -> None:
    fits, began = matcher(pattern), monotonic()
    for text in ("a" * 50_000, "a" * 50_000 + "!", "x" * 50_000, "a, " * 20_000, "aA" * 20_000):
        fits(text)
    assert monotonic() - began < 5


@pytest.mark.parametrize(
    "pattern",
    [
        r"(\d+,)*", "([0-9]+,)*[0-9]+", "[A-Z]{2}[0-9]{4}", "(?:[a-z]+ )*[a-z]+", "(?:a|b|c)+", "(?:[^@]+@)+",
        "(a{1,3}){1,5}",
        r"\d{1,3}(,\d{3})*(\.\d+)?", "(foo|bar)+", ".*", "[a-z]+@[a-z]+", "(a|b){3}", r"(?:[\w-]+\.)+[a-z]{2,}", "",
    ],
)  # fmt: skip
def test_common_patterns_mean_what_they_mean_to_python(pattern: str) -> None:
    fits = matcher(pattern)
    texts = [
        "",
        "a",
        "A",
        "1",
        "12,3",
        "foo",
        "foobar",
        "a@b",
        "ab cd",
        "AB1234",
        "a,b",
        "1,234.5",
        "a-b.de",
        "x\n",
        "é",
        "Ⅷ",
    ]
    assert [fits(text) for text in texts] == [re.fullmatch(pattern, text, re.ASCII) is not None for text in texts]


@pytest.mark.parametrize("pattern", [r"(?=a)a", r"(?<!a)b", r"(a)\1", r"(?>a+)b", r"a++", r"a\Bb", r"(a)?(?(1)b|c)"])
def test_what_only_trying_can_tell_is_refused_with_the_file(pattern: str) -> None:
    with pytest.raises(ValueError, match="could take hours"):
        matcher(pattern)


@pytest.mark.parametrize("pattern", ["(", "a{3,1}", "[z-a]", "(?P<a>x)(?P<a>y)", "(" * 5_000 + ")" * 5_000])
def test_what_is_no_pattern_is_told(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is no regular|too many groups|too large"):
        matcher(pattern)


_PARTS = st.sampled_from(
    ["a", "B", "[a-c]", "[^a]", r"\d", r"\w", r"\S", ".", "(?:a|bc)", "(?i:aB[x-z])", "(?i:[^a-m])", r"\.", r"[\w.-]",
     r"\n", "é", "[à-ü]", r"(?s:.)", "[]^]", "[&&]", "[[a]", "[~~-]", r"\b", "(?i:é)"]
)  # fmt: skip
_PATTERNS = st.recursive(
    _PARTS,
    lambda inner: st.one_of(
        st.builds("".join, st.lists(inner, min_size=1, max_size=4)),
        st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{1,3}", "{2}", "*?"])),
        st.builds("({}|{})".format, inner, inner),
    ),
    max_leaves=6,
)


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@given(_PATTERNS, st.text("aAbBcxzé1_.-[]&~^ \n", max_size=6))
def test_a_pattern_takes_exactly_what_python_takes(pattern: str, text: str) -> None:
    assert matcher(pattern)(text) is (re.fullmatch(pattern, text, re.ASCII) is not None)


def test_sql_operations_read_as_procedures_do() -> None:
    op = SqlOperation(connection="erp", sql="SELECT :a", params={"a": Param(type="integer")})
    assert decode(op, b'{"a":1}') == {"a": 1}


def test_the_decoder_of_an_operation_is_not_that_of_another_at_the_same_place_in_memory() -> None:
    for number in range(200):
        name = f"n{number}"
        assert decode(operation(**{name: Param(type="integer")}), b'{"%s":1}' % name.encode()) == {name: 1}
