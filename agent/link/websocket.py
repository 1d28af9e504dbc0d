"""The websocket to the broker: TLS 1.3, one subprotocol, straight or through a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from agent.errors import ConfigError, LinkError
from agent.identity import held as identity
from agent.link.base import Dialer, Peer, Transport
from agent.link.diagnosis import Looks, Shown, Way, explain, page_title, untrusted
from agent.link.failures import NOT_TLS, trouble
from agent.link.library import (
    ClientConnection,
    ConnectionClosed,
    InvalidMessage,
    InvalidStatus,
    Response,
    State,
    Subprotocol,
    connect,
)
from agent.link.proxy import Proxy
from agent.link.routes import Routes
from agent.link.trail import Trail
from agent.link.tunnel import Channel, Target, http_tunnel, reach, socks_tunnel
from agent.secrets import SecretStore
from protocol import limits

SUBPROTOCOL: Final = Subprotocol("outhaul.1")
DIAL_S: Final = 30.0  # seconds for name, TCP, proxy, TLS and HTTP together
PROBE_S: Final = 5.0  # seconds to look at a certificate that did not pass
CLOSE_S: Final = 2.0  # seconds; a peer that does not answer the closing handshake is not waited for
UNSENT_BYTES: Final = 131_072  # bytes in the socket that have not left yet; more would stand before a small message
IDLE_S: Final = 3.0  # seconds of silence before a cut that may be the reason for it
MAX_QUEUE: Final = 4  # messages read ahead; then TCP slows the broker down
STAGES: Final = ("setup", "dns", "tcp", "proxy", "tls", "certificate", "http", "link")  # of a dial, in their order

# Never below WARNING: the library's debug log has the first bytes of each message, and an enrolment's are a secret.
_WIRE_LOG: Final = logging.getLogger("agent.link.wire")
_WIRE_LOG.setLevel(logging.WARNING)


class _Connection(ClientConnection):
    """Keeps why the connection was lost: with TLS 1.3 a refused certificate shows only there."""

    lost: Exception | None = None
    _made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made = True
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc
        # Behind a proxy it is there before TLS is done, and may be lost without ever having been made.
        if self._made:
            super().connection_lost(exc)

    async def handshake(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().handshake(*args, **kwargs)
        except InvalidMessage as exc:
            raise exc from self.lost or exc.__cause__


class _Dial(connect):
    """
    One dial.

    Attributes:
        via: the proxy, if there is one.
        proxy_tls: for a proxy that speaks TLS.
        stage: what is under way: ``tcp``, ``proxy``, ``tls`` or ``http``.
        trail: what it met, if somebody wants to know.
        certificate: that the other end showed, DER.
        since: when the stage began, by the monotonic clock.
    """

    via: Proxy | None = None
    proxy_tls: ssl.SSLContext | None = None
    stage = "tcp"
    trail: Trail | None = None
    certificate = b""
    since = 0.0

    async def open_tcp_connection(self) -> ClientConnection:
        connection = self.factory(self.ws_uri)
        transport = await self.way()
        self._at("tls")
        transport.set_protocol(connection)
        tls = await asyncio.get_running_loop().start_tls(
            transport, connection, self.create_connection_kwargs["ssl"], server_hostname=self.ws_uri.host
        )
        if tls is None:
            raise ConnectionResetError("the connection was cut during TLS")
        self._at("http")
        shown: ssl.SSLObject = tls.get_extra_info("ssl_object")
        self.certificate = shown.getpeercert(binary_form=True) or b""
        if self.trail is not None:
            _note_tls(self.trail, shown)
        connection.connection_made(tls)
        return connection

    async def way(self) -> asyncio.Transport:
        """Return a connection to the broker's port, straight or through the proxy."""
        target = Target(self.ws_uri.host, self.ws_uri.port)
        self.since = time.monotonic()
        if self.via is None:
            return (await reach(target.host, target.port, asyncio.Protocol, self.trail))[0]
        self._at("proxy")
        if not self.via.scheme.startswith("socks"):
            return await http_tunnel(self.via, target, self.proxy_tls, self.trail)
        sock = await socks_tunnel(self.via, target)
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=sock)
        return transport

    def _at(self, stage: str) -> None:
        now = time.monotonic()
        took_s, self.since = now - self.since, now
        if self.trail is not None and stage == "tls":
            self.trail.proxy_s = took_s - (self.trail.dns_s or 0.0) - (self.trail.tcp_s or 0.0)
        elif self.trail is not None and stage == "http":
            self.trail.tls_s = took_s
        self.stage = stage

    def process_redirect(self, exc: Exception) -> Exception:
        # The agent's certificate is not shown to whom the token did not name.
        return exc


