"""``outhaul-agent identity``: who this agent is, and until when."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli_options import config_option, json_option, show
from agent.errors import EnrolmentError
from agent.operator_file import load

if TYPE_CHECKING:
    from agent.config_file import Loaded


@click.command()
@config_option
@json_option
def identity(config: Path | None, as_json: bool) -> None:
    """Tell tenant, agent, certificate and keys, to be compared by voice."""
    facts = _facts(load(config))
    if as_json:
        show(facts)
        return
    certificate = facts["certificate"]
    lines = [
        ("tenant", facts["tenant"]),
        ("agent", facts["agent"]),
        ("broker", facts["broker"]),
        ("certificate", f"{certificate['serial']}, {_of_whom(certificate)}"),
        ("good until", f"{certificate['not_after']} ({certificate['left']})"),
        ("next renewal", _renewal(certificate)),
        *(("authority", f"sha256:{name}") for name in facts["authorities"]),
        *((f"key to {use}", key) for use, key in (facts["keys"] or {}).items()),
    ]
    for name, text in lines:
        click.echo(f"{name:<14}{text}")


def _facts(loaded: Loaded) -> dict[str, Any]:
    # Imported here: `--help` must start fast.
    from agent.identity import authorities
    from agent.identity.keys import public_keys
    from agent.identity.own_identity import find
    from agent.identity.validity import Life, left_text

    state_dir = loaded.base_dir / loaded.settings.state_dir
    who = find(loaded)
    if who is None:
        raise EnrolmentError(f"{state_dir}: this agent has no certificate yet; run: outhaul-agent enroll --token TOKEN")
    life = Life(who.obtained_at, who.not_after)
    return {
        "tenant": who.tenant,
        "agent": who.agent,
        "broker": who.url,
        "certificate": {
            "serial": who.serial,
            "file": str(who.certificate),
            "own": who.own,
            "obtained_at": _time(who.obtained_at),
            "not_after": _time(who.not_after),
            "left": left_text(who.not_after, time.time()),
            # Drawn anew by each process within a tenth of the last third; this is the middle.
            "next_renewal": None if who.own else _time(life.due(0.5)),
        },
        "authorities": authorities.fingerprints(authorities.authorities_of(who)),
        "keys": public_keys(state_dir),
    }


def _of_whom(certificate: dict[str, Any]) -> str:
    return f"your own: {certificate['file']}" if certificate["own"] else "given by the broker"


def _renewal(certificate: dict[str, Any]) -> str:
    if certificate["own"]:
        return "by you: put a renewed one into the same file"
    return f"by itself, about {certificate['next_renewal']}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
