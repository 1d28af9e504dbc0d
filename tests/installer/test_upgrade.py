"""`outhaul-agent upgrade` on releases side by side: what comes up stays, what doesn't is taken back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent import RELEASE
from agent.upgrade import report
from agent.upgrade.report import Report
from config.dev.demo.programs import Answer
from installer import sign
from tests.waiting import BUILD_S, until_so
from tests.whole.site import AgentSite, Broker, Caller, broker

pytestmark = pytest.mark.timeout(BUILD_S)
KEY: Final = Ed25519PrivateKey.generate()
NEXT: Final = "77.0.0"
FILE: Final = """
[link]
proxy = "none"
[upgrade]
trusted_keys = ["{key}"]
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
[operations.pay]
connection = "probe"
synthetic = "echo"
effect = "at-most-once"
"""
# As a service manager does that starts again what ends.
KEEPER: Final = 'trap "kill $pid; wait; exit" TERM; while :; do "$@" & pid=$!; wait $pid; sleep 0.2; done'
PROGRAM: Final = """#!{python}
import os, sys, threading, time
import agent
agent.RELEASE = "{release}"
runs = sys.argv[1:2] == ["run"]
{flaw}
agent.main()
"""
CRASHES: Final = """
def crash():
    path = os.path.join(os.path.dirname(sys.argv[-1]), "state", "status.json")
    while f'"pid":{os.getpid()},' not in open(path).read():
        time.sleep(0.02)
    os._exit(1)
if runs:
    threading.Thread(target=crash, daemon=True).start()
