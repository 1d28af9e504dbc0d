"""Programs that die, links that go through proxies, and identities that are not what they should be."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.dev.proxies import http_proxy, socks_proxy
from tests.whole.site import AgentSite, Broker, Caller, agent, broker, refuses

PROBE = """
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
[operations.read]
connection = "probe"
synthetic = "sleep"
effect = "read"
[operations.write]
connection = "probe"
synthetic = "sleep"
effect = "at-most-once"
"""
DIRECT = '[link]\nproxy = "none"\n' + PROBE


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[tuple[Broker, Caller]]:
    """A broker of the test's own, and a tenant."""
    with broker(tmp_path / "broker") as made, made.tenant("acme") as caller:
        yield made, caller


@pytest.fixture
def site(tmp_path: Path, platform: tuple[Broker, Caller]) -> Iterator[AgentSite]:
    """An agent of the test's own, online."""
    with agent(AgentSite(tmp_path / "agent", DIRECT), *platform) as made:
        yield made


def running(caller: Caller, operation: str, seconds: float) -> dict[str, str]:
    """Submit a command and return it once it runs."""
    command: dict[str, str] = caller.submit(operation, {"seconds": seconds}).json()
    deadline = time.monotonic() + 20
    while caller.get(f"/v1/commands/{command['id']}").json()["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return command


@pytest.mark.parametrize("operation", ["read", "write"])
def test_a_broker_that_dies_finds_its_agent_and_its_command_again(
    platform: tuple[Broker, Caller], site: AgentSite, operation: str
) -> None:
    made, caller = platform
    command = running(caller, operation, 1.0)
    made.kill()
    made.start()
    ended = caller.final(command)
    assert ended["state"] == "succeeded", ended
    assert ended["attempts"] == 1


def test_a_broker_restarted_while_no_agent_is_connected_keeps_what_it_took(
    platform: tuple[Broker, Caller], site: AgentSite
) -> None:
    made, caller = platform
    site.program.stop()
    command = caller.submit("echo", {"a": 1}).json()
    made.kill()
    made.start()
    found = caller.get(f"/v1/commands/{command['id']}").json()
    assert (found["state"], found["waiting_for"]) == ("queued", "agent")
    site.start(caller)
    assert caller.final(command)["outputs"] == {"a": 1}


@pytest.mark.parametrize(("operation", "state"), [("read", "succeeded"), ("write", "in_doubt")])
def test_an_agent_that_dies_in_the_middle(
    platform: tuple[Broker, Caller], site: AgentSite, operation: str, state: str
) -> None:
    _, caller = platform
    command = running(caller, operation, 1.0)
    site.kill()
    assert caller.get(f"/v1/commands/{command['id']}").json()["finished_at"] is None
    site.start(caller)
    ended = caller.final(command)
    assert ended["state"] == state, ended


def test_an_agent_that_is_asked_to_stop_finishes_and_tells(platform: tuple[Broker, Caller], site: AgentSite) -> None:
    _, caller = platform
    command = running(caller, "write", 1.0)
    os.kill(site.program.pid, signal.SIGTERM)
    ended = caller.final(command)
    assert ended["state"] == "succeeded"
    deadline = time.monotonic() + 10
    while site.program.running:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert caller.agent()["state"] == "offline"


def test_a_broker_that_is_asked_to_stop_tells_its_agents(platform: tuple[Broker, Caller], site: AgentSite) -> None:
    made, caller = platform
    made.program.stop()
    assert refuses(made.link_port)
    made.start()
    assert caller.run("echo", {"a": 1})["state"] == "succeeded"
    assert "the broker is stopping" in site.program.log.read_text()


def test_what_enrolment_tells_a_script_has_times_as_everywhere(tmp_path: Path, platform: tuple[Broker, Caller]) -> None:
    made, _ = platform
    answer = AgentSite(tmp_path / "agent", DIRECT, agent="plant-3").cli(
        "enroll", "--json", "--token", made.token("acme", "plant-3")
    )
    facts = json.loads(answer.out)
    assert (facts["tenant"], facts["agent"]) == ("acme", "plant-3")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", facts["not_after"])


def test_a_token_works_once(tmp_path: Path, platform: tuple[Broker, Caller], site: AgentSite) -> None:
    made, _ = platform
    token = made.token("acme", "plant-2")
    second = AgentSite(tmp_path / "second", DIRECT, agent="plant-2")
    second.enrol(token)
    third = AgentSite(tmp_path / "third", DIRECT, agent="plant-2")
    answer = third.cli("enroll", "--token", token)
    assert answer.exit_code == 4
    assert "used already" in answer.err
    assert "outhaul-broker token create" in answer.err
    assert token not in made.program.log.read_text()


def test_an_agent_trusts_the_authority_of_its_token_only(tmp_path: Path, platform: tuple[Broker, Caller]) -> None:
    made, _ = platform
    other = Broker(tmp_path / "other")
    other.facts("init")
    other.cli("tenant", "create", "acme")
    # A token of another broker, made to point at this one: its authority is not ours.
    other.file.write_text(made.file.read_text().replace('data_dir = "data"', f'data_dir = "{other.folder / "data"}"'))
    stranger = AgentSite(tmp_path / "agent", DIRECT)
    answer = stranger.cli("enroll", "--token", other.token("acme", "plant-1"))
    assert answer.exit_code == 3
    assert "certificate" in answer.err
    assert not list((stranger.folder / "state").glob("identity/current"))


def test_an_agent_does_not_link_to_a_broker_with_another_authority(
    tmp_path: Path, platform: tuple[Broker, Caller], site: AgentSite
) -> None:
    made, _ = platform
    made.kill()
    shutil.rmtree(made.folder / "data")
    made.facts("init")
    made.start()
    deadline = time.monotonic() + 30
    while "certificate" not in site.program.log.read_text():
        assert time.monotonic() < deadline, site.program.tail()
        time.sleep(0.05)
    assert site.program.running, "it never gives up"


def test_a_second_link_with_the_same_identity_replaces_the_first_at_once(
    tmp_path: Path, platform: tuple[Broker, Caller], site: AgentSite
) -> None:
    _, caller = platform
    shutil.copytree(site.folder, tmp_path / "copy")
    copy = AgentSite(tmp_path / "copy", DIRECT)
    copy.program.log.write_text("")
    copy.program.start()
    try:
        copy.program.wait_until(lambda: "welcomed" in copy.program.log.read_text(), "welcomed")
        site.program.wait_until(lambda: "another link" in site.program.log.read_text(), "superseded")
        assert caller.run("echo", {"a": 1})["state"] == "succeeded"
    finally:
        copy.program.stop()


@pytest.mark.parametrize("by", ["API", "command line"])
def test_a_revoked_agent_is_cut_off(platform: tuple[Broker, Caller], site: AgentSite, by: str) -> None:
    made, caller = platform
    if by == "API":
        assert caller.post("/v1/agents/plant-1/revoke").status_code in (200, 204)
    else:
        assert made.cli("agent", "revoke", "--tenant", "acme", "plant-1").exit_code == 0
    site.program.wait_until(lambda: "revoked" in site.program.log.read_text(), "revoked")
    assert caller.agent()["state"] == "revoked"


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_link_through_a_proxy(tmp_path: Path, platform: tuple[Broker, Caller], kind: str) -> None:
    made, caller = platform
    start = http_proxy if kind == "http" else socks_proxy
    with start(tmp_path, user="plant", password="proxy-word") as proxy:
        url = proxy.url.replace("proxy-word", "{secret:proxy}")
        site = AgentSite(tmp_path / "agent", f'[link]\nproxy = "{url}"\n{PROBE}')
        site.secret("proxy", "proxy-word")
        with agent(site, made, caller):
            assert caller.run("echo", {"a": "through"})["outputs"] == {"a": "through"}
            if kind == "http":
                assert f"127.0.0.1:{made.link_port}" in proxy.log()
            assert f":{proxy.port}" in site.program.log.read_text()
            assert "proxy-word" not in site.program.log.read_text()
