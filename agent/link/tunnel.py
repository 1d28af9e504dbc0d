"""
A way through a proxy: HTTP CONNECT with Basic, NTLM or Negotiate, SOCKS 5 with or without a user.

CONNECT is spoken here and not by the websocket library, which does not tell whether a name or a port is the proxy's or
the broker's, knows Basic only, and prints a traceback when a proxy hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import ssl
import time
from typing import Final, TypeVar, cast

import msgspec

from agent.errors import LinkError
from agent.link.diagnosis import page_title
from agent.link.failures import SHOWN_CHARS, proxy_not_reached, short, trouble
from agent.link.login import NAMES, Login, Offers
from agent.link.proxy import Proxy
from agent.link.trail import Trail

P = TypeVar("P", bound=asyncio.BaseProtocol)

NEXT_ADDRESS_S: Final = 0.25  # seconds; a host with a dead IPv6 address costs no more than this
MAX_HEAD_BYTES: Final = 65_536  # bytes of a proxy's answer
MAX_BODY_BYTES: Final = 1_048_576  # bytes of the page that comes with a 407
MAX_ASKED: Final = 6  # requests for one tunnel; the longest login takes four
PAGE_S: Final = 1.0  # seconds for the page that an answer announces
TLS_RECORDS: Final = (b"\x15", b"\x16")  # an alert and a handshake: all that may come first in a tunnel


class Target(msgspec.Struct, frozen=True):
    """Where the tunnel is to lead."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Answer(msgspec.Struct, frozen=True):
    """
    A proxy's answer to CONNECT.

    Attributes:
        reason: the words after the status.
        offers: ways to log in.
        closes: the connection ends with it.
        html: whether it says that a web page follows.
        length: bytes of the body; ``None`` where they are not told.
        chunked: whether the body comes in chunks.
    """

    status: int
    reason: str
    offers: Offers
    closes: bool
    html: bool
    length: int | None
    chunked: bool


def read_answer(head: bytes) -> Answer:
    """
    Read the head of an answer.

    Raises:
        ValueError: it is not one of HTTP/1.
    """
    # Imported here, as the library of SOCKS below: most agents have no proxy before them.
    import http.client

    first, _, rest = head.partition(b"\r\n")
    protocol, _, outcome = first.decode("latin-1").partition(" ")
    if not protocol.startswith("HTTP/1."):
        raise ValueError(f"no HTTP answer: {protocol!r}")
    status, _, reason = outcome.partition(" ")
    try:
        fields = http.client.parse_headers(io.BytesIO(rest))
    except http.client.HTTPException as exc:
        raise ValueError(str(exc)) from exc
    # Proxies write either; `Proxy-Connection` is in no standard, and they obey it all the same.
    said = ",".join(fields.get_all("Proxy-Connection", []) + fields.get_all("Connection", [])).lower()
    kept = "keep-alive" in said if protocol == "HTTP/1.0" else True
    length = fields.get("Content-Length")
    chunked = "chunked" in fields.get("Transfer-Encoding", "").lower()
    offers = [offer.strip().partition(" ") for offer in fields.get_all("Proxy-Authenticate", [])]
    return Answer(
        status=int(status),
        reason=reason.strip()[:SHOWN_CHARS],
        offers=[(scheme.rstrip(",").lower(), rest.strip()) for scheme, _, rest in offers],
        closes="close" in said or not kept or (length is None and not chunked),
        html="html" in fields.get("Content-Type", "").lower() and length != "0",
        length=int(length) if length is not None else None,
        chunked=chunked,
    )


