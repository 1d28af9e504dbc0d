"""What can be wrong with local systems and operations, on real servers: each has its code, and so its remedy."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from agent import config_file
from agent.check import stages
from agent.check.remedies import NOT_TRIED, REMEDIES
from agent.connectors.base import Finding
from agent.secrets import open_store
from config.dev.databases import MariaDB, Postgres
from config.dev.demo.programs import run, script
from config.dev.finance import FinanceService, finance_service
from tests.faults.small_disk import SmallDisk

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS check_orders (no int PRIMARY KEY, customer text);
CREATE OR REPLACE PROCEDURE check_quiet(n int) LANGUAGE sql AS 'SELECT 1';
DROP TABLE IF EXISTS check_secret; CREATE TABLE check_secret (x int);
DO $$ BEGIN CREATE ROLE check_poor LOGIN PASSWORD 'poor-word'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
GRANT SELECT ON check_orders TO check_poor;
"""
ELF_32: Final = b"\x7fELF\x01\x01\x01" + bytes(57)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are, and where nothing is."""

    postgres: Postgres
    mariadb: MariaDB
    finance: FinanceService
    guarded: FinanceService
    silent: int
    folder: Path

    def odbc(self, name: str, text: str, more: str = "") -> str:
        return f"[connections.{name}]\ntype = 'odbc'\nconnection_string = '{text}'\n{more}\n"

    def file(self, name: str, root: str | Path, more: str = "") -> str:
        return f"[connections.{name}]\ntype = 'file'\nroot = '{root}'\n{more}\n"

    def soap(self, name: str, more: str) -> str:
        return f"[connections.{name}]\ntype = 'soap'\n{more}\n"


@pytest.fixture(scope="module")
def places(postgres: Postgres, mariadb: MariaDB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    postgres.execute_script(SCHEMA)
    with (
        finance_service() as finance,
        finance_service(auth="basic", username="svc", password="right-word") as guarded,
        socket.socket() as nobody,
    ):
        nobody.bind(("127.0.0.1", 0))  # and not listening
        yield Places(postgres, mariadb, finance, guarded, nobody.getsockname()[1], tmp_path_factory.mktemp("places"))


@pytest.fixture(scope="module")
def found(places: Places) -> dict[str, Finding]:
    """What a check of a site with everything wrong finds, by subject; the first of each."""
    folder = places.folder
    (folder / "state").mkdir(mode=0o700)
    (folder / "inbox").mkdir()
    (folder / "inbox" / "archive").write_text("a file where a folder should be")
    (folder / "broken.wsdl").write_text("<definitions")
    (folder / "thirty-two.so").write_bytes(ELF_32)
    pg, maria = places.postgres, places.mariadb
    pg_good, maria_good = pg.odbc(password="{secret:pg}"), maria.odbc(password="{secret:my}")
    wsdl = f"wsdl = '{places.finance.wsdl}'"
    text = [
        "agent = 'plant-1'\nstate_dir = 'state'\n",
        places.odbc("good", pg_good),
        places.odbc("ledgerless", pg_good, "ledger = 'check_no_such_ledger'"),
        places.odbc("poor", pg.odbc(user="check_poor", password="{secret:poor}")),
        places.odbc("pg-password", pg.odbc(password="{secret:wrong}")),
        places.odbc("pg-database", pg.odbc("check_no_such_database", password="{secret:pg}")),
        places.odbc("pg-port", pg_good.replace(str(pg.port), str(places.silent))),
        places.odbc("my-password", maria.odbc(password="{secret:wrong}")),
        places.odbc("my-database", maria.odbc("check_no_such_database", password="{secret:my}")),
        places.odbc("my-port", maria_good.replace(str(maria.port), str(places.silent))),
        places.odbc("no-driver", "Driver={No Such Driver};Server=127.0.0.1"),
        places.odbc("no-library", "Driver=/no/such/driver.so;Server=127.0.0.1"),
        places.odbc("other-bits", f"Driver={folder}/thirty-two.so;Server=127.0.0.1"),
        places.odbc("no-dsn", "DSN=check-no-such-dsn;Uid=x"),
        places.odbc("no-secret", pg.odbc(password="{secret:never-set}")),
        places.file("inbox", "inbox"),
        places.file("nowhere", "no-such-folder"),
        places.file("refused", "/sys/kernel"),
        places.soap("finance", f"{wsdl}\nendpoint = '{places.finance.url}'"),
        places.soap("no-wsdl", "wsdl = 'no-such.wsdl'"),
        places.soap("broken-wsdl", "wsdl = 'broken.wsdl'"),
        places.soap("soap-silent", f"{wsdl}\nendpoint = 'http://127.0.0.1:{places.silent}/x'"),
        places.soap("soap-files", f"{wsdl}\nca = 'no-such.pem'"),
        places.soap(
            "soap-password",
            f"{wsdl}\nendpoint = '{places.guarded.url}'\n"
            "auth = { scheme = 'basic', username = 'svc', password = '{secret:wrong}' }",
        ),
        _operation("fine", "good", "procedure = 'check_quiet'", "params = { n = { type = 'integer' } }"),
        _operation("no-procedure", "good", "procedure = 'check_nowhere'"),
        _operation("other-parameters", "good", "procedure = 'check_quiet'", "params = { a = {}, b = {} }"),
        _operation("no-table", "good", "sql = 'SELECT * FROM check_no_such_table'"),
        _operation("no-rights", "poor", "sql = 'SELECT * FROM check_secret'"),
        _operation("slip", "good", "sql = 'SELECT FROM WHERE no'"),
        _operation("pinned", "good", "procedure = 'check_quiet'", _PINNED),
        _operation("column", "good", "sql = 'SELECT no FROM check_orders'", "columns = ['nope']"),
        _operation("on-a-wrong-password", "pg-password", "sql = 'SELECT 1'"),
        _operation("archived", "inbox", "pick = '*.csv'", "format = { type = 'csv' }\nthen = 'archive'"),
        _operation("deep", "inbox", "pick = 'sub/*.csv'", "format = { type = 'csv' }"),
        _operation("silent-call", "soap-silent", "call = 'GetOrders'"),
        _operation("password-call", "soap-password", "call = 'GetOrders'"),
        _operation("no-call", "finance", "call = 'NoSuchCall'"),
    ]
    path = folder / "agent.toml"
    path.write_text("".join(text), "utf-8")
    loaded = config_file.load(path)
    store = open_store(loaded.settings, loaded.base_dir)
    for name, value in (("wrong", "wrong-word"), ("poor", "poor-word"), ("pg", pg.password), ("my", maria.password)):
        store.set(name, value)
    # The way to the broker has a stage `identity` too; ours is the first.
    return {finding.subject: finding for finding in reversed(asyncio.run(_all(path)))}


async def _all(path: Path) -> list[Finding]:
    return [finding async for finding in stages.everything(path)]


_PINNED: Final = f"params = {{ n = {{ type = 'integer' }} }}\npin = 'sha256:{'0' * 64}'"


def _operation(name: str, connection: str, *lines: str) -> str:
    return "\n".join([f"[operations.{name}]", f"connection = '{connection}'", "effect = 'idempotent'", *lines, ""])


CODES: Final = {
    "secret never-set": "secrets.missing",
    "identity": "identity.none",
    "connection ledgerless: ledger check_no_such_ledger": "odbc.ledger",
    "connection pg-password": "odbc.account",
    "connection pg-database": "odbc.database",
    "connection pg-port": "odbc.unreachable",
    "connection my-password": "odbc.account",
    "connection my-database": "odbc.database",
    "connection my-port": "odbc.unreachable",
    "connection no-driver": "odbc.driver",
    "connection no-library": "odbc.driver",
    "connection other-bits": "odbc.bitness",
    "connection no-dsn": "odbc.dsn",
    "connection inbox: archive": "folder.missing",
    "connection nowhere": "folder.missing",
    "connection refused": "folder.rights",
    "connection no-wsdl": "soap.wsdl",
    "connection broken-wsdl": "soap.wsdl",
    "connection soap-files": "soap.files",
    "operation no-procedure": "operation.procedure-missing",
    "operation other-parameters": "operation.parameters",
    "operation no-table": "operation.statement",
    "operation no-rights": "operation.rights",
    "operation slip": "operation.statement",
    "operation pinned: parameters": "operation.pin",
    "operation column: columns": "operation.columns",
    "operation deep": "operation.name",
    "operation no-call": "soap.operation",
}


@pytest.mark.parametrize(("subject", "code"), CODES.items(), ids=list(CODES))
def test_what_is_wrong_is_found_and_has_its_remedy(found: dict[str, Finding], subject: str, code: str) -> None:
    finding = found[subject]
    assert (finding.ok, finding.code) == (False, code), finding.detail
    assert finding.fix
    assert code in REMEDIES


def test_endpoints_are_tried_and_an_account_that_is_refused_is_told(found: dict[str, Finding], places: Places) -> None:
    silent, guarded = found[f"endpoint http://127.0.0.1:{places.silent}/x"], found[f"endpoint {places.guarded.url}"]
    assert (silent.ok, silent.code) == (False, "soap.unreachable")
    assert (guarded.ok, guarded.code) == (False, "soap.account")


def test_what_is_right_beside_it_is_found_right(found: dict[str, Finding]) -> None:
    assert found["connection soap-password"].ok
    assert found["operation fine"].ok
    assert found["operation archived"].ok
    assert "PostgreSQL" in found["connection good"].detail


@pytest.mark.parametrize(
    ("subject", "first"),
    [
        ("dns", "identity"),
        ("throughput", "identity"),
        ("connection no-secret", "secret never-set"),
        ("operation on-a-wrong-password", "connection pg-password"),
    ],
)
def test_what_depends_on_what_failed_is_not_tried(found: dict[str, Finding], subject: str, first: str) -> None:
    finding = found[subject]
    assert (finding.ok, finding.code) == (None, NOT_TRIED)
    assert finding.detail == f"not tried: {first} failed first"


def test_bitness_is_told_in_words(found: dict[str, Finding]) -> None:
    assert "for 32-bit programs, and this agent is 64-bit" in found["connection other-bits"].detail


def test_no_finding_repeats_a_password(found: dict[str, Finding], places: Places) -> None:
    told = "".join(map(str, found.values()))
    for password in ("wrong-word", "poor-word", places.postgres.password, places.mariadb.password):
        assert password not in told


def test_the_files_folders_are_left_as_they_were(found: dict[str, Finding], places: Places) -> None:
    assert found["connection inbox"].ok
    assert [path.name for path in (places.folder / "inbox").iterdir()] == ["archive"]


def test_a_disk_that_is_nearly_full_is_told(tmp_path: Path) -> None:
    for name in ("state", "inbox"):
        (tmp_path / name).mkdir(mode=0o700)
    file = tmp_path / "agent.toml"
    file.write_text(
        "agent = 'plant-1'\nstate_dir = 'state'\n[connections.edi]\ntype = 'file'\nroot = 'inbox'\n"
        "[operations.drop]\nconnection = 'edi'\ndrop = 'a'\nformat = { type = 'raw' }\n"
    )
    cramped = SmallDisk(tmp_path / "inbox", 1_048_576).words()
    answer = run([*cramped, script("outhaul-agent"), "check", "drop", "--json", "--config", str(file)])
    assert answer.exit_code == 1, answer.text
    codes = {one["subject"]: one["code"] for one in json.loads(answer.out)["stages"]}
    assert codes["connection edi"] == "folder.full"


def test_a_library_that_is_no_driver_is_told_with_how_to_find_out(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library")
    (tmp_path / "state").mkdir(mode=0o700)
    file = tmp_path / "agent.toml"
    file.write_text(
        "agent = 'plant-1'\nstate_dir = 'state'\n[connections.erp]\ntype = 'odbc'\n"
        f"connection_string = 'Driver={tmp_path}/text.so'\n[operations.x]\nconnection = 'erp'\nsql = 'SELECT 1'\n"
    )
    findings = {finding.subject: finding for finding in asyncio.run(_one(file, "x"))}
    assert findings["connection erp"].code == "odbc.driver"
    assert "ldd" in findings["connection erp"].detail
    assert findings["operation x"].code == NOT_TRIED
    assert "identity" not in findings


async def _one(path: Path, operation: str) -> list[Finding]:
    return [finding async for finding in stages.everything(path, operation)]
