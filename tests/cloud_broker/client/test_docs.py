"""The reference names every word and option of ``outhaul``, every variable and every error, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from cloud_broker.client import errors, profile
from cloud_broker.client.cli import cli

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "outhaul.md").read_text(encoding="utf-8")


def commands(group: click.Group, path: str = "outhaul") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def test_every_command_and_option_is_in_the_reference() -> None:
    missing = [path for path, _ in commands(cli) if f"`{path}" not in PAGE]
    params = [param for _, command in commands(cli) for param in command.params]
    known = {option for param in params for option in (*param.opts, *param.secondary_opts)}
    options = {option for option in known if option.startswith("--")}
    missing += [option for option in options if not re.search(rf"`{option}[ `]", PAGE)]
    assert missing == []
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - options == {"--help"}


def test_every_variable_and_error_is_in_the_reference() -> None:
    names = set(re.findall(r"OUTHAUL_[A-Z]+", Path(profile.__file__).read_text(encoding="utf-8")))
    names |= {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert {name for name in names if f"`{name}`" not in PAGE} == {"OuthaulError"}


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = set(re.findall(r"(?m)^    \* (\w+) ", errors.__doc__ or ""))
    assert drawn == {kind.__name__ for kind in errors.OuthaulError.__subclasses__()}
