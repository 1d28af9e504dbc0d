"""``outhaul-agent config`` and ``outhaul-agent operations``: what the operator's file says, and may say."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from agent.cli_options import config_option, json_option, show
from agent.operator_file import load


@click.command()
@config_option
@json_option
def operations(config: Path | None, as_json: bool) -> None:
    """List what the cloud may have run here."""
    # Imported here, as in all these modules what only one command needs: `--help` loads them all.
    from agent import catalogue

    loaded = load(config)
    entries = catalogue.build(loaded.settings, {})["operations"]
    if as_json:
        own = ("version", "allow", "columns", "mask", "max_rows", "pin")
        settings = {name: msgspec.to_builtins(operation) for name, operation in loaded.settings.operations.items()}
        show([{**entry, **{key: settings[entry["name"]].get(key) for key in own}} for entry in entries])
        return
    width = max((len(entry["name"]) for entry in entries), default=0)
    for entry in entries:
        params = ", ".join(entry["params"].get("properties", {}))
        click.echo(f"{entry['name']:<{width}}  {entry['connection']}, {entry['effect']}  ({params})")
        if entry["description"]:
            click.echo(f"{'':<{width}}  {entry['description']}")


@click.group()
def config() -> None:
    """About the operator's file."""


@config.command("schema")
def config_schema() -> None:
    """Print the file's JSON Schema, for editors."""
    from agent import config_errors

    show(config_errors.schema())
