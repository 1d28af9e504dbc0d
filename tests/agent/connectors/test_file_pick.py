"""Picked files: all rows or an error that names file and line; put away only when nobody changed them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.connectors import CONNECTORS
from agent.connectors.base import Call, Column, DriverSetup, Outputs, Remark, RowSet
from agent.connectors.file import pick as pick_module
from agent.connectors.sessions import DriverConnector
from agent.errors import ContentInvalid, SourceFailed, SourceUnavailable
from agent.leaving import MASKED
from agent.settings import DropOperation, FileConnection, FileFormat, PickOperation
from tests.agent.connectors.conftest import MakeFileDriver, call, outputs, rows, run


def pick(form: dict[str, Any] | None = None, pattern: str = "CONF*.csv", **more: Any) -> PickOperation:
    return PickOperation(connection="edi", pick=pattern, format=FileFormat(**(form or {"type": "csv"})), **more)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def put(root: Path, **files: str | bytes) -> None:
    """Write files; ``CONF1="…"`` becomes ``CONF1.csv``."""
    for name, content in files.items():
        (root / f"{name}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())


# --- rows ---------------------------------------------------------------------------------------


def test_rows_of_all_matching_files_come_in_name_order_as_one_row_set(file_driver: MakeFileDriver, root: Path) -> None:
    put(root, CONF2="a,b\n3,4\n", CONF1='a,b\r\n1,"x\r\ny"\r\n\r\n', OTHER="a,b\n9,9\n")
    pieces = run(file_driver(pick()))
    assert [piece.columns for piece in pieces if isinstance(piece, RowSet)] == [
        (Column("file", "string"), Column("a", "string"), Column("b", "string"))
    ]
    assert rows(pieces) == [
        {"file": "CONF1.csv", "a": "1", "b": "x\r\ny"},
        {"file": "CONF2.csv", "a": "3", "b": "4"},
    ]


def test_the_receipt_names_each_file_with_its_digest(file_driver: MakeFileDriver, root: Path) -> None:
    put(root, CONF1="a\n1\n2\n", CONF2="a\n")
    assert outputs(file_driver(pick())) == {
        "files": [
            {"name": "CONF1.csv", "bytes": 6, "sha256": hashlib.sha256(b"a\n1\n2\n").hexdigest(), "rows": 2},
            {"name": "CONF2.csv", "bytes": 2, "sha256": hashlib.sha256(b"a\n").hexdigest(), "rows": 0},
        ]
    }


@pytest.mark.parametrize(
    ("form", "columns"),
    [
        ({"type": "csv"}, ["file"]),
        ({"type": "csv", "columns": ("a", "file")}, ["file", "a", "file_2"]),
        ({"type": "xml"}, ["file", "document"]),
        ({"type": "raw"}, ["file", "content"]),
    ],
)
def test_no_file_is_an_empty_row_set(
    file_driver: MakeFileDriver, root: Path, form: dict[str, Any], columns: list[str]
) -> None:
    pieces = run(file_driver(pick(form)))
    assert [[column.name for column in piece.columns] for piece in pieces if isinstance(piece, RowSet)] == [columns]
    assert rows(pieces) == []


@pytest.mark.parametrize(
    ("form", "content", "wanted"),
    [
        ({"type": "csv", "delimiter": ";", "header": False}, "1;2\n", {"column_1": "1", "column_2": "2"}),
        ({"type": "csv", "delimiter": "\t", "header": False, "columns": ("x", "y")}, "1\t2", {"x": "1", "y": "2"}),
        ({"type": "csv", "quote": "'", "columns": ("x",)}, "x\n'a,''b'\n", {"x": "a,'b"}),
        ({"type": "csv"}, "\ufeffa\n1\n", {"a": "1"}),
        ({"type": "csv"}, "a,a,\n1,2,3\n", {"a": "1", "a_2": "2", "column_4": "3"}),
        (
            {"type": "fixed-width", "columns": ("a", "n"), "widths": (5, 4), "align": ("left", "right"), "fill": "_"},
            "x y____7\n",
            None,
        ),
        (
            {"type": "fixed-width", "columns": ("a", "n"), "widths": (5, 4), "align": ("left", "right"), "fill": "_"},
            "x y_____7\n",
            {"a": "x y", "n": "7"},
        ),
    ],
)
def test_tables_are_read(
    file_driver: MakeFileDriver, root: Path, form: dict[str, Any], content: str, wanted: dict[str, str] | None
) -> None:
    put(root, CONF1=content)
    driver = file_driver(pick(form))
    if wanted is None:
        with pytest.raises(ContentInvalid, match="line 1: wants 9 characters, found 8"):
            run(driver)
    else:
        assert rows(run(driver)) == [{"file": "CONF1.csv", **wanted}]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp037", "ÄÖÜ"),
        ("cp1252", "äöü€"),
        ("utf-16", "漢字😀"),
        ("shift_jis", "漢字表"),
        ("utf-8-sig", "ä"),
        ("iso2022_jp", "漢字"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "fixed-width"])
def test_what_is_dropped_is_picked_again_in_any_codec(
    file_driver: MakeFileDriver, root: Path, kind: str, encoding: str, text: str, newline: str
) -> None:
    form: dict[str, Any] = {"type": kind, "columns": ("a", "b"), "newline": newline}
    if kind == "fixed-width":
        form["widths"] = (9, 3)
    values = [{"a": text, "b": "1"}, {"a": "", "b": "2"}, {"a": "x,;", "b": ""}]
    dropping = DropOperation(connection="edi", drop="CONF1.csv", format=FileFormat(**form), encoding=encoding)
    outputs(file_driver(dropping), {"rows": values})
    picked = rows(run(file_driver(pick(form, encoding=encoding))))
    assert picked == [{"file": "CONF1.csv", **row} for row in values]


def test_the_mainframes_own_line_end_is_one(file_driver: MakeFileDriver, root: Path) -> None:
    put(root, CONF1=b"\xc1\x15\xc2\x15\xc3\x25")
    driver = file_driver(pick({"type": "fixed-width", "columns": ("a",), "widths": (1,)}, encoding="cp037"))
    assert [row["a"] for row in rows(run(driver))] == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ('{"a": 1.10, "b": [null]}', ['{"a":1.10,"b":[null]}']),
        ('[{"a": 12345678901234567890123}, \n {"b": "x\\ny"}]', ['{"a":12345678901234567890123}', '{"b":"x\\ny"}']),
        ("[]", []),
        ("\ufeff{}", ["{}"]),
    ],
)
def test_json_comes_digit_for_digit(file_driver: MakeFileDriver, root: Path, content: str, wanted: list[str]) -> None:
    put(root, CONF1=content)
    pieces = run(file_driver(pick({"type": "json"})))
    lines = b"".join(piece.data for piece in pieces if hasattr(piece, "data")).decode().splitlines()
    assert lines == [f'{{"file":"CONF1.csv","document":{document}}}' for document in wanted]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("<o/>", {"o": None}),
        ("<o a='1'>x</o>", {"o": {"@a": "1", "#text": "x"}}),
        ("<o><l>1</l><l>2</l><l/><m> y </m></o>", {"o": {"l": ["1", "2", None], "m": "y"}}),
        (
            "<o xmlns='urn:a' xmlns:b='urn:b'><b:c b:d='1'/></o>",
            {"o": {"@xmlns": "urn:a", "@xmlns:b": "urn:b", "b:c": {"@b:d": "1"}}},
        ),
        (
            '<?xml version="1.0" encoding="utf-16"?><o xml:lang="de">ä<!-- c -->ö</o>',
            {"o": {"@xml:lang": "de", "#text": "äö"}},
        ),
    ],
)
def test_xml_is_one_document_per_file(
    file_driver: MakeFileDriver, root: Path, content: str, wanted: dict[str, Any]
) -> None:
    put(root, CONF1=content)
    assert rows(run(file_driver(pick({"type": "xml"})))) == [{"file": "CONF1.csv", "document": wanted}]


def test_raw_files_come_as_bytes(file_driver: MakeFileDriver, root: Path) -> None:
    put(root, CONF1=bytes(range(256)), CONF2=b"")
    assert [base64.b64decode(row["content"]) for row in rows(run(file_driver(pick({"type": "raw"}))))] == [
        bytes(range(256)),
        b"",
    ]


def test_masked_columns_do_not_leave(file_driver: MakeFileDriver, root: Path) -> None:
    put(root, CONF1="name,iban\nx,DE00\n")
    assert rows(run(file_driver(pick(mask=("iban",))))) == [{"file": "CONF1.csv", "name": "x", "iban": MASKED}]


def test_a_large_file_comes_in_chunks(file_driver: MakeFileDriver, root: Path) -> None:
    put(root, CONF1="a,b\n" + "".join(f"{n},{'x' * 50}\n" for n in range(20_000)))
    pieces = run(file_driver(pick()))
    sizes = [len(piece.data) for piece in pieces if hasattr(piece, "data")]
    assert len(rows(pieces)) == 20_000
    assert len(sizes) > 10
    assert max(sizes) < 200_000


MEMORY = """
import resource, sys
from agent.connectors.base import Call, DriverSetup, Rows
from agent.connectors.file.driver import FileDriver
from agent.settings import FileConnection, FileFormat, PickOperation

