"""``outhaul-broker agent``: agents that are known here."""

from __future__ import annotations

import time
from typing import Any

import click

from cloud_broker.api.views import agent_view
from cloud_broker.audit.trail import operator
from cloud_broker.cli_options import Failure, Name, Out, in_store, known_tenant, plain, with_settings
from cloud_broker.conditions import AgentCondition
from cloud_broker.identity.certificates import name_of
from cloud_broker.settings import Settings
from cloud_broker.store.agents import Agent
from cloud_broker.store.answers import Exists
from cloud_broker.store.base import Store
from cloud_broker.tenants import Scope


@click.group()
def agent() -> None:
    """Agents that have enrolled, or were registered."""


@agent.command("list")
@click.option("--tenant", type=Name(), help="Only this tenant's.")
@with_settings
def list_agents(settings: Settings, out: Out, tenant: str | None) -> None:
    """List agents and when they were last there."""

    async def look(store: Store) -> list[dict[str, Any]]:
        if tenant is not None:
            await known_tenant(store, tenant)
        names = [tenant] if tenant else [one.name for one in await store.tenants()]
        found = [one for name in names for one in await store.agents(Scope(name))]
        # Only the running broker knows who is linked to it; the file knows who was let in.
        return [plain(agent_view(one, AgentCondition("revoked" if one.revoked_at else "enrolled"))) for one in found]

    columns = ["tenant", "name", "group", "state", "version", "last_seen_at"]
    out.table(in_store(settings, look), columns)


@agent.command("revoke")
@click.argument("name", type=Name())
@click.option("--tenant", type=Name(), required=True, help="Whose agent it is.")
@with_settings
def revoke_agent(settings: Settings, out: Out, tenant: str, name: str) -> None:
    """Take an agent's certificate back; it can't link again without a new token."""
    if not in_store(settings, lambda store: store.revoke_agent(Scope(tenant), name, time.time(), by=operator())):
        raise Failure(f"tenant {tenant!r} has no agent {name!r}; `outhaul-broker agent list` shows those there are")
    out.facts({"tenant": tenant, "name": name, "revoked": True}, f"Agent {name} of {tenant} is revoked.")


@agent.command("add")
@click.option("--tenant", type=Name(), required=True, help="Whose agent it is.")
@click.option("--agent", "name", type=Name(), required=True, help="The agent's name.")
@click.option("--group", type=Name(), help="Of agents that serve the same systems.")
@with_settings
def add_agent(settings: Settings, out: Out, tenant: str, name: str, group: str | None) -> None:
    """Register an agent whose certificates come from your own PKI."""
    if settings.link.client_authorities is None:
        raise Failure("link.client_authorities names no authorities, so no certificate of your own PKI would be taken")
    made = Agent(tenant, name, group, "", 0.0, time.time(), own_pki=True)

    async def keep(store: Store) -> None:
        await known_tenant(store, tenant)
        await store.add_agent(made, by=operator())

    try:
        in_store(settings, keep)
    except Exists as exc:
        raise Failure(str(exc)) from exc
    named = name_of(tenant, name, settings.certificates.trust_domain)
    out.facts(
        {"tenant": tenant, "name": name, "group": group, "uri": named},
        f"Agent {name} of {tenant} may link with a certificate of your own PKI that names {named}.",
    )
