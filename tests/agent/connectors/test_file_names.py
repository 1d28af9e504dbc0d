"""Names of files: what is filled in, and what could lead out of the folder."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from agent.connectors.file import names

HOSTILE = [
    "",
    " ",
    ".",
    "..",
    "../up.csv",
    "..\\up.csv",
    "a/b.csv",
    "a\\b.csv",
    "/etc/passwd",
    "\\\\server\\share\\x.csv",
    "\\\\?\\C:\\x.csv",
    "C:\\x.csv",
    "C:x.csv",
    "a.csv:stream",
    "a.csv::$DATA",
    "a\x00.csv",
    "a\n.csv",
    "a\r.csv",
    "a\x1b[2J.csv",
    "a\x7f.csv",
    "a\x85.csv",
    "a\u202egpj.csv",
    "a\u200b.csv",
    "a\u2028.csv",
    "a\ud800.csv",
    "a*.csv",
    "a?.csv",
    "a|b.csv",
    'a".csv',
    "<a>.csv",
    ".hidden",
    ".ORD-1.csv.cmd_1.part",
    " leading.csv",
    "trailing.csv ",
    "trailing.csv.",
    "trailing...",
    "CON",
    "con.csv",
    "Con .csv",
    "PRN.txt",
    "AUX",
    "nul.tar.gz",
    "COM1",
    "com9.csv",
    "COM¹.csv",
    "LPT3.",
    "lpt0.txt",
    "CONIN$",
    "CLOCK$.txt",
    "ORDERS~1.CSV",
    "A~12",
    "x" * 181,
    "é" * 91,
]
FINE = [
    "ORD-4711.csv",
    "ord 4711.csv",
    "Auftrag_für_Müller.xml",
    "注文.csv",
    "a.b.c",
    "CONSOLE.csv",
    "COM10.csv",
    "NULL.csv",
    "a~b.csv",
    "~backup",
    "ORDERS-2026~1-final.csv",
    "x" * 180,
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_name_that_could_mean_anything_else_is_refused(name: str) -> None:
    with pytest.raises(names.NameRefused):
        names.check(name)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.strip() and len(name) < 100], ids=ascii)
def test_a_parameter_can_not_make_the_whole_name_a_hostile_one(name: str) -> None:
    with pytest.raises(names.NameRefused):
        names.fill("{name}", {"name": name})


@pytest.mark.parametrize("name", FINE)
def test_an_ordinary_name_passes(name: str) -> None:
    names.check(name)


@pytest.mark.parametrize(
    ("template", "values", "wanted"),
    [
        ("ORD-{order_no}.csv", {"order_no": "4711"}, "ORD-4711.csv"),
        ("{a}{b}.csv", {"a": 1, "b": True}, "1true.csv"),
        ("{amount}-{day}.xml", {"amount": Decimal("1E+2"), "day": date(2026, 1, 31)}, "100-2026-01-31.xml"),
        ("plain.txt", {}, "plain.txt"),
    ],
)
def test_a_template_is_filled(template: str, values: dict[str, Any], wanted: str) -> None:
    assert names.fill(template, values) == wanted


@pytest.mark.parametrize("value", [None, "", [], {}, b"x", 1.5], ids=repr)
def test_only_plain_values_may_be_part_of_a_name(value: object) -> None:
    with pytest.raises(names.NameRefused, match="order_no"):
        names.fill("ORD-{order_no}.csv", {"order_no": value})


@pytest.mark.parametrize("template", ["ORD-{.csv", "ORD-}.csv"])
def test_braces_without_a_partner_are_refused(template: str) -> None:
    with pytest.raises(names.NameRefused):
        names.fill(template, {})


def test_braces_in_a_value_are_not_filled_again() -> None:
    assert names.fill("{a}.csv", {"a": "{b}", "b": "x"}) == "{b}.csv"


@pytest.mark.parametrize("command_id", ["", "../x", "a/b", "a b", "x" * 65])
def test_a_command_id_that_is_none_makes_no_temporary_name(command_id: str) -> None:
    with pytest.raises(names.NameRefused):
        names.temporary("a.csv", command_id, "part")


def test_the_longest_name_leaves_room_for_the_temporary_one() -> None:
    assert len(names.temporary("x" * names.MAX_NAME_BYTES, "c" * 64, "claim").encode()) <= 255


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (".ORD-1.csv.cmd_01jd2v6x7m8n9p0q1r2s3t4v5w.part", True),
        (".ORD-1.csv.cmd_01jd2v6x7m8n9p0q1r2s3t4v5w.claim", True),
        (".download.csv.part", False),
        (".part", False),
        ("ORD-1.csv.cmd_01jd2v6x7m8n9p0q1r2s3t4v5w.part", False),
    ],
)
def test_other_programs_hidden_files_are_not_taken_for_ours(name: str, ours: bool) -> None:
    assert names.is_ours(name) is ours