operation = PickOperation(connection="edi", pick=sys.argv[2], format=FileFormat(type="csv"))
driver = FileDriver(DriverSetup("edi", FileConnection(type="file", root=sys.argv[1]), {"op": operation}))
driver.open()
count = sum(piece.count for piece in driver.run(Call("cmd_1", "op", b"{}", 60.0)) if isinstance(piece, Rows))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_stays_flat_however_large_the_file_is(root: Path) -> None:
    peaks = []
    for name, many in (("small", 20_000), ("large", 400_000)):
        with (root / f"{name}.csv").open("w") as file:
            file.write("a,b\n")
            file.writelines(f"{n},{'x' * 40}\n" for n in range(many))
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(root), f"{name}.csv"],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        count, peak_kib = map(int, done.stdout.split())
        assert count == many
        peaks.append(peak_kib)
    assert peaks[1] - peaks[0] < 8_192  # KiB; the large file has 18 MB more


# --- what is picked -----------------------------------------------------------------------------


def test_only_ordinary_files_in_root_itself_are_picked(file_driver: MakeFileDriver, root: Path, tmp_path: Path) -> None:
    put(root, CONF1="a\n1\n")
    (tmp_path / "outside.csv").write_text("a\nsecret\n")
    (root / "CONF2.csv").symlink_to(tmp_path / "outside.csv")
    (root / "CONF3.csv").mkdir()
    os.mkfifo(root / "CONF4.csv")
    (root / "sub").mkdir()
    put(root / "sub", CONF5="a\n1\n")
    (root / ".CONF6.csv.cmd_01jd2v6x7m8n9p0q1r2s3t4v5w.part").touch()
    for pattern in ("CONF*.csv", "*", "../*", "sub/*"):
        found = outputs(file_driver(pick(pattern=pattern)))["files"]
        assert [file["name"] for file in found] == (["CONF1.csv"] if "/" not in pattern else [])


