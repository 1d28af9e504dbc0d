"""Whatever is done to a chain of the audit trail, the first record that does not fit is named."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_broker.audit import lines as audit_lines
from cloud_broker.audit import trail as audit
from cloud_broker.audit.check import Check, by_chain
from cloud_broker.audit.lines import Kept, LineInvalid
from cloud_broker.audit.trail import BEGINNING, Act, Record
from cloud_broker.audit.verify import of_export

AT = 1_790_000_000.0  # seconds since 1970
COUNT = 6


def chain(count: int = COUNT, *, tenant: str = "acme", note: str = "") -> list[Record]:
    records: list[Record] = []
    for number in range(count):
        detail = {"operation": "create-order", "attempt": number, "who": ["ä", None, True], "note": note}
        act = Act(tenant, "key:0a", "command_submitted", f"command:{number}", AT + number, "corr", detail)
        record = audit.unchained(act)
        audit.chain(record, number, records[-1].hash if records else BEGINNING)
        records.append(record)
    return records


def misfit(records: Sequence[Record], kept: dict[int, set[str]] | None = None) -> int | None:
    """The number of the first record that does not fit."""
    check = Check("acme", kept or {})
    for record in records:
        if not check.take(record):
            break
    found = check.end()
    return None if found is None else found.number


def keep(records: Sequence[Record]) -> dict[int, set[str]]:
    return {record.number: {record.hash.hex()} for record in records}


def test_a_chain_as_it_was_written_fits() -> None:
    assert misfit(chain()) is None
    assert misfit(chain(), keep(chain())) is None
    assert misfit([]) is None


@pytest.mark.parametrize("number", range(1, COUNT))
def test_a_record_that_was_removed_is_named(number: int) -> None:
    records = chain()
    del records[number - 1]
    assert misfit(records) == number


CHANGES: dict[str, Callable[[Record], None]] = {
    "number": lambda record: setattr(record, "number", 40),
    "tenant": lambda record: setattr(record, "tenant", "other"),
    "at": lambda record: setattr(record, "at", audit.time_text(AT - 1)),
    "actor": lambda record: setattr(record, "actor", "key:ff"),
    "action": lambda record: setattr(record, "action", "command_cancelled"),
    "target": lambda record: setattr(record, "target", "command:9"),
    "correlation_id": lambda record: setattr(record, "correlation_id", ""),
    "detail": lambda record: setattr(record, "detail", record.detail.replace("create", "delete")),
    "previous": lambda record: setattr(record, "previous", bytes(31) + b"\1"),
    "hash": lambda record: setattr(record, "hash", bytes(31) + b"\1"),
}


@pytest.mark.parametrize("number", range(1, COUNT + 1))
@pytest.mark.parametrize("field", CHANGES)
def test_a_record_that_was_changed_is_named(field: str, number: int) -> None:
    records = chain()
    CHANGES[field](records[number - 1])
    assert misfit(records) == number


@pytest.mark.parametrize("number", range(1, COUNT))
def test_a_record_that_was_changed_with_its_hash_is_found_by_the_next_one(number: int) -> None:
    records = chain()
    records[number - 1].actor = "key:ff"
    records[number - 1].hash = audit.hash_of(records[number - 1])
    assert misfit(records) == number + 1
    assert misfit(records, keep(chain())) == number


@pytest.mark.parametrize("number", range(1, COUNT))
def test_records_that_were_swapped_are_named_with_or_without_their_numbers(number: int) -> None:
    records = chain()
    records[number - 1], records[number] = records[number], records[number - 1]
    assert misfit(records) == number
    records[number - 1].number, records[number].number = number, number + 1
    assert misfit(records) == number


@pytest.mark.parametrize("number", range(1, COUNT + 1))
def test_a_record_that_is_there_twice_is_named(number: int) -> None:
    records = chain()
    records.insert(number, copy.deepcopy(records[number - 1]))
    assert misfit(records) == number + 1


@pytest.mark.parametrize("left", range(COUNT))
def test_a_chain_that_was_cut_fits_by_itself_and_not_what_somebody_kept(left: int) -> None:
    records = chain()[:left]
    assert misfit(records) is None
    assert misfit(records, keep(chain()[-1:])) == left + 1


@pytest.mark.parametrize("number", range(1, COUNT + 1))
def test_a_chain_that_was_written_anew_fits_by_itself_and_not_what_somebody_kept(number: int) -> None:
    assert misfit(chain(note="forged")) is None
    assert misfit(chain(note="forged"), keep(chain()[number - 1 : number])) == number


@given(st.data())
def test_nothing_that_is_done_to_an_export_escapes_who_kept_its_last_hash(data: st.DataObject) -> None:
    records = chain(data.draw(st.integers(2, 8)))
    kept = {"acme": keep(records[-1:])}
    lines = [audit_lines.encode(record) for record in records]
    place = data.draw(st.integers(0, len(lines) - 1))
    match data.draw(st.sampled_from(["remove", "double", "swap", "cut", "byte"])):
        case "remove":
            del lines[place]
        case "double":
            lines.insert(place, lines[place])
        case "swap":
            other = data.draw(st.integers(0, len(lines) - 1).filter(lambda number: number != place))
            lines[place], lines[other] = lines[other], lines[place]
        case "cut":
            del lines[place:]
        case "byte":
            line = bytearray(lines[place])
            at = data.draw(st.integers(0, len(line) - 2))
            line[at] ^= data.draw(st.integers(1, 127))
            lines[place] = bytes(line)
    try:
        found = of_export(lines, kept)
    except LineInvalid:
        return
    if place == 0 and len(lines) == len(records) - 1 and lines == [audit_lines.encode(one) for one in records[1:]]:
        return  # an export may begin later
    unchanged = [audit_lines.decode(line) for line in lines] == records
    assert unchanged or not found or any(one.misfit for one in found)


def test_an_export_may_begin_later_and_be_set_in_another_way_and_hold_several_chains() -> None:
    lines = [audit_lines.encode(record) for record in [*chain()[3:], *chain(tenant="other")]]
    spaced = [line.replace(b'":', b'" : ').replace(b',"', b', "') for line in lines]
    for written in (lines, spaced):
        found = of_export([*written, b"\n"], {})
        assert [(one.tenant, one.records, one.misfit) for one in found] == [("acme", 3, None), ("other", COUNT, None)]
        assert found[0].head == chain()[-1].hash.hex()


@pytest.mark.parametrize("line", [b"x", b"[]", b'{"tenant":"acme"}', b'{"tenant":"acme","number":0,"hash":"00"}'])
def test_a_line_that_is_no_record_is_told_by_its_number(line: bytes) -> None:
    with pytest.raises(LineInvalid, match="line 2: "):
        of_export([audit_lines.encode(chain()[0]), line], {})
    with pytest.raises(LineInvalid, match="line 2: "):
        list(audit_lines.kept([audit_lines.encode(chain()[0]), line]))


def test_an_agents_anchor_and_a_line_of_an_export_are_taken_alike() -> None:
    digest = "a" * 64
    anchor = f'{{"tenant":"acme","number":7,"hash":"{digest}","at":"2026-11-22T02:00:00Z"}}'.encode()
    record = chain()[0]
    assert list(audit_lines.kept([anchor, b"", audit_lines.encode(record)])) == [
        Kept("acme", 7, digest),
        Kept("acme", 1, record.hash.hex()),
    ]
    assert by_chain(audit_lines.kept([anchor])) == {"acme": {7: {digest}}}


def test_the_hash_is_what_the_manual_says() -> None:
    """So that anybody can check it with tools of their own."""
    act = Act("acme", "key:0a", "key_created", "key:0b", 0.000001, "c", {"scopes": ["*"], "expires_at": None})
    record = audit.unchained(act)
    audit.chain(record, 0, BEGINNING)
    assert audit.canonical(record) == (
        b'{"action":"key_created","actor":"key:0a","at":"1970-01-01T00:00:00.000001Z","correlation_id":"c",'
        b'"detail":{"expires_at":null,"scopes":["*"]},"number":1,"previous":"' + b"0" * 64 + b'","target":"key:0b",'
        b'"tenant":"acme"}'
    )


@pytest.mark.parametrize("text", ["\ud800", "x" * 10_000, "\0", "💥"])
def test_whatever_comes_from_outside_can_be_noted(text: str) -> None:
    record = audit.unchained(Act("acme", text, "login_refused", text, AT, text))
    audit.chain(record, 0, BEGINNING)
    assert misfit([record]) is None
    assert misfit([audit_lines.decode(audit_lines.encode(record))]) is None
    assert len(record.actor) <= audit.MAX_TEXT_CHARS


def test_an_act_without_a_name_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="no name in ACTIONS"):
        audit.unchained(Act("acme", "broker", "something", "", AT))
