"""Agents: what is there, what may be run, tokens for new ones, revocation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Path, Request, Response

from cloud_broker import versions
from cloud_broker.api import headers
from cloud_broker.api.approvals import ApprovalView, asked
from cloud_broker.api.auth import Caller, caller
from cloud_broker.api.bodies import Body, answer, read
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import Services, services
from cloud_broker.api.views import AgentView, ListView, OperationView, TokenView, agent_view, time_text
from cloud_broker.approved import enrolment, replaces
from cloud_broker.errors import (
    AgentNotFound,
    ContentTypeUnsupported,
    IdempotencyKeyReused,
    RequestInvalid,
    SecondPersonNeeded,
    StoreUnavailable,
    TenantSuspended,
)
from cloud_broker.identity.tokens import DEFAULT_TTL_S, MAX_TTL_S
from cloud_broker.store.agents import Agent
from cloud_broker.store.approvals import Approval
from cloud_broker.tenants import NAME, Scope

router = APIRouter(prefix="/v1/agents", tags=["agents"])

AgentName = Annotated[str, Path(description="Of the agent.", max_length=200)]
TOKEN_EXAMPLE: Final = {"group": "plants", "ttl": 3600}


class NewToken(Body, frozen=True):
    """
    A right to enrol one agent.

    Attributes:
        group: of the agent.
        ttl: seconds that it is valid.
    """

    group: str | None = None
    ttl: float = DEFAULT_TTL_S


class _Catalogue(msgspec.Struct, frozen=True):
    operations: list[OperationView]


@router.get(
    "",
    **describe(
        "List agents",
        scope="agents:read",
        answers={200: ("All of the tenant's, by name.", ListView)},
        items=AgentView,
        problems=[StoreUnavailable],
    ),
)
async def list_agents(request: Request) -> Response:
    """List a tenant's agents and whether they are there."""
    who = await caller(request, "agents:read")
    there = services(request)
    found = await there.store.agents(who.scope)
    differs = versions.differing(found)
    return answer(ListView([_view(there, who.scope, agent, differs.get(agent.name, ())) for agent in found]))


@router.get(
    "/{name}",
    **describe(
        "Look at an agent",
        scope="agents:read",
        answers={200: ("As it was last known.", AgentView)},
        problems=[AgentNotFound, StoreUnavailable],
    ),
)
async def look(request: Request, name: AgentName) -> Response:
    """Return one agent."""
    who = await caller(request, "agents:read")
    there = services(request)
    return answer(await _shown(there, who.scope, name))


@router.get(
    "/{name}/operations",
    **describe(
        "List an agent's operations",
        scope="agents:read",
        answers={200: ("What its operator allows; empty before its first link.", ListView)},
        items=OperationView,
        problems=[AgentNotFound, StoreUnavailable],
    ),
)
async def operations(request: Request, name: AgentName) -> Response:
    """List what may be run on an agent, each with the JSON Schema of its parameters."""
    who = await caller(request, "agents:read")
    agent = await _agent(services(request), who.scope, name)
    if agent.catalogue is None:
        return answer(ListView([]))
    return answer(ListView(msgspec.json.decode(agent.catalogue, type=_Catalogue).operations))


@router.post(
    "/{name}/tokens",
    **describe(
        "Create a token for an agent",
        scope="agents:write",
        answers={
            201: ("Shown now and never again.", TokenView),
            202: ("Where two people are wanted to replace an agent: ask again once it is approved.", ApprovalView),
        },
        problems=[
            TenantSuspended,
            ContentTypeUnsupported,
            SecondPersonNeeded,
            IdempotencyKeyReused,
            StoreUnavailable,
        ],
        body=NewToken,
        example=TOKEN_EXAMPLE,
    ),
)
async def create_token(request: Request, name: AgentName) -> Response:
    """Let one agent of this name enrol, once; it replaces one of that name that is there."""
    who = await caller(request, "agents:write", new_work=True)
    wanted = await read(request, NewToken)
    for what, text in (("agent", name), ("group", wanted.group)):
        if text is not None and not NAME.match(text):
            raise RequestInvalid(f"{what}: wants 1 to 64 letters, digits, '.', '_' and '-', found {text[:80]!r}.")
    if not 0 < wanted.ttl <= MAX_TTL_S:
        raise RequestInvalid(f"ttl: wants more than 0 and at most {MAX_TTL_S:.0f} seconds, found {wanted.ttl:g}.")
    there = services(request)
    if there.approvals.wanted("replace_agent"):
        waiting = await _replacing(request, there, who, name)
        if waiting is not None:
            return asked(waiting)
    token, expires_at = await there.issue_token(who.scope, name, wanted.group, wanted.ttl, who.key.actor)
    return answer(TokenView(token, time_text(expires_at)), 201)