def test_more_files_than_a_pick_takes_are_told(
    file_driver: MakeFileDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pick_module, "MAX_FILES", 2)
    put(root, CONF1="a\n1\n", CONF2="a\n2\n", CONF3="a\n3\n")
    pieces = run(file_driver(pick()))
    assert [row["a"] for row in rows(pieces)] == ["1", "2"]
    assert [piece.message for piece in pieces if isinstance(piece, Remark)] == [
        "3 files match CONF*.csv; the first 2 were read"
    ]


def test_a_name_that_is_no_text_is_told_and_not_a_crash(file_driver: MakeFileDriver, root: Path) -> None:
    (Path(os.fsdecode(os.fsencode(root) + b"/CONF\xff.csv"))).write_text("a\n1\n")
    with pytest.raises(SourceFailed, match="rename the file"):
        run(file_driver(pick()))


# --- malformed files ----------------------------------------------------------------------------

MALFORMED: list[tuple[dict[str, Any], str, str | bytes, str]] = [
    ({"type": "csv"}, "utf-8", "a,b\n1,2\n3\n", "line 3: wants 2 values, found 1"),
    ({"type": "csv"}, "utf-8", "a,b\n1,2,3\n", "line 2: wants 2 values, found 3"),
    ({"type": "csv"}, "utf-8", 'a\n"x\n', "unexpected end of data"),
    ({"type": "csv"}, "utf-8", 'a\n"x"y\n', "line 2"),
    ({"type": "csv"}, "utf-8", "", "empty file"),
    ({"type": "csv", "columns": ("a", "b")}, "utf-8", "a,c\n1,2\n", "wants the columns a, b, found a, c"),
    ({"type": "csv"}, "utf-8", b"a\n1\n\xff\n", "line 3: byte 0xFF is not utf-8"),
    ({"type": "csv"}, "utf-8", b"a\n" + b"x\n" * 100_000 + b"\xc3", "line 100002: byte 0xC3 is not utf-8"),
    ({"type": "csv"}, "cp1252", b"a\n\x81\n", "line 2: byte 0x81 is not cp1252"),
    ({"type": "csv"}, "utf-8", "x" * 5_000_000, "longer than"),
    ({"type": "fixed-width", "columns": ("a",), "widths": (3,)}, "utf-8", "abc\nab\n", "line 2: wants 3"),
    ({"type": "json"}, "utf-8", "[1]", "entry 1: wants an object"),
    ({"type": "json"}, "utf-8", '{"a": }', "not JSON"),
    ({"type": "json"}, "utf-8", '{"a": NaN}', "not JSON"),
    ({"type": "json"}, "utf-8", '{"a": 1} x', "not JSON"),
    ({"type": "json"}, "utf-8", "[" * 100_000, "not JSON"),
    ({"type": "json"}, "utf-8", "", "not JSON"),
    ({"type": "json"}, "utf-8", b'{"a": "\xff"}', "byte 0xFF"),
    ({"type": "xml"}, "utf-8", "<a>", "well-formed"),
    ({"type": "xml"}, "utf-8", '<!DOCTYPE a [<!ENTITY x SYSTEM "/etc/passwd">]><a>&x;</a>', "DOCTYPE"),
    ({"type": "xml"}, "utf-8", "<a>" * 1_000, "well-formed"),
]


