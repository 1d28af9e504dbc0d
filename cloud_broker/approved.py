"""What is done once a second person approved: each with the effect of once, also after a crash in the middle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec

from cloud_broker.approvals import Doing
from cloud_broker.audit.trail import caller
from cloud_broker.dead_letters import DeadLetters
from cloud_broker.errors import AgentNotFound, Conflict
from cloud_broker.replays import ReplayRuns
from cloud_broker.store.agents import Agent
from cloud_broker.store.approvals import Approval
from cloud_broker.store.base import Store
from cloud_broker.store.commands import CommandFilter
from cloud_broker.tenants import Scope

Revoke = Callable[[Scope, str, str], Awaitable[bool]]


def acts(store: Store, dead_letters: DeadLetters, runs: ReplayRuns, revoke_agent: Revoke) -> dict[str, Doing]:
    """Return what does each kind of act."""

    async def resolve(scope: Scope, approval: Approval) -> str:
        asked = _asked(approval)
        command = await dead_letters.resolve(
            scope, asked["command"], asked["found"], by=approval.by, who=asked["who"], note=asked["note"]
        )
        return f"{command.id} is {command.state}"

    async def bulk_replay(scope: Scope, approval: Approval) -> str:
        asked = _asked(approval)
        wanted = msgspec.convert(asked["wanted"], CommandFilter)
        # Of what died later nobody has said that it is to be done again.
        wanted = replace(wanted, before=min(wanted.before or approval.created_at, approval.created_at))
        # A run begun with this key is not begun a second time.
        key = approval.idempotency_key or f"approval:{approval.id}"
        run = await runs.begin(scope, wanted, asked["max"], asked["rate"], by=approval.by, idempotency_key=key)
        return f"{run.id} replays {run.total}"

    async def revoke(scope: Scope, approval: Approval) -> str:
        asked = _asked(approval)
        agent = await store.agent(scope, asked["agent"])
        if agent is None:
            raise AgentNotFound(f"There is no agent {asked['agent']!r} any more.")
        if enrolment(agent) != asked["enrolment"]:
            raise Conflict(f"The agent {agent.name} has enrolled anew since; ask again if it is still to be revoked.")
        await revoke_agent(scope, agent.name, caller(approval.by))
        return f"{agent.name} is revoked"

    async def replace_agent(scope: Scope, approval: Approval) -> str:
        # The token itself is not made here: what came of an act is for everybody to read, and a token is for one.
        if not replaces(approval, await store.agent(scope, _asked(approval)["agent"])):
            raise Conflict("The agent has enrolled anew or was revoked since; ask again if it is still to be replaced.")
        return f"{approval.owner} gets the token by asking for it again"

    return {"resolve": resolve, "bulk_replay": bulk_replay, "revoke": revoke, "replace_agent": replace_agent}


def replaces(approval: Approval, agent: Agent | None) -> bool:
    """Whether it is this enrolment of an agent that somebody approved to be replaced."""
    return agent is not None and agent.revoked_at is None and enrolment(agent) == _asked(approval)["enrolment"]


def enrolment(agent: Agent) -> str:
    """Return what tells one enrolment of an agent's name from the next."""
    return f"{agent.enrolled_at:.6f}"


def _asked(approval: Approval) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(approval.request)
    return found
