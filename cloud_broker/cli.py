"""The ``outhaul-broker`` command."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import click

from cloud_broker import RELEASE, logs
from cloud_broker.api.views import key_view, tenant_view, time_text
from cloud_broker.audit import lines as audit_lines
from cloud_broker.audit import verify as audit_verify
from cloud_broker.audit.check import by_chain
from cloud_broker.audit.lines import LineInvalid
from cloud_broker.audit.trail import operator
from cloud_broker.callers.keys import DEFAULT_GRACE_S, MAX_GRACE_S, new_key, sha256_of, state, successor
from cloud_broker.cli_agents import agent
from cloud_broker.cli_authority import authority
from cloud_broker.cli_options import (
    Duration,
    Failure,
    Name,
    Out,
    WrongWords,
    in_store,
    known_tenant,
    plain,
    with_settings,
)
from cloud_broker.cli_store import backup, migrate
from cloud_broker.identity import authorities, tokens
from cloud_broker.identity.authority import Authority
from cloud_broker.identity.trust import Trust
from cloud_broker.settings import Settings
from cloud_broker.store.answers import Exists
from cloud_broker.store.base import Store
from cloud_broker.store.open import open_store
from cloud_broker.store.tenants import ApiKey
from cloud_broker.tenants import SCOPES


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The cloud side of Outhaul: takes commands over HTTP and hands them to agents."""


main.add_command(agent)
main.add_command(authority)
main.add_command(migrate)
main.add_command(backup)


@main.command()
@with_settings
def init(settings: Settings, out: Out) -> None:
    """Set a broker up: data folder, certificate authority, first administrator key."""
    # One that is there already keeps its rights: it may be somebody's. Every file in it is its owner's alone.
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def set_up() -> str:
        store = open_store(settings)
        await store.open()
        try:
            if any(key.tenant is None for key in await store.keys(None)):
                raise Failure(
                    f"{settings.data_dir}: a broker was set up here already, and is left as it is; "
                    "`outhaul-broker key create --all-tenants --scope '*'` makes another administrator key"
                )
            # Found without a key if an earlier init was stopped half way.
            if not authorities.are_in(settings.data_dir):
                Authority.create(settings.data_dir, time.time())
            key, text = new_key(None, ["*"], time.time())
            await store.add_key(key, sha256_of(text), by=operator())
            return text
        finally:
            await store.close()

    admin_key = asyncio.run(set_up())
    document = {"admin_key": admin_key, "api_url": settings.api_url, "link_url": settings.link.url}
    out.facts(
        document,
        f"The broker is set up in {settings.data_dir}.\n\n"
        f"  administrator key  {admin_key}\n"
        f"  API                {settings.api_url}\n"
        f"  agents dial        {settings.link.url}\n\n"
        "The key is shown now and never again: keep it in a safe place.\n"
        "Next: `outhaul-broker serve`, and `outhaul-broker tenant create NAME`.",
    )