@router.post(
    "/{name}/revoke",
    **describe(
        "Revoke an agent",
        scope="agents:write",
        answers={
            200: ("Its link is closed; it can't come back without a new token.", AgentView),
            202: ("Where two people are wanted for it: it waits for the second one.", ApprovalView),
        },
        problems=[AgentNotFound, SecondPersonNeeded, IdempotencyKeyReused, StoreUnavailable],
    ),
)
async def revoke(request: Request, name: AgentName) -> Response:
    """Take an agent's certificate back and end its link."""
    who = await caller(request, "agents:write")
    there = services(request)
    agent = await _agent(there, who.scope, name)
    if there.approvals.wanted("revoke") and agent.revoked_at is None:
        words = {"agent": name, "enrolment": enrolment(agent)}
        key = headers.idempotency_key(request.headers.getlist("idempotency-key"))
        return asked(
            await there.approvals.ask(
                who.scope, who.key, "revoke", f"agent:{name}", f"revoke the agent {name}", words, key
            )
        )
    await there.revoke_agent(who.scope, name, who.key.actor)
    return answer(await _shown(there, who.scope, name))


@router.post(
    "/{name}/drain",
    **describe(
        "Drain an agent",
        scope="agents:write",
        answers={200: ("It is given nothing new; what it has comes to its end.", AgentView)},
        problems=[AgentNotFound, StoreUnavailable],
    ),
)
async def drain(request: Request, name: AgentName) -> Response:
    """Give an agent nothing new, so that it can be stopped; others of its group have its commands."""
    return await _drained(request, name, drained=True)


@router.post(
    "/{name}/undrain",
    **describe(
        "Give an agent commands again",
        scope="agents:write",
        answers={200: ("It is given commands again.", AgentView)},
        problems=[AgentNotFound, StoreUnavailable],
    ),
)
async def undrain(request: Request, name: AgentName) -> Response:
    """End what ``drain`` began."""
    return await _drained(request, name, drained=False)


async def _drained(request: Request, name: str, *, drained: bool) -> Response:
    who = await caller(request, "agents:write")
    there = services(request)
    await _agent(there, who.scope, name)
    await there.commands.drain(who.scope, name, drained=drained, by=who.key.actor)
    return answer(await _shown(there, who.scope, name))


async def _replacing(request: Request, there: Services, who: Caller, name: str) -> Approval | None:
    """Return what waits for a second person; ``None`` where there is nobody to replace, or it was approved."""
    agent = await there.store.agent(who.scope, name)
    if agent is None or agent.revoked_at is not None:
        return None
    target = f"agent:{name}"
    granted = await there.approvals.granted(who.scope, who.key, "replace_agent", target)
    if any(replaces(one, agent) for one in granted):
        return None
    return await there.approvals.ask(
        who.scope,
        who.key,
        "replace_agent",
        target,
        f"a token to replace the agent {name}",
        {"agent": name, "enrolment": enrolment(agent)},
        headers.idempotency_key(request.headers.getlist("idempotency-key")),
    )


async def _agent(there: Services, scope: Scope, name: str) -> Agent:
    agent = await there.store.agent(scope, name)
    if agent is None:
        names = [other.name for other in await there.store.agents(scope)]
        raise AgentNotFound(f"There is no agent {name!r}.", agents=names)
    return agent


async def _shown(there: Services, scope: Scope, name: str) -> AgentView:
    agent = await _agent(there, scope, name)
    differs = versions.differing(await there.store.agents(scope)) if agent.group is not None else {}
    return _view(there, scope, agent, differs.get(name, ()))


def _view(there: Services, scope: Scope, agent: Agent, differs: Sequence[str]) -> AgentView:
    return agent_view(agent, there.commands.agent_condition(scope, agent), differs)
