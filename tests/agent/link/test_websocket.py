"""The websocket to the broker: who is let in, who is trusted, and what each failure is called."""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import shutil
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from agent.errors import EnrolmentError, LinkError, LinkRefused
from agent.identity import held as identity
from agent.identity.enrolment import enroll
from agent.link.routes import Routes
from agent.link.websocket import SUBPROTOCOL, UNSENT_BYTES, WebsocketDialer, open_websocket
from agent.secrets import SecretStore
from cloud_broker.identity.authority import Authority, Terms
from cloud_broker.link.base import Peer
from cloud_broker.link.base import Transport as BrokerTransport
from cloud_broker.link.tls import Door, server_context
from config.dev.databases import free_port
from protocol import limits
from tests.agent.link.broker import AGENT, TENANT, Broker, broker, secrets_in, settings_of
from tests.agent.link.certificates import csr_of

HOST = "127.0.0.1"


class Site:
    """An enrolled agent beside its broker's folder."""

    def __init__(self, state: Path, secrets: SecretStore, authority: Authority) -> None:
        self.state = state
        self.secrets = secrets
        self.authority = authority

    @property
    def who(self) -> identity.Identity:
        return identity.load(self.state, self.secrets)

    def point_at(self, url: str) -> None:
        """Have the agent dial another place than its token said."""
        path = self.who.folder / "identity.json"
        path.write_text(path.read_text().replace(self.who.url, url))

    def has_certificate(self, *, life_s: float, now: float, tenant: str = TENANT) -> None:
        """Give the agent another certificate for its key."""
        csr = csr_of(self.who.folder / "agent.key", self.who.passphrase)
        certificate, _, _ = self.authority.sign_agent(csr, tenant, AGENT, now, Terms(life_s))
        (self.who.folder / "agent.crt").write_text(ssl.DER_cert_to_PEM_cert(certificate))

    async def dial(self, timeout_s: float = 10.0) -> None:
        """Dial, say a word, hear it back, hang up."""
        transport = await WebsocketDialer(self.state, Routes("none"), self.secrets, timeout_s=timeout_s).connect()
        try:
            await transport.send(b"hello")
            assert await transport.receive() == b"hello"
        finally:
            await transport.close()


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    """An agent that enrolled at a broker that is down now."""
    state = tmp_path / "agent"
    secrets = secrets_in(state)
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        return Site(state, secrets, there.authority)


@contextlib.asynccontextmanager
async def up(site: Site, **options: object) -> AsyncIterator[Broker]:
    """The site's broker, up again, on another port."""
    async with broker(site.authority.folder, **options) as there:  # type: ignore[arg-type]  # passed through as they are
        site.point_at(there.url)
        yield there


async def test_an_agent_is_let_in_and_messages_of_every_size_go_both_ways(site: Site) -> None:
    async with up(site) as there:
        transport = await WebsocketDialer(site.state, Routes("none"), site.secrets).connect()
        for size in (0, 1, 65_536, limits.MAX_MESSAGE_BYTES):
            await transport.send(b"x" * size)
            assert len(await transport.receive()) == size
        assert repr(transport) == f"<WebsocketTransport {there.url} OPEN>"
        assert transport.peer.address == there.url.removeprefix("wss://")
        await transport.close()
        with pytest.raises(LinkError, match="closed here"):
            await transport.send(b"late")


@pytest.mark.skipif(sys.platform != "linux", reason="a socket option of Linux")
async def test_megabytes_do_not_wait_in_the_socket(site: Site) -> None:
    async with up(site):
        transport = await WebsocketDialer(site.state, Routes("none"), site.secrets).connect()
        raw = transport._connection.transport.get_extra_info("socket")  # type: ignore[attr-defined]  # what we look at
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await transport.close()


async def test_the_end_of_a_link_says_who_ended_it(site: Site) -> None:
    async def hang_up(transport: BrokerTransport, peer: Peer) -> None:
        await transport.close("enough")

    async with up(site, converse=hang_up):
        transport = await WebsocketDialer(site.state, Routes("none"), site.secrets).connect()
        with pytest.raises(LinkError, match=r"the broker closed the link \(1000: enough\)"):
            await transport.receive()
        await transport.close()


async def test_a_message_beyond_the_limit_ends_the_link(site: Site) -> None:
    async with up(site):
        transport = await WebsocketDialer(site.state, Routes("none"), site.secrets).connect()
        await transport.send(b"x" * (limits.MAX_MESSAGE_BYTES + 1))
        with pytest.raises(LinkError, match="1009"):
            await transport.receive()
        await transport.close()


# --- our certificate ----------------------------------------------------------------------------------


async def test_without_a_certificate_there_is_no_link(site: Site) -> None:
    async with up(site) as there:
        trusting = identity.trusting(site.authority.ca_der)
        with pytest.raises(LinkRefused, match="A client certificate is needed"):
            await open_websocket(there.url, "/link", trusting, None)
        assert there.peers == []


