"""On which line of a TOML text each key and each item stands; ``tomllib`` does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Final

Path = tuple[str | int, ...]

_SPACE: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY_PART: Final = re.compile(r"""[ \t]*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*""")
_TEXT: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""",
    re.DOTALL,
)
_BARE: Final = re.compile(r"[^,\]}\n#]*")


def lines(text: str) -> Mapping[Path, int]:
    """
    Return the line (from 1) of every table, key and array item of ``text``, which ``tomllib`` must accept.

    A key that only stands in a longer one (``a`` of ``[a.b]``) has the line of the first such.
    """
    return _Scanner(text).scan()


def line_of(path: Path, known: Mapping[Path, int]) -> int:
    """Return the line of ``path``, or of the nearest thing around it; 1 if there is none."""
    while path:
        if path in known:
            return known[path]
        path = path[:-1]
    return 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._found: dict[Path, int] = {}
        self._tables_in: dict[Path, int] = {}  # of each [[array of tables]], how many came so far
        self._counted_to = 0
        self._line = 1

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip_space():
            if self._text.startswith("[[", self._at):
                self._at += 2
                path = self._table(self._key())
                number = self._tables_in.get(path, 0)
                self._tables_in[path] = number + 1
                table = (*path, number)
                self._found[table] = self._line_here()
                self._at += 2
            elif self._text[self._at] == "[":
                self._at += 1
                table = self._table(self._key())
                self._at += 1
            else:
                self._pair(table)
        return self._found

    def _table(self, names: list[str]) -> Path:
        """Note a table's names, which mean the newest of an array of tables where there is one."""
        path: Path = ()
        for name in names:
            if path in self._tables_in:
                path = (*path, self._tables_in[path] - 1)
            path = (*path, name)
            self._found.setdefault(path, self._line_here())
        # [a] after [[a]] is no TOML, so a whole path is an array only for [[a]] itself.
        return path

    def _pair(self, table: Path) -> None:
        path = table
        for name in self._key():
            path = (*path, name)
            self._found.setdefault(path, self._line_here())
        self._at += 1  # the equals sign
        self._value(path)

    def _key(self) -> list[str]:
        names = []
        while True:
            self._skip_space()
            match = _KEY_PART.match(self._text, self._at)
            if match is None:
                raise ValueError(f"wants a key on line {self._line_here()}")
            self._at = match.end()
            part = match[1]
            names.append(tomllib.loads(f"key = {part}")["key"] if part[0] in "\"'" else part)
            if self._text[self._at : self._at + 1] != ".":
                return names
            self._at += 1

    def _value(self, path: Path) -> None:
        self._skip_space()
        first = self._text[self._at]
        if first == "[":
            self._items(path)
        elif first == "{":
            self._inline_table(path)
        else:
            match = _TEXT.match(self._text, self._at) or _BARE.match(self._text, self._at)
            assert match is not None  # noqa: S101 - _BARE matches anywhere; this tells mypy
            self._at = match.end()

    def _items(self, path: Path) -> None:
        self._at += 1
        number = 0
        while self._skip_space() and self._text[self._at] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._found[(*path, number)] = self._line_here()
            self._value((*path, number))
            number += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._skip_space() and self._text[self._at] != "}":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._pair(path)
        self._at += 1

    def _skip_space(self) -> bool:
        """Go to the next thing that is neither space nor comment; whether there is one."""
        match = _SPACE.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return self._at < len(self._text)

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line
