"""How an agent is, from what is known of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cloud_broker.breakers import Guard
from cloud_broker.catalogues import Catalogue, Connection
from cloud_broker.conditions import AgentCondition, ConnectionCondition, condition
from cloud_broker.lines import Line
from cloud_broker.store.agents import Agent
from protocol.limits import BEAT_S

AGENT = Agent("acme", "plant-1", None, "0a", 9e9, 1_000.0)
NOW = 10_000.0
CLOCK = 50.0


@dataclasses.dataclass
class Link:
    """What is asked of a conversation."""

    ready: bool = True
    open: bool = True
    last_heard: float = NOW


def line(link: Any, **changes: Any) -> Line:
    """Return the line of an agent with two connections."""
    connections = {"erp": Connection(guard=Guard(failures=1, cool_down_s=30.0)), "edi": Connection(rate_per_s=1.0)}
    return Line("acme", "plant-1", link=link, catalogue=Catalogue({}, connections), **changes)


OPEN = {"erp": ConnectionCondition(), "edi": ConnectionCondition()}


@pytest.mark.parametrize(
    ("agent", "known", "expected"),
    [
        (AGENT, None, AgentCondition("offline")),
        (AGENT, line(None, problems=("no space",)), AgentCondition("offline")),
        (AGENT, line(Link(ready=False)), AgentCondition("offline")),
        (AGENT, line(Link()), AgentCondition("online", (), OPEN)),
        (AGENT, line(Link(last_heard=NOW - 2 * BEAT_S)), AgentCondition("stale", (), OPEN)),
        (AGENT, line(Link(), problems=("no space",)), AgentCondition("degraded", ("no space",), OPEN)),
        (dataclasses.replace(AGENT, revoked_at=1.0), line(Link()), AgentCondition("revoked")),
        (
            AGENT,
            line(Link(), shut={"erp": CLOCK + 60}),
            AgentCondition("online", (), OPEN | {"erp": ConnectionCondition("shut", NOW + 60)}),
        ),
    ],
)
def test_an_agent_is_what_is_known_of_it(agent: Agent, known: Line | None, expected: AgentCondition) -> None:
    assert condition(agent, known, NOW, CLOCK) == expected


def test_a_connection_that_failed_is_left_alone_until_it_is_tried() -> None:
    known = line(Link())
    known.breaker("erp").ended("cmd_1", "source_unavailable", CLOCK)
    waiting = condition(AGENT, known, NOW, CLOCK + 10).connections["erp"]
    known.breaker("erp").sent("cmd_2")
    tried = condition(AGENT, known, NOW, CLOCK + 40).connections["erp"]

    assert waiting == ConnectionCondition("breaker", NOW + 20)
    assert tried == ConnectionCondition("breaker", None)


def test_a_rate_that_is_used_up_shuts_no_connection() -> None:
    known = line(Link())
    while known.obstacle("edi", CLOCK) is None:
        known.sending("edi", "cmd_1", CLOCK)

    assert condition(AGENT, known, NOW, CLOCK).connections["edi"] == ConnectionCondition()
