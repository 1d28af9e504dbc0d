"""Pauses by hand, on both programs as processes: the cloud sees them, can't undo them, and no restart forgets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from config.dev.databases import Postgres
from tests.waiting import until_so
from tests.whole.site import AgentSite, Broker, Caller, agent, broker

TEXT = """
[link]
proxy = "none"
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
[connections.erp]
type = "odbc"
connection_string = "{postgres}"
[operations.nap]
connection = "erp"
sql = "SELECT pg_sleep(:seconds)"
effect = "at-most-once"
[operations.nap.params]
seconds = {{ type = "number" }}
"""


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[tuple[Broker, Caller, AgentSite]]:
    folder = tmp_path_factory.mktemp("pause")
    with broker(folder / "broker") as served:
        caller = served.tenant("acme")
        site = AgentSite(folder / "agent", TEXT.format(postgres=postgres.odbc(password="{secret:erp}")))
        site.secret("erp", postgres.password)
        with caller, agent(site, served, caller):
            yield served, caller, site


def facts(site: AgentSite, *words: str) -> Any:
    answer = site.cli(*words, "--json")
    assert answer.exit_code == 0, answer.text
    return json.loads(answer.out)


def test_a_paused_connection_waits_through_restarts_of_both_sides_until_somebody_there_resumes_it(
    acme: tuple[Broker, Caller, AgentSite],
) -> None:
    served, caller, site = acme
    told = facts(site, "pause", "erp", "--reason", "stocktaking")
    assert told == {"connection": "erp", "paused": True, "agent_runs": True, "obeyed": True}
    until_so(lambda: caller.agent()["connections"]["erp"]["state"] == "paused")
    assert caller.agent()["connections"]["erp"]["reason"] == "stocktaking"
    assert caller.agent()["state"] == "online"
    waits = caller.submit("nap", {"seconds": 0}).json()
    assert caller.run("echo", {"a": 1})["state"] == "succeeded", "another connection is not held up"
    assert caller.get(f"/v1/commands/{waits['id']}").json()["waiting_for"] == "paused"
    status = facts(site, "status")
    assert [(one["connection"], one["reason"]) for one in status["paused"]] == [("erp", "stocktaking")]
    assert status["connections"]["erp"] == {"paused": True, "shut": False, "running": 0, "held": 0}

    site.kill()
    stopped = site.cli("status", "--json")
    assert stopped.exit_code == 3
    assert json.loads(stopped.out)["running"] is False
    assert json.loads(stopped.out)["paused"]
    site.start(caller)
    served.kill()
    served.start()
    until_so(lambda: caller.agent()["connections"].get("erp", {}).get("state") == "paused")
    found = caller.get(f"/v1/commands/{waits['id']}").json()
    assert (found["state"], found["waiting_for"], found["attempts"]) == ("queued", "paused", 0)

    assert facts(site, "resume", "erp")["obeyed"] is True
    assert caller.final(waits)["state"] == "succeeded"
    assert caller.agent()["connections"]["erp"]["state"] == "open"


def test_now_stops_what_runs_in_the_database_and_it_is_done_after_the_resume(
    acme: tuple[Broker, Caller, AgentSite], postgres: Postgres
) -> None:
    _, caller, site = acme
    command = caller.submit("nap", {"seconds": 10}).json()
    written = site.folder / "state" / "status.json"
    until_so(lambda: json.loads(written.read_bytes())["connections"]["erp"]["running"] == 1)
    assert facts(site, "pause", "--now")["obeyed"] is True
    until_so(lambda: caller.get(f"/v1/commands/{command['id']}").json()["waiting_for"] == "paused")
    until_so(lambda: facts(site, "status")["commands"] == {"running": 0, "held": 0})
    assert site.cli("resume", "erp").exit_code == 1, "all are paused together"
    assert facts(site, "resume")["obeyed"] is True
    ended = caller.final(command)
    assert (ended["state"], ended["attempts"]) == ("succeeded", 2)


def test_status_tells_link_and_certificate(acme: tuple[Broker, Caller, AgentSite]) -> None:
    served, caller, site = acme
    until_so(lambda: (facts(site, "status")["link"] or {}).get("since"))
    status = facts(site, "status")
    assert status["running"]
    assert status["answers"]
    assert status["pid"] == site.program.pid
    assert status["link"]["broker"].endswith(f":{served.link_port}")
    ends = caller.agent()["certificate"]["not_after"]
    assert datetime.fromisoformat(status["certificate"]["not_after"]) == datetime.fromisoformat(ends)
    shown = site.cli("status").out
    assert "linked to wss://" in shown
    assert "connection erp: open, 0 running, 0 held" in shown


@pytest.mark.parametrize(
    ("words", "exit_code", "says"),
    [
        (("pause", "epr"), 2, "did you mean 'erp'?"),
        (("resume", "epr"), 2, "did you mean 'erp'?"),
        (("pause", "erp", "--reason", "x" * 501), 2, "at most 500 characters"),
        (("resume", "erp"), 0, "erp was not paused"),
        (("resume",), 0, "nothing was paused"),
    ],
)
def test_words_that_are_wrong_change_nothing(
    acme: tuple[Broker, Caller, AgentSite], words: tuple[str, ...], exit_code: int, says: str
) -> None:
    site: Path = acme[2].folder
    answer = acme[2].cli(*words)
    assert answer.exit_code == exit_code, answer.text
    assert says in answer.text
    assert not list((site / "state" / "paused").glob("*.json"))
