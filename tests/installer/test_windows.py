"""
The whole of it for Windows, under wine: the MSI, the service, enrolment, ODBC, a stop under load, repair, upgrade,
removal. What comes of it is printed; what wine can't show is in docs/explanation/windows.md.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent import RELEASE
from config.dev.databases import Postgres
from config.dev.msi import frozen as frozen_for_windows
from config.dev.wine import Machine, machine
from installer import sign
from installer.windows import msi
from tests.installer.other_release import as_another
from tests.waiting import BUILD_S, until_so
from tests.whole.site import Broker, Caller, broker

MSI_S: Final = 300  # seconds that one installation may take there; some five on a quiet machine
BROKEN: Final = "98.0.0"
KEY: Final = Ed25519PrivateKey.generate()
PROGRAM: Final = "Program Files/Outhaul Agent"
DATA: Final = "ProgramData/Outhaul"
EVENTS: Final = r"HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\OuthaulAgent"
SERVICE: Final = r"HKLM\SYSTEM\CurrentControlSet\Services\OuthaulAgent"
SITE: Final = """
agent = "plant-1"
state_dir = "state"
[link]
proxy = "none"
[upgrade]
trusted_keys = ["{key}"]
[connections.erp]
type = "odbc"
connection_string = "{connection}"
[operations.answer]
connection = "erp"
sql = "SELECT 42 AS answer, 'Größe €' AS text, 1.50::numeric(5,2) AS price"
effect = "read"
[operations.book]
connection = "erp"
sql = "INSERT INTO windows_bookings VALUES (:name)"
effect = "at-most-once"
[operations.book.params]
name = {{ type = "string" }}
[operations.slow]
connection = "erp"
sql = "SELECT 'done' AS word FROM pg_sleep(6)"
effect = "read"
"""

# Does nothing, and well, until it is to be the service.
ENDS_AT_ONCE: Final = """
#include <string.h>
int main(int count, char **words) { return count > 2 && strcmp(words[2], "host") == 0; }
"""

pytestmark = pytest.mark.timeout(BUILD_S)


class Windows:
    """One Windows machine, and what an administrator does there."""

    def __init__(self, wine: Machine) -> None:
        self.wine = wine
        self.program = wine.disk / PROGRAM
        self.data = wine.disk / DATA

    def msiexec(self, *words: str) -> int:
        began = time.monotonic()
        code = self.wine.run("msiexec", *words, "/qn", timeout_s=MSI_S).exit_code
        _show(
            f"msiexec {' '.join(word[:60] for word in words)}",
            f"{code} after {time.monotonic() - began:.1f} s",
            *self._noted(),
        )
        return code

    def agent(self, *words: str, stdin: str = "") -> str:
        answer = self.wine.run(r"C:\Program Files\Outhaul Agent\outhaul-agent.exe", *words, stdin=stdin)
        _show(f"outhaul-agent {' '.join(words)}", *answer.text.splitlines()[:12])
        assert answer.exit_code == 0, f"{answer.text}\n{self.log()}"
        return answer.out

    def upgrade(self, package: Path, *words: str) -> dict[str, Any]:
        """Return what became of it."""
        program = r"C:\Program Files\Outhaul Agent\outhaul-agent.exe"
        given = (_path(package), "--grace", "90", "--steady", "2")
        answer = self.wine.run(program, "upgrade", *given, *words)
        assert answer.exit_code == 0, f"{answer.text}\n{self.log()}"
        found: dict[str, Any] = {}

        def ended() -> bool:
            # Its program must not run while it is replaced.
            found.update(json.loads((self.data / "state" / "upgrade.json").read_text("utf-8")))
            return found["state"] not in ("installing", "watching")

        until_so(ended, MSI_S)
        _show(f"outhaul-agent upgrade {package.name}", answer.text, json.dumps(found), *self._noted())
        return found

    def facts(self, *words: str) -> Any:
        return json.loads(self.agent(*words, "--json"))

    def service(self) -> dict[str, Any]:
        answer = self.wine.run(r"C:\Program Files\Outhaul Agent\outhaul-agent.exe", "service", "status", "--json")
        found: dict[str, Any] = json.loads(answer.out)
        return found

    def value(self, key: str, name: str) -> str:
        """Return what the registry has; "" if nothing."""
        out = self.wine.run("reg", "query", key, "/v", name).out
        lines = [line for line in out.splitlines() if line.strip().startswith(name)]
        return lines[0].split(None, 2)[2].strip() if lines else ""

    def has(self, key: str) -> bool:
        return self.wine.run("reg", "query", key).exit_code == 0

    def release(self) -> str:
        return (self.program / "VERSION").read_text().strip()

    def log(self) -> str:
        logs = sorted((self.data / "logs").glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text('utf-8')[-6000:]}" for path in logs)

    def _noted(self) -> list[str]:
        file = self.data / "logs" / "setup.log"
        return file.read_text("utf-8").splitlines()[-12:] if file.exists() else []


def _show(what: str, *lines: str) -> None:
    print(f"\n$ {what}", *(f"  {line}" for line in lines), sep="\n")  # noqa: T201 - the proof is in the test's log


@dataclass(frozen=True, slots=True)
class Packages:
    """This release's MSI, that of a later one, made from the same program, and one that does not work."""

    this: Path
    later: Path
    broken: Path
    release: str  # of the later one
    useless: Path  # a program that fails, whatever it is to do


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """All of them signed."""
    folder = tmp_path_factory.mktemp("packages")
    frozen = frozen_for_windows()
    later = folder / "later"
    release = as_another(frozen, later)
    (later / "NEW").write_text("comes with the later one\n")
    broken = folder / "broken"
    broken.mkdir()
    (broken / "VERSION").write_text(f"{BROKEN}\n")
    (folder / "broken.c").write_text(ENDS_AT_ONCE)
    subprocess.run([msi.COMPILER, "-o", broken / "outhaul-agent.exe", folder / "broken.c"], check=True)
    (folder / "useless.c").write_text("int main(void) { return 3; }")
    subprocess.run([msi.COMPILER, "-o", folder / "useless.exe", folder / "useless.c"], check=True)
    this, next_one, bad = (msi.build(program, folder) for program in (frozen, later, broken))
    made = Packages(this, next_one, bad, release, folder / "useless.exe")
    for path, signed in ((made.this, RELEASE), (made.later, release), (made.broken, BROKEN)):
        sign.sign(path, KEY, release=signed, system="windows-x86_64")
    return made


