"""Pages of ``docs/reference`` about the programs, made from their click commands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from config.dev.markdown import table

EXIT_CODES = "Exit codes: 0 done, 1 the thing failed, 2 the words are wrong, 3 not reachable, 4 not allowed."


def walk(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield each command that can be typed, with its words, in the order of the help."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):  # some load a command when it is asked for
            if (child := command.get_command(context, name)) is not None:
                yield from walk(child, (*words, name))
    else:
        yield words, command


def page(name: str, group: click.Group, about: str) -> str:
    """
    Return the page of one program.

    Args:
        about: a paragraph for its beginning, Markdown.
    """
    parts = [
        f"# {name}",
        "",
        "Made from the program's own help by `python -m config.dev.reference`.",
        "",
        _help(group),
        "",
        about,
        "",
        f"{EXIT_CODES} With `--json` a command prints one JSON document on standard output; logs and progress go to "
        "standard error.",
    ]
    for words, command in walk(group, (name,)):
        parts += ["", f"## {' '.join(words)}", "", f"    {_usage(command, words)}", "", _help(command)]
        rows = [_row(param) for param in command.params if not getattr(param, "hidden", False)]
        if rows:
            parts += ["", *table(("word", "default", "meaning"), rows)]
    return "\n".join(parts) + "\n"


def spelling(param: click.Parameter) -> str:
    """Return how a parameter is typed, such as ``--token TEXT``."""
    if isinstance(param, click.Option):
        names = ", ".join([*param.opts, *param.secondary_opts])
        return names if param.is_flag or param.count else f"{names} {param.make_metavar(_context())}"
    return param.make_metavar(_context())


def _row(param: click.Parameter) -> tuple[str, str, str]:
    meaning = getattr(param, "help", None) or ""
    if param.envvar:
        names = [param.envvar] if isinstance(param.envvar, str) else list(param.envvar)
        meaning = f"{meaning} Also: {', '.join(f'`{name}`' for name in names)} in the environment.".strip()
    if getattr(param, "multiple", False):
        meaning = f"{meaning} May be given more than once.".strip()
    return f"`{spelling(param)}`", _default(param), meaning


def _default(param: click.Parameter) -> str:
    if param.required:
        return "required"
    default = param.to_info_dict().get("default")
    # What click says of a default that was not given changes between its releases.
    if default is None or default is False or default == () or not isinstance(default, str | int | float | bool):
        return ""
    return f"`{default}`"


def _usage(command: click.Command, words: tuple[str, ...]) -> str:
    return " ".join([*words, *command.collect_usage_pieces(_context(command))])


def _help(command: click.Command) -> str:
    text = inspect.cleandoc(command.help or "").replace("\b", "").replace("\f", "\n")
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def _context(command: click.Command | None = None) -> click.Context:
    return click.Context(command or click.Command("any"))