"""
FLAWS: Final = {
    "none": "",
    "is not whole": "if sys.argv[1:2] == ['selfcheck']: sys.exit('FAILED  connector odbc: no libodbc here')",
    "can't read the file": "if sys.argv[1:2] == ['operations']: sys.exit('agent.toml: not a key of this release')",
    "never starts": "if runs: time.sleep(3600)",
    "crashes": CRASHES,
    "crashes after it has changed the journal's format": (
        "import agent.journal.records\nagent.journal.records.VERSION = 2\n" + CRASHES
    ),
}


@dataclass(slots=True)
class Site:
    """An agent beside others of its kind, and what keeps it running."""

    root: Path
    agent: AgentSite
    broker: Broker
    caller: Caller

    @property
    def current(self) -> str:
        return (self.root / "current").resolve().name

    def there(self) -> list[str]:
        return sorted(path.name for path in (self.root / "versions").iterdir())

    def upgrade(self, package: Path, *words: str, grace_s: int = 40) -> Answer:
        return self.agent.cli("upgrade", str(package), "--grace", str(grace_s), "--steady", "1", *words)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.agent.cli("status", "--json").out)
        return found

    def works(self, release: str) -> None:
        until_so(lambda: self.caller.agent()["state"] == "online" and self.caller.agent()["version"] == release, 60)
        assert self.caller.run("pay", {"a": 1})["state"] == "succeeded"


@contextlib.contextmanager
def site_with(folder: Path, program: Path | None) -> Iterator[Site]:
    """An agent whose release RELEASE is a frozen folder, or a script that runs this tree."""
    root = folder / "opt"
    (root / "versions").mkdir(parents=True)
    own = root / "versions" / RELEASE
    if program is None:
        script(own, RELEASE)
    else:
        shutil.copytree(program, own, symlinks=True, copy_function=os.link)
    (root / "current").symlink_to(f"versions/{RELEASE}")
    with broker(folder / "broker") as made, made.tenant("acme") as caller:
        text = FILE.format(key=sign.public(KEY))
        words = (str(root / "current" / "outhaul-agent"),)
        agent = AgentSite(folder / "agent", text, words=words)
        agent.enrol(made.token("acme", "plant-1"))
        with (folder / "agent" / "agent.log").open("ab") as log:
            keeper = subprocess.Popen(
                ["/bin/bash", "-c", KEEPER, "keeper", *words, "run", "--config", str(agent.file)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            found = Site(root, agent, made, caller)
            found.works(RELEASE)
            yield found
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(keeper.pid, signal.SIGKILL)
            keeper.wait()


def script(folder: Path, release: str, flaw: str = "none") -> None:
    folder.mkdir(parents=True)
    (folder / "VERSION").write_text(f"{release}\n")
    program = folder / "outhaul-agent"
    program.write_text(PROGRAM.format(python=sys.executable, release=release, flaw=FLAWS[flaw]))
    program.chmod(0o755)


def package(folder: Path, *, release: str = NEXT, flaw: str = "none", key: Ed25519PrivateKey = KEY) -> Path:
    """Return a signed package of a release that runs this tree, but for its flaw."""
    made = folder / f"outhaul-agent-{release}.tar.xz"
    script(folder / release, release, flaw)
    with tarfile.open(made, "w:xz") as archive:
        archive.add(folder / release, "outhaul-agent")
    sign.sign(made, key, release=release)
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_with(tmp_path_factory.mktemp("upgrade"), None) as made:
        yield made


def test_what_must_not_be_installed_is_not_even_unpacked(site: Site, tmp_path: Path) -> None:
    made = package(tmp_path)
    assert site.upgrade(made, "--verify").exit_code == 0
    sign.sign(made, Ed25519PrivateKey.generate(), release=NEXT)
    refused = site.upgrade(made)
    assert (refused.exit_code, "which is not trusted here" in refused.err) == (4, True), refused.text
    earlier = site.upgrade(package(tmp_path, release="0.0.9"))
    assert (earlier.exit_code, f"0.0.9 is earlier than {RELEASE}" in earlier.err) == (4, True), earlier.text
    lies = package(tmp_path, release="78.0.0")
    sign.sign(lies, KEY, release="79.0.0")
    lying = site.upgrade(lies)
    assert (lying.exit_code, "is signed as 79.0.0, and is 78.0.0" in lying.err) == (4, True), lying.text
    assert (site.there(), site.current) == ([RELEASE], RELEASE)


@pytest.mark.parametrize(
    ("flaw", "said"),
    [("is not whole", "selfcheck: FAILED  connector odbc"), ("can't read the file", "operations: agent.toml: not a")],
)
def test_a_program_that_does_not_work_here_is_not_started(site: Site, tmp_path: Path, flaw: str, said: str) -> None:
    before = site.status()["pid"]
    refused = site.upgrade(package(tmp_path, flaw=flaw))
    assert refused.exit_code == 1
    assert "nothing was changed" in refused.err
    assert said in refused.err
    assert (site.there(), site.current, site.status()["pid"]) == ([RELEASE], RELEASE, before)


@pytest.mark.parametrize(
    ("flaw", "why"),
    [
        ("never starts", "it did not start within 2"),
        ("crashes after it has changed the journal's format", "it ended 3 times within"),
    ],
)
def test_one_that_does_not_come_up_is_taken_back(site: Site, tmp_path: Path, flaw: str, why: str) -> None:
    site.works(RELEASE)
    # All of it is waited for where nothing comes; where something does, it costs no time.
    refused = site.upgrade(package(tmp_path, flaw=flaw), "--json", grace_s=20 if flaw == "never starts" else 40)
    assert refused.exit_code == 1, refused.text
    told = json.loads(refused.out)
    assert (told["state"], told["before"], told["after"]) == ("failed", RELEASE, NEXT), told
    assert why in told["why"]
    assert (site.there(), site.current) == ([RELEASE], RELEASE)
    site.works(RELEASE)
    assert f"upgrade to {NEXT} failed, {RELEASE} runs: {told['why']}" in site.agent.cli("status").out


def test_one_that_comes_up_stays_and_can_be_left_again(site: Site, tmp_path: Path) -> None:
    done = site.upgrade(package(tmp_path))
    assert done.exit_code == 0, done.text
    assert f"{NEXT} came up in the place of {RELEASE}" in done.out
    assert (site.there(), site.current) == (sorted([RELEASE, NEXT]), NEXT)
    site.works(NEXT)
    assert json.loads(site.agent.cli("upgrade", "--status", "--json").out)["state"] == "done"

    (tmp_path / "again").mkdir()
    back = site.upgrade(package(tmp_path / "again", release=RELEASE), "--allow-downgrade")
    assert back.exit_code == 0, back.text
    site.works(RELEASE)


def test_the_frozen_program_takes_back_what_does_not_come_up(frozen: Path, tmp_path: Path) -> None:
    with site_with(tmp_path / "site", frozen) as site:
        refused = site.upgrade(package(tmp_path, flaw="crashes"), "--json")
        assert refused.exit_code == 1, refused.text
        assert json.loads(refused.out)["state"] == "failed", refused.text
        assert site.current == RELEASE
        site.works(RELEASE)


def test_an_upgrade_that_was_cut_off_is_not_waited_for(site: Site) -> None:
    cut = Report("watching", RELEASE, NEXT, 1_700_000_000.0, until=1_700_000_600.0)
    report.write(site.agent.file.parent / "state", cut)
    told = site.agent.cli("upgrade", "--status")
    assert told.exit_code == 1
    assert f"the upgrade from {RELEASE} to {NEXT} was cut off" in told.out
