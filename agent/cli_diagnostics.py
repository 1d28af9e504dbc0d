"""``outhaul-agent diagnostics``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from agent.cli_options import config_option, json_option, show
from agent.errors import AgentError, ConfigError
from agent.operator_file import find_file


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The zip; never one that is there. Default: outhaul-diagnostics-AGENT-TIME.zip here.",
)
@config_option
@json_option
def diagnostics(output: Path | None, config: Path | None, as_json: bool) -> None:
    """Put together what somebody who helps wants to know, as a zip; nothing that is secret is in it."""
    from agent import config_file
    from agent import diagnostics as parts

    path = find_file(config).absolute()
    try:
        loaded = config_file.load(path)
    except ConfigError:
        loaded = None  # the zip says so, and is wanted all the more
    name = loaded.settings.agent if loaded is not None else "agent"
    target = (output or Path(parts.file_name(name, datetime.now(UTC)))).absolute()
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    except OSError as exc:
        raise AgentError(f"{target}: can't be made: {exc.strerror}; name another with --output") from exc
    with os.fdopen(descriptor, "wb") as file:
        parts.write(file, parts.scene(path, loaded), lambda part: click.echo(f"… {part}", err=True))
    if as_json:
        show({"file": str(target), "in_it": parts.IN_IT, "not_in_it": parts.NOT_IN_IT})
        return
    click.echo(f"{target}, with:")
    for part, what in parts.IN_IT.items():
        click.echo(f"  {part:<14}{what}")
    click.echo("not in it:")
    for what in parts.NOT_IN_IT:
        click.echo(f"  {what}")
