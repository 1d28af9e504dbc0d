"""The release before this one, as it was: its agent with our broker, our agent with its broker, and both upgraded."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from agent import RELEASE
from config.dev.demo.programs import Answer, run
from tests.faults.proxy import Proxy, Toxics
from tests.previous import Previous, previous
from tests.waiting import until_so
from tests.whole.site import AgentSite, Broker, Caller

pytestmark = pytest.mark.timeout(400)  # it starts a dozen programs, on a machine that may do much else
LIFE: Final = "30s"  # of a certificate that is renewed meanwhile
FILE: Final = """
[link]
proxy = "none"
[policy]
require_signature = ["pay"]
[policy.trusted_signers]
{signer}
[connections.erp]
type = "odbc"
connection_string = "Driver=SQLite3;Database=erp.db"
ledger = "outhaul_ledger"
[operations.order]
connection = "erp"
sql = "INSERT INTO orders (no) VALUES (:no)"
effect = "once"
[operations.order.params]
no = {{ type = "string" }}
[operations.orders]
connection = "erp"
sql = "SELECT no FROM orders ORDER BY no"
effect = "read"
[connections.edi]
type = "file"
root = "edi"
[operations.drop-order]
connection = "edi"
drop = "ORD-{{no}}.csv"
effect = "once"
format = {{ type = "csv", delimiter = ";", columns = ["no", "sku"] }}
[operations.drop-order.params]
no = {{ type = "string" }}
[connections.probe]
type = "synthetic"
[operations.pay]
connection = "probe"
synthetic = "echo"
effect = "at-most-once"
[operations.rows]
connection = "probe"
synthetic = "rows"
[operations.slow]
connection = "probe"
synthetic = "sleep"
effect = "at-most-once"
"""


@dataclass(slots=True)
class Pair:
    """A broker, an agent that dials it through a relay, and a caller with this release's program."""

    broker: Broker
    agent: AgentSite
    caller: Caller
    line: Proxy
    folder: Path

    def outhaul(self, *words: str) -> Answer:
        environment = {
            "OUTHAUL_URL": self.broker.url,
            "OUTHAUL_KEY": self.caller.key,
            "XDG_CONFIG_HOME": str(self.folder),
        }
        answer = run(["outhaul", *words], stdin="a passphrase\n", environment=environment)
        assert answer.exit_code == 0, answer.text
        return answer

    def orders(self) -> list[str]:
        with closing(sqlite3.connect(self.agent.folder / "erp.db")) as erp:
            return [no for (no,) in erp.execute("SELECT no FROM orders ORDER BY no")]

    def begun(self, seconds: float) -> dict[str, Any]:
        """Begin an effect that must not be repeated; return the command once it runs."""
        command: dict[str, Any] = self.caller.submit("slow", {"seconds": seconds}).json()
        until_so(lambda: self.caller.get(f"/v1/commands/{command['id']}").json()["state"] == "running", 60)
        return command

    def ended(self, command: dict[str, Any]) -> dict[str, Any]:
        """Return a command once it is final; a machine that does much else takes its time to link again."""
        until_so(lambda: self.caller.get(f"/v1/commands/{command['id']}").json()["finished_at"], 180)
        return self.caller.final(command)

    def entry(self, command: dict[str, Any]) -> dict[str, Any]:
        answer = self.agent.cli("journal", "show", command["id"], "--json")
        assert answer.exit_code == 0, answer.text
        found: dict[str, Any] = json.loads(answer.out)
        return found


@pytest.fixture(scope="module")
def old() -> Previous:
    """The release before this one; it is the one that it says it is."""
    found = previous()
    for program in ("outhaul-agent", "outhaul-broker"):
        answer = run([*found.words(program), "version"])
        assert answer.out.startswith(f"{program} {found.release} "), answer.text
    assert found.release != RELEASE
    return found


