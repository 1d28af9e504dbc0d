"""The websocket to the broker: TLS 1.3, one subprotocol, straight or through a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from websockets import ConnectionClosed, InvalidMessage, InvalidStatus, Subprotocol
from websockets.asyncio.client import ClientConnection, connect

from agent.errors import LinkError
from agent.identity import held as identity
from agent.link.base import Dialer, Peer, Transport
from agent.link.failures import Shown, Way, explain, untrusted
from agent.link.proxy import Proxy, proxy_for
from agent.link.tunnel import NEXT_ADDRESS_S, Target, http_tunnel, socks_tunnel
from agent.secrets import SecretStore
from protocol import limits

SUBPROTOCOL: Final = Subprotocol("outhaul.1")
DIAL_S: Final = 30.0  # seconds for name, TCP, proxy, TLS and HTTP together
PROBE_S: Final = 5.0  # seconds to look at a certificate that did not pass
CLOSE_S: Final = 2.0  # seconds; a peer that does not answer the closing handshake is not waited for
UNSENT_BYTES: Final = 131_072  # bytes in the socket that have not left yet; more would stand before a small message
MAX_QUEUE: Final = 4  # messages read ahead; then TCP slows the broker down

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
        connected: TCP, proxy and TLS are done, as far as our side can tell.
    """

    via: Proxy | None = None
    connected = False

    async def open_tcp_connection(self) -> ClientConnection:
        connection = await self._open()
        self.connected = True
        return connection

    async def _open(self) -> ClientConnection:
        if self.via is None:
            return await super().open_tcp_connection()
        target = Target(self.ws_uri.host, self.ws_uri.port)
        if self.via.url.startswith("socks"):
            self.create_connection_kwargs["sock"] = await socks_tunnel(self.via, target)
            return await super().open_tcp_connection()
        connection = self.factory(self.ws_uri)
        transport = await http_tunnel(self.via, target)
        transport.set_protocol(connection)
        tls = await asyncio.get_running_loop().start_tls(
            transport, connection, self.create_connection_kwargs["ssl"], server_hostname=target.host
        )
        if tls is None:
            raise ConnectionResetError("the proxy cut the connection during TLS")
        connection.connection_made(tls)
        return connection

    def process_redirect(self, exc: Exception) -> Exception:
        # The agent's certificate is not shown to whom the token did not name.
        return exc


class WebsocketTransport(Transport):
    """A websocket as a transport."""

    def __init__(self, connection: ClientConnection, peer: Peer) -> None:
        self.peer = peer
        self._connection = connection

    def __repr__(self) -> str:
        return f"<WebsocketTransport {self.peer.url} {self._connection.state.name}>"

    async def send(self, data: bytes) -> None:
        try:
            await self._connection.send(data)
        except ConnectionClosed as exc:
            raise LinkError(_end_of(exc)) from exc

    async def receive(self) -> bytes:
        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as exc:
            raise LinkError(_end_of(exc)) from exc

    async def close(self, reason: str = "") -> None:
        # A close frame has room for 123 bytes of reason.
        await self._connection.close(1000, reason.encode()[:120].decode(errors="ignore"))


class WebsocketDialer(Dialer):
    """
    Dials the broker that enrolled this agent.

    Identity, proxy and trust are read anew for each dial, so that a renewed certificate or a changed
    proxy needs no restart, and names are resolved anew.
    """

    def __init__(self, state_dir: Path, proxy: str, secrets: SecretStore, *, timeout_s: float = DIAL_S) -> None:
        self.target = "the broker"
        self._state_dir = state_dir
        self._proxy = proxy
        self._secrets = secrets
        self._timeout_s = timeout_s

    async def connect(self) -> Transport:
        # Files, the store of secrets and the registry may all be slow.
        return await self.connect_as(await asyncio.to_thread(identity.load, self._state_dir, self._secrets))

    async def connect_as(self, who: identity.Identity) -> Transport:
        """Dial once with another identity than the one in force; raises as ``connect``."""
        self.target = who.url
        context, proxy = await asyncio.to_thread(self._prepare, who)
        return await open_websocket(
            who.url, "/link", context, proxy, certificate_ends=who.not_after, timeout_s=self._timeout_s
        )

    def _prepare(self, who: identity.Identity) -> tuple[ssl.SSLContext, Proxy | None]:
        return identity.client_context(who), proxy_for(who.url, self._proxy, self._secrets)


