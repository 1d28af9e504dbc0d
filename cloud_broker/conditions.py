"""How an agent is, as its callers see it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cloud_broker.lines import Line
from cloud_broker.store.agents import Agent
from protocol.limits import BEAT_S

# ``enrolled`` is all that the command line, which is linked to nobody, can tell.
AgentState = Literal["online", "degraded", "stale", "offline", "revoked", "enrolled"]


@dataclass(frozen=True, slots=True)
class ConnectionCondition:
    """
    How one of an agent's connections is.

    Attributes:
        state: ``open``; ``paused`` by somebody at the agent's machine; ``shut`` outside of its windows; ``breaker``
            while it is left alone after failures.
        until: seconds since 1970 when that ends, if it is known.
        reason: what they said who paused it, or "".
    """

    state: Literal["open", "paused", "shut", "breaker"] = "open"
    until: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AgentCondition:
    """
    How an agent is.

    Attributes:
        problems: why it refuses commands though it is there, for people; then it is ``degraded``.
        connections: by name; empty while it is away.
    """

    state: AgentState
    problems: tuple[str, ...] = ()
    connections: Mapping[str, ConnectionCondition] = field(default_factory=dict)


def condition(agent: Agent, line: Line | None, now: float, monotonic: float) -> AgentCondition:
    """Return how an agent is, from what the store and the router know of it."""
    if agent.revoked_at is not None:
        return AgentCondition("revoked")
    link = line.link if line is not None else None
    if line is None or link is None or not (link.ready and link.open):
        return AgentCondition("offline")
    names = line.catalogue.connections if line.catalogue is not None else ()
    connections = {name: _connection(line, name, now, monotonic) for name in names}
    if line.problems:
        return AgentCondition("degraded", line.problems, connections)
    return AgentCondition("online" if now - link.last_heard < 2 * BEAT_S else "stale", (), connections)


def _connection(line: Line, name: str, now: float, monotonic: float) -> ConnectionCondition:
    obstacle = line.obstacle(name, monotonic)
    if obstacle is None or obstacle.why == "rate":  # a rate that is used up is no state, but the next second's
        return ConnectionCondition()
    if obstacle.why == "paused":
        return ConnectionCondition("paused", None, line.paused.get(name, ""))
    state: Literal["shut", "breaker"] = "shut" if obstacle.why == "window" else "breaker"
    return ConnectionCondition(state, now + obstacle.seconds if math.isfinite(obstacle.seconds) else None)
