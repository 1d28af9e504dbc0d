"""
What of the operator's file, and of texts that repeat it, others may see.

By a list of what is shown; all else is hidden. What is hidden in the file is hidden word by word in every text too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, get_args

from agent.discretion import HIDDEN, hushed
from agent.settings import Model, Settings
from agent.settings_reader import hints

# Keys whose values are shown, by their place; `*` is any name. None of them holds what anybody thought of, but a
# choice of ours, a number of a limit, or a name that the cloud knows anyway.
_SHOWN: Final = """
    agent max_running link.transport secrets.store log.level log.format log.file_bytes log.files
    connections.*.type connections.*.max_concurrent connections.*.rate connections.*.idle
    connections.*.breaker.failures connections.*.breaker.cool_down
    connections.*.dialect connections.*.login_timeout connections.*.auth.scheme connections.*.auth.digest
    connections.*.max_reply_bytes
    operations.*.connection operations.*.effect operations.*.timeout operations.*.max_rows operations.*.overwrite
    operations.*.then operations.*.synthetic operations.*.verify operations.*.format.type operations.*.format.header
    operations.*.params.*.type operations.*.params.*.direction operations.*.params.*.required
    operations.*.params.*.nullable operations.*.params.*.min_length operations.*.params.*.max_length
    operations.*.params.*.scale operations.*.params.*.precision
    triggers.*.type triggers.*.connection triggers.*.every triggers.*.then
"""
SHOWN: Final = frozenset(tuple(place.split(".")) for place in _SHOWN.split())
_NAMED: Final = ("connections", "operations", "triggers", "params", "trusted_signers")  # tables whose keys are names
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# A value that is shown is at most this: a mistaken file may have anything in the place of a choice.
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}")
_WORD: Final = re.compile(r"\w{3,}")


def shown_file(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the operator's file, as TOML was read, with its structure and only those values that may be shown."""
    known = _keys(Settings)

    def visit(value: Any, place: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            named = place[-1:] and place[-1] in _NAMED
            return {_key(key, known, named=bool(named)): visit(value[key], (*place, key)) for key in value}
        if isinstance(value, list):
            return [visit(one, place) for one in value]
        return value if _may_be_shown(value, place) else HIDDEN

    shown: dict[str, Any] = visit(raw, ())
    return shown


class Redactor:
    """Takes the words of hidden values, and the values of secrets, out of texts."""

    def __init__(self, raw: Mapping[str, Any], public: Iterable[str]) -> None:
        """
        Args:
            raw: the operator's file, as TOML was read.
            public: texts whose words anybody may see.
        """
        open_words = {word.lower() for text in public for word in _WORD.findall(text)}
        open_words |= {name.lower() for name in _names(raw)}
        self._words = {word.lower() for value in _hidden(raw, ()) for word in _WORD.findall(value)} - open_words

    def __call__(self, text: str) -> str:
        """Return ``text`` without them."""
        return _WORD.sub(lambda match: HIDDEN if match[0].lower() in self._words else match[0], hushed(text))

    def inside(self, value: Any) -> Any:
        """Return JSON with every text in it so."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {self(key): self.inside(child) for key, child in value.items()}
        return [self.inside(child) for child in value] if isinstance(value, list | tuple) else value


def _keys(hint: Any) -> set[str]:
    """Return every key that the file may have somewhere in what a type says."""
    if isinstance(hint, type) and issubclass(hint, Model):
        known = hints(hint)
        return set(known).union(*map(_keys, known.values()))
    return set[str]().union(*map(_keys, get_args(hint)))


def _key(key: str, known: Collection[str], *, named: bool) -> str:
    return key if (named and _NAME.fullmatch(key)) or key in known else HIDDEN


def _may_be_shown(value: Any, place: tuple[str, ...]) -> bool:
    pattern = tuple("*" if before in _NAMED else part for before, part in zip(("", *place), place, strict=False))
    if pattern not in SHOWN:
        return False
    return isinstance(value, bool | int | float) or (isinstance(value, str) and _PLAIN.fullmatch(value) is not None)


def _hidden(value: Any, place: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _hidden(child, (*place, key))
    elif isinstance(value, list):
        for child in value:
            yield from _hidden(child, place)
    elif not _may_be_shown(value, place):
        yield str(value)


def _names(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of connections, operations, triggers and parameters."""
    for key, value in raw.items():
        if isinstance(value, Mapping):
            if key in _NAMED:
                yield from (word for name in value for word in _WORD.findall(name))
            yield from _names(value)
