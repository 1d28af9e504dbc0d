"""The operator's file from disk: TOML into ``Settings``, every problem with its line and its fix."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent import config_checks, settings_reader, toml_lines
from agent.config_checks import Problem
from agent.errors import ConfigError
from agent.settings import Settings


class Loaded(msgspec.Struct, frozen=True):
    """
    A file that was read.

    Attributes:
        settings: what it says.
        path: where it is.
        base_dir: its folder; relative paths in it start there.
        remarks: a sentence for each thing that is right, and not acted on in this release or unwise.
    """

    settings: Settings
    path: Path
    base_dir: Path
    remarks: tuple[str, ...] = ()


def load(path: Path) -> Loaded:
    """
    Read the file at ``path``.

    Raises:
        ConfigError: with a line for each problem, in the order of the file.
    """
    try:
        # Windows editors put a byte order mark in front, which TOML does not know.
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"{path}: can't be read: {exc.strerror}; name the file with --config FILE") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}:{line}: wants UTF-8, found the byte 0x{exc.object[exc.start]:02x}") from exc
    settings = parse(text, str(path))
    return Loaded(settings, path, path.absolute().parent, tuple(config_checks.remarks(settings)))


def parse(text: str, name: str) -> Settings:
    """
    Read the TOML ``text`` of a file that errors call ``name``.

    Raises:
        ConfigError: as ``load``.
    """
    try:
        return _parsed(text, name)
    except RecursionError as exc:
        raise ConfigError(f"{name}: wants fewer lists within lists, and fewer tables within tables") from exc


def _parsed(text: str, name: str) -> Settings:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(_syntax(str(exc), text, name)) from exc
    except ValueError as exc:  # int() refuses more digits than sys.get_int_max_str_digits()
        raise ConfigError(f"{name}: a number has more digits than can be read") from exc
    try:
        settings = settings_reader.read(raw, Settings)
    except ValueError as exc:
        # Imported here: pydantic costs 12 MiB and 100 ms, and the agent's process can do without it.
        from agent import config_errors

        found = config_errors.problems(raw)
        raise ConfigError(_report(found, text, name) if found else f"{name}: can't be read: {exc}") from None
    problems = config_checks.problems(settings)
    if problems:
        raise ConfigError(_report(problems, text, name))
    return settings


def _syntax(message: str, text: str, name: str) -> str:
    match = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    if match is not None:
        return f"{name}:{match[2]}:{match[3]}: {match[1]}"
    return f"{name}:{text.count(chr(10)) + 1}: {message.removesuffix(' (at end of document)')}, at the end of the file"


def _report(problems: Sequence[Problem], text: str, name: str) -> str:
    known = toml_lines.lines(text)
    found = {(toml_lines.line_of(place, known), _dotted(place), message): None for place, message in problems}
    return "\n".join(f"{name}:{line}: {place}: {message}" for line, place, message in sorted(found))


def _dotted(place: toml_lines.Path) -> str:
    parts = [f"[{part + 1}]" if isinstance(part, int) else f".{_key(part)}" for part in place]
    return "".join(parts).removeprefix(".")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
