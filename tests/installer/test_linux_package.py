"""
The packages on a bare Debian that has no Python, by the installed commands only: deb, rpm and plain archive.

It runs with its own systemd and no network but loopback; the broker beside it has the same network.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent import RELEASE
from installer import sign
from installer.linux.package import package
from tests.installer.machine import BrokerBeside, Machine, booted
from tests.installer.other_release import as_another
from tests.waiting import BUILD_S, until_so

pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUILD_S)]

LONG_S: Final = 180.0  # seconds; some on a quiet machine
MADE_AT: Final = 1_700_000_000
BROKEN: Final = "98.0.0"
KEY: Final = Ed25519PrivateKey.generate()
NOT_RUNNING, NOT_ALLOWED = 3, 4  # exit codes
SERVICE: Final = "outhaul-agent.service"
STATE: Final = "var/lib/outhaul-agent"
FILE: Final = "etc/outhaul-agent/agent.toml"
DROP_INS: Final = "etc/systemd/system/outhaul-agent.service.d"

RUNS: Final = "active (running)"

TRUSTING: Final = f"""
agent     = "plant-1"
state_dir = "/var/lib/outhaul-agent"
[upgrade]
trusted_keys = ["{sign.public(KEY)}"]
"""
SYSTEMS: Final = """
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
OPERATOR: Final = TRUSTING + SYSTEMS
# As whole as can be seen before it runs.
ENDS_AT_ONCE: Final = """#!/bin/sh
[ "$1" != run ] || exit 1
"""


@dataclass(frozen=True, slots=True)
class Packages:
    """Of one kind, on the machine: this release, a later one, and a broken one; all of them signed."""

    this: str
    later: str
    broken: str


@dataclass(frozen=True, slots=True)
class Site:
    """A machine, its packages, and a broker."""

    machine: Machine
    broker: BrokerBeside
    key: str
    packages: dict[str, Packages]
    later: str

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
    later = as_another(frozen, folder / "later")
    broken = folder / "broken"
    broken.mkdir()
    (broken / "VERSION").write_text(f"{BROKEN}\n")
    (broken / "outhaul-agent").write_text(ENDS_AT_ONCE)
    (broken / "outhaul-agent").chmod(0o755)
    kinds = ("deb", "rpm")
    made = {
        release: package(program, folder, MADE_AT, kinds=kinds, release=release)
        for release, program in ((RELEASE, frozen), (later, folder / "later"), (BROKEN, broken))
    }
    with booted(folder) as machine, contextlib.ExitStack() as stack:
        for release, paths in made.items():
            for path in paths:
                shutil.copy(path, machine.root / "tmp")
                shutil.copy(sign.sign(path, KEY, release=release), machine.root / "tmp")
        packages = {
            kind: Packages(*(f"/tmp/{made[release][number].name}" for release in (RELEASE, later, BROKEN)))  # noqa: S108 - the machine's own
            for number, kind in enumerate(kinds)
        }
        shutil.copytree(frozen, machine.root / "opt" / "outhaul-agent")
        broker = BrokerBeside(folder / "broker", machine)
        broker.facts("init")
        broker.start()
        stack.callback(broker.program.stop)
        assert broker.cli("tenant", "create", "acme").exit_code == 0
        key = broker.facts("key", "create", "--tenant", "acme", "--scope", "*")["key"]
        yield Site(machine, broker, key, packages, later)


def test_from_the_package_to_its_removal(site: Site) -> None:
    machine, root = site.machine, site.machine.root
    assert not list(root.glob("usr/bin/python*"))

    # Installed: nothing runs yet, and the file is there to be changed.
    said = machine.do("dpkg", "-i", site.packages["deb"].this)
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
    told = site.facts("diagnostics", "--output", "/root/what-is-wrong.zip")
    assert (root / "root" / "what-is-wrong.zip").stat().st_size > 1000, told

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

    # What does not come up is taken back; what comes up stays, with the operator's file and the journal.
    taken_back_and_upgraded(site, "deb")
    assert machine.do("dpkg-query", "-W", "-f", "${Version}", "outhaul-agent").out == f"{site.later}-1"
    assert (root / FILE).read_text() == OPERATOR
    assert added in {entry["id"] for entry in site.facts("journal", "list")}
    assert site.call("items")["rows"] == [{"sku": "A-1", "qty": 5}]

    # By the package manager alone: it runs again by itself.
    was = machine.shown(SERVICE, "MainPID")
    machine.do("dpkg", "-i", site.packages["deb"].later)
    until_so(another(machine, was), LONG_S)
    until_so(site.online, LONG_S)

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


