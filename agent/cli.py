"""The ``outhaul-agent`` command."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from agent import RELEASE
from agent.cli_options import config_option, json_option, show
from agent.errors import AgentError
from agent.exit_codes import DONE, FAILED, WRONG_WORDS, code_of
from agent.running import run as run_agent
from agent.running import speak_utf8

# Where the other commands are, each of which loads what only it needs: `run` must start fast and stay small, and
# `version` must work where a library is broken.
MODULES: Final = {
    "check": "agent.cli_check",
    "config": "agent.cli_config",
    "diagnostics": "agent.cli_diagnostics",
    "enroll": "agent.cli_enroll",
    "identity": "agent.cli_identity",
    "journal": "agent.cli_journal",
    "ledger": "agent.cli_ledger",
    "operations": "agent.cli_config",
    "pause": "agent.cli_control",
    "resume": "agent.cli_control",
    "secret": "agent.cli_secret",
    "selfcheck": "agent.cli_selfcheck",
    "service": "agent.cli_service",
    "status": "agent.cli_control",
    "upgrade": "agent.cli_upgrade",
}


class Commands(click.Group):
    """The commands; that of another module is loaded when it is named, or all are told."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *MODULES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands and cmd_name in MODULES:
            self.add_command(getattr(importlib.import_module(MODULES[cmd_name]), cmd_name))
        return super().get_command(ctx, cmd_name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The Outhaul agent: runs beside the ERP, dials out, and does only what its file names."""


@cli.command()
@json_option
def version(as_json: bool) -> None:
    """Tell the release."""
    import platform

    facts = {"release": RELEASE, "python": platform.python_version(), "system": platform.platform()}
    if as_json:
        show(facts)
    else:
        click.echo(f"outhaul-agent {RELEASE} (Python {facts['python']}, {facts['system']})")


@cli.command()
@config_option
def run(config: Path | None) -> None:
    """Run in the foreground until it is stopped."""
    run_agent(config)


def main() -> NoReturn:
    """Run the command; every error is a sentence and an exit code."""
    speak_utf8()
    if sys.argv[1:2] == ["watch-upgrade"]:
        # Started by `upgrade`, to outlive it.
        from agent.upgrade.watcher import main as watch

        watch(sys.argv[2])
    if sys.platform == "win32" and sys.argv[1:3] == ["service", "host"]:
        # Started by the Service Control Manager, which does not wait for long: before all that other commands need.
        from agent.service.windows_host import main as be_the_service

        be_the_service(sys.argv[3:])
    if sys.platform == "win32" and sys.argv[1:3] == ["service", "setup"]:
        from agent.service.windows_setup import main as set_up

        set_up(sys.argv[3:])
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.Abort:
        sys.exit(FAILED)
    except click.ClickException as exc:
        exc.show()
        sys.exit(WRONG_WORDS)
    except AgentError as exc:
        click.echo(f"outhaul-agent: {exc}", err=True)
        sys.exit(code_of(exc))
    sys.exit(DONE)
