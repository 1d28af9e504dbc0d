"""
The proxy laboratory: every manner of a corporate network that we know of, in front of a real broker.

Each ends connected, or with the sentence that says what is wrong and the remedy under it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.errors import LinkError, LinkRefused
from agent.identity.enrolment import enroll
from agent.link.failures import TROUBLES
from agent.link.login import Login
from agent.link.proxy import parse
from agent.link.routes import Routes
from agent.link.tunnel import read_answer
from agent.link.websocket import WebsocketDialer
from agent.secrets import SecretStore
from cloud_broker.identity.authority import Authority
from cloud_broker.link.tls import server_context
from config.dev.databases import free_port
from config.dev.odd_proxies import PAGE, OddProxy
from tests.adversary.forger import authority, ip, issue
from tests.agent.link.broker import Broker, broker, secrets_in, settings_of

PASSWORD = "s3cret with/odd@signs%"
USER = "CORP\\plant"
ACCOUNTS = {USER: PASSWORD}


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own machine may stand behind a proxy."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


class Site:
    """An enrolled agent, and its broker."""

    def __init__(self, there: Broker, state: Path, secrets: SecretStore) -> None:
        self.there = there
        self.state = state
        self.secrets = secrets

    async def echoes(self, routes: Routes, timeout_s: float = 20.0) -> str:
        """Dial, send and hear back more than a packet; return what was dialled through."""
        transport = await WebsocketDialer(self.state, routes, self.secrets, timeout_s=timeout_s).connect()
        await transport.send(b"x" * 200_000)
        assert await transport.receive() == b"x" * 200_000
        await transport.close()
        return transport.peer.proxy

    async def fails(self, routes: Routes, timeout_s: float = 20.0) -> LinkError:
        """Dial, and return the error."""
        with pytest.raises(LinkError) as caught:
            await WebsocketDialer(self.state, routes, self.secrets, timeout_s=timeout_s).connect()
        assert PASSWORD not in str(caught.value)
        assert quote(PASSWORD, safe="") not in str(caught.value)
        return caught.value


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """An agent that enrolled straight, beside its broker."""
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    secrets.set("proxy", PASSWORD)
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        yield Site(there, state, secrets)


def through(proxy: OddProxy, user: str = USER, **more: Any) -> Routes:
    """The operator's words for a proxy that wants a login."""
    login = f"{quote(user, safe='')}:{{secret:proxy}}@" if user else ""
    return Routes(proxy.url.replace("://", f"://{login}"), **more)


