"""Agents' websockets: mutual TLS, one port for links and enrolment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Final

from websockets.datastructures import Headers

from cloud_broker.identity.certificates import CertificateInvalid
from cloud_broker.link.base import LinkLost, Peer, Transport
from cloud_broker.link.entrance import Entrance
from cloud_broker.link.identification import Identification, NotFromHere
from cloud_broker.link.lobby import Lobby
from cloud_broker.link.measure import Measuring
from cloud_broker.link.wire import Wire
from protocol import limits, measure

log = logging.getLogger(__name__)

ENROL: Final = "/enrol"
PROVE: Final = "/prove"
PATHS: Final = frozenset({"/link", ENROL, PROVE, measure.PATH})


async def _prove(transport: Transport, peer: Peer) -> None:
    who = {"tenant": peer.tenant, "agent": peer.agent, "serial": peer.serial, "not_after": peer.not_after}
    with contextlib.suppress(LinkLost):
        await transport.send(json.dumps(who).encode())
    await transport.close("proven")


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

    measuring = Measuring()
    linked: dict[asyncio.Task[None], Wire] = {}

    async def identified(wire: Wire, headers: Headers) -> Peer | None:
        """Return who it is that may come in, or answer why nobody does."""
        try:
            peer = who.peer(*wire.peer, wire.tls, wire.certificate, headers)
        except NotFromHere as exc:
            wire.reject(HTTPStatus.BAD_REQUEST, f"{exc}\n")
            return None
        except CertificateInvalid as exc:
            wire.reject(HTTPStatus.FORBIDDEN, f"{exc}\n")
            return None
        if peer is None:
            wire.reject(HTTPStatus.UNAUTHORIZED, "A client certificate is needed.\n")
            return None
        refusal = await admit(peer)
        if refusal is not None:
            log.warning("agent refused", extra={"event": "agent_refused", "agent": peer.agent, "reason": refusal})
            wire.reject(HTTPStatus.FORBIDDEN, f"{refusal}\n")
            return None
        wire.known()
        return peer

    async def met(wire: Wire) -> tuple[str, Peer | None] | None:
        """Return what somebody wants and who it is; ``None`` if the connection is to end."""
        request = await wire.request()
        if request is None:
            return None
        path, peer = request.path.partition("?")[0], None
        if path not in PATHS:
            wire.reject(HTTPStatus.NOT_FOUND, "Outhaul: agents come in at /link, enrolment at /enrol.\n")
            return None
        if path != ENROL and (peer := await identified(wire, request.headers)) is None:
            return None
        host, port = wire.peer
        wire.address = f"{who.address(host, request.headers)}:{port}"
        accepted = wire.accept(request)
        # What was said to get in is kept by others as long as the link: ten thousand have it in memory.
        request.headers.clear()
        wire.certificate.clear()
        return (path, peer) if accepted else None

    async def handle(wire: Wire, path: str, peer: Peer | None) -> None:
        if peer is None:
            await enrol(wire)
        elif path == PROVE:
            await _prove(wire, peer)
        elif path == measure.PATH:
            await measuring.serve(wire, peer)
        else:
            await converse(wire, peer)

    async def see_through(wire: Wire, task: asyncio.Task[None]) -> None:
        try:
            async with asyncio.timeout(limits.GREETING_S):
                found = await met(wire)
            if found is not None:
                linked[task] = wire
                try:
                    await handle(wire, *found)
                except Exception:  # one link that fails is no reason to fail others
                    log.exception("a link failed", extra={"event": "link_failed"})
            await wire.close()
        except Exception:  # whatever a stranger says, or does not
            log.debug("no websocket", exc_info=True)
        finally:
            linked.pop(task, None)
            wire.abort()

    entrance = Entrance(host, port, tls, lobby, see_through)
    try:
        yield entrance.port
    finally:
        await entrance.shut()
        for task in entrance.tasks - linked.keys():
            task.cancel()
        going = [asyncio.create_task(wire.go(), name="let an agent go") for wire in linked.values()]
        await asyncio.gather(*going, *entrance.tasks, return_exceptions=True)