class WebsocketTransport(Transport):
    """A websocket as a transport."""

    def __init__(self, connection: ClientConnection, peer: Peer) -> None:
        self.peer = peer
        self._connection = connection
        self._last_word = time.monotonic()

    def __repr__(self) -> str:
        return f"<WebsocketTransport {self.peer.url} {self._connection.state.name}>"

    async def send(self, data: bytes) -> None:
        connection = self._connection
        try:
            if connection.state is State.OPEN and not connection.paused and not connection.transport.is_closing():
                # What the library does besides is for messages in parts, and takes as long as TLS.
                connection.protocol.send_binary(data)
                connection.send_data()
                if connection.paused:
                    await connection.drain()
            else:
                await connection.send(data)
        except ConnectionClosed as exc:
            raise LinkError(_end_of(exc, self._silence_s())) from exc
        self._last_word = time.monotonic()

    async def receive(self) -> bytes:
        try:
            message = await self._connection.recv(decode=False)
        except ConnectionClosed as exc:
            raise LinkError(_end_of(exc, self._silence_s())) from exc
        self._last_word = time.monotonic()
        return message

    def _silence_s(self) -> float:
        return time.monotonic() - self._last_word

    async def close(self, reason: str = "") -> None:
        # A close frame has room for 123 bytes of reason.
        await self._connection.close(1000, reason.encode()[:120].decode(errors="ignore"))


class WebsocketDialer(Dialer):
    """
    Dials the broker that enrolled this agent.

    Identity, proxy and trust are read anew for each dial, so that a renewed certificate or a changed
    proxy needs no restart, and names are resolved anew.
    """

    def __init__(self, state_dir: Path, routes: Routes, secrets: SecretStore, *, timeout_s: float = DIAL_S) -> None:
        self.target = "the broker"
        self._state_dir = state_dir
        self._routes = routes
        self._secrets = secrets
        self._timeout_s = timeout_s

    async def connect(self) -> Transport:
        # Files and the store of secrets may be slow.
        return await self.connect_as(await asyncio.to_thread(identity.load, self._state_dir, self._secrets))

    async def connect_as(self, who: identity.Identity) -> Transport:
        """Dial once with another identity than the one in force; raises as ``connect``."""
        addresses = self._routes.addresses(who.url)
        if self.target not in addresses:
            self.target = addresses[0]
        context = await asyncio.to_thread(identity.client_context, who)
        transport = await open_any(
            who.url,
            "/link",
            context,
            self._routes,
            self._secrets,
            certificate_ends=who.not_after,
            timeout_s=self._timeout_s,
            first=self.target,
        )
        self.target = transport.peer.url
        return transport


async def open_any(
    url: str,
    path: str,
    context: ssl.SSLContext,
    routes: Routes,
    secrets: SecretStore,
    *,
    certificate_ends: float | None = None,
    timeout_s: float = DIAL_S,
    first: str = "",
) -> WebsocketTransport:
    """
    Dial each of the broker's addresses once, through each of its proxies, until one answers.

    Args:
        url: the broker's, as the token said.
        timeout_s: for each.
        first: the address to begin with, if it is one of them.

    Raises:
        LinkError, LinkRefused: as ``open_websocket``, of the dial that came furthest.
        ConfigError: no proxy can be read from what the settings say.
        SecretError: a proxy's password is missing.
    """
    failures: list[LinkError] = []
    addresses = sorted(routes.addresses(url), key=lambda address: address != first)
    for address in addresses:
        # In a thread: the store of secrets and a search for proxies may be slow.
        for proxy in await asyncio.to_thread(routes.proxies, address, secrets):
            proxy_tls = await asyncio.to_thread(routes.trust) if proxy and proxy.scheme == "https" else None
            try:
                return await open_websocket(
                    address,
                    path,
                    context,
                    proxy,
                    certificate_ends=certificate_ends,
                    timeout_s=timeout_s,
                    proxy_tls=proxy_tls,
                    known=routes.trust,
                    looks=routes.looks,
                )
            except LinkError as exc:
                failures.append(exc)
    raise max(failures, key=lambda failure: STAGES.index(failure.stage) if failure.stage in STAGES else -1)