@pytest.fixture
def windows() -> Iterator[Windows]:
    """A fresh machine."""
    with machine() as wine:
        yield Windows(wine)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Caller]]:
    """A broker on Linux, with a tenant."""
    with broker(tmp_path_factory.mktemp("broker")) as made, made.tenant("acme") as caller:
        yield made, caller


def test_an_agent_on_windows_from_its_msi_to_its_removal(
    packages: Packages, windows: Windows, serving: tuple[Broker, Caller], postgres: Postgres
) -> None:
    made, caller = serving
    this, later = packages.this, packages.later
    postgres.execute_script("CREATE TABLE windows_bookings (name text PRIMARY KEY)")

    # Installed by one command, with a token in a file, which is gone then.
    token = made.token("acme", "plant-1")
    (windows.wine.disk / "token.txt").write_text(token)
    assert windows.msiexec("/i", _path(this), r"TOKENFILE=C:\token.txt", "/l*v", r"C:\install.log") == 0, windows.log()
    assert not (windows.wine.disk / "token.txt").exists()
    until_so(lambda: caller.agent().get("state") == "online", 120)
    assert not (windows.data / "state" / "token").exists()
    assert token not in _everything_kept(windows)
    status = windows.service()
    assert (status["installed"], status["enabled"], status["running"]) == (True, True, True)
    assert status["account"] == r"NT SERVICE\OuthaulAgent"
    assert "EventCreate.exe" in windows.value(EVENTS, "EventMessageFile")

    # The operator says what may be done; a command runs through ODBC.
    connection = postgres.odbc(password="{secret:erp}")
    (windows.data / "agent.toml").write_text(SITE.format(connection=connection, key=sign.public(KEY)), "utf-8")
    windows.agent("secret", "set", "erp", stdin=postgres.password)
    _restart(windows, caller)
    answered = caller.run("answer")
    assert answered["state"] == "succeeded", (answered, windows.log())
    _show("the answer of `answer`", *map(str, caller.rows(answered)))
    assert caller.rows(answered) == [{"answer": 42, "text": "Größe €", "price": "1.50"}]
    booked = caller.run("book", {"name": "one"}, headers={"Idempotency-Key": "windows-1"})
    assert booked["state"] == "succeeded", booked

    # Stopped while a command runs: it comes to its end within the grace, and the service ends in order.
    running = caller.submit("slow").json()
    until_so(lambda: caller.get(f"/v1/commands/{running['id']}").json()["state"] == "running", 60)
    began = time.monotonic()
    windows.agent("service", "stop")
    took_s = time.monotonic() - began
    _show("the stop under load", f"{took_s:.1f} s", *windows.log().splitlines()[-6:])
    assert windows.service()["state"] == "stopped"
    assert caller.final(running)["state"] == "succeeded"

    # Repaired: what was lost or bent comes back, and it runs.
    (windows.program / "_internal" / "base_library.zip").unlink()
    windows.wine.run("reg", "add", EVENTS, "/v", "EventMessageFile", "/d", "nonsense", "/f")
    # As `msiexec /fa` does, which wine's does not.
    assert windows.msiexec("/i", _path(this), "REINSTALL=ALL", "REINSTALLMODE=amus") == 0, windows.log()
    assert "EventCreate.exe" in windows.value(EVENTS, "EventMessageFile")
    until_so(lambda: caller.agent().get("state") == "online", 120)

    # One that does not come up is taken back.
    before = {entry["id"] for entry in windows.facts("journal", "list")}
    assert booked["id"] in before
    failed = windows.upgrade(packages.broken, "--back", _path(this))
    assert (failed["state"], failed["after"]) == ("failed", BROKEN), failed
    assert windows.release() == RELEASE
    until_so(lambda: caller.agent().get("state") == "online", 120)

    # Upgraded: the operator's file, the certificate and the journal stay; what was done is known.
    done = windows.upgrade(later)
    assert (done["state"], done["after"]) == ("done", packages.release), done
    assert windows.release() == packages.release
    assert (windows.program / "NEW").exists()
    kept = {path.name for path in (windows.data / "packages").glob("*.msi")}
    assert kept == {f"{RELEASE}.msi", f"{packages.release}.msi"}
    assert windows.service()["running"]
    until_so(lambda: caller.agent().get("state") == "online", 120)
    assert before <= {entry["id"] for entry in windows.facts("journal", "list")}
    again = caller.run("book", {"name": "one"}, headers={"Idempotency-Key": "windows-1"})
    assert again["id"] == booked["id"]
    assert caller.run("answer")["state"] == "succeeded"
    # An older one does not go over it.
    assert windows.msiexec("/i", _path(this)) != 0
    assert windows.service()["running"]

    # Removed: program, service and Event Log source go, the agent's data stay.
    assert windows.msiexec("/x", _path(later)) == 0, windows.log()
    assert not windows.program.exists()
    assert not windows.has(SERVICE)
    assert not windows.has(EVENTS)
    assert (windows.data / "agent.toml").exists()
    assert (windows.data / "state" / "secrets.vault").exists()
    until_so(lambda: caller.agent().get("state") != "online", 120)


