"""Agents' websockets: mutual TLS, one port for links and enrolment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import cast
from weakref import WeakKeyDictionary

import websockets
from websockets.asyncio.server import Server, ServerConnection
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from cloud_broker.identity.certificates import CertificateInvalid
from cloud_broker.link.base import LinkLost, Peer, Transport
from cloud_broker.link.entrance import Entrance
from cloud_broker.link.identification import Identification, NotFromHere
from cloud_broker.link.lobby import Guest, Lobby
from cloud_broker.link.measure import Measuring
from protocol import limits, measure

log = logging.getLogger(__name__)

SUBPROTOCOL = websockets.Subprotocol("outhaul.1")
CLOSE_S = 2.0  # seconds; a peer that does not answer the closing handshake is not waited for


class WebsocketTransport(Transport):
    """A websocket as a transport."""

    __slots__ = ("_connection", "address")

    def __init__(self, connection: ServerConnection, address: str) -> None:
        self._connection = connection
        self.address = address

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


class _Connection(ServerConnection):
    """A websocket of somebody who is in the lobby until ``known``."""

    def __init__(self, server: Server, known: Callable[[], None]) -> None:
        super().__init__(
            ServerProtocol(subprotocols=[SUBPROTOCOL], max_size=limits.MAX_MESSAGE_BYTES),
            server,
            # The session has its own sign of life, in which any word counts: pings die behind large results.
            ping_interval=None,
            close_timeout=CLOSE_S,
            max_queue=16,
        )
        self.known = known

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.known()


def _where(connection: ServerConnection) -> tuple[str, int]:
    host, port = (connection.remote_address or ("?", 0))[:2]
    return str(host), int(port)


def _seen(connection: ServerConnection) -> bytes | None:
    tls: ssl.SSLObject | None = connection.transport.get_extra_info("ssl_object")
    return tls.getpeercert(binary_form=True) if tls is not None else None


def _forget_how_it_came(connection: ServerConnection) -> None:
    """Let go of what was said to get in, which others keep as long as the link: ten thousand have it in memory."""
    request, certificate = connection.request, connection.transport.get_extra_info("peercert")
    if request is not None:
        request.headers.clear()
    connection.response = None
    if certificate:
        certificate.clear()


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
    who: Identification,
    admit: Callable[[Peer], Awaitable[str | None]],
    converse: Callable[[Transport, Peer], Awaitable[None]],
    enrol: Callable[[Transport], Awaitable[None]],
    lobby: Lobby,
) -> AsyncIterator[int]:
    """
    Serve agents until the context is left; yields the port.

    At ``/prove`` an agent learns whether it would be let in with a certificate: it is told who it is, and nothing
    changes. At ``/measure`` it learns how fast the line is.

    Args:
        who: tells who is at the other end.
        admit: returns why a peer with a good certificate may not come in, or ``None``.
        converse: carries one link to its end.
        enrol: carries one enrolment to its end.
        lobby: where everybody is until ``admit`` has let them in; who comes to enrol stays there.
    """

    # Who was let in; a connection that ends before it is handled takes its entry with it.
    peers: WeakKeyDictionary[ServerConnection, Peer] = WeakKeyDictionary()
    measuring = Measuring()

    async def before(connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/enrol":
            return None
        if path not in ("/link", "/prove", measure.PATH):
            return connection.respond(HTTPStatus.NOT_FOUND, "Outhaul: agents come in at /link, enrolment at /enrol.\n")
        try:
            peer = who.peer(*_where(connection), _seen(connection), request.headers)
        except NotFromHere as exc:
            return connection.respond(HTTPStatus.BAD_REQUEST, f"{exc}\n")
        except CertificateInvalid as exc:
            return connection.respond(HTTPStatus.FORBIDDEN, f"{exc}\n")
        if peer is None:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "A client certificate is needed.\n")
        refusal = await admit(peer)
        if refusal is not None:
            log.warning("agent refused", extra={"event": "agent_refused", "agent": peer.agent, "reason": refusal})
            return connection.respond(HTTPStatus.FORBIDDEN, f"{refusal}\n")
        peers[connection] = peer
        if isinstance(connection, _Connection):
            connection.known()
        return None

    async def handle(connection: ServerConnection) -> None:
        host, port = _where(connection)
        request = connection.request
        address = who.address(host, request.headers) if request is not None else host
        transport = WebsocketTransport(connection, f"{address}:{port}")
        path = request.path.partition("?")[0] if request is not None else ""
        _forget_how_it_came(connection)
        if path == "/enrol":
            await enrol(transport)
            return
        peer = peers.pop(connection, None)
        if peer is not None and path == "/prove":
            await _prove(connection, peer)
        elif peer is not None and path == measure.PATH:
            await measuring.serve(transport, peer)
        elif peer is not None:
            await converse(transport, peer)

    async def see_through(connection: ServerConnection) -> None:
        # As websockets' own serve() does it, which takes no connection that has come in by another door.
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(limits.GREETING_S):
                await connection.handshake(before, None, "outhaul-broker")
            if connection.state is State.OPEN:
                server.all_connections.add(connection)
                try:
                    async with connection:
                        await handle(connection)
                except Exception:  # one link that fails is no reason to fail others
                    log.exception("a link failed", extra={"event": "link_failed"})
        except Exception:  # whatever a stranger says, or does not
            log.debug("no websocket", exc_info=True)
        finally:
            server.all_connections.discard(connection)
            connection.transport.abort()
            if task is not None:
                server.handler_tasks.discard(task)

    def welcome(guest: Guest) -> ServerConnection:
        return _Connection(server, lambda: lobby.leave(guest))

    async def opened() -> asyncio.Server:
        # All of a server that websockets uses is there.
        return cast(asyncio.Server, Entrance(host, port, tls, lobby, welcome, CLOSE_S))

    server = Server(opened, see_through)
    async with server:
        yield next(iter(server.sockets)).getsockname()[1]
