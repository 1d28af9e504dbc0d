"""
The deb on a bare Debian that has no Python, by the installed commands only.

It runs with its own systemd and no network but loopback; the broker beside it has the same network.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from installer.linux.package import package
from tests.installer.machine import BrokerBeside, Machine, booted
from tests.waiting import until_so

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LONG_S: Final = 180.0  # seconds; some on a quiet machine
MADE_AT: Final = 1_700_000_000
NEXT: Final = "99.0.0"
NOT_RUNNING, NOT_ALLOWED = 3, 4  # exit codes
SERVICE: Final = "outhaul-agent.service"
STATE: Final = "var/lib/outhaul-agent"
FILE: Final = "etc/outhaul-agent/agent.toml"
DROP_INS: Final = "etc/systemd/system/outhaul-agent.service.d"

RUNS: Final = "active (running)"

OPERATOR: Final = """
agent     = "plant-1"
state_dir = "/var/lib/outhaul-agent"

[connections.erp]
type = "odbc"
connection_string = "Driver=SQLite3;Database=/srv/erp/erp.db;LoadExt=;Password={secret:erp-password}"

[operations.add-item]
connection = "erp"
sql    = "INSERT INTO items (sku, qty) VALUES (:sku, :qty)"
effect = "at-most-once"
[operations.add-item.params]
sku = { type = "string", max_length = 20 }
qty = { type = "integer" }

[operations.items]
connection = "erp"
sql    = "SELECT sku, qty FROM items ORDER BY sku"
effect = "read"

[connections.edi]
type = "file"
root = "/srv/edi/inbox"

