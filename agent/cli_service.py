"""``outhaul-agent service``: the agent as a service of the system it runs on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli_options import json_option, show
from agent.exit_codes import NOT_REACHABLE
from agent.operator_file import system_file

if TYPE_CHECKING:
    from agent.service.base import ServiceManager


@click.group()
def service() -> None:
    """The agent as a service of this machine: systemd's, or that of Windows."""


@service.command()
@click.option("--account", help="Another one than the service's own; on Windows also a gMSA: DOMAIN\\NAME$.")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The operator's file; default: the service's, or the system's.",
)
@json_option
def install(account: str | None, config: Path | None, as_json: bool) -> None:
    """
    Make the service, or mend the one that is there; it starts with the machine, and now with `service start`.

    Wants an administrator. On Linux it also lets the service write to the folders of the file's connections: do it
    again after a change of those. A step that fails takes back what was made before it.
    """
    manager = _manager()
    if config is None:
        config = Path(manager.status().config or system_file())  # one that is there keeps its file
    _told(manager.install(config.absolute(), account), "all of it was there", as_json)


@service.command()
@json_option
def uninstall(as_json: bool) -> None:
    """Stop the service and take it away; the operator's file, secrets, certificate and journal stay."""
    _told(_manager().uninstall(), "there was none", as_json)


@service.command()
@json_option
def start(as_json: bool) -> None:
    """Start the service, and wait until it says that it runs."""
    _manager().start()
    _told(["it runs"], "", as_json)


@service.command()
@json_option
def stop(as_json: bool) -> None:
    """Stop the service, and wait until what ran has come to its end."""
    _manager().stop()
    _told(["it has stopped"], "", as_json)


@service.command()
@json_option
def status(as_json: bool) -> None:
    """Tell how the system sees the service; exit code 3 where it does not run."""
    facts = _manager().status()
    if as_json:
        show(msgspec.structs.asdict(facts))
    elif not facts.installed:
        click.echo(
            f"not installed{': ' + facts.detail if facts.detail else ''}; outhaul-agent service install makes it"
        )
    else:
        click.echo(f"{facts.state}; {'starts' if facts.enabled else 'does not start'} with the machine")
        click.echo(f"account: {facts.account}, file: {facts.config}")
        if facts.detail:
            click.echo(facts.detail)
    if not facts.running:
        sys.exit(NOT_REACHABLE)


def _manager() -> ServiceManager:
    # A table: each of them can be imported on its own system only.
    if sys.platform == "win32":
        from agent.service import windows

        return windows
    from agent.service import linux

    return linux


def _told(lines: list[str], nothing: str, as_json: bool) -> None:
    if as_json:
        show({"done": lines})
        return
    for line in lines or [nothing]:
        click.echo(line, err=True)
