"""What goes into the diagnostics, and that nothing secret does."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tomllib
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from agent import config_errors, config_file, diagnostics, status
from agent.diagnostics import IN_IT
from agent.discretion import HIDDEN
from agent.journal.file import FileJournal
from agent.redaction import SHOWN, Redactor, shown_file
from agent.secrets import open_store
from config.dev.demo.programs import run, script
from protocol.messages import Completed
from tests.agent.journal.commands import AT, claim, command_id

# A word that nothing else has; each place has it with a number of its own.
CANARY: Final = "Kanarienvogel"
FILE: Final = f"""
agent = "plant-1"
state_dir = "state"
[link]
proxy = "http://{CANARY}1:{{secret:proxy}}@{CANARY}2.example.com:3128"
[log]
file = "{CANARY}3.log"
[policy.trusted_signers.shop]
key = "ed25519:{CANARY}AEBQYHCAkKCwwNDg8QERITFBUWFxgZ="
[connections.erp]
type = "odbc"
connection_string = "Driver={{SQLite3}};Database={CANARY}4.db;Uid={CANARY}5;Pwd={{secret:erp}}"
windows = ["mon-fri 06:00-22:00"]
[connections.lost]
type = "odbc"
connection_string = "Driver={CANARY}19;Server={CANARY}20"
[connections.edi]
type = "file"
root = "{CANARY}6"
archive = "{CANARY}7"
[connections.finance]
type = "soap"
wsdl = "{CANARY}8.wsdl"
endpoint = "http://127.0.0.1:9/{CANARY}9"
auth = {{ scheme = "basic", username = "{CANARY}10", password = "{{secret:finance}}" }}
[operations.look]
connection = "erp"
description = "{CANARY}11 of somebody"
sql = "SELECT '{CANARY}12' AS {CANARY}13, :customer"
effect = "read"
mask = ["{CANARY}13"]
[operations.look.params.customer]
type = "string"
description = "{CANARY}14"
default = "{CANARY}15"
enum = ["{CANARY}15"]
[operations.broken]
connection = "erp"
sql = "SELECT * FROM {CANARY}16"
effect = "read"
[operations.drop]
connection = "edi"
drop = "{CANARY}17-{{no}}.csv"
format = {{ type = "csv", columns = ["{CANARY}18"] }}
[operations.drop.params.no]
type = "integer"
max = 987654321
[operations.post]
connection = "finance"
call = "{CANARY}21"
"""  # noqa: S608 - no SQL, and never run
SECRETS: Final = {name: f"{CANARY}-secret-{name}" for name in ("proxy", "erp", "finance")}


async def _fill(state_dir: Path) -> None:
    journal = await FileJournal.open(state_dir)
    await journal.begin(claim(1, params=f'{{"customer":"{CANARY}31"}}'.encode()))
    await journal.begin(claim(2, params=f'{{"customer":"{CANARY}32"}}'.encode()))
    told = Completed(
        command_id(2),
        1,
        "failed",
        error_kind="technical",
        error_code=f"{CANARY}33",
        error_message=f"the ERP says {CANARY}34",
    )
    await journal.end(command_id(2), told, f'{{"order_no":"{CANARY}35"}}'.encode(), AT + 60)
    await journal.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a site in which everything that may be private says so."""
    folder = tmp_path_factory.mktemp("diagnosed")
    path = folder / "agent.toml"
    path.write_text(FILE, "utf-8")
    loaded = config_file.load(path)
    state_dir = folder / "state"
    asyncio.run(_fill(state_dir))
    store = open_store(loaded.settings, loaded.base_dir)
    for name, value in SECRETS.items():
        store.set(name, value)
    (folder / f"{CANARY}6").mkdir()
    (folder / f"{CANARY}6" / f"{CANARY}40.csv").write_text(f"{CANARY}41")
    (folder / f"{CANARY}3.log").write_text(
        f"2026-11-22 05:36:37 INFO    link is up  url=wss://broker proxy={CANARY}2.example.com\n"
        f"2026-11-22 05:36:38 ERROR   connection erp: {SECRETS['erp']} and {CANARY}16 are missing\n"
        "2026-11-22 05:36:39 INFO    welcomed\n"
    )
    said = status.Status(
        at=AT,
        pid=os.getpid(),
        release="0.1.0",
        started_at=AT,
        link="waiting",
        linked_since=None,
        broker="wss://broker:8443",
        link_error=f"the proxy {CANARY}2.example.com does not answer",
        problems=[],
        connections={"erp": status.ConnectionStatus()},
    )
    status.write(state_dir, said)
    return path


