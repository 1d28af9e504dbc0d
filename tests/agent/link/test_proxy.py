"""Which proxy is taken, and ways through real ones."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from agent.errors import ConfigError, LinkError, LinkRefused, SecretError
from agent.identity.enrolment import enroll
from agent.link.base import Transport
from agent.link.proxy import Proxy, exempt
from agent.link.routes import Routes
from agent.link.websocket import WebsocketDialer
from agent.secrets import SecretStore
from cloud_broker.identity.authority import Authority
from cloud_broker.link.tls import server_context
from config.dev.databases import free_port
from config.dev.proxies import http_proxy, socks_proxy
from tests.agent.link.broker import broker, secrets_in, settings_of

BROKER = "wss://broker.example.com:8443"
PASSWORD = "p@ss:w%rd/1"


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own machine may stand behind a proxy."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def secrets(tmp_path: Path) -> SecretStore:
    """A vault with the proxy's password."""
    store = secrets_in(tmp_path / "secrets")
    store.set("proxy-password", PASSWORD)
    return store


def proxy_for(url: str, setting: str, secrets: SecretStore) -> Proxy | None:
    """The proxy that is tried first."""
    return Routes(setting).proxies(url, secrets)[0]


# --- which one --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ({"ALL_PROXY": "socks5h://proxy:1080"}, "socks5h://proxy:1080"),
        ({"ALL_PROXY": "socks://proxy"}, "socks5h://proxy:1080"),
        ({"HTTPS_PROXY": "http://a", "ALL_PROXY": "socks5://b"}, "http://a:80"),
        ({"HTTPS_PROXY": "https://proxy"}, "https://proxy:443"),
        ({"HTTP_PROXY": "http://proxy:3128"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "broker.example.com"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "other.org, .example.com"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "example.org"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "broker.example.com:9"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128"}, "http://[fd00::1]:3128"),
    ],
)
def test_the_system_names_a_proxy(
    environment: dict[str, str], found: str | None, monkeypatch: pytest.MonkeyPatch, secrets: SecretStore
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(BROKER, "system", secrets)
    assert (proxy and proxy.shown) == found


@pytest.mark.parametrize(
    ("exempt", "host", "straight"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8,192.168.1.0/24", "192.168.1.9", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "broker", False),
        ("fd00::/8", "[fd00::5]", True),
    ],
)
def test_no_proxy_knows_networks(
    exempt: str, host: str, straight: bool, monkeypatch: pytest.MonkeyPatch, secrets: SecretStore
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", exempt)
    assert (proxy_for(f"wss://{host}:8443", "system", secrets) is None) is straight


@pytest.mark.parametrize(
    ("entry", "host", "port", "matches"),
    [
        ("broker.example.com", "broker.example.com", 8443, True),
        ("broker.example.com", "BROKER.example.com.", 8443, True),
        ("example.com", "broker.example.com", 8443, True),
        (".example.com", "broker.example.com", 8443, True),
        ("*.example.com", "broker.example.com", 8443, True),
        ("ample.com", "broker.example.com", 8443, False),
        ("broker.example.com:8443", "broker.example.com", 8443, True),
        ("broker.example.com:443", "broker.example.com", 8443, False),
        ("10.*", "10.1.2.3", 8443, True),
        ("10.1.2.3", "10.1.2.3", 8443, True),
        ("10.1.2.3:8443", "10.1.2.3", 8443, True),
        ("10.1.0.0/16", "10.1.2.3", 8443, True),
        ("10.2.0.0/16", "10.1.2.3", 8443, False),
        ("fd00::/8", "fd00::5", 8443, True),
        ("[fd00::5]", "fd00::5", 8443, True),
        ("[fd00::5]:8443", "fd00::5", 8443, True),
        ("<local>", "broker", 8443, True),
        ("<local>", "broker.example.com", 8443, False),
        ("https://broker.example.com", "broker.example.com", 8443, True),
        ("*", "anything", 1, True),
        ("", "anything", 1, False),
        ("10.0.0.0/99", "10.1.2.3", 8443, False),
    ],
)
def test_an_exception_matches_what_it_says(entry: str, host: str, port: int, matches: bool) -> None:
    assert exempt(host, port, ["other.org", entry]) is matches


def test_none_goes_past_the_systems_proxy(monkeypatch: pytest.MonkeyPatch, secrets: SecretStore) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert proxy_for(BROKER, "none", secrets) is None


def test_a_password_comes_from_the_secrets_and_is_not_shown(secrets: SecretStore) -> None:
    proxy = proxy_for(BROKER, "http://plant:{secret:proxy-password}@proxy:3128", secrets)
    assert proxy is not None
    assert proxy.url == "http://plant:p%40ss%3Aw%25rd%2F1@proxy:3128"
    assert proxy.shown == "http://proxy:3128"
    assert "p%40ss" not in repr(proxy)


def test_a_missing_password_names_the_command(secrets: SecretStore) -> None:
    with pytest.raises(SecretError, match="secret set other"):
        proxy_for(BROKER, "http://plant:{secret:other}@proxy:3128", secrets)


@pytest.mark.parametrize(
    "url", ["http://", "ftp://proxy", "http://proxy:port", "http://proxy:99999", "http://proxy/path", "socks4://proxy"]
)
def test_what_is_no_proxy_is_refused_without_its_password(url: str, secrets: SecretStore) -> None:
    with pytest.raises(ConfigError, match=r"link\.proxy") as caught:
        proxy_for(BROKER, url.replace("://", "://u:hidden@"), secrets)
    assert "hidden" not in str(caught.value)


# --- through real ones ------------------------------------------------------------------------------


async def _echoes(transport: Transport) -> None:
    await transport.send(b"x" * 200_000)
    assert await transport.receive() == b"x" * 200_000
    await transport.close()


@pytest.mark.parametrize("user", ["", "plant"])
@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
async def test_enrolment_and_link_go_through_a_proxy(kind: str, user: str, tmp_path: Path) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    secrets.set("proxy-password", "s3cret")
    start = http_proxy if kind == "http" else socks_proxy
    async with broker(tmp_path / "broker") as there:
        with start(tmp_path, user=user, password="s3cret" if user else "") as proxy:
            login = "plant:{secret:proxy-password}@" if user else ""
            setting = f"{kind}://{login}127.0.0.1:{proxy.port}"
            token = await there.token(url=there.url.replace("127.0.0.1", "localhost"))
            await enroll(settings_of(state, proxy=setting), token, secrets, state)
            transport = await WebsocketDialer(state, Routes(setting), secrets).connect()
            await _echoes(transport)
            assert transport.peer.proxy == f"{kind}://127.0.0.1:{proxy.port}"
            # The broker saw the connection; that it came by the proxy, the proxy's own log tells.
            port = there.url.rsplit(":", 1)[1]
            name = "127.0.0.1" if kind == "socks5" else "localhost"
            seen = [line for line in proxy.log().splitlines() if f"{name}:{port}" in line]
            assert len(seen) >= 2, proxy.log()


async def test_the_environments_proxy_is_taken_and_no_proxy_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, secrets = tmp_path / "agent", secrets_in(tmp_path / "agent")
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        with http_proxy(tmp_path) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            transport = await WebsocketDialer(state, Routes(), secrets).connect()
            await _echoes(transport)
            assert "CONNECT 127.0.0.1:" in proxy.log()
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            straight = await WebsocketDialer(state, Routes(), secrets).connect()
            assert (transport.peer.proxy, straight.peer.proxy) == (proxy.url, "")
            await straight.close()


@pytest.fixture
def enrolled(tmp_path: Path) -> tuple[Path, SecretStore]:
    """An agent's folder and secrets."""
    state = tmp_path / "agent"
    return state, secrets_in(state)


@pytest.mark.parametrize(
    ("kind", "login", "wanted", "refused", "sentence"),
    [
        ("http", "", "plant", True, "wants a user and password"),
        ("http", "plant:wrong@", "plant", True, "did not accept the user and password"),
        ("socks5h", "", "plant", True, "wants a user and password"),
        ("socks5h", "plant:wrong@", "plant", True, "wants another user and password"),
    ],
)
async def test_a_proxy_that_wants_another_user_is_told_apart(
    kind: str,
    login: str,
    wanted: str,
    refused: bool,
    sentence: str,
    tmp_path: Path,
    enrolled: tuple[Path, SecretStore],
) -> None:
    state, secrets = enrolled
    start = http_proxy if kind == "http" else socks_proxy
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        with start(tmp_path, user=wanted, password="s3cret") as proxy:
            setting = f"{kind}://{login}127.0.0.1:{proxy.port}"
            with pytest.raises(LinkRefused, match=sentence) as caught:
                await WebsocketDialer(state, Routes(setting), secrets).connect()
    assert caught.value.stage == "proxy"
    assert "wrong" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["http", "socks5h"])
async def test_a_proxy_that_can_not_reach_the_broker_says_so(
    kind: str, tmp_path: Path, enrolled: tuple[Path, SecretStore]
) -> None:
    state, secrets = enrolled
    start = http_proxy if kind == "http" else socks_proxy
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
    with start(tmp_path) as proxy, pytest.raises(LinkError, match=r"could not reach 127\.0\.0\.1") as caught:
        await WebsocketDialer(state, Routes(f"{kind}://127.0.0.1:{proxy.port}"), secrets).connect()
    assert caught.value.stage == "proxy"
    assert not isinstance(caught.value, LinkRefused)


async def test_a_proxy_that_forbids_the_port_is_a_refusal(tmp_path: Path, enrolled: tuple[Path, SecretStore]) -> None:
    state, secrets = enrolled
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        with http_proxy(tmp_path, allowed_ports=[443]) as proxy, pytest.raises(LinkRefused, match="forbids the way"):
            await WebsocketDialer(state, Routes(proxy.url), secrets).connect()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("http://127.0.0.1:{port}", "can't be reached"),
        ("socks5h://127.0.0.1:{port}", "can't be reached"),
        ("http://no-such-proxy.invalid:3128", "name that can't be resolved"),
        ("socks5://no-such-proxy.invalid:1080", "name that can't be resolved"),
    ],
)
async def test_a_proxy_that_is_down_is_named(
    setting: str, sentence: str, tmp_path: Path, enrolled: tuple[Path, SecretStore]
) -> None:
    state, secrets = enrolled
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        with pytest.raises(LinkError, match=f"the proxy .* {sentence}") as caught:
            await WebsocketDialer(state, Routes(setting.format(port=free_port())), secrets).connect()
    assert caught.value.stage == "proxy"