def test_the_rpm_from_its_installation_to_its_removal(site: Site) -> None:
    machine, root = site.machine, site.machine.root
    rpm = site.packages["rpm"]
    # What it requires is there, but dpkg's.
    assert {"unixODBC", "shadow-utils"} <= set(machine.do("rpm", "-qRp", rpm.this).out.split())
    machine.do("rpm", "-i", provided(root, "unixODBC", "shadow-utils", "/bin/sh"))

    said = machine.do("rpm", "-i", rpm.this)
    assert "outhaul-agent enroll --token TOKEN" in said.text
    assert machine.do("systemctl", "is-enabled", SERVICE).out.strip() == "enabled"
    (root / FILE).write_text(TRUSTING)
    token = site.broker.token("acme", "plant-1")
    machine.do("outhaul-agent", "enroll", "--token", "-", stdin=token + "\n")
    machine.do("outhaul-agent", "service", "start")
    until_so(site.online, LONG_S)

    taken_back_and_upgraded(site, "rpm")
    assert machine.do("rpm", "-q", "outhaul-agent").out.strip() == f"outhaul-agent-{site.later}-1.x86_64"
    assert (root / FILE).read_text() == TRUSTING

    machine.do("rpm", "-e", "outhaul-agent")
    assert not machine.is_active(SERVICE)
    assert not (root / "usr/libexec/outhaul-agent").exists()
    assert (root / STATE / "journal").is_dir()


def provided(root: Path, *names: str) -> str:
    """Return an empty rpm that says that something is there."""
    about = {"name": "provided", "arch": "noarch", "version": "1", "maintainer": "none", "provides": list(names)}
    (root / "tmp" / "provided.yaml").write_text(json.dumps(about))
    nfpm = str(Path(sys.executable).with_name("nfpm"))
    words = (nfpm, "package", "--packager", "rpm", "--config", "provided.yaml", "--target", "provided.rpm")
    subprocess.run(words, cwd=root / "tmp", check=True, capture_output=True)
    return "/tmp/provided.rpm"  # noqa: S108 - the machine's own


def taken_back_and_upgraded(site: Site, kind: str) -> None:
    """By ``upgrade``: a broken release first, then a good one."""
    machine, packages = site.machine, site.packages[kind]
    no_way = machine.do("outhaul-agent", "upgrade", packages.broken, fails=True)
    assert "--back PACKAGE" in no_way.err
    assert site.online()
    words = ("--back", packages.this, "--grace", "60", "--steady", "2")
    failed = machine.do("outhaul-agent", "upgrade", packages.broken, *words, "--json", fails=True)
    told = json.loads(failed.out)
    assert (told["state"], told["before"], told["after"]) == ("failed", RELEASE, BROKEN), told
    until_so(site.online, LONG_S)
    assert site.facts("status")["release"] == RELEASE
    # The way back is kept from then on.
    done = machine.do("outhaul-agent", "upgrade", packages.later, "--steady", "2")
    assert f"{site.later} came up in the place of {RELEASE}" in done.out
    until_so(site.online, LONG_S)
    assert site.facts("status")["release"] == site.later
    kept = machine.root / "var/lib/outhaul-agent-packages"
    assert {path.name for path in kept.glob(f"*.{kind}")} == {f"{RELEASE}.{kind}", f"{site.later}.{kind}"}
    assert kept.stat().st_mode & 0o777 == 0o700


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