async def open_websocket(
    url: str,
    path: str,
    context: ssl.SSLContext,
    proxy: Proxy | None,
    *,
    certificate_ends: float | None = None,
    timeout_s: float = DIAL_S,
    proxy_tls: ssl.SSLContext | None = None,
    known: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    looks: Looks | None = None,
    trail: Trail | None = None,
) -> WebsocketTransport:
    """
    Dial once.

    Args:
        url: the broker's, ``wss://host:port``.
        certificate_ends: when the certificate in ``context`` ends, seconds since 1970; ``None`` if it has none.
        timeout_s: for all of it.
        proxy_tls: whom to trust as a proxy that speaks TLS; by default whom this machine trusts.
        known: returns whom this machine trusts, only to tell who inspects.
        looks: keeps what was seen of who is not trusted, for who dials again and again.
        trail: is filled in.

    Raises:
        LinkError: it was not reached, or is not a broker.
        LinkRefused: the broker or the proxy said no.
    """
    parts = urlsplit(url)
    way = Way(
        host=parts.hostname or "",
        port=parts.port or 443,
        proxy=proxy.shown if proxy else "",
        certificate_ends=certificate_ends,
        timeout_s=timeout_s,
    )
    if proxy is not None and proxy.scheme == "https" and proxy_tls is None:
        proxy_tls = await asyncio.to_thread(known)
    dial = _dial(url + path, context, proxy, timeout_s, proxy_tls)
    dial.trail = trail
    second = SecondLook(url, proxy, proxy_tls)
    try:
        connection = await dial
    except ssl.SSLCertVerificationError as exc:
        looks, why = looks or Looks(), f"{url} {way.proxy} {exc.verify_message}"
        shown = looks.lately(why, time.monotonic())
        if shown is None:
            shown = await second.shown(known)
            looks.keep(why, shown, time.monotonic())
        raise untrusted(exc, shown, way, time.time()) from exc
    except Exception as exc:  # the libraries below raise much; `explain` puts each into a sentence
        cut = dial.stage == "http" and isinstance(exc, InvalidMessage | ConnectionError)
        cut = cut and not isinstance(exc.__cause__, ssl.SSLError)  # a TLS alert, which tells more than a second look
        shunned = cut and certificate_ends is not None and await second.answers_without_certificate(path)
        if isinstance(exc, ssl.SSLError) and dial.stage == "tls" and exc.reason in NOT_TLS:
            page = await second.page()
            if page:
                raise trouble("page-for-tls", broker=way.broker, said=page) from exc
        raise explain(exc, way, stage=dial.stage, shunned=shunned) from exc
    if trail is not None:
        trail.http_s = time.monotonic() - dial.since
    if connection.subprotocol != SUBPROTOCOL:
        await connection.close()
        raise trouble("other-websocket", broker=way.broker)
    _keep_socket_short(connection)
    return WebsocketTransport(connection, _peer_of(connection, url, way.proxy))


def _dial(
    url: str, context: ssl.SSLContext, proxy: Proxy | None, timeout_s: float, proxy_tls: ssl.SSLContext | None
) -> _Dial:
    dial = _Dial(
        url,
        ssl=context,
        proxy=None,  # ours, below
        subprotocols=[SUBPROTOCOL],
        create_connection=_Connection,
        open_timeout=timeout_s,
        close_timeout=CLOSE_S,
        # Compression in the websocket has cut messages silently.
        compression=None,
        # The session has its own sign of life, in which any word counts: pings die behind large results.
        ping_interval=None,
        max_size=limits.MAX_MESSAGE_BYTES,
        max_queue=MAX_QUEUE,
        user_agent_header="outhaul-agent",
        logger=_WIRE_LOG,
    )
    dial.via, dial.proxy_tls = proxy, proxy_tls
    return dial


