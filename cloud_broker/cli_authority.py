"""``outhaul-broker authority``: one authority takes the place of another, and no agent is left behind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import click

from cloud_broker.api.views import time_text
from cloud_broker.audit.trail import BROKER, Act, operator
from cloud_broker.cli_options import Failure, Out, in_store, with_settings
from cloud_broker.identity import authorities
from cloud_broker.identity.authorities import Authorities
from cloud_broker.identity.authority import Authority
from cloud_broker.identity.rollover import Progress, progress
from cloud_broker.settings import Settings
from cloud_broker.store.agents import Agent
from cloud_broker.store.base import Store
from cloud_broker.tenants import Scope

NAMED: Final = 10  # agents named in a sentence; `authority status --json` names all
_FORCE: Final = click.option("--force", is_flag=True, help="Also if agents are left behind; they must enrol again.")
_NEXT: Final = {
    "steady": "`outhaul-broker authority add` begins a change",
    "added": "once all trust the new one: `outhaul-broker authority switch`",
    "switched": "once all have a certificate of the new one: `outhaul-broker authority drop`",
}


@click.group()
def authority() -> None:
    """The broker's certificate authority, and how another takes its place in three steps: add, switch, drop."""


@authority.command()
@with_settings
def status(settings: Settings, out: Out) -> None:
    """Tell which authorities there are, and how many agents have come along."""
    # What a drop that was cut off left, such as the old key.
    removed = authorities.remove_dropped(settings.data_dir)
    there = Authorities.load(settings.data_dir)
    found, tokens = _look(settings, there)
    ours = [
        {
            "fingerprint": one.fingerprint,
            "not_after": time_text(one.certificate.not_valid_after_utc.timestamp()),
            "issues": one is there.issuing,
        }
        for one in there.trusted
    ]
    document = {
        "phase": there.phase,
        "authorities": ours,
        "agents": found.agents,
        "trust_all": found.trusting,
        "have_newest": found.holding,
        "do_not_trust_all": list(found.untold),
        "have_no_newest": list(found.unrenewed),
        "open_tokens": tokens,
        "removed": removed,
    }
    lines = [f"{one['fingerprint']}  until {one['not_after']}{'  issues' if one['issues'] else ''}" for one in ours]
    lines.append(f"{found.trusting} of {found.agents} agents trust {'both' if len(ours) == 2 else 'it'}")
    if there.phase == "switched":
        lines.append(f"{found.holding} of {found.agents} agents have a certificate of the new one")
    behind = found.unrenewed if there.phase == "switched" else found.untold
    if behind:
        lines.append(f"not yet: {_names(behind)}")
    if removed:
        lines.append(f"removed what was left of a dropped one: {', '.join(removed)}")
    lines.append(_NEXT[there.phase])
    out.facts(document, "\n".join(lines))


@authority.command()
@with_settings
def add(settings: Settings, out: Out) -> None:
    """Make the authority that is to come, and have agents trust it beside the old one."""
    made = authorities.add(settings.data_dir, time.time())
    _noted(settings, "authority_added", made)
    out.facts(
        {"fingerprint": made.fingerprint},
        f"{made.fingerprint} is trusted too. Agents that are linked are told within seconds, others when they dial.\n"
        "Next: wait until `outhaul-broker authority status` says that all trust it; then `authority switch`.",
    )


@authority.command()
@_FORCE
@with_settings
def switch(settings: Settings, out: Out, force: bool) -> None:
    """Have the new authority issue from now on, the broker's own certificate too."""
    found, tokens = _look(settings, Authorities.load(settings.data_dir))
    if not force:
        _nobody_stays(found.untold, found, "do not trust the new authority", "Wait until they were linked")
    made = authorities.switch(settings.data_dir)
    _noted(settings, "authority_switched", made)
    text = f"{made.fingerprint} issues from now on."
    if tokens:
        text += f"\n{tokens} tokens that were not used yet know the old one only: create them again."
    text += (
        "\nNext: agents get certificates of it when they renew; `outhaul-broker authority status` counts them. "
        "Then `authority drop`."
    )
    out.facts({"fingerprint": made.fingerprint, "left_behind": list(found.untold), "open_tokens": tokens}, text)


@authority.command()
@_FORCE
@with_settings
def drop(settings: Settings, out: Out, force: bool) -> None:
    """Trust the old authority no more, and remove its key."""
    found, _ = _look(settings, Authorities.load(settings.data_dir))
    if not force:
        renewal = "They renew at two thirds of a certificate's life; wait"
        _nobody_stays(found.unrenewed, found, "have no certificate of the new authority", renewal)
    gone = authorities.drop(settings.data_dir)
    _noted(settings, "authority_dropped", gone)
    out.facts(
        {"fingerprint": gone.fingerprint, "left_behind": list(found.unrenewed)},
        f"{gone.fingerprint} is trusted no more, and its key is gone.",
    )


def _nobody_stays(behind: Sequence[str], found: Progress, why: str, remedy: str) -> None:
    if behind:
        raise Failure(
            f"{len(behind)} of {found.agents} agents {why} yet, and could not come in any more: {_names(behind)}. "
            f"{remedy}, revoke them, or give --force"
        )


def _look(settings: Settings, there: Authorities) -> tuple[Progress, int]:
    now = time.time()

    async def look(store: Store) -> tuple[list[Agent], int]:
        agents = [agent for tenant in await store.tenants() for agent in await store.agents(Scope(tenant.name))]
        return agents, await store.open_tokens(now)

    agents, tokens = in_store(settings, look)
    return progress(there, agents, settings.certificates.grace, now), tokens


def _noted(settings: Settings, action: str, changed: Authority) -> None:
    detail: dict[str, Any] = {"fingerprint": changed.fingerprint}
    act = Act(BROKER, operator(), action, f"authority:{changed.fingerprint[:16]}", time.time(), detail=detail)
    in_store(settings, lambda store: store.note(act))


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