def test_a_token_on_the_command_line_is_kept_nowhere_and_a_wrong_one_leaves_nothing(
    packages: Packages, windows: Windows, serving: tuple[Broker, Caller]
) -> None:
    made, caller = serving
    this = packages.this
    assert windows.msiexec("/i", _path(this), "TOKEN=nonsense") != 0
    assert not windows.has(SERVICE)
    assert not windows.has(EVENTS)
    assert not list(windows.data.glob("*token*"))
    token = made.token("acme", "plant-2")
    assert windows.msiexec("/i", _path(this), f"TOKEN={token}") == 0, windows.log()
    until_so(lambda: caller.agent("plant-2").get("state") == "online", 120)
    assert token not in _everything_kept(windows)

    # A program that does not work any more can be removed.
    windows.agent("service", "stop")
    (windows.program / "outhaul-agent.exe").write_bytes(packages.useless.read_bytes())
    assert windows.msiexec("/x", _path(this)) == 0, windows.log()
    assert not windows.has(SERVICE)
    assert not (windows.program / "outhaul-agent.exe").exists()


def _restart(windows: Windows, caller: Caller) -> None:
    windows.agent("service", "stop")
    windows.agent("service", "start")
    until_so(lambda: caller.agent().get("state") == "online", 120)


def _path(package: Path) -> str:
    return "Z:" + str(package).replace("/", "\\")


def _everything_kept(windows: Windows) -> str:
    """Return what an installation wrote down: its log where there is one, the registry, our own files."""
    found = [*windows.wine.disk.parent.glob("*.reg"), windows.wine.disk / "install.log", *windows.data.rglob("*")]
    text = "\n".join(path.read_bytes().decode("latin-1") for path in found if path.is_file())
    return text + text.replace("\0", "")  # the log is UTF-16