class SecondLook:
    """
    Looks at the other end again, without a certificate of ours and without trust: nothing is said there that matters.

    Only to tell what went wrong; whatever fails in it answers nothing.
    """

    def __init__(self, url: str, proxy: Proxy | None, proxy_tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._proxy = proxy
        self._proxy_tls = proxy_tls

    async def answers_without_certificate(self, path: str) -> bool:
        """
        Whether the broker asks for a certificate when none is shown.

        With TLS 1.3 a server refuses a certificate after the handshake, and Python's says not a word: the connection
        ends. A broker that ends a connection with ours and answers one without it does not accept ours.
        """
        answer = await self._asked(self._dial(_looking(), path))
        return answer is not None and answer.status_code == HTTPStatus.UNAUTHORIZED

    async def shown(self, known: Callable[[], ssl.SSLContext]) -> Shown | None:
        """Return what the other end shows, or ``None`` if it does not show it again; not a word of HTTP is said."""
        certificate = await self._certificate(_looking())
        with contextlib.suppress(ValueError):
            if certificate:
                shown = await asyncio.to_thread(_read_certificate, certificate)
                return msgspec.structs.replace(shown, known=await self._is_known(known))
        return None

    async def page(self) -> str:
        """Return what a web page that comes in place of TLS says of itself; "" if none comes."""
        channel = Channel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(PROBE_S):
                transport = await self._dial(_looking(), "/").way()
                channel.connection_made(transport)
                transport.set_protocol(channel)
                transport.write(b"GET / HTTP/1.0\r\n\r\n")
                try:
                    return page_title(await channel.page())
                finally:
                    transport.abort()
        return ""

    async def _is_known(self, known: Callable[[], ssl.SSLContext]) -> bool:
        with contextlib.suppress(ConfigError):
            context = await asyncio.to_thread(known)
            context.check_hostname = False
            return bool(await self._certificate(context))
        return False

    async def _certificate(self, context: ssl.SSLContext) -> bytes:
        """Return the certificate (DER) of who answers; empty if ``context`` does not trust it."""
        dial = self._dial(context, "/")
        with contextlib.suppress(Exception):
            async with asyncio.timeout(PROBE_S):
                (await dial.open_tcp_connection()).transport.abort()
        return dial.certificate

    async def _asked(self, dial: _Dial) -> Response | None:
        try:
            connection = await dial
        except InvalidStatus as exc:
            return exc.response
        except Exception:  # a second look only: whatever goes wrong in it answers nothing
            return None
        await connection.close()
        return connection.response

    def _dial(self, context: ssl.SSLContext, path: str) -> _Dial:
        return _dial(self._url + path, context, self._proxy, PROBE_S, self._proxy_tls)


def _looking() -> ssl.SSLContext:
    """Return a context that trusts anybody, for a connection on which nothing is said that matters."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _read_certificate(der: bytes) -> Shown:
    # Imported here: it costs the agent 10 MiB, and most never need it.
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(der)
    names: tuple[str, ...] = ()
    with contextlib.suppress(x509.ExtensionNotFound):
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(str(name.value) for name in alternatives)
    return Shown(
        issuer=certificate.issuer.rfc4514_string() or "nobody",
        names=names,
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )


def _keep_socket_short(connection: ClientConnection) -> None:
    """Let megabytes wait in the session, where a small message may overtake them, not in the socket."""
    if sys.platform == "linux":
        raw = connection.transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def _note_tls(trail: Trail, shown: ssl.SSLObject) -> None:
    certificate: dict[str, Any] = shown.getpeercert() or {}
    names = [f"{key}={value}" for part in certificate.get("issuer", ()) for key, value in part]
    trail.tls = _tls_of(shown)
    trail.issuer = ", ".join(name.replace("commonName=", "CN=") for name in names)
    trail.not_after = ssl.cert_time_to_seconds(certificate["notAfter"]) if "notAfter" in certificate else 0.0


def _tls_of(shown: ssl.SSLObject) -> str:
    cipher = shown.cipher()
    return f"{shown.version()} {cipher[0] if cipher else ''}".strip()


def _peer_of(connection: ClientConnection, url: str, proxy: str) -> Peer:
    host, port = (connection.remote_address or ("?", 0))[:2]
    return Peer(
        url=url,
        address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        proxy=proxy,
        tls=_tls_of(connection.transport.get_extra_info("ssl_object")),
    )


def _end_of(exc: ConnectionClosed, silence_s: float) -> str:
    if exc.rcvd is not None and (exc.rcvd_then_sent or exc.sent is None):
        return f"the broker closed the link ({exc.rcvd.code}{f': {exc.rcvd.reason}' if exc.rcvd.reason else ''})"
    if exc.sent is not None:
        return f"the link was closed here ({exc.sent.code}{f': {exc.sent.reason}' if exc.sent.reason else ''})"
    cut = f"the line was cut ({exc.__cause__ or 'end of stream, without a goodbye'})"
    if silence_s < IDLE_S:
        return cut
    # Whoever cuts idle lines does it after a silence that is always the same.
    return f"{cut} after {silence_s:.0f} s of silence; if that repeats, set link.heartbeat to half of it"