@main.command()
@with_settings
def serve(settings: Settings, out: Out) -> None:
    """Run the broker in the foreground, until it is told to stop."""
    if not authorities.are_in(settings.data_dir) or not settings.store_file.exists():
        raise Failure(f"{settings.data_dir}: no broker was set up here; run `outhaul-broker init` first")
    logs.configure(settings.log)
    # Imported here: the web framework takes longer to import than any other command takes to run.
    from cloud_broker import app

    app.serve(settings)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def version(as_json: bool) -> None:
    """Print which release this is."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    Out(as_json).facts({"version": RELEASE, "python": python}, f"outhaul-broker {RELEASE} (Python {python})")


@main.group()
def tenant() -> None:
    """Customers: the wall that nothing crosses."""


@tenant.command("create")
@click.argument("name", type=Name())
@with_settings
def create_tenant(settings: Settings, out: Out, name: str) -> None:
    """Create a tenant."""
    try:
        made = in_store(settings, lambda store: store.create_tenant(name, time.time(), by=operator()))
    except Exists as exc:
        raise Failure(str(exc)) from exc
    out.facts(plain(tenant_view(made)), f"Tenant {name} is there.")


@tenant.command("list")
@with_settings
def list_tenants(settings: Settings, out: Out) -> None:
    """List all tenants."""
    found = in_store(settings, lambda store: store.tenants())
    out.table([plain(tenant_view(one)) for one in found], ["name", "state", "created_at"])


@tenant.command("suspend")
@click.argument("name", type=Name())
@with_settings
def suspend(settings: Settings, out: Out, name: str) -> None:
    """Take nothing new for a tenant until it is resumed."""
    _set_state(settings, out, name, "suspended")


@tenant.command("resume")
@click.argument("name", type=Name())
@with_settings
def resume(settings: Settings, out: Out, name: str) -> None:
    """Take commands for a tenant again."""
    _set_state(settings, out, name, "active")


def _set_state(settings: Settings, out: Out, name: str, state: Any) -> None:
    async def change(store: Store) -> None:
        await known_tenant(store, name)
        await store.set_tenant_state(name, state, by=operator())

    in_store(settings, change)
    out.facts({"name": name, "state": state}, f"Tenant {name} is {state}.")


@main.group()
def key() -> None:
    """Keys of callers."""


@key.command("create")
@click.option("--tenant", type=Name(), help="Whose key it is.")
@click.option("--all-tenants", is_flag=True, help="Instead: an administrator's key, for every tenant.")
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES), help="What it may do.")
@click.option("--ttl", type=Duration(), help="How long it is valid; without it, until it is revoked.")
@click.option("--name", default="", help="What it is for.")
@click.option("--owner", default="", help="The person or team that answers for what is done with it.")
@with_settings
def create_key(
    settings: Settings,
    out: Out,
    tenant: str | None,
    all_tenants: bool,
    scopes: tuple[str, ...],
    ttl: float | None,
    name: str,
    owner: str,
) -> None:
    """Create a key and print it: it is shown now and never again."""
    if (tenant is None) != all_tenants:
        raise click.UsageError("wants either --tenant NAME or --all-tenants")
    try:
        made, text = new_key(tenant, scopes, time.time(), ttl, name=name, owner=owner)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc

    async def keep(store: Store) -> None:
        if tenant is not None:
            await known_tenant(store, tenant)
        await store.add_key(made, sha256_of(text), by=operator())

    in_store(settings, keep)
    out.facts({"id": made.id, "key": text}, f"{text}\n\nThe key is shown now and never again. Its id is {made.id}.")


@key.command("list")
@click.option("--tenant", type=Name(), help="Only this tenant's.")
@with_settings
def list_keys(settings: Settings, out: Out, tenant: str | None) -> None:
    """List keys, revoked ones included, with their state: expires_soon is within two weeks."""
    found = in_store(settings, lambda store: store.keys(tenant))
    columns = ["id", "tenant", "name", "owner", "scopes", "state", "expires_at", "last_used_at", "replaced_by"]
    now = time.time()
    out.table([plain(key_view(one, now)) for one in found], columns)


@key.command("rotate")
@click.argument("key_id", metavar="ID")
@click.option(
    "--grace", type=Duration(none=True), default=DEFAULT_GRACE_S, help="How long the old one goes on; 24h if not given."
)
@with_settings
def rotate_key(settings: Settings, out: Out, key_id: str, grace: float) -> None:
    """Replace a key by a new one with the same rights, and print it: it is shown now and never again."""
    if grace > MAX_GRACE_S:
        raise click.BadParameter(f"at most {MAX_GRACE_S / 86_400:.0f}d", param_hint="--grace")

    async def replace(store: Store) -> tuple[ApiKey, str]:
        old = next((one for one in await store.keys(None) if one.id == key_id), None)
        if old is None:
            raise Failure(f"there is no key {key_id!r}; `outhaul-broker key list` shows those there are")
        now = time.time()
        made, text = successor(old, now)
        if state(old, now) == "expired" or not await store.rotate_key(
            key_id, made, sha256_of(text), now + grace, by=operator()
        ):
            raise Failure(f"the key {key_id} is revoked, expired or replaced already; create a new one")
        return made, text

    made, text = in_store(settings, replace)
    until = time_text(time.time() + grace)
    out.facts(
        {"id": made.id, "key": text, "replaces": key_id, "old_key_ends_at": until},
        f"{text}\n\nThe key is shown now and never again. Its id is {made.id}.\n"
        f"The old key {key_id} goes on until {until}: give the new one to all who use it before.",
    )


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@with_settings
def revoke_key(settings: Settings, out: Out, key_id: str) -> None:
    """Refuse a key from now on."""
    if not in_store(settings, lambda store: store.revoke_key(key_id, time.time(), by=operator())):
        raise Failure(f"there is no key {key_id!r}; `outhaul-broker key list` shows those there are")
    out.facts({"id": key_id, "revoked": True}, f"Key {key_id} is revoked.")


@main.group()
def token() -> None:
    """Tokens: each lets one agent enrol, once."""


@token.command("create")
@click.option("--tenant", type=Name(), required=True, help="Whose agent it is.")
@click.option("--agent", type=Name(), required=True, help="The agent's name.")
@click.option("--group", type=Name(), help="Of agents that serve the same systems.")
@click.option("--ttl", type=Duration(), default=tokens.DEFAULT_TTL_S, help="How long it is valid; 1h if not given.")
@with_settings
def create_token(settings: Settings, out: Out, tenant: str, agent: str, group: str | None, ttl: float) -> None:
    """Create a token for `outhaul-agent enroll` and print it: it is shown now and never again."""
    if ttl > tokens.MAX_TTL_S:
        raise click.BadParameter(f"at most {tokens.MAX_TTL_S / 86_400:.0f}d", param_hint="--ttl")

    async def make(store: Store) -> tuple[str, float]:
        await known_tenant(store, tenant)
        return await tokens.new_token(store, Trust.of(settings), settings, tenant, agent, group, ttl, operator())

    text, expires_at = in_store(settings, make)
    until = time_text(expires_at)
    out.facts(
        {"token": text, "expires_at": until},
        f"{text}\n\nOn the machine beside the ERP: `outhaul-agent enroll --token TOKEN`. It works once, until {until}.",
    )


@main.command("verify-audit")
@click.option("--tenant", type=Name(), help="Only this tenant's chain.")
@click.option(
    "--against",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="An earlier export, or what `outhaul-agent journal anchors` printed; may be given again.",
)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Check this export instead of the broker's store.",
)
@with_settings
def verify_audit(
    settings: Settings, out: Out, tenant: str | None, against: tuple[Path, ...], export: Path | None
) -> None:
    """Check the audit trail from its beginning; the first record that does not fit is named.

    The chain by itself shows what was changed, removed or moved inside of it. That it was cut at its end, or written
    anew as a whole, only what somebody kept elsewhere can show: give it with --against.
    """
    try:
        kept = by_chain(one for path in against for one in audit_lines.kept(path.read_bytes().splitlines()))
        if export is None:
            chains = in_store(settings, lambda store: audit_verify.of_store(store, kept, tenant))
        else:
            found = audit_verify.of_export(export.read_bytes().splitlines(), kept)
            chains = [chain for chain in found if tenant in (None, chain.tenant)]
    except LineInvalid as exc:
        raise WrongWords(str(exc)) from exc
    ok = all(chain.misfit is None for chain in chains)
    document = {"ok": ok, "chains": [_chain_facts(chain) for chain in chains]}
    out.facts(document, "\n".join(map(_chain_text, chains)) or "there is no audit trail yet")
    if not ok:
        raise SystemExit(Failure.exit_code)


def _chain_facts(chain: audit_verify.Chain) -> dict[str, Any]:
    misfit = chain.misfit and {"number": chain.misfit.number, "what": chain.misfit.what}
    return {"tenant": chain.tenant, "records": chain.records, "head": chain.head, "misfit": misfit}


def _chain_text(chain: audit_verify.Chain) -> str:
    name = chain.tenant or "the broker's own"
    if chain.misfit is None:
        return f"{click.style('ok', fg='green')}      {name}: {chain.records} records, head {chain.head}"
    return f"{click.style('FAILED', fg='red')}  {name}: record {chain.misfit.number}: {chain.misfit.what}"
