"""Certificates as operators live with them: both programs, real files, the command line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cloud_broker.own_pki import Pki
from tests.waiting import until_seen
from tests.whole.site import AgentSite, Broker, Caller, agent

SITE = """
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
"""


@pytest.fixture
def there(tmp_path: Path) -> Iterator[tuple[Broker, Caller]]:
    """A broker, not started yet, and a caller of it."""
    made = Broker(tmp_path / "broker")
    made.facts("init")
    with made.tenant("acme") as caller:
        yield made, caller
        made.program.stop()


def certificate(caller: Caller) -> dict[str, Any]:
    found: dict[str, Any] = caller.agent()["certificate"]
    return found


def works(caller: Caller) -> None:
    assert caller.run("echo", {"text": "hello"})["state"] == "succeeded"


def hurried(folder: Path) -> tuple[str, ...]:
    """Return the agent with the lab's timers, which would else take at most one certificate a minute."""
    (folder / "lab").mkdir()
    return (sys.executable, "-m", "tests.faults.program", str(folder / "lab"), "agent")


async def test_an_agent_follows_its_broker_to_another_authority_by_itself(
    tmp_path: Path, there: tuple[Broker, Caller]
) -> None:
    broker, caller = there
    with broker.file.open("a") as file:
        file.write('[certificates]\nlife = "6s"\n')
    broker.start()
    with agent(AgentSite(tmp_path / "agent", SITE, words=hurried(tmp_path)), broker, caller):
        first = certificate(caller)
        await until_seen(lambda: certificate(caller)["serial"] != first["serial"], 30)
        broker.facts("authority", "add")
        await until_seen(lambda: broker.facts("authority", "status")["trust_all"] == 1, 30)
        broker.facts("authority", "switch")
        await until_seen(lambda: broker.facts("authority", "status")["have_newest"] == 1, 60)
        broker.facts("authority", "drop")
        [now] = broker.facts("authority", "status")["authorities"]
        assert certificate(caller)["issuer"] == now["fingerprint"] != first["issuer"]
        await until_seen(lambda: caller.agent()["state"] == "online", 30)
        works(caller)


async def test_an_agent_and_its_copy_are_both_stopped(tmp_path: Path, there: tuple[Broker, Caller]) -> None:
    broker, caller = there
    broker.start()
    one = AgentSite(tmp_path / "one", SITE)
    with agent(one, broker, caller):
        one.program.stop()
        shutil.copytree(one.folder, tmp_path / "two")
        one.start(caller)
        two = AgentSite(tmp_path / "two", SITE)
        two.program.start()
        try:
            await until_seen(lambda: caller.agent()["state"] == "revoked", 60)
            assert "two machines use the identity" in caller.agent()["revoked_reason"]
            for program in (one.program, two.program):
                assert program.pid
        finally:
            two.program.stop()


async def test_an_agent_that_slept_past_the_end_is_back_by_itself(tmp_path: Path, there: tuple[Broker, Caller]) -> None:
    broker, caller = there
    with broker.file.open("a") as file:
        file.write('[certificates]\nlife = "4s"\n')
    broker.start()
    site = AgentSite(tmp_path / "agent", SITE, words=hurried(tmp_path))
    with agent(site, broker, caller):
        site.program.stop()
        before = certificate(caller)
        await until_seen(lambda: ended(before), 30)
        site.start(caller)
        works(caller)
        assert certificate(caller)["serial"] != before["serial"]


def ended(shown: dict[str, Any]) -> bool:
    return datetime.fromisoformat(shown["not_after"]) < datetime.now(UTC)


async def test_an_agent_of_an_own_pki_needs_no_token(tmp_path: Path, there: tuple[Broker, Caller]) -> None:
    broker, caller = there
    pki = Pki()
    bundle = pki.bundle(tmp_path)
    server, server_key = pki.server(tmp_path)
    text = broker.file.read_text().replace("[link]", f'[link]\nclient_authorities = "{bundle}"\n')
    text += f'certificate = "{server}"\nkey = "{server_key}"\nauthorities = "{bundle}"\n'
    broker.file.write_text(text + "[certificates]\nissue = false\n")
    broker.start()
    uri = broker.facts("agent", "add", "--tenant", "acme", "--agent", "plant-1")["uri"]
    key, own = pki.agents(uri)
    (tmp_path / "agent.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "agent.crt").write_bytes(own.public_bytes(Encoding.PEM) + pki.middle.public_bytes(Encoding.PEM))
    site = AgentSite(
        tmp_path / "agent",
        f"""
[link]
url = "wss://localhost:{broker.link_port}"
certificate = "{tmp_path / "agent.crt"}"
key = "{tmp_path / "agent.key"}"
authorities = "{bundle}"
{SITE}""",
    )
    try:
        site.start(caller)
        works(caller)
        shown = certificate(caller)
        assert (shown["serial"], shown["issuer"], shown["own_pki"]) == (f"{own.serial_number:040x}", None, True)
    finally:
        site.program.stop()