async def open_websocket(
    url: str,
    path: str,
    context: ssl.SSLContext,
    proxy: Proxy | None,
    *,
    certificate_ends: float | None = None,
    timeout_s: float = DIAL_S,
) -> WebsocketTransport:
    """
    Dial once.

    Args:
        url: the broker's, ``wss://host:port``.
        certificate_ends: when the certificate in ``context`` ends, seconds since 1970; ``None`` if it has none.
        timeout_s: for all of it.

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
    dial = _dial(url + path, context, proxy, timeout_s)
    try:
        connection = await dial
    except ssl.SSLCertVerificationError as exc:
        shown = await _shown_certificate(url + path, proxy)
        raise untrusted(exc, shown, way, time.time()) from exc
    except Exception as exc:  # the libraries below raise much; `explain` puts each into a sentence
        cut = dial.connected and isinstance(exc, InvalidMessage | ConnectionError)
        cut = cut and not isinstance(exc.__cause__, ssl.SSLError)  # a TLS alert, which tells more than a second look
        shunned = cut and certificate_ends is not None and await _answers_without_certificate(url, path, proxy)
        raise explain(exc, way, connected=dial.connected, shunned=shunned) from exc
    if connection.subprotocol != SUBPROTOCOL:
        await connection.close()
        raise LinkError(f"{way.broker} is a websocket, but not one of an Outhaul broker", stage="http")
    _keep_socket_short(connection)
    return WebsocketTransport(connection, _peer_of(connection, url, way.proxy))


def _dial(url: str, context: ssl.SSLContext, proxy: Proxy | None, timeout_s: float) -> _Dial:
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
        happy_eyeballs_delay=NEXT_ADDRESS_S,
    )
    dial.via = proxy
    return dial


async def _answers_without_certificate(url: str, path: str, proxy: Proxy | None) -> bool:
    """
    Whether the broker asks for a certificate when none is shown.

    With TLS 1.3 a server refuses a certificate after the handshake, and Python's says not a word: the connection ends.
    A broker that ends a connection with ours and answers one without it does not accept ours.
    """
    try:
        connection = await _dial(url + path, _looking(), proxy, PROBE_S)
    except InvalidStatus as exc:
        return exc.response.status_code == HTTPStatus.UNAUTHORIZED
    except Exception:  # a second look only: whatever goes wrong in it answers nothing
        return False
    await connection.close()
    return False


def _looking() -> ssl.SSLContext:
    """Return a context that trusts anybody, for a connection on which nothing is said that matters."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _shown_certificate(url: str, proxy: Proxy | None) -> Shown | None:
    """Look at the certificate that did not pass: without one of ours, and nothing is said on this connection."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(PROBE_S):
            connection = await _dial(url, _looking(), proxy, PROBE_S).open_tcp_connection()
        tls = connection.transport.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True)
        connection.transport.abort()
        return await asyncio.to_thread(_read_certificate, der)
    return None


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


def _peer_of(connection: ClientConnection, url: str, proxy: str) -> Peer:
    host, port = (connection.remote_address or ("?", 0))[:2]
    tls: ssl.SSLObject = connection.transport.get_extra_info("ssl_object")
    cipher = tls.cipher()
    return Peer(
        url=url,
        address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        proxy=proxy,
        tls=f"{tls.version()} {cipher[0] if cipher else ''}".strip(),
    )


def _end_of(exc: ConnectionClosed) -> str:
    if exc.rcvd is not None and (exc.rcvd_then_sent or exc.sent is None):
        return f"the broker closed the link ({exc.rcvd.code}{f': {exc.rcvd.reason}' if exc.rcvd.reason else ''})"
    if exc.sent is not None:
        return f"the link was closed here ({exc.sent.code}{f': {exc.sent.reason}' if exc.sent.reason else ''})"
    return f"the line was cut ({exc.__cause__ or 'end of stream, without a goodbye'})"