class Channel(asyncio.Protocol):
    """A connection on which HTTP is spoken, one request after the other."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._got = bytearray()
        self._changed = asyncio.Event()
        self._ended: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # a stream's, as create_connection makes them

    def data_received(self, data: bytes) -> None:
        self._got += data
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = exc or EOFError("the proxy hung up")
        self._changed.set()

    async def ask(self, request: bytes) -> Answer:
        """
        Send a request and return the answer; the body of a refusal is read to its end, so that another may follow.

        Raises:
            EOFError, OSError: the proxy hung up.
            ValueError: what it said is no answer.
        """
        self.transport.write(request)
        while b"\r\n\r\n" not in self._got:
            if len(self._got) > MAX_HEAD_BYTES:
                raise ValueError("the answer has no end")
            await self._more()
        head, _, rest = bytes(self._got).partition(b"\r\n\r\n")
        self._got[:] = rest
        answer = read_answer(head + b"\r\n\r\n")
        if not 200 <= answer.status < 300 and not answer.closes:
            await self._skip(answer)
        return answer

    async def page(self) -> bytes:
        """Return the beginning of a page that is to come, its title included; nothing if none comes."""
        with contextlib.suppress(EOFError, OSError, ValueError, TimeoutError):
            async with asyncio.timeout(PAGE_S):
                while b"</title" not in self._got.lower():
                    await self._more()
        return self.early

    @property
    def early(self) -> bytes:
        """What the other end of a tunnel said before it was spoken to."""
        return bytes(self._got)

    async def _skip(self, answer: Answer) -> None:
        if answer.chunked:
            while not (self._got == b"0\r\n\r\n" or self._got.endswith(b"\r\n0\r\n\r\n")):
                await self._more()
            self._got.clear()
        else:
            while len(self._got) < (answer.length or 0):
                await self._more()
            del self._got[: answer.length or 0]

    async def _more(self) -> None:
        if len(self._got) > MAX_BODY_BYTES:
            raise ValueError("the answer has no end")
        if self._ended is not None:
            raise self._ended
        self._changed.clear()
        await self._changed.wait()


async def reach(
    host: str, port: int, made: type[P], trail: Trail | None, tls: ssl.SSLContext | None = None
) -> tuple[asyncio.Transport, P]:
    """
    Return a connection: the name resolved anew, each of its addresses tried, the next one soon after the one before.

    Raises:
        OSError: there is none.
    """
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    if trail is not None:
        trail.host = host
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        trail.addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        trail.dns_s, began = time.monotonic() - began, time.monotonic()
    transport, protocol = await loop.create_connection(made, host, port, ssl=tls, happy_eyeballs_delay=NEXT_ADDRESS_S)
    if trail is not None:
        trail.tcp_s = time.monotonic() - began
        name = transport.get_extra_info("peername") or (host, port)
        trail.address = str(Target(str(name[0]), int(name[1])))
    return transport, protocol


async def http_tunnel(
    proxy: Proxy, target: Target, tls: ssl.SSLContext | None = None, trail: Trail | None = None
) -> asyncio.Transport:
    """
    Return a connection that an HTTP proxy has let through; whoever takes it sets its protocol.

    Args:
        tls: for a proxy that speaks TLS.

    Raises:
        LinkError: the proxy was not reached, or did not reach the target.
        LinkRefused: it wants another user, or forbids the target.
    """
    login, authorization, channel = Login(proxy), "", None
    try:
        for _ in range(MAX_ASKED):
            fresh = channel is None
            if channel is None:
                channel = await _channel(proxy, tls, trail)
            try:
                answer = await channel.ask(_request(target, authorization))
            except (EOFError, OSError) as exc:
                # Some say that they keep a connection after a 407, and don't.
                if fresh or login.midway:
                    raise _hung_up(proxy, login, exc) from exc
                channel.transport.abort()
                channel = None
                continue
            if 200 <= answer.status < 300:
                return await _let_through(proxy, target, channel, answer)
            _note(trail, answer, login)
            authorization = await _next_step(proxy, target, answer, login)
            _note(trail, answer, login)
            if answer.closes and login.midway:
                raise trouble("proxy-hangs-up", proxy=proxy.shown, scheme=login.scheme)
            if answer.closes:
                channel.transport.abort()
                channel = None
        raise trouble("proxy-cut", proxy=proxy.shown, said="it wants one step of a login after the other, without end")
    except ValueError as exc:
        _abort(channel)
        raise trouble("proxy-no-proxy", proxy=proxy.shown) from exc
    except BaseException:
        _abort(channel)
        raise


async def _channel(proxy: Proxy, tls: ssl.SSLContext | None, trail: Trail | None) -> Channel:
    try:
        _, channel = await reach(proxy.host, proxy.port, Channel, trail, tls)
    except OSError as exc:
        raise proxy_not_reached(proxy.shown, exc) from exc
    return channel


def _abort(channel: Channel | None) -> None:
    if channel is not None:
        channel.transport.abort()


def _note(trail: Trail | None, answer: Answer, login: Login) -> None:
    if trail is not None and answer.offers:
        trail.offers = trail.offers or tuple(_name(scheme) for scheme, _ in answer.offers)
        trail.scheme = login.scheme


def _hung_up(proxy: Proxy, login: Login, exc: Exception) -> LinkError:
    if login.midway:
        return trouble("proxy-hangs-up", proxy=proxy.shown, scheme=login.scheme)
    if login.scheme:
        return trouble("proxy-cut", proxy=proxy.shown, said=short(exc))
    return trouble("proxy-no-proxy", proxy=proxy.shown)


async def _let_through(proxy: Proxy, target: Target, channel: Channel, answer: Answer) -> asyncio.Transport:
    # Some proxies say `text/html` and mean a tunnel; a page comes by itself, and a tunnel waits for us.
    early = await channel.page() if answer.html else channel.early
    if early and early[:1] not in TLS_RECORDS:
        said = page_title(early) or "without a title"
        raise trouble("proxy-page", proxy=proxy.shown, target=target, said=said)
    return channel.transport


async def _next_step(proxy: Proxy, target: Target, answer: Answer, login: Login) -> str:
    """Return what to say to a refusal; raises where nothing can be said."""
    # Some, such as tinyproxy, say 401 when the password is wrong.
    if answer.status in (401, 407):
        authorization = await login.answer(answer.offers) if answer.offers else None
        if authorization is None:
            raise _login_refused(proxy, target, answer, login)
        return authorization
    said = f"HTTP {answer.status} {answer.reason}".rstrip()
    if answer.status in (403, 405):
        raise trouble("proxy-forbids", proxy=proxy.shown, target=target, said=said)
    if 300 <= answer.status < 400 or (answer.html and answer.status < 500):
        raise trouble("proxy-page", proxy=proxy.shown, target=target, said=said)
    raise trouble("proxy-can-not", proxy=proxy.shown, target=target, said=said)


def _login_refused(proxy: Proxy, target: Target, answer: Answer, login: Login) -> LinkError:
    offers = ", ".join(_name(scheme) for scheme, _ in answer.offers) or "none"
    if login.scheme:
        name = "proxy-refused-login" if proxy.user else "proxy-refused-account"
        return trouble(name, proxy=proxy.shown, status=answer.status, scheme=login.scheme)
    if answer.offers and not any(scheme in NAMES for scheme, _ in answer.offers):
        return trouble("proxy-wants-other", proxy=proxy.shown, target=target, status=answer.status, offers=offers)
    return trouble("proxy-wants-login", proxy=proxy.shown, status=answer.status, offers=offers)


def _name(scheme: str) -> str:
    return NAMES.get(scheme, scheme.capitalize())


def _request(target: Target, authorization: str) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: outhaul-agent"]
    lines += ["Proxy-Connection: keep-alive"]
    if authorization:
        lines.append(f"Proxy-Authorization: {authorization}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8")


async def socks_tunnel(proxy: Proxy, target: Target) -> socket.socket:
    """
    Return a connected socket that a SOCKS 5 proxy has let through.

    With ``socks5h`` the proxy resolves the target's name, with ``socks5`` this machine does.

    Raises:
        LinkError, LinkRefused: as ``http_tunnel``.
    """
    from python_socks import ProxyConnectionError, ProxyError, ProxyType
    from python_socks.async_.asyncio import Proxy as SocksProxy

    user, password = proxy.login or (None, None)
    dialer = SocksProxy(ProxyType.SOCKS5, proxy.host, proxy.port, user, password, rdns=proxy.scheme == "socks5h")
    try:
        # Its own limit of 60 s is off: the whole dial has one.
        return await dialer.connect(target.host, target.port, timeout=3600)
    except ProxyConnectionError as exc:
        cause = exc.__cause__ if isinstance(exc.__cause__, OSError) else exc
        raise proxy_not_reached(proxy.shown, cause if isinstance(cause, OSError) else OSError(str(cause))) from exc
    except socket.gaierror as exc:
        raise trouble(
            "name-unknown", host=target.host, said=f"{short(exc)}; with socks5h:// the proxy does it"
        ) from exc
    except ProxyError as exc:
        said = short(exc)
        if "uthentication" in said:
            wants = "wants another user and password" if proxy.user else "wants a user and password"
            raise trouble("socks-wants-login", proxy=proxy.shown, wants=wants, said=said) from exc
        if "not allowed" in said:
            raise trouble("proxy-forbids", proxy=proxy.shown, target=target, said=said) from exc
        raise trouble("proxy-can-not", proxy=proxy.shown, target=target, said=said) from exc
    except OSError as exc:
        raise trouble("proxy-cut", proxy=proxy.shown, said=short(exc)) from exc