[operations.drop-order]
connection = "edi"
drop     = "ORD-{order_no}.csv"
format   = { type = "csv", delimiter = ";", columns = ["sku", "qty"] }
[operations.drop-order.params]
order_no = { type = "string", max_length = 10 }
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A machine, its packages, and a broker."""

    machine: Machine
    broker: BrokerBeside
    key: str
    packages: tuple[str, str]

    def call(self, *words: str) -> Any:
        answer = self.broker.call("call", "plant-1", *words, "--json", key=self.key)
        assert answer.exit_code == 0, f"{answer.text}\n{self.told()}"
        return json.loads(answer.out)

    def online(self) -> bool:
        answer = self.broker.call("agents", "plant-1", "--json", key=self.key)
        return answer.exit_code == 0 and json.loads(answer.out).get("state") == "online"

    def told(self) -> str:
        """Return what the service has said."""
        return self.machine.do("journalctl", "-u", SERVICE, "--no-pager", "-n", "40").out

    def facts(self, *words: str, fails: bool = False) -> Any:
        return json.loads(self.machine.do("outhaul-agent", *words, "--json", fails=fails).out)


@pytest.fixture(scope="module")
def site(frozen: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("machine")
    (this,) = package(frozen, folder, MADE_AT, kinds=("deb",))
    (later,) = package(frozen, folder, MADE_AT, kinds=("deb",), release=NEXT)
    with booted(folder) as machine, contextlib.ExitStack() as stack:
        for made in (this, later):
            shutil.copy(made, machine.root / "tmp")
        shutil.copytree(frozen, machine.root / "opt" / "outhaul-agent")
        broker = BrokerBeside(folder / "broker", machine)
        broker.facts("init")
        broker.start()
        stack.callback(broker.program.stop)
        assert broker.cli("tenant", "create", "acme").exit_code == 0
        key = broker.facts("key", "create", "--tenant", "acme", "--scope", "*")["key"]
        yield Site(machine, broker, key, (f"/tmp/{this.name}", f"/tmp/{later.name}"))  # noqa: S108 - the machine's own


def test_from_the_package_to_its_removal(site: Site) -> None:
    machine, root = site.machine, site.machine.root
    assert not list(root.glob("usr/bin/python*"))

    # Installed: nothing runs yet, and the file is there to be changed.
    said = machine.do("dpkg", "-i", site.packages[0])
    assert "outhaul-agent enroll --token TOKEN" in said.text
    assert machine.do("systemctl", "is-enabled", SERVICE).out.strip() == "enabled"
    assert not machine.is_active(SERVICE)
    machine.do("systemd-analyze", "verify", "--man=no", SERVICE)
    score = machine.do("systemd-analyze", "security", "--offline=true", "--no-pager", SERVICE).text
    assert float(re.findall(r"exposure level for \S+: ([\d.]+)", score)[0]) <= 2.0

    # Enrolled, by root, with what an ERP has.
    make_systems(machine)
    (root / FILE).write_text(OPERATOR)
    machine.do("outhaul-agent", "secret", "set", "erp-password", stdin="bolt-17\n")
    token = site.broker.token("acme", "plant-1")
    machine.do("outhaul-agent", "enroll", "--token", "-", stdin=token + "\n")
    assert {path.stat().st_uid for path in (root / STATE).rglob("*")} == {(root / STATE).stat().st_uid} != {0}

    # Its service may write to the folders of its file; the database's is said by a drop-in from the documentation.
    assert site.facts("service", "install")["done"]
    assert "/srv/edi/inbox" in (root / DROP_INS / "10-folders.conf").read_text()
    drop_in = (root / "usr/share/doc/outhaul-agent/drop-ins/driver-folders.conf").read_text()
    (root / DROP_INS / "driver-folders.conf").write_text(drop_in.replace("/srv/erp/data", "/srv/erp"))
    quick_watchdog(root)
    machine.do("systemctl", "daemon-reload")
    assert site.facts("service", "install")["done"] == []
    site.facts("service", "start")
    until_so(site.online, LONG_S)
    until_so(lambda: "linked to wss://" in site.facts("service", "status")["detail"], LONG_S)
    shown = site.facts("service", "status")
    assert [shown[name] for name in ("installed", "enabled", "running", "state")] == [True, True, True, RUNS]
    assert (shown["account"], shown["config"]) == ("outhaul-agent", f"/{FILE}")
    site.facts("check")

    # Commands run, within what the unit allows.
    added = site.call("add-item", "sku=A-1", "qty=5")["command"]["id"]
    assert site.call("items")["rows"] == [{"sku": "A-1", "qty": 5}]
    content = json.dumps({"order_no": "4711", "rows": [{"sku": "A-1", "qty": "5"}]})
    site.call("drop-order", "--params", content)
    assert (root / "srv/edi/inbox/ORD-4711.csv").read_bytes() == b"sku;qty\r\nA-1;5\r\n"

    # A program that hangs, or is killed, is replaced.
    for signal in ("SIGSTOP", "SIGKILL"):
        was = machine.shown(SERVICE, "MainPID")
        machine.do("systemctl", "kill", "--kill-who=main", f"--signal={signal}", SERVICE)
        until_so(another(machine, was), LONG_S)
        until_so(site.online, LONG_S)

    # Upgraded: the operator's file and the journal are kept, and it runs again by itself.
    was = machine.shown(SERVICE, "MainPID")
    machine.do("dpkg", "-i", site.packages[1])
    until_so(another(machine, was), LONG_S)
    assert machine.do("dpkg-query", "-W", "-f", "${Version}", "outhaul-agent").out == f"{NEXT}-1"
    assert (root / FILE).read_text() == OPERATOR
    until_so(site.online, LONG_S)
    assert added in {entry["id"] for entry in site.facts("journal", "list")}
    assert site.call("items")["rows"] == [{"sku": "A-1", "qty": 5}]

    # Removed: what is the site's own stays, until it is purged.
    machine.do("dpkg", "-r", "outhaul-agent")
    assert not machine.is_active(SERVICE)
    assert not (root / "usr/libexec/outhaul-agent").exists()
    assert (root / STATE / "journal").is_dir()
    assert (root / FILE).read_text() == OPERATOR
    machine.do("dpkg", "-P", "outhaul-agent")
    left = [path for path in root.rglob("*outhaul-agent*") if not path.is_relative_to(root / "proc")]
    assert {path.relative_to(root).parts[0] for path in left} <= {"opt", "tmp"}, left
    machine.do("id", "outhaul-agent", fails=True)


def test_a_plain_archive_makes_its_service_whole_or_not_at_all(site: Site) -> None:
    machine, root = site.machine, site.machine.root
    program = "/opt/outhaul-agent/outhaul-agent"
    refused = machine.do(program, "service", "install", fails=True)
    assert "copy the agent.toml of the archive to it" in refused.text
    (root / "etc/outhaul-agent").mkdir(mode=0o700)
    (root / FILE).write_text('agent = "plant-1"\nstate_dir = "/var/lib/outhaul-agent"\n')

    # A step that fails takes back those before it.
    (root / DROP_INS).write_text("a file, where a folder is wanted")
    edi = '[connections.edi]\ntype = "file"\nroot = "/srv/edi"\n'
    (root / FILE).write_text((root / FILE).read_text() + edi)
    before = files(root)
    refused = machine.do(program, "service", "install", "--json", fails=True)
    assert "outhaul-agent.service.d" in refused.err
    assert files(root) == before
    machine.do("id", "outhaul-agent", fails=True)

    # Again, and all of it is there; what is broken later is mended.
    (root / DROP_INS).unlink()
    machine.do(program, "service", "install")
    unit = root / "etc/systemd/system" / SERVICE
    assert f"ExecStart={program} run --config /{FILE}" in unit.read_text()
    unit.write_text("[Service]\nExecStart=/bin/false\n")
    machine.do(program, "service", "install")
    machine.do("systemd-analyze", "verify", "--man=no", SERVICE)

    # Without a certificate it runs, and says what it waits for.
    machine.do(program, "service", "start")
    shown = machine.do(program, "service", "status").out
    assert f"{RUNS}; starts with the machine" in shown
    until_so(lambda: "enroll --token" in machine.do(program, "service", "status").out, LONG_S)
    machine.do(program, "service", "stop")
    assert machine.do(program, "service", "status", fails=True).exit_code == NOT_RUNNING
    machine.do(program, "service", "uninstall")
    assert not unit.exists()
    assert (root / STATE).is_dir()
    not_root = machine.do("setpriv", "--reuid=1", program, "service", "install", fails=True)
    assert (not_root.exit_code, "sudo" in not_root.err) == (NOT_ALLOWED, True)


def files(root: Path) -> set[str]:
    """Return what of an agent is on a machine, and who has which rights to it."""
    found = (path for path in root.rglob("*outhaul-agent*") if "proc" not in path.parts)
    return {f"{path} {path.lstat().st_uid} {path.lstat().st_mode:o}" for path in found} | {
        (root / "etc/passwd").read_text()
    }


def another(machine: Machine, was: str) -> Callable[[], bool]:
    """Return whether the service runs in another process than ``was``."""
    return lambda: machine.is_active(SERVICE) and machine.shown(SERVICE, "MainPID") not in (was, "0")


def make_systems(machine: Machine) -> None:
    """A database and a folder, as an ERP has them; the agent's account was given them by hand."""
    for folder in ("srv/erp", "srv/edi/inbox"):
        (machine.root / folder).mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(machine.root / "srv/erp/erp.db")) as database:
        database.execute("CREATE TABLE items (sku TEXT PRIMARY KEY, qty INTEGER)")
    machine.do("chown", "-R", "outhaul-agent:", "/srv/erp", "/srv/edi/inbox")


def quick_watchdog(root: Path) -> None:
    """Seconds in place of the half minute that a site has."""
    text = "[Service]\nWatchdogSec=5\nTimeoutAbortSec=5\nRestartSec=1\n"
    (root / DROP_INS / "quick.conf").write_text(text)
