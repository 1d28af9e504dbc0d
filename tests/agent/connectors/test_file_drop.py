"""Dropped files: whole under their name or not there, never over another, in any codec."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from agent.check.remedies import REMEDIES
from agent.connectors.base import DriverSetup
from agent.connectors.file import documents, names, publish, tables
from agent.connectors.file.driver import FileDriver
from agent.connectors.file.drop import failure
from agent.errors import (
    CommandError,
    ContentInvalid,
    FileExists,
    OutcomeUnknown,
    ParametersInvalid,
    SourceFailed,
    SourceUnavailable,
)
from agent.settings import DropOperation, FileConnection, FileFormat, Param
from agent.settings_reader import read
from tests.agent.connectors.conftest import COMMAND, MakeFileDriver, call, outputs, run

ROWS = [{"order_no": "4711", "sku": "A;1", "qty": 2}, {"order_no": "4712", "sku": 'say "x"', "qty": None}]


def drop(form: dict[str, Any], name: str = "ORD-{order_no}.csv", **more: Any) -> DropOperation:
    return DropOperation(connection="edi", drop=name, format=FileFormat(**form), **more)


def csv_drop(**more: Any) -> DropOperation:
    columns = more.pop("columns", ("order_no", "sku", "qty"))
    return drop({"type": "csv", "delimiter": ";", "columns": columns}, **more)


def visible(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- what Windows says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("winerror", "words"),
    [
        (5, "another program has it open, or the agent's account may not"),
        (32, "another program has it open; close it there"),
        (33, "another program has locked a part of it"),
        (None, "another program has it open, or the agent's account may not"),  # from opening it
    ],
)
def test_a_file_that_is_open_elsewhere_is_not_taken_for_missing_rights(winerror: int | None, words: str) -> None:
    exc = PermissionError(errno.EACCES, "Permission denied")
    exc.winerror = winerror  # type: ignore[attr-defined,unused-ignore]  # typed on Windows only
    assert words in failure(exc, Path("ORD-1.csv")).message


# --- content ------------------------------------------------------------------------------------


def test_a_receipt_has_name_size_and_digest(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    receipt = outputs(file_driver(csv_drop()), {"order_no": "4711", "rows": ROWS})
    written = (tmp_path / "root" / "ORD-4711.csv").read_bytes()
    assert written == b'order_no;sku;qty\r\n4711;"A;1";2\r\n4712;"say ""x""";\r\n'
    assert receipt == {"name": "ORD-4711.csv", "bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}
    assert visible(tmp_path / "root") == ["ORD-4711.csv"]


CODECS = [
    ("utf-8", "äöü€漢字"),
    ("utf-8-sig", "äöü€漢字"),
    ("cp1252", "äöü€"),
    ("cp037", "ÄÖÜ¢|!"),
    ("cp1140", "ÄÖÜ€"),
    ("utf-16", "äöü€漢字😀"),
    ("utf-16-le", "äöü€漢字"),
    ("shift_jis", "漢字カナ表"),
    ("iso2022_jp", "漢字カナ"),
    ("gb18030", "汉字€😀"),
    ("iso8859-15", "äöü€"),
]


@pytest.mark.parametrize(("encoding", "text"), CODECS)
@pytest.mark.parametrize("kind", ["csv", "fixed-width", "xml", "json"])
def test_every_format_is_written_in_every_codec(
    file_driver: MakeFileDriver, tmp_path: Path, kind: str, encoding: str, text: str
) -> None:
    forms: dict[str, dict[str, Any]] = {
        "csv": {"type": "csv", "columns": ("a", "b")},
        "fixed-width": {"type": "fixed-width", "columns": ("a", "b"), "widths": (12, 4), "align": ("left", "right")},
        "xml": {"type": "xml", "root": "order"},
        "json": {"type": "json"},
    }
    content: dict[str, Any] = (
        {"rows": [{"a": text, "b": 7}]} if kind in ("csv", "fixed-width") else {"document": {"order": {"a": text}}}
    )
    outputs(file_driver(drop(forms[kind], "out.dat", encoding=encoding)), content)
    written = (tmp_path / "root" / "out.dat").read_bytes().decode(encoding)
    if kind == "csv":
        assert written == f"a,b\r\n{text},7\r\n"
    elif kind == "fixed-width":
        assert written == f"{text:<12}   7\r\n"
    elif kind == "xml":
        assert written.endswith(f"\n<order><a>{text}</a></order>\n")
        if encoding not in ("cp037", "cp1140"):  # libxml2 as it comes with lxml reads no EBCDIC
            assert etree.fromstring((tmp_path / "root" / "out.dat").read_bytes()).findtext("a") == text
    else:
        assert json.loads(written) == {"order": {"a": text}}


def test_mainframe_files_are_ebcdic_to_the_line_end(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    form = {"type": "fixed-width", "columns": ("a",), "widths": (3,), "newline": "\n"}
    outputs(file_driver(drop(form, "out.dat", encoding="cp037")), {"rows": [{"a": "AB"}]})
    assert (tmp_path / "root" / "out.dat").read_bytes() == b"\xc1\xc2\x40\x25"


REFUSED = [
    (
        {"type": "csv"},
        "cp1252",
        [{"a": "ok"}, {"a": "x漢"}],
        r"row 2, column 'a': character '漢' \(U\+6F22\) at position 2",
    ),
    ({"type": "csv"}, "ascii", [{"ä": "x"}], r"header, column 'ä': character 'ä'"),
    ({"type": "csv"}, "cp037", [{"a": "x\x85y"}], "NEL"),
    ({"type": "csv"}, "utf-8", [], "names no columns"),
    ({"type": "fixed-width", "columns": ("a",), "widths": (2,)}, "utf-8", [{"a": "123"}], "3 characters do not fit"),
    ({"type": "fixed-width", "columns": ("a",), "widths": (4,)}, "utf-8", [{"a": "1\n2"}], "line end"),
    ({"type": "fixed-width", "columns": ("a",), "widths": (4,)}, "cp037", [{"a": "€"}], r"column 'a': character '€'"),
]


@pytest.mark.parametrize(("form", "encoding", "content", "reason"), REFUSED)
def test_what_can_not_be_written_is_named_and_nothing_is_left(
    file_driver: MakeFileDriver, tmp_path: Path, form: dict[str, Any], encoding: str, content: list[Any], reason: str
) -> None:
    driver = file_driver(drop(form, "out.dat", encoding=encoding))
    with pytest.raises(ContentInvalid, match=reason) as caught:
        run(driver, {"rows": content})
    assert not caught.value.touched
    assert visible(tmp_path / "root") == []


def test_decimals_and_truths_are_written_as_people_write_them(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(drop({"type": "csv", "header": False}, "out.csv"))
    params = b'{"rows": [{"a": 1.50, "b": true, "c": 12345678901234567890.123456789, "d": 1E+2}]}'
    list(driver.run(type(call())(COMMAND, "op", params, 5.0)))
    assert (tmp_path / "root" / "out.csv").read_text() == "1.50,true,12345678901234567890.123456789,100\n"


def test_raw_content_is_base64(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(drop({"type": "raw"}, "scan-{no}.pdf", overwrite=True))
    content = bytes(range(256))
    outputs(driver, {"no": "1", "content": base64.b64encode(content).decode()})
    assert (tmp_path / "root" / "scan-1.pdf").read_bytes() == content
    with pytest.raises(ParametersInvalid, match="content: wants bytes in base64"):
        run(driver, {"no": "1", "content": "not base64!"})


def test_an_xml_document_may_be_text(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(drop({"type": "xml"}, "order.xml", encoding="cp1252"))
    outputs(driver, {"document": '<?xml version="1.0" encoding="UTF-8"?><order>ä</order>'})
    written = (tmp_path / "root" / "order.xml").read_text("cp1252")
    assert written == '<?xml version="1.0" encoding="windows-1252"?>\n<order>ä</order>\n'


XML = [
    ({"order": {"@no": "1", "line": ["a", "b"], "#text": None}}, '<order no="1"><line>a</line><line>b</line></order>'),
    ({"order": {"a": 'x<&>"', "@b": '<"&\n'}}, '<order b="&lt;&quot;&amp;&#10;"><a>x&lt;&amp;&gt;"</a></order>'),
    ({"order": None}, "<order/>"),
    ({"order": {"n": 1, "t": True, "x": {"#text": "y"}}}, "<order><n>1</n><t>true</t><x>y</x></order>"),
    ({"o:order": {"@xmlns:o": "urn:o", "o:a": 1}}, '<o:order xmlns:o="urn:o"><o:a>1</o:a></o:order>'),
    ("<order><!-- x --><a>1</a></order>", "<order><a>1</a></order>"),
    ('<?xml version="1.0" encoding="ISO-8859-1"?><order>ä</order>', "<order>ä</order>"),
]


@pytest.mark.parametrize(("document", "wanted"), XML, ids=repr)
def test_documents_become_xml(document: Any, wanted: str) -> None:
    data = documents.xml_bytes(document, FileFormat(type="xml"), "utf-8")
    assert data.decode() == f'<?xml version="1.0" encoding="UTF-8"?>\n{wanted}\n'


NOT_XML = [
    ({"a": 1, "b": 2}, "one key"),
    ({}, "one key"),
    ({"a": [1, 2]}, "one key"),
    ({"a b": 1}, "can't be the name"),
    ({"a><b": 1}, "can't be the name"),
    ({"a": {"@x='1' y": 1}}, "can't be the name"),
    ({"": 1}, "can't be the name"),
    ({"1a": 1}, "can't be the name"),
    ({"p:a": 1}, "well-formed"),
    ({"a": "\x00"}, "well-formed"),
    ({"a": "\x0b"}, "well-formed"),
    ({"a": "\ufffe"}, "well-formed"),
    ({"a": {"#text": {"b": 1}}}, "plain value"),
    ({"a": {"b": [[1]]}}, "list in a list"),
    ('<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "DOCTYPE"),
    ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "DOCTYPE"),
    ("<a>&x;</a>", "well-formed"),
    ("<a>", "well-formed"),
    ("", "well-formed"),
    ("<a>" * 300 + "</a>" * 300, "well-formed"),
    (7, "wants an object"),
]


@pytest.mark.parametrize(("document", "reason"), NOT_XML, ids=lambda value: repr(value)[:40])
def test_what_is_no_xml_is_refused(document: Any, reason: str) -> None:
    with pytest.raises(ContentInvalid, match=reason):
        documents.xml_bytes(document, FileFormat(type="xml"), "utf-8")


def test_a_document_nested_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(250):
        deep = {"a": deep}
    with pytest.raises(ContentInvalid, match="deeper"):
        documents.xml_bytes(deep, FileFormat(type="xml"), "utf-8")


def test_bombs_are_refused_at_once() -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "lol">{entities}]><a>&e11;</a>'
    started = time.monotonic()
    with pytest.raises(ContentInvalid, match=r"DOCTYPE|well-formed"):
        documents.xml_bytes(bomb, FileFormat(type="xml"), "utf-8")
    assert time.monotonic() - started < 2


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order_no", ["../x", "..\\x", "a/b", "x:y", "a\x01", "x" * 300, "", "*"], ids=repr)
def test_a_hostile_parameter_writes_nothing_anywhere(
    file_driver: MakeFileDriver, tmp_path: Path, order_no: str
) -> None:
    operation = csv_drop(params={"order_no": Param(type="string")})
    with pytest.raises(ParametersInvalid):
        run(file_driver(operation), {"order_no": order_no, "rows": ROWS})
    assert visible(tmp_path) == ["root"]
    assert visible(tmp_path / "root") == []


def test_a_drop_can_not_take_the_archives_name(file_driver: MakeFileDriver) -> None:
    with pytest.raises(ParametersInvalid, match="archive"):
        run(file_driver(drop({"type": "json"}, "Archive")), {"document": 1})


# --- one name, one file -------------------------------------------------------------------------


def test_an_existing_file_is_never_replaced(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(csv_drop())
    (tmp_path / "root" / "ORD-1.csv").write_text("mine")
    with pytest.raises(FileExists, match=r"ORD-1\.csv is there already") as caught:
        run(driver, {"order_no": "1", "rows": ROWS})
    assert not caught.value.touched
    assert (tmp_path / "root" / "ORD-1.csv").read_text() == "mine"
    assert visible(tmp_path / "root") == ["ORD-1.csv"]


def test_overwrite_replaces_the_file_whole(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(drop({"type": "json"}, "a.json", overwrite=True))
    outputs(driver, {"document": {"n": 1}})
    outputs(driver, {"document": {"n": 2}}, command_id="cmd_2")
    assert (tmp_path / "root" / "a.json").read_text() == '{"n":2}'


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_is_neither_followed_nor_replaced(
    file_driver: MakeFileDriver, tmp_path: Path, overwrite: bool, dangling: bool
) -> None:
    driver = file_driver(drop({"type": "json"}, "a.json", overwrite=overwrite))
    outside = tmp_path / "outside.json"
    if not dangling:
        outside.write_text("outside")
    (tmp_path / "root" / "a.json").symlink_to(outside)
    with pytest.raises(FileExists, match="symbolic link"):
        run(driver, {"document": 1})
    assert outside.exists() is not dangling
    assert (tmp_path / "root" / "a.json").is_symlink()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_that_name_is_left_alone(file_driver: MakeFileDriver, tmp_path: Path, overwrite: bool) -> None:
    driver = file_driver(drop({"type": "json"}, "a.json", overwrite=overwrite))
    (tmp_path / "root" / "a.json").mkdir()
    with pytest.raises(FileExists):
        run(driver, {"document": 1})
    assert visible(tmp_path / "root") == ["a.json"]


def test_a_link_planted_as_the_temporary_name_is_not_written_through(
    file_driver: MakeFileDriver, tmp_path: Path
) -> None:
    driver = file_driver(drop({"type": "json"}, "a.json"))
    victim = tmp_path / "victim"
    victim.write_text("victim")
    (tmp_path / "root" / names.temporary("a.json", COMMAND, "part")).symlink_to(victim)
    outputs(driver, {"document": 1})
    assert victim.read_text() == "victim"
    assert not (tmp_path / "root" / "a.json").is_symlink()


RACER = """
import sys
from pathlib import Path
from agent.connectors.base import Call, DriverSetup
from agent.connectors.file.driver import FileDriver
from agent.errors import FileExists
from agent.settings import DropOperation, FileConnection, FileFormat

root, number, way = sys.argv[1], sys.argv[2], sys.argv[3]
operation = DropOperation(connection="edi", drop="{name}", format=FileFormat(type="json"))
driver = FileDriver(DriverSetup("edi", FileConnection(type="file", root=root), {"op": operation}))
driver.open()
driver._way = way
won = []
sys.stdin.readline()
for n in range(40):
    params = f'{{"name": "F-{n}.json", "document": {number}}}'.encode()
    try:
        list(driver.run(Call(f"cmd_{number}_{n}", "op", params, 10.0)))
        won.append(str(n))
    except FileExists:
        pass
print(" ".join(won))
"""


@pytest.mark.parametrize("way", ["rename", "link"])
def test_of_several_processes_one_gets_a_name(tmp_path: Path, way: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(number), way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = {number: process.communicate(timeout=60)[0].split() for number, process in enumerate(processes)}
    assert sorted((n for names_won in won.values() for n in names_won), key=int) == [str(n) for n in range(40)]
    for number, names_won in won.items():
        for n in names_won:
            assert (tmp_path / f"F-{n}.json").read_text() == str(number)
    assert len(visible(tmp_path)) == 40


# --- faults -------------------------------------------------------------------------------------

FILLER = """
import resource, sys
from agent.connectors.base import Call, DriverSetup
from agent.connectors.file.driver import FileDriver
from agent.errors import SourceFailed
from agent.settings import DropOperation, FileConnection, FileFormat

operation = DropOperation(connection="edi", drop="a.json", format=FileFormat(type="json"))
driver = FileDriver(DriverSetup("edi", FileConnection(type="file", root=sys.argv[1]), {"op": operation}))
driver.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    list(driver.run(Call("cmd_1", "op", b'{"document": "' + b"x" * 100_000 + b'"}', 10.0)))
except SourceFailed as exc:
    print(exc.source_code, exc)
"""


def test_a_file_that_the_system_does_not_take_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(f"EFBIG {tmp_path}/a.json can't be written")
    assert visible(tmp_path) == []


KILLED = """
import sys
from agent.connectors.file import drop as module
from agent.connectors.base import Call, DriverSetup
from agent.check.remedies import REMEDIES
from agent.connectors.file.driver import FileDriver
from agent.settings import DropOperation, FileConnection, FileFormat

def slowly(operation, values, file=""):
    yield b"x" * 100_000
    print("written", flush=True)
    sys.stdin.readline()
    yield b"y"

import agent.connectors.file.driver as driver_module
driver_module.content_of = slowly
operation = DropOperation(connection="edi", drop="a.json", format=FileFormat(type="json"))
driver = FileDriver(DriverSetup("edi", FileConnection(type="file", root=sys.argv[1]), {"op": operation}))
driver.open()
list(driver.run(Call(sys.argv[2], "op", b'{"document": 1}', 60.0)))
"""


def test_a_process_killed_while_writing_leaves_no_file_and_the_rest_is_cleared_later(
    file_driver: MakeFileDriver, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root), COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    part = names.temporary("a.json", COMMAND, "part")
    assert visible(root) == [part]
    operation = drop({"type": "json"}, "b.json")
    file_driver(operation)
    assert visible(root) == [part]  # it may still be written
    long_ago = time.time() - 90_000
    os.utime(root / part, (long_ago, long_ago))
    file_driver(operation)
    assert visible(root) == []


def test_a_folder_that_went_away_is_a_source_that_is_not_there(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(drop({"type": "json"}, "a.json"))
    (tmp_path / "root").rmdir()
    with pytest.raises(SourceUnavailable, match="mounted") as caught:
        run(driver, {"document": 1})
    assert not caught.value.touched


@pytest.mark.parametrize("root", ["sftp://u@h/p", "smb://h/share", "ftps://h/p", "SFTP://h"])
def test_remote_roots_are_refused_in_plain_words(root: str) -> None:
    driver = FileDriver(DriverSetup("edi", FileConnection(type="file", root=root)))
    with pytest.raises(SourceFailed, match="later release"):
        driver.open()


def test_a_root_that_is_missing_or_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("missing", "file"):
        driver = FileDriver(DriverSetup("edi", FileConnection(type="file", root=name), base_dir=str(tmp_path)))
        with pytest.raises(SourceUnavailable, match=name):
            driver.open()


# --- once ---------------------------------------------------------------------------------------


def once(**more: Any) -> DropOperation:
    return drop({"type": "json"}, "a.json", effect="once", **more)


def test_a_second_run_of_once_gives_the_first_receipt(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(once())
    first = outputs(driver, {"document": 1})
    assert outputs(driver, {"document": 1}) == first
    with pytest.raises(FileExists):
        run(driver, {"document": 1}, command_id="cmd_2")
    # Even after the ERP has fetched the file it is not written again.
    (tmp_path / "root" / "a.json").unlink()
    assert outputs(driver, {"document": 1}) == first
    assert not (tmp_path / "root" / "a.json").exists()
    for _ in range(2):  # it may be asked again, and is not told the parameters
        driver.settle(call(), first)
    assert visible(tmp_path / "root") == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_once_that_stopped_before_its_name_was_taken_runs_again(
    file_driver: MakeFileDriver, tmp_path: Path, overwrite: bool
) -> None:
    driver = file_driver(once(overwrite=overwrite))
    outputs(driver, {"document": 1})
    root = tmp_path / "root"
    # As a kill just before the last step leaves it: claim and part, no file.
    (root / "a.json").rename(root / names.temporary("a.json", COMMAND, "part"))
    assert outputs(driver, {"document": 1})["name"] == "a.json"
    assert (root / "a.json").read_text() == "1"


def test_a_claim_cut_off_by_a_crash_says_nothing(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(once())
    (tmp_path / "root" / names.temporary("a.json", COMMAND, "claim")).write_bytes(b'{"rece')
    outputs(driver, {"document": 1})
    assert (tmp_path / "root" / "a.json").read_text() == "1"


def test_where_a_name_is_claimed_by_link_the_second_name_tells(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(once())
    driver._way = "link"
    first = outputs(driver, {"document": 1})
    root, part = tmp_path / "root", tmp_path / "root" / names.temporary("a.json", COMMAND, "part")
    os.link(root / "a.json", part)  # killed between link and unlink
    assert outputs(driver, {"document": 1}) == first
    assert not part.exists()
    (root / "a.json").rename(part)  # linked and fetched, or never linked
    with pytest.raises(OutcomeUnknown, match="Find out"):
        run(driver, {"document": 1})


def test_a_once_that_was_refused_leaves_no_claim(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(once())
    (tmp_path / "root" / "a.json").touch()
    for _ in range(2):
        with pytest.raises(FileExists):
            run(driver, {"document": 1})
    assert visible(tmp_path / "root") == ["a.json"]


def test_stale_parts_take_their_claims_with_them(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    part, claim = (root / names.temporary("a.json", COMMAND, suffix) for suffix in ("part", "claim"))
    part.touch()
    claim.touch()
    long_ago = time.time() - 90_000
    os.utime(part, (long_ago, long_ago))
    file_driver(once())
    assert visible(root) == []
    claim.touch()
    os.utime(claim, (long_ago, long_ago))
    file_driver(once())
    assert visible(root) == [claim.name]  # alone it says that it happened, and is kept for longer


# --- check --------------------------------------------------------------------------------------


def test_check_tries_the_folder_and_leaves_nothing(file_driver: MakeFileDriver, tmp_path: Path) -> None:
    driver = file_driver(csv_drop())
    assert [finding.ok for finding in [*driver.check(), *driver.check("op")]] == [True, True]
    assert visible(tmp_path / "root") == []


@pytest.mark.parametrize(
    ("operation", "detail"),
    [
        (csv_drop(encoding="utf-9"), "encoding 'utf-9' is unknown"),
        (csv_drop(encoding="base64"), "encoding 'base64' is unknown"),
        (csv_drop(name="a/{order_no}.csv"), "no file name may hold"),
        (csv_drop(name="{order no}.csv"), "braces"),
    ],
)
def test_check_finds_what_is_wrong_with_an_operation(
    file_driver: MakeFileDriver, operation: DropOperation, detail: str
) -> None:
    (finding,) = file_driver(operation).check("op")
    assert finding.ok is False
    assert detail in finding.detail
    assert finding.code in REMEDIES


def test_both_ways_of_claiming_are_found_by_trying(tmp_path: Path) -> None:
    assert publish.way_without_replacing(tmp_path, "x") == "rename"
    assert visible(tmp_path) == []


def test_every_refusal_is_a_command_error(file_driver: MakeFileDriver) -> None:
    with pytest.raises(CommandError):
        run(file_driver(csv_drop()), {"order_no": "1"})


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("value", ["x\r4712;forged", "x\n4712;forged", "\r"], ids=repr)
def test_a_line_end_in_a_value_makes_no_row(newline: str, value: str) -> None:
    form = read({"type": "csv", "delimiter": ";", "columns": ["a", "b"], "newline": newline}, FileFormat)
    content = b"".join(tables.written([{"a": value, "b": "y"}], form, "utf-8")).decode()
    assert content == f'a;b{newline}"{value}";y{newline}'