# --- connected ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("splits", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("hangs_up", [False, True], ids=["keeps", "closes after 407"])
@pytest.mark.parametrize(
    ("offered", "used"),
    [
        (("Basic",), "Basic"),
        (("NTLM",), "NTLM"),
        (("Negotiate",), "Negotiate"),
        (("Basic", "Digest", "NTLM", "Negotiate"), "Negotiate"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
async def test_a_login_opens_the_way(
    offered: tuple[str, ...], used: str, hangs_up: bool, splits: bool, site: Site
) -> None:
    odd = OddProxy(login=offered, accounts=ACCOUNTS, hangs_up_after_407=hangs_up, splits=splits, chunked=splits)
    async with odd as proxy:
        await site.echoes(through(proxy))
        assert proxy.tunnels == 1
        assert proxy.connections == (2 if hangs_up else 1)
        # Asked for first: a password is not given away where nobody wants it.
        asked = [request.partition(" ")[2].partition(" ")[2] for request in proxy.seen]
        assert asked == ["", used] if used == "Basic" else ["", used, used]


async def test_enrolment_logs_in_too(tmp_path: Path, site: Site) -> None:
    state, secrets = tmp_path / "second", secrets_in(tmp_path / "second")
    secrets.set("proxy", PASSWORD)
    async with OddProxy(login=["NTLM"], accounts=ACCOUNTS) as proxy:
        await enroll(settings_of(state, proxy=through(proxy).proxy), await site.there.token(), secrets, state)
        assert proxy.tunnels == 1


async def test_a_proxy_that_closes_silently_after_407_is_dialled_again(site: Site) -> None:
    odd = OddProxy(login=["NTLM"], accounts=ACCOUNTS, hangs_up_after_407=True, silent_about_it=True)
    async with odd as proxy:
        await site.echoes(through(proxy))
        assert proxy.connections == 2


async def test_a_proxy_may_speak_tls_with_a_certificate_of_the_company(tmp_path: Path, site: Site) -> None:
    company = Authority.create(tmp_path / "company", time.time())
    tls = server_context(company, ["127.0.0.1"], time.time())
    async with OddProxy(login=["NTLM"], accounts=ACCOUNTS, tls=tls) as proxy:
        failed = await site.fails(through(proxy))
        assert (failed.trouble, failed.stage) == ("proxy-untrusted", "proxy")
        assert "link.extra_authorities" in str(failed)
        await site.echoes(through(proxy, extra_authorities=company.folder / "ca.crt"))


async def test_a_tunnel_that_is_cut_for_being_idle_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.link.websocket.IDLE_S", 0.2)  # of three seconds
    async with OddProxy(idle_s=0.5) as proxy:
        transport = await WebsocketDialer(site.state, Routes(proxy.url), site.secrets).connect()
        with pytest.raises(LinkError, match=r"the line was cut .* of silence; if that repeats, set link\.heartbeat"):
            await transport.receive()  # nobody says a word: nothing keeps it alive but the session's beats
        assert proxy.cut_idle == 1
        await transport.close()


async def test_an_address_of_ipv6_is_dialled_straight_and_through_a_proxy(tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker", hosts=("::1",), host="::1") as there, OddProxy(host="::1") as proxy:
        await enroll(settings_of(state), await there.token(), secrets, state)
        site = Site(there, state, secrets)
        assert await site.echoes(Routes("none")) == ""
        assert await site.echoes(Routes(proxy.url)) == proxy.url
        assert proxy.seen[-1] == f"CONNECT {there.url.removeprefix('wss://')}"


async def test_the_next_address_is_taken_when_one_does_not_answer(site: Site) -> None:
    dead = f"wss://127.0.0.1:{free_port()}"
    routes = Routes("none", urls=(dead, site.there.url))
    dialer = WebsocketDialer(site.state, routes, site.secrets)
    transport = await dialer.connect()
    assert (transport.peer.url, dialer.target) == (site.there.url, site.there.url)
    await transport.close()
    # Where none answers, the failure of the one that came furthest is told.
    failed = await site.fails(Routes("none", urls=(dead, "wss://no-such-broker.invalid:8443")))
    assert failed.trouble == "not-reached"


async def test_hosts_of_no_proxy_are_dialled_straight(site: Site) -> None:
    async with OddProxy() as proxy:
        assert await site.echoes(Routes(proxy.url, no_proxy=("127.0.0.0/8",))) == ""
        assert proxy.seen == []


# --- the right sentence -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "user", "trouble", "words"),
    [
        (OddProxy(login=["NTLM", "Negotiate"]), "", "proxy-wants-login", "it takes NTLM, Negotiate"),
        (OddProxy(login=["Digest"]), USER, "proxy-wants-other", "wants Digest"),
        (OddProxy(login=["Basic"]), USER, "proxy-refused-login", "by Basic"),
        (OddProxy(login=["NTLM"], accounts={USER: "other"}), USER, "proxy-refused-login", "by NTLM"),
        (OddProxy(login=["Negotiate"], accounts={USER: "other"}), USER, "proxy-refused-login", "DOMAIN%5CUSER"),
        (OddProxy(login=["NTLM"], accounts=ACCOUNTS, hangs_up_midway=True), USER, "proxy-hangs-up", "by NTLM"),
        (
            OddProxy(answer=b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + PAGE),
            "",
            "proxy-page",
            "Please log in - Guest network",
        ),
        (OddProxy(answer=b"HTTP/1.1 200 OK\r\n\r\n" + PAGE), "", "proxy-page", "web page in place of a tunnel"),
        (
            OddProxy(answer=b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\nContent-Length: 0\r\n\r\n"),
            "",
            "proxy-page",
            "HTTP 302 Found",
        ),
        (OddProxy(answer=b"HTTP/1.1 403 Blocked\r\nContent-Length: 0\r\n\r\n"), "", "proxy-forbids", "allow CONNECT"),
        (OddProxy(answer=b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n"), "", "proxy-can-not", "HTTP 502 Bad"),
        (OddProxy(answer=b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), "", "proxy-can-not", "HTTP 503 Busy"),
        (OddProxy(answer=b"HTTP/1.1 504 Late\r\nContent-Length: 0\r\n\r\n"), "", "proxy-can-not", "HTTP 504 Late"),
        (OddProxy(answer=b"SSH-2.0-OpenSSH\r\n\r\n"), "", "proxy-no-proxy", "is it a SOCKS proxy"),
    ],
    ids=lambda value: value if isinstance(value, str) and "-" in value else "",
)
async def test_what_a_proxy_does_not_let_pass_is_said(
    odd: OddProxy, user: str, trouble: str, words: str, site: Site
) -> None:
    # Each test has its own: a table's would be shared.
    async with dataclasses.replace(odd, seen=[]) as proxy:
        failed = await site.fails(through(proxy, user))
    assert (failed.trouble, failed.stage) == (trouble, "proxy")
    assert words in str(failed)
    assert isinstance(failed, LinkRefused) is TROUBLES[trouble].refused
    assert failed.floor_s == TROUBLES[trouble].floor_s


async def test_a_wrong_password_is_tried_once_for_each_dial(site: Site) -> None:
    """And seldom after: a directory locks an account after some wrong passwords."""
    async with OddProxy(login=["Basic", "NTLM", "Negotiate"], accounts={USER: "other"}) as proxy:
        failed = await site.fails(through(proxy))
        assert [request.rpartition(" ")[2] for request in proxy.seen[1:]] == ["Negotiate", "Negotiate"]
    assert failed.floor_s >= 300


async def test_an_inspection_is_called_by_its_name(tmp_path: Path, site: Site) -> None:
    company, context = _company(tmp_path)
    async with OddProxy(inspects=context) as proxy:
        failed = await site.fails(Routes(proxy.url))
        assert (failed.trouble, failed.stage) == ("inspected", "tls")
        assert "the link is inspected by CN=Corp Proxy CA; " in str(failed)
        # The machine's own list knows the company's authority: that names it, and opens nothing.
        failed = await site.fails(Routes(proxy.url, extra_authorities=company))
        assert "inspected by CN=Corp Proxy CA (which this machine trusts, and the agent does not)" in str(failed)
        assert "TLS inspection switched off" in str(failed)
    assert site.there.peers == []


async def test_who_inspects_is_looked_at_once_while_the_trouble_lasts(tmp_path: Path, site: Site) -> None:
    _, context = _company(tmp_path)
    async with OddProxy(inspects=context) as proxy:
        routes = Routes(proxy.url)
        first = await site.fails(routes)
        looked = len(proxy.seen)
        assert looked > 1
        assert str(await site.fails(routes)) == str(first)
        assert len(proxy.seen) == looked + 1


@pytest.mark.parametrize(
    ("days", "words"),
    [(800, "and would be at least 799 days behind"), (-800, "and would be at least 435 days ahead")],
)
async def test_a_wrong_clock_is_measured_by_the_certificate(days: int, words: str, site: Site) -> None:
    (site.there.authority.folder / "server.crt").unlink()
    tls = server_context(site.there.authority, ["127.0.0.1"], time.time() + days * 86_400.0)
    async with await asyncio.start_server(_reset, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        failed = await site.fails(Routes("none", urls=(f"wss://127.0.0.1:{port}",)))
    assert (failed.trouble, failed.stage) == ("wrong-time", "tls")
    assert words in str(failed)


async def _plain_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\nContent-Type: text/html\r\n\r\n" + PAGE)
    await writer.drain()
    writer.close()


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)  # the ClientHello, which a middlebox did not like
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.close()


@pytest.mark.parametrize(
    ("talk", "trouble"),
    [(_plain_page, "page-for-tls"), (_reset, "reset-in-tls")],
    ids=["a portal answers in clear", "reset after the ClientHello"],
)
async def test_what_stands_between_is_told_apart(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], trouble: str, site: Site
) -> None:
    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        failed = await site.fails(Routes("none", urls=(f"wss://127.0.0.1:{port}",)))
    assert (failed.trouble, failed.stage) == (trouble, "tls")


# --- the parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "own_account", "offers", "chosen"),
    [
        ("u:p@", False, ["basic", "ntlm"], "ntlm"),
        ("u:p@", False, ["ntlm", "negotiate", "basic"], "negotiate"),
        ("u:p@", False, ["digest"], ""),
        ("", False, ["negotiate", "ntlm", "basic"], ""),
        ("", True, ["basic", "ntlm"], "ntlm"),
        ("", True, ["basic"], ""),
    ],
)
def test_the_strongest_way_to_log_in_is_taken(login: str, own_account: bool, offers: list[str], chosen: str) -> None:
    made = Login(parse(f"http://{login}proxy:3128", "here"), own_account=own_account)
    assert made.choose([(offer, "") for offer in offers]) == chosen


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1 407 x\r\nContent-Length: 3\r\n\r\n", False),
        (b"HTTP/1.1 407 x\r\nTransfer-Encoding: chunked\r\n\r\n", False),
        (b"HTTP/1.1 407 x\r\n\r\n", True),
        (b"HTTP/1.1 407 x\r\nContent-Length: 3\r\nProxy-Connection: close\r\n\r\n", True),
        (b"HTTP/1.1 407 x\r\nContent-Length: 3\r\nConnection: Close\r\n\r\n", True),
        (b"HTTP/1.0 407 x\r\nContent-Length: 3\r\n\r\n", True),
        (b"HTTP/1.0 407 x\r\nContent-Length: 3\r\nProxy-Connection: Keep-Alive\r\n\r\n", False),
    ],
)
def test_whether_a_proxy_keeps_the_connection_is_read(head: bytes, closes: bool) -> None:
    assert read_answer(head).closes is closes


def test_every_trouble_fills_in_to_a_sentence_with_a_fix() -> None:
    for name, found in TROUBLES.items():
        assert found.means.endswith("."), name
        assert found.fix, name
        assert found.says[0] not in " .;", name


def _company(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A company's authority as a PEM file, and a context that shows a certificate of its for 127.0.0.1."""
    root = authority(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Corp Proxy CA")]))
    path = folder / "company.pem"
    path.write_text(root.pem(), "ascii")
    shown = issue(root, [ip("127.0.0.1")], purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    return path, shown.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