def made(folder: Path, broker_words: tuple[str, ...], agent_words: tuple[str, ...]) -> Iterator[Pair]:
    key = run(["outhaul", "keygen", "web-shop", "--out", str(folder / "key"), "--json"], stdin="a passphrase\n")
    broker = Broker(folder / "broker", broker_words)
    with Proxy(broker.link_port) as line:
        text = (
            broker.file.read_text() + f'public_url = "wss://127.0.0.1:{line.port}"\n[certificates]\nlife = "{LIFE}"\n'
        )
        broker.file.write_text(text)
        broker.facts("init")
        broker.start()
        agent = AgentSite(folder / "agent", FILE.format(signer=json.loads(key.out)["line"]), words=agent_words)
        (agent.folder / "edi").mkdir()
        ledger = agent.cli("ledger", "sql", "--dialect", "sqlite").out
        with closing(sqlite3.connect(agent.folder / "erp.db")) as erp:
            erp.executescript(f"CREATE TABLE orders (no TEXT);{ledger}")
        with broker.tenant("acme") as caller:
            try:
                agent.enrol(broker.token("acme", "plant-1", "--group", "plants"))
                # Of its first certificate only: an agent asks for no two within a minute.
                broker.program.stop()
                broker.file.write_text(text.replace(LIFE, "1h"))
                broker.start()
                agent.start(caller)
                yield Pair(broker, agent, caller, line, folder)
            finally:
                agent.program.stop()
                broker.program.stop()


@pytest.fixture
def old_agent(tmp_path: Path, old: Previous) -> Iterator[Pair]:
    """The agent before with our broker."""
    yield from made(tmp_path, ("outhaul-broker",), old.words("outhaul-agent"))


@pytest.fixture
def old_broker(tmp_path: Path, old: Previous) -> Iterator[Pair]:
    """Our agent with the broker before."""
    yield from made(tmp_path, old.words("outhaul-broker"), ("outhaul-agent",))


def works(pair: Pair) -> None:
    """Every kind of command, a cut link, both programs killed, and a renewal."""
    caller, first = pair.caller, pair.caller.agent()["certificate"]["serial"]
    assert caller.run("order", {"no": "1"})["state"] == "succeeded"
    assert caller.rows(caller.run("orders")) == [{"no": "1"}]
    assert len(caller.rows(caller.run("rows", {"count": 20_000, "width": 4}))) == 20_000
    dropped = caller.run("drop-order", {"no": "1", "rows": [{"no": "1", "sku": "A"}]})
    assert dropped["state"] == "succeeded", dropped
    assert [path.name for path in (pair.agent.folder / "edi").glob("*.csv")] == ["ORD-1.csv"]

    paid = ("call", "plant-1", "pay", "no=1", "--sign-with", str(pair.folder / "key"), "--json")
    signed = json.loads(pair.outhaul(*paid).out)["command"]
    assert signed["outputs"] == {"no": "1"}
    assert json.loads(pair.outhaul("commands", "verify", signed["id"], "--json").out)["verified"]
    sealed = json.loads(pair.outhaul("call", "plant-1", "orders", "--seal", "--format", "json").out)
    assert "1" in json.dumps(sealed)

    cut = pair.begun(1.0)
    pair.line.cut(reset=True)
    ended = pair.ended(cut)
    assert (ended["state"], ended["attempts"]) == ("succeeded", 1)

    lost = pair.begun(60.0)
    pair.agent.kill()
    pair.agent.start(caller)
    assert pair.ended(lost)["state"] == "in_doubt"
    pair.broker.kill()
    pair.broker.start()
    assert caller.run("order", {"no": "2"})["state"] == "succeeded"
    assert pair.orders() == ["1", "2"]
    until_so(lambda: caller.agent()["certificate"]["serial"] != first, 120)
    assert caller.run("orders", agent=None, group="plants")["state"] == "succeeded"


