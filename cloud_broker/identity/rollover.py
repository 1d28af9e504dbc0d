"""Who would be left behind by the next step of a change of authorities; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_broker.identity.authorities import Authorities
from cloud_broker.store.agents import Agent


@dataclass(frozen=True, slots=True)
class Progress:
    """
    How far the agents have come in a change of authorities.

    Attributes:
        agents: that count: revoked ones, those of the operator's own PKI, and those whose certificate ran out so
            long ago that they can't come back do not.
        trusting: of these, who trusts every authority that the broker does.
        holding: of these, who has a certificate of the newest.
        untold: names, as TENANT/AGENT, of those who do not trust every authority yet.
        unrenewed: of those who have no certificate of the newest.
    """

    agents: int
    trusting: int
    holding: int
    untold: tuple[str, ...]
    unrenewed: tuple[str, ...]


def progress(there: Authorities, agents: Sequence[Agent], grace_s: float, now: float) -> Progress:
    """Return how far the agents of all tenants have come."""
    wanted = {authority.fingerprint for authority in there.trusted}
    newest = there.trusted[-1].fingerprint
    counted = [agent for agent in agents if counts(agent, grace_s, now)]
    untold = tuple(_name(agent) for agent in counted if not wanted <= set(agent.trusts))
    unrenewed = tuple(_name(agent) for agent in counted if agent.issuer != newest)
    return Progress(len(counted), len(counted) - len(untold), len(counted) - len(unrenewed), untold, unrenewed)


def counts(agent: Agent, grace_s: float, now: float) -> bool:
    """Whether a change of authorities has to wait for this agent."""
    ends = max(agent.not_after, agent.next.not_after if agent.next is not None else 0.0)
    return agent.revoked_at is None and not agent.own_pki and now <= ends + grace_s


def _name(agent: Agent) -> str:
    return f"{agent.tenant}/{agent.name}"
