"""Signed commands on both programs as processes, by the words of the callers' own program; and who can't do without."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud_broker.client.signing import Signer
from config.dev.demo.programs import Answer, run
from tests.whole.site import AgentSite, Broker, Caller, agent, broker

TEXT = """
[link]
proxy = "none"
[policy]
require_signature = ["order", "create-sales-order"]
[policy.trusted_signers]
{line}
[connections.probe]
type = "synthetic"
[operations.order]
connection = "probe"
synthetic = "echo"
effect = "at-most-once"
[operations.create-sales-order]
connection = "probe"
synthetic = "echo"
[operations.rows]
connection = "probe"
synthetic = "rows"
effect = "read"
[operations.rows.params]
count = {{ type = "integer" }}
[operations.report]
connection = "probe"
synthetic = "echo"
allow = ["web-shop"]
version = "2026-01"
"""


@dataclass(frozen=True, slots=True)
class Signed:
    """A running pair whose operator trusts one caller."""

    broker: Broker
    agent: AgentSite
    caller: Caller
    key: Path
    home: Path

    def outhaul(self, *words: str, stdin: str = "") -> Answer:
        environment = {
            "OUTHAUL_URL": self.broker.url,
            "OUTHAUL_KEY": self.caller.key,
            "XDG_CONFIG_HOME": str(self.home),
        }
        return run(["outhaul", *words], stdin=stdin, environment=environment)

    def facts(self, *words: str, exit_code: int = 0) -> Any:
        answer = self.outhaul(*words, "--json")
        assert answer.exit_code == exit_code, answer.text
        return json.loads(answer.out)

    def called(self, *words: str, exit_code: int = 0) -> Any:
        return self.facts("call", "plant-1", *words, exit_code=exit_code)["command"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    folder = tmp_path_factory.mktemp("signed")
    key = folder / "web-shop.key"
    made = run(["outhaul", "keygen", "web-shop", "--out", str(key), "--json"], stdin="a passphrase\n")
    assert made.exit_code == 0, made.text
    with broker(folder / "broker") as served:
        caller = served.tenant("acme")
        theirs = AgentSite(folder / "agent", TEXT.format(line=json.loads(made.out)["line"]))
        with caller, agent(theirs, served, caller):
            yield Signed(served, theirs, caller, key, folder / "home")


def sign(site: Signed) -> tuple[str, ...]:
    return ("--sign-with", str(site.key))


def signed(site: Signed, *words: str) -> dict[str, Any]:
    answer = site.outhaul("call", "plant-1", *words, *sign(site), "--json", stdin="a passphrase\n")
    assert answer.exit_code == 0, answer.text
    found: dict[str, Any] = json.loads(answer.out)["command"]
    return found


def test_what_is_signed_runs_and_what_is_not_is_refused_by_the_agent(site: Signed) -> None:
    assert signed(site, "order", "customer=C042")["outputs"] == {"customer": "C042"}
    refused = site.called("order", "customer=C042", exit_code=1)
    assert (refused["error"]["kind"], refused["error"]["code"]) == ("policy", "signature_missing")
    assert "policy.require_signature" in refused["error"]["message"]


def test_the_version_and_the_callers_of_an_operation_are_told_and_signed(site: Signed) -> None:
    (report,) = [one for one in site.facts("operations", "plant-1")["items"] if one["name"] == "report"]
    assert (report["version"], report["signature_required"], report["allow"]) == ("2026-01", True, ["web-shop"])
    assert signed(site, "report", "a=1")["state"] == "succeeded"
    words = ("call", "plant-1", "report", "a=1", *sign(site), "--operation-version", "2025-12", "--json")
    old = json.loads(site.outhaul(*words, stdin="a passphrase\n").out)["command"]
    assert old["error"]["code"] == "signature_invalid"
    assert "version: signed for '2025-12', and here it is '2026-01'" in old["error"]["message"]


def stored(site: Signed, sql: str, *values: Any) -> Any:
    """Do something to the store of the running broker, as who broke into it would."""
    with contextlib.closing(sqlite3.connect(site.broker.folder / "data" / "broker.db", timeout=30)) as store, store:
        return store.execute(sql, values).fetchone()


def forged(site: Signed, params: dict[str, Any], signature: str, key: str) -> tuple[str, str]:
    """Submit what nobody signed, and return how it ended."""
    ended = site.caller.run("order", params, signature=signature, headers={"Idempotency-Key": key})
    return ended["state"], ended["error"]["code"]


def test_a_broken_into_broker_runs_nothing_that_nobody_signed(site: Signed) -> None:
    one = signed(site, "order", "customer=C042")
    (signature,) = stored(site, "SELECT signature FROM commands WHERE id = ?", one["id"])
    header, payload, _ = signature.split(".")
    stored(site, "UPDATE commands SET idempotency_key = NULL WHERE id = ?", one["id"])
    invalid = ("failed", "signature_invalid")
    assert forged(site, {"customer": "C042"}, signature, "another-key") == invalid
    assert forged(site, {"customer": "C043"}, signature, one["idempotency_key"]) == invalid
    assert forged(site, {"customer": "C042"}, f"{header}.{payload}.{'A' * 86}", "third-key") == invalid


def test_a_signature_that_is_shown_again_runs_nothing_also_after_a_restart(site: Signed) -> None:
    one = signed(site, "order", "customer=C7")
    (signature,) = stored(site, "SELECT signature FROM commands WHERE id = ?", one["id"])
    for _ in range(2):
        # The very same words, as a new command.
        stored(site, "UPDATE commands SET idempotency_key = NULL WHERE idempotency_key = ?", one["idempotency_key"])
        shown = forged(site, {"customer": "C7"}, signature, one["idempotency_key"])
        assert shown == ("failed", "signature_replayed")
        site.agent.kill()
        site.agent.start(site.caller)


def test_the_agents_proof_of_an_end_with_its_rows_is_checked(site: Signed) -> None:
    ended = site.caller.run("rows", {"count": 5000})
    assert ended["proof"] is not None
    assert ended == site.caller.final(ended)  # who waited is told all that who asks later is
    first = site.outhaul("commands", "verify", ended["id"])
    assert first.exit_code == 0, first.text
    assert "plant-1 was never seen before" in first.text
    assert "plant-1 signed it: rows succeeded, attempt 1, 5,000 rows, at position" in first.out
    again = site.facts("commands", "verify", ended["id"])
    assert again["verified"]
    identity = json.loads(site.agent.cli("identity", "--json").out)
    assert again["key"] == identity["keys"]["sign"]
    assert site.facts("commands", "verify", ended["id"], "--agent-keys", identity["keys"]["sign"])["verified"]


def test_ends_that_were_told_together_are_checked_one_by_one(site: Signed) -> None:
    lines = "".join(
        json.dumps({"agent": "plant-1", "operation": "rows", "params": {"count": 1}}) + "\n" for _ in range(60)
    )
    answer = site.caller.post("/v1/commands/bulk", content=lines, headers={"Content-Type": "application/x-ndjson"})
    sent = [json.loads(line)["command"] for line in answer.text.splitlines()]
    ended = [site.caller.final(one) for one in sent]
    shared = [one for one in ended if "~" in one["proof"]]
    assert len({one["proof"].partition("~")[0] for one in shared}) < len(shared)
    first, last = shared[0], shared[-1]
    for one in (first, last):
        assert site.facts("commands", "verify", one["id"])["verified"]
    stored(site, "UPDATE commands SET proof = ? WHERE id = ?", last["proof"], first["id"])
    changed = site.facts("commands", "verify", first["id"], exit_code=1)
    assert changed["problems"][0].startswith("id: the agent signed")
    _, end, way = last["proof"].split("~")
    stored(
        site,
        "UPDATE commands SET proof = ? WHERE id = ?",
        f"{ended[0]['proof'].partition('~')[0]}~{end}~{way[:-43]}",
        first["id"],
    )
    assert not site.facts("commands", "verify", first["id"], exit_code=1)["verified"]


def test_an_end_that_the_broker_changed_does_not_fit(site: Signed) -> None:
    ended = signed(site, "order", "customer=C9")
    assert site.facts("commands", "verify", ended["id"])["verified"]
    stored(site, "UPDATE commands SET outputs = ? WHERE id = ?", b'{"customer":"C8"}', ended["id"])
    changed = site.facts("commands", "verify", ended["id"], exit_code=1)
    assert changed["problems"] == ["outputs: not those that the agent signed"]


def test_an_end_is_compared_with_what_the_caller_signed_and_sent(site: Signed, tmp_path: Path) -> None:
    ids = []
    for number in (1, 2):
        answer = site.outhaul(
            *("call", "plant-1", "order", f"customer=C{number}", *sign(site), "--json"),
            *("--signature", str(tmp_path / f"{number}.jws")),
            stdin="a passphrase\n",
        )
        assert answer.exit_code == 0, answer.text
        ids.append(json.loads(answer.out)["command"]["id"])
    words = ("commands", "verify", ids[0], "--signature")
    found = site.facts(*words, str(tmp_path / "1.jws"), "--params", '{"customer": "C1"}')
    assert (found["verified"], found["unproved"]) == (True, [])
    found = site.facts(*words, str(tmp_path / "2.jws"), exit_code=1)
    assert [problem.partition(":")[0] for problem in found["problems"]] == ["signature", "parameters"]
    assert site.outhaul("commands", "verify", ids[0], "--params", '{"customer": "C2"}').exit_code == 1
    alone = site.outhaul("commands", "verify", ids[0])
    assert (alone.exit_code, "only the broker says so" in alone.text) == (0, True)


def test_another_key_than_before_is_an_error(site: Signed) -> None:
    ended = site.called("rows", "count=1")
    assert site.outhaul("commands", "verify", ended["id"]).exit_code == 0
    known = site.home / "outhaul" / "known_agents.json"
    kept = known.read_text()
    document = json.loads(kept)
    for entry in document.values():
        entry["sign"] = "ed25519:" + "B" * 43 + "="
    known.write_text(json.dumps(document))
    refused = site.outhaul("commands", "verify", ended["id"])
    known.write_text(kept)
    assert refused.exit_code == 1
    assert "plant-1 shows other keys than before" in refused.text


def test_what_was_signed_is_replayed_with_the_callers_own_parameters(site: Signed) -> None:
    words = ("call", "plant-1", "order", "customer=C5", *sign(site), "--operation-version", "0", "--json")
    failed = json.loads(site.outhaul(*words, stdin="a passphrase\n").out)["command"]
    refused = site.outhaul("replay", failed["id"])
    assert refused.exit_code == 1
    assert "signature_wanted" in refused.text
    replay = ("replay", failed["id"], *sign(site), "--params", '{"customer": "C5"}')
    asked = site.outhaul(*replay, stdin="a passphrase\n")
    assert (asked.exit_code, "Add --yes" in asked.text) == (2, True)
    again = site.outhaul(*replay, "--yes", "--json", stdin="a passphrase\n")
    assert again.exit_code == 0, again.text
    (command,) = json.loads(again.out)["items"]
    ended = site.caller.final(command)
    assert (ended["state"], ended["signed"], ended["replay_of"]) == ("succeeded", True, failed["id"])


@pytest.mark.parametrize(("language", "words"), [("sh", ["sh", "-eu"]), ("js", ["node"])])
def test_the_callers_of_the_page_in_other_languages_are_believed(
    site: Signed, tmp_path: Path, language: str, words: list[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "sign-commands.md").read_text("utf-8")
    (program,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    # The page's key has no passphrase.
    signer = Signer.load(site.key, lambda: "a passphrase")
    signer.keep(tmp_path / "web-shop.key", None)
    file = tmp_path / f"caller.{'mjs' if language == 'js' else language}"
    file.write_text(program)
    done = subprocess.run(
        [*words, file.name],
        cwd=tmp_path,
        env=os.environ | {"OUTHAUL_URL": site.broker.url, "OUTHAUL_KEY": site.caller.key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ended = json.loads(done.stdout)
    assert (ended["state"], ended["signed"]) == ("succeeded", True)
    assert ended["outputs"]["customer"] == "C042"