def test_the_agent_before_works_with_this_broker_and_becomes_this_agent_with_its_work_open(
    old_agent: Pair, old: Previous
) -> None:
    pair = old_agent
    works(pair)
    told, killed = pair.begun(0.3), pair.begun(60.0)
    pair.line.set("up", Toxics(frozen=True))
    until_so(lambda: pair.entry(told)["state"] == "ended")
    pair.agent.kill()
    pair.line.clear()

    pair.agent.become(("outhaul-agent",))
    pair.agent.start(pair.caller)
    assert pair.caller.agent()["version"] == RELEASE
    ended = pair.ended(told)
    assert (ended["state"], ended["attempts"]) == ("succeeded", 1), "the journal of before tells it"
    assert pair.ended(killed)["state"] == "in_doubt"
    assert pair.caller.run("order", {"no": "3"})["state"] == "succeeded"
    assert pair.orders() == ["1", "2", "3"]
    assert pair.agent.cli("journal", "verify").exit_code == 0
    assert (pair.agent.folder / "state" / f"journal.backup-{old.release}").is_dir()
    back_again(pair, old)
    assert "journal_damaged" not in pair.agent.program.log.read_text("utf-8")


def back_again(pair: Pair, old: Previous) -> None:
    """The agent before runs again with all that this one left."""
    pair.agent.program.stop()
    pair.agent.become(old.words("outhaul-agent"))
    pair.agent.start(pair.caller)
    until_so(lambda: pair.caller.agent()["version"] == old.release)
    assert pair.caller.agent()["outdated"]
    assert pair.caller.run("order", {"no": "4"})["state"] == "succeeded"
    assert pair.orders() == ["1", "2", "3", "4"]


def test_this_agent_works_with_the_broker_before_which_becomes_this_broker_with_its_store(
    old_broker: Pair, old: Previous
) -> None:
    pair = old_broker
    works(pair)
    pair.agent.program.stop()
    waits = [pair.caller.submit("order", {"no": str(no)}).json() for no in (3, 4)]
    waits.append(pair.caller.submit("order", {"no": "5"}, agent=None, group="plants").json())
    before = pair.caller.get("/v1/commands").json()["items"]
    pair.broker.program.stop()

    pair.broker.become(("outhaul-broker",))
    refused = pair.broker.cli("tenant", "list")
    assert (refused.exit_code, "outhaul-broker migrate" in refused.err) == (1, True), refused.text
    assert pair.broker.facts("migrate", "--show")["migrated"] is False
    pair.broker.start()
    pair.agent.start(pair.caller)
    assert [pair.ended(one)["state"] for one in waits] == ["succeeded"] * 3
    assert pair.orders() == ["1", "2", "3", "4", "5"]
    for one in before:
        if one["finished_at"]:
            assert pair.caller.get(f"/v1/commands/{one['id']}").json()["state"] == one["state"]
    assert (pair.broker.folder / "data" / "broker.db.schema-1").exists()
    late = run([*old.words("outhaul-broker"), "tenant", "list", "--config", str(pair.broker.file)])
    assert "written by a later release" in late.text
    assert pair.broker.facts("verify-audit")["ok"]
    is_restored_from_a_copy_made_while_it_serves(pair)


def is_restored_from_a_copy_made_while_it_serves(pair: Pair) -> None:
    big = pair.caller.run("rows", {"count": 50_000, "width": 8})
    copy = pair.folder / "copy"
    begun = pair.begun(0.5)
    assert pair.broker.facts("backup", str(copy))["files"] > 4
    assert pair.broker.cli("backup", str(copy)).exit_code == 1, "none is overwritten"
    pair.ended(begun)
    pair.broker.kill()
    shutil.rmtree(pair.broker.folder / "data")
    copy.rename(pair.broker.folder / "data")

    pair.broker.start()
    until_so(lambda: pair.caller.agent()["state"] == "online", 60)
    assert pair.ended(begun)["state"] == "succeeded", "the journal tells what the copy did not have"
    assert len(pair.caller.rows(big)) == 50_000
    assert pair.broker.facts("verify-audit")["ok"]
    assert pair.caller.run("order", {"no": "6"})["state"] == "succeeded"
    assert pair.orders() == ["1", "2", "3", "4", "5", "6"]
