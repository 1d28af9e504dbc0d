"""Agents' websockets: mutual TLS, one port for links and enrolment."""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus

import websockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from cloud_broker.certificates import CertificateInvalid, end_of, identity_of
from cloud_broker.link.base import LinkLost, Peer, Transport
from protocol import limits

log = logging.getLogger(__name__)

SUBPROTOCOL = websockets.Subprotocol("outhaul.1")
CLOSE_S = 2.0  # seconds; a peer that does not answer the closing handshake is not waited for


class WebsocketTransport(Transport):
    """A websocket as a transport."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection
        host, port = (connection.remote_address or ("?", 0))[:2]
        self.address = f"{host}:{port}"

    async def send(self, data: bytes) -> None:
        try:
            await self._connection.send(data)
        except websockets.ConnectionClosed as exc:
            raise LinkLost(str(exc)) from exc

    async def receive(self) -> bytes:
        try:
            message = await self._connection.recv(decode=False)
        except websockets.ConnectionClosed as exc:
            raise LinkLost(str(exc)) from exc
        return message

    async def close(self, reason: str = "") -> None:
        # A close frame has room for 123 bytes of reason.
        await self._connection.close(1000, reason.encode()[:120].decode(errors="ignore"))


def peer_of(connection: ServerConnection) -> Peer | None:
    """
    Return who is at the other end, or ``None`` without a certificate.

    Raises:
        CertificateInvalid: the certificate is ours but names no agent.
    """
    tls: ssl.SSLObject | None = connection.transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    if not certificate:
        return None
    tenant, agent, serial = identity_of(certificate)
    host, port = (connection.remote_address or ("?", 0))[:2]
    return Peer(tenant, agent, serial, f"{host}:{port}", end_of(certificate))


async def _prove(connection: ServerConnection, peer: Peer) -> None:
    who = {"tenant": peer.tenant, "agent": peer.agent, "serial": peer.serial, "not_after": peer.not_after}
    with contextlib.suppress(websockets.ConnectionClosed):
        await connection.send(json.dumps(who))
    await connection.close(1000, "proven")


@contextlib.asynccontextmanager
async def listen(
    host: str,
    port: int,
    tls: ssl.SSLContext,
    admit: Callable[[Peer], Awaitable[str | None]],
    converse: Callable[[Transport, Peer], Awaitable[None]],
    enrol: Callable[[Transport], Awaitable[None]],
) -> AsyncIterator[int]:
    """
    Serve agents until the context is left; yields the port.

    At ``/prove`` an agent learns whether it would be let in with a certificate: it is told who it is, and nothing
    changes.

    Args:
        admit: returns why a peer with a good certificate may not come in, or ``None``.
        converse: carries one link to its end.
        enrol: carries one enrolment to its end.
    """

    async def before(connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/enrol":
            return None
        if path not in ("/link", "/prove"):
            return connection.respond(HTTPStatus.NOT_FOUND, "Outhaul: agents come in at /link, enrolment at /enrol.\n")
        try:
            peer = peer_of(connection)
        except CertificateInvalid as exc:
            return connection.respond(HTTPStatus.FORBIDDEN, f"{exc}\n")
        if peer is None:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "A client certificate is needed.\n")
        refusal = await admit(peer)
        if refusal is not None:
            log.warning("agent refused", extra={"event": "agent_refused", "agent": peer.agent, "reason": refusal})
            return connection.respond(HTTPStatus.FORBIDDEN, f"{refusal}\n")
        return None

    async def handle(connection: ServerConnection) -> None:
        transport = WebsocketTransport(connection)
        path = connection.request.path.partition("?")[0] if connection.request is not None else ""
        if path == "/enrol":
            await enrol(transport)
            return
        peer = peer_of(connection)
        if peer is not None and path == "/prove":
            await _prove(connection, peer)
        elif peer is not None:
            await converse(transport, peer)

    async with serve(
        handle,
        host,
        port,
        ssl=tls,
        subprotocols=[SUBPROTOCOL],
        process_request=before,
        # Compression in the websocket has cut messages silently, and costs memory for each connection.
        compression=None,
        # The session has its own sign of life, in which any word counts: pings die behind large results.
        ping_interval=None,
        max_size=limits.MAX_MESSAGE_BYTES,
        max_queue=16,
        close_timeout=CLOSE_S,
        open_timeout=limits.GREETING_S,
        server_header="outhaul-broker",
    ) as server:
        yield next(iter(server.sockets)).getsockname()[1]
