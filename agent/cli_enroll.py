"""``outhaul-agent enroll``: who this agent is, from a token."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from agent.cli_options import config_option, json_option, show
from agent.operator_file import load


@click.command()
@click.option(
    "--token",
    required=True,
    envvar="OUTHAUL_TOKEN",
    help="As `outhaul-broker token create` printed it; - reads it from standard input.",
)
@click.option("--force", is_flag=True, help="Replace the identity of another tenant or agent.")
@config_option
@json_option
def enroll(token: str, force: bool, config: Path | None, as_json: bool) -> None:
    """Make a key here, send a signing request, keep the certificate that comes back."""
    # Imported here: `--help` starts without it.
    import asyncio

    from agent.app import state_dir
    from agent.identity.enrolment import enroll as enrol
    from agent.secrets import open_store

    loaded = load(config)
    text = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - a word on the command line
    identity = asyncio.run(
        enrol(
            loaded.settings,
            text,
            open_store(loaded.settings, loaded.base_dir),
            state_dir(loaded),
            force=force,
            base_dir=loaded.base_dir,
        )
    )
    if as_json:
        show(
            {
                "tenant": identity.tenant,
                "agent": identity.agent,
                "broker": identity.url,
                "serial": identity.serial,
                "not_after": datetime.fromtimestamp(identity.not_after, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )
    else:
        click.echo(
            f"enrolled as {identity.tenant}/{identity.agent} at {identity.url}; start it with: outhaul-agent run"
        )
