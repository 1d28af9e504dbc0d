"""The ``outhaul-agent`` command."""

from __future__ import annotations

import asyncio
import io
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click
import msgspec

from agent import RELEASE
from agent.cli_check import check
from agent.cli_control import pause, resume, status
from agent.cli_diagnostics import diagnostics
from agent.cli_identity import identity as identity_command
from agent.cli_journal import journal
from agent.cli_ledger import ledger
from agent.cli_options import (
    DONE,
    FAILED,
    NOT_ALLOWED,
    NOT_REACHABLE,
    WRONG_WORDS,
    config_option,
    find_file,
    json_option,
    load,
    show,
)
from agent.cli_selfcheck import selfcheck
from agent.cli_service import service
from agent.cli_upgrade import upgrade
from agent.errors import (
    AgentError,
    ConfigError,
    EnrolmentError,
    LinkError,
    SecretError,
    ServiceNotAllowed,
    TokenRefused,
    UpgradeNotAllowed,
)
from agent.service.base import Nobody

# What a command needs is imported in it: `run` must start fast and stay small, and `version` must
# work where a library is broken.
if TYPE_CHECKING:
    from agent.config_file import Loaded
    from agent.secrets import SecretStore

EXIT_CODES: Final[tuple[tuple[type[AgentError], int], ...]] = (
    (TokenRefused, NOT_ALLOWED),
    (ServiceNotAllowed, NOT_ALLOWED),
    (UpgradeNotAllowed, NOT_ALLOWED),
    (ConfigError, WRONG_WORDS),
    (LinkError, NOT_REACHABLE),
    (EnrolmentError, FAILED),
    (SecretError, FAILED),
    (AgentError, FAILED),
)


def open_secrets(loaded: Loaded) -> SecretStore:
    """Return the store of secrets that the file names."""
    from agent.secrets import open_store

    return open_store(loaded.settings, loaded.base_dir)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The Outhaul agent: runs beside the ERP, dials out, and does only what its file names."""


cli.add_command(identity_command)
cli.add_command(journal)
cli.add_command(ledger)
cli.add_command(service)
for command in (check, diagnostics, status, pause, resume, selfcheck, upgrade):
    cli.add_command(command)


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
    from agent.app import state_dir
    from agent.identity.enrolment import enroll as enrol

    loaded = load(config)
    text = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - a word on the command line
    identity = asyncio.run(
        enrol(loaded.settings, text, open_secrets(loaded), state_dir(loaded), force=force, base_dir=loaded.base_dir)
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


@cli.command()
@config_option
def run(config: Path | None) -> None:
    """Run in the foreground until it is stopped."""
    from agent.secrets.unlocking import UnlockedSecrets
    from agent.service import notifier

    listening = notifier()
    if not isinstance(listening, Nobody):
        from agent import app

        # A service waits for what is missing: nobody sits there to read an error.
        return app.run_as_service(find_file(config), listening)
    loaded = load(config, log_file=True)
    # Its process gets ready while what follows is loaded.
    with closing(UnlockedSecrets(loaded.settings, loaded.base_dir)) as secrets:
        from agent import app
        from agent.identity.own_identity import find

        if find(loaded) is None:
            raise EnrolmentError(
                f"{app.state_dir(loaded)}: this agent has no certificate yet; run: outhaul-agent enroll --token TOKEN"
            )
        app.run(loaded, secrets=secrets)


@cli.command()
@config_option
@json_option
def operations(config: Path | None, as_json: bool) -> None:
    """List what the cloud may have run here."""
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


@cli.group("config")
def config_group() -> None:
    """About the operator's file."""


@config_group.command("schema")
def config_schema() -> None:
    """Print the file's JSON Schema, for editors."""
    from agent import config_errors

    show(config_errors.schema())


@cli.group()
def secret() -> None:
    """The values of {secret:NAME}; never on the command line."""


@secret.command("set")
@click.argument("name")
@config_option
def secret_set(name: str, config: Path | None) -> None:
    """Keep a value, from a prompt or from standard input."""
    loaded = load(config)
    if sys.stdin.isatty():
        value = click.prompt(f"value of {name}", hide_input=True, confirmation_prompt=True, err=True)
    else:
        value = _piped().removesuffix("\n").removesuffix("\r")
    if not value:
        raise SecretError(f"{name}: an empty value; type it, or pipe it in: outhaul-agent secret set {name} < file")
    open_secrets(loaded).set(name, value)
    click.echo(f"kept {name}", err=True)


def _piped() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        # Without the cause: its text would show the value.
        raise SecretError("the value on standard input is not UTF-8; convert it, or type it at the prompt") from None


@secret.command("delete")
@click.argument("name")
@config_option
def secret_delete(name: str, config: Path | None) -> None:
    """Forget a value."""
    if not open_secrets(load(config)).delete(name):
        raise SecretError(f"there is no secret {name!r}; outhaul-agent secret list shows those there are")
    click.echo(f"deleted {name}", err=True)


@secret.command("list")
@config_option
@json_option
def secret_list(config: Path | None, as_json: bool) -> None:
    """List the names that are kept, and those that the file wants."""
    from agent.secrets import secret_names

    loaded = load(config)
    kept = set(open_secrets(loaded).names())
    wanted = secret_names(loaded.settings)
    if as_json:
        show([{"name": name, "kept": name in kept, "used": name in wanted} for name in sorted(kept | wanted)])
        return
    for name in sorted(kept | wanted):
        click.echo(f"{name}{'' if name in kept else '  MISSING: outhaul-agent secret set ' + name}")


def speak_utf8() -> None:
    """Take and give UTF-8 on pipes and files too, where Windows would use the account's old code page."""
    # An editor's byte order mark is no part of a value; what can't be said in UTF-8 is shown, not fatal.
    for stream, encoding in ((sys.stdin, "utf-8-sig"), (sys.stdout, "utf-8"), (sys.stderr, "utf-8")):
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():  # a service has none of the three
            stream.reconfigure(encoding=encoding, errors=None if stream is sys.stdin else "backslashreplace")


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
        sys.exit(next(code for kind, code in EXIT_CODES if isinstance(exc, kind)))
    sys.exit(DONE)