@pytest.fixture(scope="module")
def packed(site: Path) -> zipfile.ZipFile:
    target = site.with_name("diagnostics.zip")
    answer = run(
        [script("outhaul-agent"), "diagnostics", "--json", "--output", str(target), "--config", str(site)],
        environment={**os.environ, "OUTHAUL_TOKEN": f"{CANARY}50"},
    )
    assert answer.exit_code == 0, answer.text
    assert json.loads(answer.out)["file"] == str(target)
    assert CANARY not in answer.text
    return zipfile.ZipFile(io.BytesIO(target.read_bytes()))


def test_nothing_that_is_private_is_in_it(packed: zipfile.ZipFile) -> None:
    assert packed.namelist() == list(IN_IT)
    for name in packed.namelist():
        assert CANARY.lower().encode() not in packed.read(name).lower(), name
        assert b"987654321" not in packed.read(name), name


def test_what_a_helper_needs_is_in_it(packed: zipfile.ZipFile) -> None:
    parts = {name: json.loads(packed.read(name)) for name in packed.namelist() if name.endswith(".json")}
    assert [name for name, part in parts.items() if "missing" in part] == []
    assert "SQLite3" in parts["version.json"]["odbc_drivers"]
    codes = {one["subject"]: one["code"] for one in parts["check.json"]["stages"]}
    assert codes["connection lost"] == "odbc.driver"
    assert codes["connection finance"] == "soap.wsdl"
    assert codes["operation broken"] == "operation.statement"
    assert codes["operation look"] == ""
    details = [one["detail"] for one in parts["check.json"]["stages"] if one["subject"] == "connection erp"]
    assert any("SQLite 3" in detail for detail in details)
    assert parts["file.json"]["connections"]["erp"] == {
        "type": "odbc",
        "connection_string": HIDDEN,
        "windows": [HIDDEN],
    }
    assert parts["file.json"]["operations"]["look"]["params"] == {
        "customer": {"type": "string", "description": HIDDEN, "default": HIDDEN, "enum": [HIDDEN]}
    }
    assert parts["journal.json"]["states"] == {"started": 1, "ended": 1}
    assert parts["journal.json"]["newest"][1] | {"id": "", "started_at": 0, "ended_at": 0} == {
        "id": "",
        "operation": "create-order",
        "effect": "once",
        "attempt": 1,
        "state": "ended",
        "outcome": "failed",
        "error": "technical",
        "started_at": 0,
        "ended_at": 0,
        "resolved": False,
    }
    assert parts["status.json"]["link_error"] == f"the proxy {HIDDEN}.{HIDDEN}.{HIDDEN} does not answer"
    assert parts["machine.json"]["state_disk"]["free"] > 0
    log = packed.read("log.txt").decode()
    assert f"connection erp: {HIDDEN} and {HIDDEN} are missing" in log
    assert packed.read("link.txt").decode().count("\n") == 1
    for name, what in IN_IT.items():
        assert f"{name:<14}{what}" in packed.read("README.txt").decode()


def test_a_file_that_is_there_is_never_overwritten(site: Path, packed: zipfile.ZipFile) -> None:
    before = site.with_name("diagnostics.zip").read_bytes()
    words = ["diagnostics", "--output", str(site.with_name("diagnostics.zip")), "--config", str(site)]
    answer = run([script("outhaul-agent"), *words])
    assert answer.exit_code == 1
    assert "name another with --output" in answer.err
    assert site.with_name("diagnostics.zip").read_bytes() == before