async def test_a_socks_proxy_given_as_an_http_proxy_is_told(tmp_path: Path, enrolled: tuple[Path, SecretStore]) -> None:
    state, secrets = enrolled
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        with socks_proxy(tmp_path) as proxy, pytest.raises(LinkError, match="is it a SOCKS proxy"):
            await WebsocketDialer(state, Routes(f"http://127.0.0.1:{proxy.port}"), secrets).connect()


async def test_a_proxy_may_itself_speak_tls(
    tmp_path: Path, enrolled: tuple[Path, SecretStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[str] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        passed.append(request.splitlines()[0])
        host, port = request.split(" ")[1].split(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    state, secrets = enrolled
    authority = Authority.create(tmp_path / "proxy", time.time())
    tls = server_context(authority, ["127.0.0.1"], time.time())
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=tls) as server:
            setting = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(LinkError, match="certificate that this machine does not trust"):
                await WebsocketDialer(state, Routes(setting), secrets).connect()
            monkeypatch.setenv("SSL_CERT_FILE", str(authority.folder / "ca.crt"))
            await _echoes(await WebsocketDialer(state, Routes(setting), secrets).connect())
    assert passed == [f"CONNECT {there.url.removeprefix('wss://')} HTTP/1.1"]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n", "NTLM, Negotiate"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n\r\n<html>", "HTTP 502 Bad Gateway"),
        (b"<html>sorry</html>\r\n\r\n", "did not answer as an HTTP proxy"),
        (b"HTTP/1.1 abc\r\n\r\n", "did not answer as an HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, "did not answer as an HTTP proxy"),
        (b"", "did not answer as an HTTP proxy"),
        (b"HTTP/1.0 200 Connection established\r\n\r\n", "cut the connection"),
    ],
)
async def test_odd_answers_of_a_proxy_become_plain_sentences(
    answer: bytes, sentence: str, tmp_path: Path, enrolled: tuple[Path, SecretStore]
) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    state, secrets = enrolled
    async with broker(tmp_path / "broker") as there:
        await enroll(settings_of(state), await there.token(), secrets, state)
        server = await asyncio.start_server(say, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(LinkError, match=sentence):
                await WebsocketDialer(state, Routes(f"http://127.0.0.1:{port}"), secrets).connect()
