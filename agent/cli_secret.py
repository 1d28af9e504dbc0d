"""``outhaul-agent secret``: the values of ``{secret:NAME}``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli_options import config_option, json_option, show
from agent.errors import SecretError
from agent.operator_file import load

if TYPE_CHECKING:
    from agent.config_file import Loaded
    from agent.secrets import SecretStore


@click.group()
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
    _store(loaded).set(name, value)
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
    if not _store(load(config)).delete(name):
        raise SecretError(f"there is no secret {name!r}; outhaul-agent secret list shows those there are")
    click.echo(f"deleted {name}", err=True)


@secret.command("list")
@config_option
@json_option
def secret_list(config: Path | None, as_json: bool) -> None:
    """List the names that are kept, and those that the file wants."""
    from agent.secrets.resolve import secret_names

    loaded = load(config)
    kept = set(_store(loaded).names())
    wanted = secret_names(loaded.settings)
    if as_json:
        show([{"name": name, "kept": name in kept, "used": name in wanted} for name in sorted(kept | wanted)])
        return
    for name in sorted(kept | wanted):
        click.echo(f"{name}{'' if name in kept else '  MISSING: outhaul-agent secret set ' + name}")


def _store(loaded: Loaded) -> SecretStore:
    # Imported here, as above: `--help` starts without it.
    from agent.secrets import open_store

    return open_store(loaded.settings, loaded.base_dir)
