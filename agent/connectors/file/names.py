"""
Names of files: filled from a template, and refused if they could be anything but one file in one folder.

The rules are those of the strictest system and hold on every system alike, so that a name that
was good on a test machine under Linux is good on the Windows server too.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

MAX_NAME_BYTES: Final = 180  # of UTF-8; file systems allow 255, of which the temporary name needs its share

_COMMAND_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# A command's id and the number of its attempt, or a probe's token.
_OURS = re.compile(r"\..+\.([a-z]+_[0-9a-z]{26}(\.\d+)?|[0-9a-f]{32})\.(part|claim|void)")
_FORBIDDEN: Final = frozenset('/\\:*?"<>|')  # separators, streams (`a:b`) and what Windows reads as a pattern
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode categories: control, format, halves, line ends
_DEVICES: Final = frozenset(
    ["con", "prn", "aux", "nul", "clock$", "conin$", "conout$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)
# `ORDERS~1.CSV` is what Windows itself calls some file with a longer name.
_SHORT_NAME = re.compile(r"[^.]{1,6}~\d{1,6}(\.[^.]{0,3})?")


class NameRefused(ValueError):
    """This can't be the name of a file of ours; the text says why."""


def fill(template: str, values: Mapping[str, Any]) -> str:
    """
    Return ``template`` with each ``{parameter}`` replaced by its value.

    Raises:
        NameRefused: a value is missing or no plain value, or the name is not one of a file in a folder.
    """
    try:
        places = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise NameRefused(f"the operation's file name {template!r} can't be read: {exc}") from exc
    name = "".join(literal + ("" if place is None else _value(place, values)) for literal, place, _, _ in places)
    check(name)
    return name


def check(name: str) -> None:
    """
    Raise ``NameRefused`` unless ``name`` is the name of an ordinary, visible file on every system.

    Raises:
        NameRefused: it could leave its folder, be a device, a stream, a temporary name, or mean another file.
    """
    for character in name:
        if character in _FORBIDDEN or unicodedata.category(character) in _INVISIBLE:
            raise NameRefused(f"the file name {name!r} holds {character!r}, which no file name may hold")
    if not name.strip():
        raise NameRefused("the file name is empty")
    if name[0] in ". ":
        raise NameRefused(f"the file name {name!r} starts with {name[0]!r}: such names are kept for temporary files")
    if name[-1] in ". ":
        raise NameRefused(f"the file name {name!r} ends with {name[-1]!r}, which Windows would drop")
    if name.split(".", 1)[0].rstrip(" ").lower() in _DEVICES:
        raise NameRefused(f"the file name {name!r} is that of a Windows device")
    if _SHORT_NAME.fullmatch(name):
        raise NameRefused(f"the file name {name!r} looks like a Windows short name and could mean another file")
    size = len(name.encode("utf-8"))
    if size > MAX_NAME_BYTES:
        raise NameRefused(f"the file name {name[:40]!r}… has {size} bytes; at most {MAX_NAME_BYTES} are allowed")


def temporary(name: str, command_id: str, suffix: str, attempt: int = 0) -> str:
    """
    Return the hidden name beside ``name`` that belongs to one attempt of a command.

    Args:
        suffix: ``part`` for content on its way, ``claim`` for the note of what was done, ``void`` for content that
            was taken away from an attempt.
        attempt: stands in the name unless it is 0, the number of what is no attempt.

    Raises:
        NameRefused: the command's id could not stand in a file name.
    """
    if not _COMMAND_ID.fullmatch(command_id):
        raise NameRefused(f"the command id {command_id[:64]!r} can't stand in a file name")
    return f".{name}.{command_id}.{attempt}.{suffix}" if attempt else f".{name}.{command_id}.{suffix}"


def is_ours(name: str) -> bool:
    """Whether ``name`` is a temporary name of ours; other programs' hidden files are not."""
    return _OURS.fullmatch(name) is not None


def _value(parameter: str, values: Mapping[str, Any]) -> str:
    value = values.get(parameter)
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, Decimal):
        text = format(value, "f")
    elif isinstance(value, datetime | date | time):
        text = value.isoformat()
    elif isinstance(value, str | int | UUID):
        text = str(value)
    else:
        found = "nothing" if value is None else type(value).__name__
        raise NameRefused(f"parameter {parameter!r} is part of the file name and must be a plain value, found {found}")
    if not text:
        raise NameRefused(f"parameter {parameter!r} is part of the file name and must not be empty")
    return text
