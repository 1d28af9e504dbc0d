"""The way to the broker: name, TCP, proxy, TLS, upgrade, identity, round trip, throughput."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from agent.app import state_dir
from agent.config_file import Loaded
from agent.connectors.base import Finding
from agent.errors import AgentError
from agent.identity.own_identity import load_any
from agent.link.routes import Routes
from agent.link.websocket import WebsocketDialer
from agent.secrets import SecretStore

STAGES = ("dns", "tcp", "proxy", "tls", "upgrade", "identity", "round trip", "throughput")


async def network(loaded: Loaded, secrets: SecretStore | None) -> AsyncIterator[Finding]:
    """
    Try the way to the broker, step by step.

    Yields findings whose ``stage`` is one of ``STAGES``; one that failed has a ``code`` of ``remedies.REMEDIES``, and
    where a step can't be tried because of an earlier one, ``remedies.not_tried`` says so. Only called once there is an
    identity. An agent may be linked with the same identity meanwhile: it must not be disturbed.

    Args:
        secrets: ``None`` if the store can't be opened.
    """
    if secrets is None:
        return
    try:
        who = await asyncio.to_thread(load_any, loaded, secrets)
        transport = await WebsocketDialer(
            state_dir(loaded), Routes.of(loaded.settings.link, loaded.base_dir), secrets
        ).connect_as(who)
    except AgentError as exc:
        yield Finding("link", False, str(exc), code="network.unreachable", stage="tcp")
        return
    peer = transport.peer
    await transport.close()
    proxy = f", by {peer.proxy}" if peer.proxy else ""
    yield Finding("link", True, f"{peer.url} at {peer.address}, {peer.tls}{proxy}")