async def test_a_certificate_of_another_authority_is_refused(site: Site, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", time.time())
    site.authority, ours = other, site.authority
    site.has_certificate(life_s=3600, now=time.time())
    site.authority = ours
    async with up(site) as there:
        with pytest.raises(LinkRefused, match="did not accept this agent's certificate") as caught:
            await site.dial()
        assert caught.value.stage == "certificate"
        assert there.peers == []


async def test_an_expired_certificate_is_refused_with_its_date(site: Site) -> None:
    now = time.time()
    site.has_certificate(life_s=60, now=now - 3600)
    path = site.who.folder / "identity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "not_after": now - 3540}))
    async with up(site) as there:
        with pytest.raises(LinkRefused, match="did not accept this agent's certificate: it ran out on 20"):
            await site.dial()
        assert there.peers == []


async def test_a_servers_certificate_is_no_agents(site: Site) -> None:
    for name in ("server.crt", "server.key"):
        assert (site.authority.folder / name).exists()
    context = identity.trusting(site.authority.ca_der)
    context.load_cert_chain(site.authority.folder / "server.crt", site.authority.folder / "server.key")
    async with up(site) as there:
        with pytest.raises(LinkRefused, match="did not accept this agent's certificate"):
            await open_websocket(there.url, "/link", context, None, certificate_ends=time.time() + 3600)
        assert there.peers == []


async def test_an_alert_that_names_the_reason_is_passed_on(site: Site, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", time.time())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(site.authority.folder / "server.crt", site.authority.folder / "server.key")
    server.load_verify_locations(cadata=other.ca_der)
    server.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server((HOST, 0)) as listening:
        site.point_at(f"wss://{HOST}:{listening.getsockname()[1]}")
        shaken = asyncio.create_task(asyncio.to_thread(_shake_hands, listening, server))
        with pytest.raises(LinkRefused, match="did not accept this agent's certificate: another authority issued it"):
            await site.dial(timeout_s=2.0)
        assert await shaken == "CERTIFICATE_VERIFY_FAILED"


async def test_an_agents_certificate_is_no_brokers(site: Site) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    who = site.who
    context.load_cert_chain(who.folder / "agent.crt", who.folder / "agent.key", password=who.passphrase)
    async with up(site, tls=context):
        with pytest.raises(LinkError, match="certificate"):
            await site.dial()


async def test_a_broker_that_refuses_says_why(site: Site) -> None:
    async with up(site) as there:
        there.refuse = "this agent was revoked on 2026-01-01"
        with pytest.raises(LinkRefused, match="revoked on 2026-01-01") as caught:
            await site.dial()
        assert caught.value.stage == "http"


async def test_a_copy_of_an_older_identity_is_refused(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.state, tmp_path / "copy")
    async with up(site) as there:
        await enroll(settings_of(site.state), await there.token(), site.secrets, site.state)
        await site.dial()
        copy = Site(tmp_path / "copy", secrets_in(tmp_path / "copy"), site.authority)
        copy.point_at(there.url)
        with pytest.raises(LinkRefused, match="this certificate was replaced by a newer one"):
            await copy.dial()


async def test_a_new_identity_is_used_at_the_next_dial(site: Site) -> None:
    dialer = WebsocketDialer(site.state, Routes("none"), site.secrets)
    async with up(site) as there:
        await (await dialer.connect()).close()
        who = await enroll(settings_of(site.state), await there.token(), site.secrets, site.state)
        await (await dialer.connect()).close()
        assert there.peers[-1].serial == who.serial != there.peers[0].serial
    shutil.rmtree(site.state / "identity")
    with pytest.raises(EnrolmentError, match="no certificate yet"):
        await dialer.connect()


# --- the broker's certificate ---------------------------------------------------------------------------


async def test_only_the_tokens_authority_is_trusted(site: Site, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", time.time())
    async with up(site, tls=server_context(other, [HOST], time.time())):
        with pytest.raises(LinkError, match=r"issued by CN=Outhaul authority \w+, not by .* inspected") as caught:
            await site.dial()
    assert caught.value.stage == "tls"


async def test_a_host_that_the_certificate_does_not_name_is_not_trusted(site: Site) -> None:
    async with up(site, hosts=("broker.example.com", "10.0.0.1")):
        with pytest.raises(
            LinkError, match=r"not for 127\.0\.0\.1 but for broker\.example\.com, 10\.0\.0\.1; .* public_url"
        ):
            await site.dial()


@pytest.mark.parametrize("off_s", [-800 * 86_400.0, 800 * 86_400.0])
async def test_a_certificate_out_of_its_time_speaks_of_the_clock(site: Site, off_s: float) -> None:
    (site.authority.folder / "server.crt").unlink()
    clock = [time.time() + off_s]
    door = Door(lambda: server_context(site.authority, [HOST], clock[0]))
    async with up(site, tls=door.context):
        with pytest.raises(LinkError, match=r"valid from 20\d\d-.*this machine's clock, which says 20\d\d-"):
            await site.dial()
        # A new certificate on the running port is enough; nothing is started anew.
        clock[0] = time.time()
        door.change()
        await site.dial()


async def test_tls_1_2_is_refused_on_both_sides(site: Site) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(cadata=site.authority.ca_der)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with up(site) as there:
        with pytest.raises(LinkError) as caught:
            await open_websocket(there.url, "/link", old, None)
        assert caught.value.stage == "tls"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(site.authority.folder / "server.crt", site.authority.folder / "server.key")
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server((HOST, 0)) as listening:
        site.point_at(f"wss://{HOST}:{listening.getsockname()[1]}")
        shaken = asyncio.create_task(asyncio.to_thread(_shake_hands, listening, server))
        with pytest.raises(LinkError, match=r"does not speak TLS 1\.3"):
            await site.dial()
        assert await shaken == "UNSUPPORTED_PROTOCOL"


def _shake_hands(listening: socket.socket, context: ssl.SSLContext) -> str:
    """Serve one connection as most programs do: unlike asyncio, they send the alert that says what was wrong."""
    connection, _ = listening.accept()
    with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as tls:
        tls.settimeout(10)
        try:
            tls.do_handshake()
        except ssl.SSLError as exc:
            # To close with something unread would reset the connection, and the alert would be lost.
            tls.shutdown(socket.SHUT_WR)
            while tls.recv(4096):
                pass
            return exc.reason
    return "no error"


# --- what is no broker ----------------------------------------------------------------------------------


async def test_a_name_that_is_not_known_is_told(site: Site) -> None:
    site.point_at("wss://no-such-broker.invalid:8443")
    with pytest.raises(LinkError, match=r"the name no-such-broker\.invalid can't be resolved") as caught:
        await site.dial()
    assert caught.value.stage == "dns"


async def test_a_port_where_nobody_listens_is_told(site: Site) -> None:
    site.point_at(f"wss://{HOST}:{free_port()}")
    with pytest.raises(LinkError, match=r"can't be reached .* does the broker run") as caught:
        await site.dial()
    assert caught.value.stage == "tcp"


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _plain_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


async def _hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


@pytest.mark.parametrize(
    ("talk", "sentence", "stage"),
    [
        (_silent, r"did not answer within 1 s, once connected, when TLS began; does a firewall", "tls"),
        (_plain_http, "does not speak TLS", "tls"),
        (_hangs_up, "cut the connection before TLS|no TLS connection", "tls"),
    ],
)
async def test_what_does_not_speak_tls_is_told(site: Site, talk: Talk, sentence: str, stage: str) -> None:
    done = asyncio.Event()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await talk(reader, writer)
        writer.close()
        done.set()

    server = await asyncio.start_server(serve_one, HOST, 0)
    async with server:
        site.point_at(f"wss://{HOST}:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(LinkError, match=sentence) as caught:
            await site.dial(timeout_s=1.0)
        async with asyncio.timeout(10):
            await done.wait()
    assert caught.value.stage == stage


@pytest.mark.parametrize(
    ("status", "headers", "body", "sentence", "retry_after_s"),
    [
        (404, {}, "", "answered HTTP 404, not as a broker", 0),
        (302, {"Location": "https://evil.example.com/"}, "", "sends us on to https://evil", 0),
        (503, {"Retry-After": "17"}, "", "busy or stopping", 17),
        (429, {}, "", "busy or stopping", 0),
        (503, {"Retry-After": "soon"}, "", "busy or stopping", 0),
        (403, {}, "no\n such   agent", "refused this agent: no such agent", 0),
    ],
)
async def test_other_answers_than_a_websocket_are_told(
    site: Site, status: int, headers: dict[str, str], body: str, sentence: str, retry_after_s: float
) -> None:
    def answer(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(http.HTTPStatus(status), body)
        response.headers.update(headers)
        return response

    with pytest.raises(LinkError, match=sentence) as caught:
        async with foreign_server(site, process_request=answer):
            await site.dial()
    assert caught.value.stage == "http"
    assert caught.value.retry_after_s == retry_after_s
    assert isinstance(caught.value, LinkRefused) is (status == 403)


async def test_a_websocket_of_another_kind_is_told(site: Site) -> None:
    async with foreign_server(site):
        with pytest.raises(LinkError, match="not one of an Outhaul broker"):
            await site.dial()


async def test_a_server_that_swallows_the_upgrade_is_told(site: Site) -> None:
    async def swallow(connection: ServerConnection, request: Request) -> None:
        await connection.wait_closed()

    async with foreign_server(site, process_request=swallow, subprotocols=[SUBPROTOCOL]):
        with pytest.raises(LinkError, match="did not answer within 1 s; does something on the way swallow"):
            await site.dial(timeout_s=1.0)


@contextlib.asynccontextmanager
async def foreign_server(site: Site, **options: object) -> AsyncIterator[None]:
    """A websocket server with the broker's certificate, and other manners."""

    async def handle(connection: ServerConnection) -> None:
        await connection.wait_closed()

    context = server_context(site.authority, [HOST], time.time())
    async with serve(handle, HOST, 0, ssl=context, **options) as server:  # type: ignore[arg-type]  # as they are
        site.point_at(f"wss://{HOST}:{next(iter(server.sockets)).getsockname()[1]}")
        yield