@pytest.mark.parametrize("text", [f'agent = "plant-1"\npassword = "{CANARY}"\n', "\xff"])
def test_a_broken_file_is_diagnosed_all_the_same_and_repeated_nowhere(tmp_path: Path, text: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text, "latin-1")
    written = io.BytesIO()
    diagnostics.write(written, diagnostics.scene(path, None), lambda part: None)
    packed = zipfile.ZipFile(written)
    assert packed.namelist() == list(IN_IT)
    codes = [one["code"] for one in json.loads(packed.read("check.json"))["stages"]]
    assert "file.broken" in codes
    assert "left out" in packed.read("log.txt").decode()
    assert all(CANARY.encode() not in packed.read(name) for name in packed.namelist())


def test_its_name_tells_agent_and_time() -> None:
    moment = datetime(2026, 11, 22, 5, 6, 7, tzinfo=UTC)
    assert diagnostics.file_name("plant-1", moment) == "outhaul-diagnostics-plant-1-20261122T050607Z.zip"


# --- of the file ----------------------------------------------------------------------------------


def everything(schema: Any, defined: dict[str, Any], depth: int = 0) -> Iterator[tuple[str, ...]]:
    """Every place of the operator's file, by its schema; a name that the operator gives is `it`."""
    if isinstance(schema, list):
        for one in schema:
            yield from everything(one, defined, depth)
    if not isinstance(schema, dict) or depth > 12:
        return
    if "$ref" in schema:
        yield from everything(defined[schema["$ref"].rpartition("/")[2]], defined, depth + 1)
    for key, child in schema.get("properties", {}).items():
        inner = [(key, *place) for place in everything(child, defined, depth + 1)]
        yield from inner or [(key,)]
    for named in [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]:
        yield from (("it", *place) for place in everything(named, defined, depth + 1))
    for word in ("anyOf", "oneOf", "items"):
        if isinstance(schema.get(word), list | dict):
            yield from everything(schema[word], defined, depth + 1)


def test_no_value_of_any_key_is_shown_unless_it_is_on_the_list() -> None:
    schema = config_errors.schema()
    places = sorted(set(everything(schema, schema["$defs"])))
    assert ("connections", "it", "connection_string") in places
    assert ("operations", "it", "params", "it", "default") in places
    raw: dict[str, Any] = {}
    for number, place in enumerate(places):
        inner = raw
        for key in place[:-1]:
            inner = inner.setdefault(key, {}) if isinstance(inner.setdefault(key, {}), dict) else {}
        inner.setdefault(place[-1], f"{CANARY}{number}")
    told = shown_file(raw)
    shown = {place for place in places if CANARY in str(_at(told, place))}
    as_listed = {tuple("it" if part == "*" else part for part in place) for place in SHOWN}
    assert shown <= as_listed
    assert as_listed <= set(places), "the list names what the file does not have"


def _at(value: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        value = value.get(key, "") if isinstance(value, dict) else ""
    return value if isinstance(value, str) else ""


def test_what_is_on_the_list_is_shown_only_where_it_can_be_what_it_should() -> None:
    assert shown_file({"agent": f"two words {CANARY}"}) == {"agent": HIDDEN}
    assert shown_file({CANARY: 1, "connections": {"a b": {"type": "odbc"}}}) == {
        HIDDEN: HIDDEN,
        "connections": {HIDDEN: {"type": "odbc"}},
    }


def test_names_and_public_words_stay_in_texts() -> None:
    raw = tomllib.loads("[connections.erp]\nroot = '/srv/erp/Inbox'\n[operations.drop]\ndrop = 'ORD-{no}.csv'\n")
    redact = Redactor(raw, ["the folder srv can be read"])
    assert (
        redact("connection erp: /srv/erp/inbox can be read; ord 7")
        == f"connection erp: /srv/erp/{HIDDEN} can be read; {HIDDEN} 7"
    )
