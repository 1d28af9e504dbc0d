"""The network's stages of `check`: what each says when it works, and which one is blamed when it does not."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from agent import config_file
from agent.check.network import STAGES, network
from agent.check.remedies import REMEDIES
from agent.config_file import Loaded
from agent.connectors.base import Finding
from agent.identity import held
from agent.identity.enrolment import enroll
from agent.link.websocket import SUBPROTOCOL
from agent.secrets import SecretStore
from cloud_broker.link.tls import server_context
from config.dev.databases import free_port
from config.dev.odd_proxies import OddProxy
from tests.agent.link.broker import AGENT, TENANT, Broker, broker, secrets_in

HOST = "127.0.0.1"


class Site:
    """An enrolled agent with its file, and its broker."""

    def __init__(self, folder: Path, there: Broker, secrets: SecretStore) -> None:
        self.folder = folder
        self.there = there
        self.secrets = secrets

    def file(self, link: str = 'proxy = "none"') -> Loaded:
        path = self.folder / "agent.toml"
        path.write_text(f'agent = "{AGENT}"\nstate_dir = "state"\n[link]\n{link}\n')
        return config_file.load(path)

    async def found(self, link: str = 'proxy = "none"') -> dict[str, Finding]:
        """Check, and return the last finding of each stage."""
        return {finding.stage: finding async for finding in network(self.file(link), self.secrets)}


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    secrets = secrets_in(tmp_path / "state")
    secrets.set("proxy", "s3cret")
    async with broker(tmp_path / "broker") as there:
        made = Site(tmp_path, there, secrets)
        await enroll(made.file().settings, await there.token(), secrets, tmp_path / "state")
        yield made


async def test_each_stage_says_what_it_found(site: Site) -> None:
    found = await site.found()
    assert tuple(found) == STAGES
    assert {stage: finding.ok for stage, finding in found.items()} == dict.fromkeys(STAGES, True)
    port = site.there.url.rpartition(":")[2]
    assert found["dns"].detail == "127.0.0.1 is an address"
    assert found["tcp"].detail.startswith(f"127.0.0.1:{port} answered in ")
    assert found["proxy"].detail == "none; the broker is dialled straight"
    assert found["tls"].detail.startswith("TLSv1.3 TLS_AES")
    assert ", issued by CN=Outhaul authority" in found["tls"].detail
    assert "; the broker's certificate is good for 36" in found["tls"].detail
    assert found["upgrade"].detail == f"{site.there.url} is a broker"
    assert found["identity"].detail == f"accepted as {AGENT} of {TENANT}"
    assert found["round trip"].detail.endswith(" ms")
    assert found["throughput"].detail.count("Mbit/s") == 2
    assert site.there.peers == []  # an agent that runs with this identity was not disturbed


async def test_the_proxys_stage_says_where_it_was_found_and_how_it_let_us_in(site: Site) -> None:
    async with OddProxy(login=["NTLM", "Basic"], accounts={"plant": "s3cret"}) as proxy:
        url, address = proxy.url, proxy.address
        found = await site.found(f'proxy = "{url.replace("://", "://plant:{secret:proxy}@")}"')
    assert all(finding.ok for finding in found.values())
    assert found["proxy"].detail == (
        f"{url}, from link.proxy in the operator's file; it takes NTLM, Basic, logged in by NTLM"
    )
    assert found["tcp"].detail.startswith(address)


async def test_one_that_measured_a_moment_ago_is_told_to_wait(site: Site) -> None:
    await site.found()
    found = await site.found()
    assert found["identity"].ok
    assert found["throughput"].ok is None
    assert "not measured: this agent was measured a moment ago; again in " in found["throughput"].detail


async def test_an_older_broker_is_not_blamed_for_not_measuring(site: Site) -> None:
    def answer(connection: ServerConnection, request: Request) -> Response | None:
        return (
            connection.respond(404, "Outhaul: agents come in at /link, enrolment at /enrol.\n")
            if (request.path == "/measure")
            else None
        )

    async def prove(connection: ServerConnection) -> None:
        await connection.send('{"tenant": "acme", "agent": "plant-1"}')

    tls = server_context(site.there.authority, [HOST], time.time())
    async with serve(prove, HOST, 0, ssl=tls, subprotocols=[SUBPROTOCOL], process_request=answer) as server:
        url = f"wss://{HOST}:{next(iter(server.sockets)).getsockname()[1]}"
        found = await site.found(f'proxy = "none"\nurls = ["{url}"]')
    assert found["identity"].ok
    assert found["round trip"].ok is None
    assert found["throughput"].detail == "not measured: the broker is older than this"


@pytest.mark.parametrize(
    ("link", "blamed", "code", "words"),
    [
        ('proxy = "none"\nurls = ["wss://no-such.invalid:8443"]', "dns", "name-unknown", "no-such.invalid"),
        ('proxy = "none"\nurls = ["wss://127.0.0.1:{free}"]', "tcp", "not-reached", "can't be reached"),
        ('proxy = "http://127.0.0.1:{free}"', "tcp", "proxy-not-reached", "can't be reached"),
        ('proxy = "http://u:{{secret:none-such}}@127.0.0.1:{free}"', "proxy", "proxy-setting", "none-such"),
    ],
)
async def test_the_stage_that_failed_is_named_and_the_rest_not_tried(
    site: Site, link: str, blamed: str, code: str, words: str
) -> None:
    found = await site.found(link.format(free=free_port()))
    assert found[blamed].ok is False
    assert words in found[blamed].detail
    assert found[blamed].code == f"network.{code}"
    assert found[blamed].code in REMEDIES
    later = STAGES[STAGES.index(blamed) + 1 :]
    assert later
    assert {found[stage].code for stage in later} == {"not-tried"}


async def test_a_broker_that_says_no_is_about_who_we_are(site: Site) -> None:
    site.there.refuse = "this agent was revoked on 2026-01-01"
    found = await site.found()
    assert (found["upgrade"].ok, found["identity"].ok) == (True, False)
    assert "revoked on 2026-01-01" in found["identity"].detail
    assert found["identity"].code == "network.refused"


async def test_an_inspection_is_told_at_tls(site: Site, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    who = held.load(tmp_path / "state", site.secrets)
    context.load_cert_chain(who.certificate, who.key, password=who.passphrase)
    async with OddProxy(inspects=context) as proxy:
        found = await site.found(f'proxy = "{proxy.url}"')
    assert (found["proxy"].ok, found["tls"].ok) == (True, False)
    assert found["tls"].fix


async def test_the_address_that_answers_is_told_and_the_other_remarked(site: Site) -> None:
    dead = f"wss://127.0.0.1:{free_port()}"
    told = [
        finding
        async for finding in network(site.file(f'proxy = "none"\nurls = ["{dead}", "{site.there.url}"]'), site.secrets)
    ]
    assert [finding.subject for finding in told if finding.ok is None] == [dead]
    assert [finding.stage for finding in told if finding.ok] == list(STAGES)