@pytest.mark.parametrize(("form", "encoding", "content", "reason"), MALFORMED, ids=lambda value: repr(value)[:30])
def test_a_malformed_file_is_named_and_nothing_is_put_away(
    file_driver: MakeFileDriver, root: Path, form: dict[str, Any], encoding: str, content: str | bytes, reason: str
) -> None:
    put(root, CONF1=content)
    driver = file_driver(pick(form, encoding=encoding, then="archive"))
    with pytest.raises(ContentInvalid) as caught:
        run(driver)
    assert str(root / "CONF1.csv") in caught.value.message
    assert reason in caught.value.message
    assert os.listdir(root) == ["CONF1.csv"]


def test_files_with_different_columns_make_no_row_set(file_driver: MakeFileDriver, root: Path) -> None:
    put(root, CONF1="a\n1\n", CONF2="b\n1\n")
    with pytest.raises(ContentInvalid, match="CONF2"):
        run(file_driver(pick()))


def test_a_folder_that_went_away_is_a_source_that_is_not_there(file_driver: MakeFileDriver, root: Path) -> None:
    driver = file_driver(pick())
    root.rmdir()
    with pytest.raises(SourceUnavailable):
        run(driver)


# --- afterwards ---------------------------------------------------------------------------------


def files_under(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def settled(file_driver: MakeFileDriver, root: Path, then: str, between: Any = None) -> list[str]:
    driver = file_driver(pick(then=then))
    receipt = outputs(driver)
    if between is not None:
        between()
    for _ in range(2):  # it may be asked again
        driver.settle(call(), json.loads(json.dumps(receipt)))
    return files_under(root)


def test_nothing_is_put_away_before_the_broker_has_it(file_driver: MakeFileDriver, root: Path) -> None:
    put(root, CONF1="a\n1\n")
    run(file_driver(pick(then="delete")))
    assert os.listdir(root) == ["CONF1.csv"]


@pytest.mark.parametrize(
    ("then", "left"), [("keep", ["CONF1.csv"]), ("delete", []), ("archive", ["archive/CONF1.csv"])]
)
def test_picked_files_are_put_away_once(file_driver: MakeFileDriver, root: Path, then: str, left: list[str]) -> None:
    put(root, CONF1="a\n1\n")
    assert settled(file_driver, root, then) == left


def test_an_archived_file_never_replaces_an_older_one(file_driver: MakeFileDriver, root: Path) -> None:
    put(root, CONF1="a\n1\n")
    (root / "archive").mkdir()
    put(root / "archive", CONF1="older")
    left = settled(file_driver, root, "archive")
    assert left == ["archive/CONF1.cmd_01jd2v6x7m8n9p0q1r2s3t4v5w.csv", "archive/CONF1.csv"]
    assert (root / "archive" / "CONF1.csv").read_text() == "older"


@pytest.mark.parametrize("then", ["delete", "archive"])
@pytest.mark.parametrize("content", ["a\n2\n", "a\n1\n2\n"])
def test_a_file_that_changed_after_it_was_read_stays(
    file_driver: MakeFileDriver, root: Path, then: str, content: str
) -> None:
    put(root, CONF1="a\n1\n", CONF2="a\n1\n")
    left = settled(file_driver, root, then, lambda: put(root, CONF1=content))
    assert "CONF1.csv" in left
    assert "CONF2.csv" not in left


def test_an_archive_that_leads_outside_is_refused(file_driver: MakeFileDriver, root: Path, tmp_path: Path) -> None:
    put(root, CONF1="a\n1\n")
    (tmp_path / "outside").mkdir()
    (root / "archive").symlink_to(tmp_path / "outside")
    with pytest.raises(SourceFailed, match="is a link"):
        settled(file_driver, root, "archive")
    assert os.listdir(tmp_path / "outside") == []


def test_a_receipt_that_names_another_place_moves_nothing(
    file_driver: MakeFileDriver, root: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x")
    receipt = {"name": "../victim", "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest(), "rows": 0}
    with pytest.raises(SourceFailed, match="is no file in"):
        file_driver(pick(then="delete")).settle(call(), {"files": [receipt]})
    assert victim.exists()


async def test_through_a_driver_process_files_are_dropped_picked_and_put_away(tmp_path: Path) -> None:
    operations: dict[str, Any] = {
        "drop": DropOperation(connection="edi", drop="{no}.csv", format=FileFormat(type="csv"), effect="once"),
        "pick": pick(pattern="*.csv", then="archive"),
    }
    connection = FileConnection(type="file", root=".")
    setup = DriverSetup("edi", connection, operations, base_dir=str(tmp_path), state_dir=str(tmp_path))
    connector = DriverConnector(setup, CONNECTORS["file"])
    try:
        dropping = Call("cmd_1", "drop", b'{"no": "1", "rows": [{"a": "x"}]}', 20.0)
        receipt = [piece async for piece in connector.run(dropping)][-1]
        assert isinstance(receipt, Outputs)
        await connector.settle(dropping, receipt.values)
        picking = Call("cmd_2", "pick", b"{}", 20.0)
        pieces = [piece async for piece in connector.run(picking)]
        assert rows(pieces) == [{"file": "1.csv", "a": "x"}]
        assert isinstance(pieces[-1], Outputs)
        await connector.settle(picking, pieces[-1].values)
    finally:
        await connector.close()
    assert files_under(tmp_path) == ["archive/1.csv"]


def test_an_empty_file_without_a_header_has_no_rows(file_driver: MakeFileDriver, root: Path) -> None:
    put(root, CONF1="", CONF2="1\n")
    operation = PickOperation(connection="edi", pick="CONF*.csv", format=FileFormat(type="csv", header=False))
    pieces = run(file_driver(operation))
    assert [row["column_1"] for row in rows(pieces)] == ["1"]
