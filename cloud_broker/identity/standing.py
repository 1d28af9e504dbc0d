"""May this agent be linked? A pure yes or no with a reason; asked at the door and again while it is linked."""

from __future__ import annotations

from typing import Final

from cloud_broker.link.base import Peer
from cloud_broker.store.agents import Agent
from cloud_broker.store.tenants import Tenant

_AGAIN: Final = "enrol again with a new token"


def refusal(tenant: Tenant | None, agent: Agent | None, peer: Peer, now: float) -> str | None:
    """Return why a peer whose certificate was verified may not be linked, for people, or ``None`` if it may."""
    if tenant is None or agent is None:
        return f"this broker knows no such agent; {_AGAIN}"
    if tenant.state != "active":
        return "the tenant is suspended"
    if agent.revoked_at is not None:
        return f"this agent was revoked: {agent.revoked_reason or _AGAIN}"
    if peer.not_after <= now:
        return "this certificate has run out; a running agent renews it by itself"
    if peer.own_pki != agent.own_pki:
        registered = "the operator's own PKI" if agent.own_pki else "this broker's authority"
        return f"this agent's certificates come from {registered}, and this one does not"
    if not agent.own_pki and peer.serial not in serials(agent):
        return f"this certificate was replaced by a newer one; {_AGAIN}"
    return None


def serials(agent: Agent) -> tuple[str, ...]:
    """Return the serials of the certificates that are good: the one in force and the next."""
    return (agent.serial,) if agent.next is None else (agent.serial, agent.next.serial)
