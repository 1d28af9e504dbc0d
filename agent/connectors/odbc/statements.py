"""
SQL as the operator writes it, read just well enough to find what is no text: named parameters and ends of statements.

``:name`` becomes ``?`` outside of strings, comments, quoted names and casts (``::``); values are bound to
the markers by the driver and never become part of the text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Final

import msgspec


class Syntax(msgspec.Struct, frozen=True):
    """
    What strings, comments and quoted names look like in one dialect.

    Attributes:
        backslash: whether ``\\'`` in a string is a quote (MariaDB; elsewhere only in ``E'…'``).
        dollar: ``$tag$ … $tag$`` strings.
        nested: comments within comments.
        hash: ``#`` begins a comment.
        backtick: `` `name` ``.
        bracket: ``[name]``.
        split: whether ``;`` ends a statement, so that each is run by itself. Where it does not,
            the whole text is one statement (blocks of procedural SQL).
    """

    backslash: bool = False
    dollar: bool = False
    nested: bool = False
    hash: bool = False
    backtick: bool = False
    bracket: bool = False
    split: bool = True


class Statement(msgspec.Struct, frozen=True):
    """
    One statement for the driver.

    Attributes:
        sql: with ``?`` for each parameter.
        names: the parameter of each ``?``, in order.
    """

    sql: str
    names: tuple[str, ...] = ()


class StatementError(ValueError):
    """The text is not SQL that can be taken apart; the message says where and why."""


@functools.lru_cache(maxsize=1024)
def parse(sql: str, syntax: Syntax) -> tuple[Statement, ...]:
    """
    Return the statements in ``sql``; empty ones are left out.

    Raises:
        StatementError: a string or comment without end, a bare ``?``, or no statement at all.
    """
    statements: list[Statement] = []
    parts: list[str] = []
    names: list[str] = []
    substance = False
    for kind, text, line in _tokens(sql, syntax):
        if kind == "name":
            names.append(text[1:])
            parts.append("?")
        elif kind == "mark":
            raise StatementError(f"line {line}: a bare ? can't be told from a parameter; write :name, or a function")
        elif kind == "end" and syntax.split:
            if substance:
                statements.append(Statement("".join(parts).strip(), tuple(names)))
            parts, names, substance = [], [], False
            continue
        elif kind != "comment" or text.startswith(("/*", "--+")):
            # Line comments go: a driver that puts words after the statement would put them into the comment.
            parts.append(text)
        substance = substance or (kind != "comment" and not text.isspace())
    if substance:
        statements.append(Statement("".join(parts).strip(), tuple(names)))
    if not statements:
        raise StatementError("no statement in it")
    return tuple(statements)


def marked(statement: Statement, syntax: Syntax, markers: Sequence[str]) -> str:
    """Return a statement with ``markers`` in place of each ``?``, in order."""
    each = iter(markers)
    return "".join(next(each) if kind == "mark" else text for kind, text, _ in _tokens(statement.sql, syntax))


def first_word(sql: str, syntax: Syntax) -> str:
    """Return the first word of a statement in capitals, such as ``SELECT``; "" if it begins otherwise."""
    for kind, text, _ in _tokens(sql, syntax):
        if kind == "comment" or text.isspace():
            continue
        match = re.match(r"[A-Za-z]+", text.lstrip())
        return match[0].upper() if match else ""
    return ""


def words(sql: str, syntax: Syntax, *, fold: bool = True) -> list[str]:
    """
    Return words, quoted texts and signs one by one, in capitals unless told otherwise, without comments and space.

    Raises:
        StatementError: a string or comment without end.
    """
    found = [text for kind, text, _ in _tokens(sql, syntax) if kind != "comment" and not text.isspace()]
    return [text.upper() for text in found] if fold else found


def split_name(name: str) -> list[str]:
    """
    Return the parts of a possibly qualified and quoted name, quotes kept: ``erp."Post order"`` has two.

    Raises:
        StatementError: it is no such name.
    """
    parts = [match[0] for match in re.finditer(_NAME_PART, name)]
    if ".".join(parts) != name or not parts:
        raise StatementError(f"{name} is no name of a procedure")
    return parts


def bare(part: str, *, fold: str = "keep") -> str:
    """Return a part of a name as the catalogue has it: quotes off; without quotes ``lower`` or ``upper`` as told."""
    if part[0] in '"`[':
        inner = part[1:-1]
        return inner.replace(part[-1] * 2, part[-1])
    return part.lower() if fold == "lower" else part.upper() if fold == "upper" else part


_NAME_PART: Final = r'"(?:[^"]|"")+"|`(?:[^`]|``)+`|\[[^\]]+\]|[\w$#]+'

_OPENERS: Final = {"'": "a string", '"': "a quoted name", "`": "a quoted name", "[": "a quoted name", "/*": "a comment"}


@functools.cache
def _pattern(syntax: Syntax) -> re.Pattern[str]:
    inside = r"(?:[^'\\]|''|\\.)*" if syntax.backslash else r"(?:[^']|'')*"
    double = r"(?:[^\"\\]|\"\"|\\.)*" if syntax.backslash else r"(?:[^\"]|\"\")*"
    quoted = [r"\b[eE]'(?:[^'\\]|''|\\.)*'"] if syntax.dollar else []
    quoted += [rf"'{inside}'", rf'"{double}"']
    quoted += [r"`(?:[^`]|``)*`"] if syntax.backtick else []
    quoted += [r"\[[^\]]*\]"] if syntax.bracket else []
    quoted += [r"(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?P=tag)"] if syntax.dollar else []
    comment = [r"--[^\n]*"] + ([r"#[^\n]*"] if syntax.hash else []) + ([] if syntax.nested else [r"/\*.*?\*/"])
    unclosed = r"['\"]|/\*" + (r"|`" if syntax.backtick else "") + (r"|\[" if syntax.bracket else "")
    unclosed += r"|\$(?:[^\W\d]\w*)?\$" if syntax.dollar else ""
    return re.compile(
        rf"(?P<comment>{'|'.join(comment)})|(?P<quoted>{'|'.join(quoted)})"
        rf"|(?P<open>{unclosed})"
        r"|(?P<cast>::)|(?P<name>:[^\W\d]\w*)|(?P<mark>\?)|(?P<end>;)"
        # A word with a dollar or a digit in it begins no string; a colon within a number is no parameter.
        r"|(?P<word>[\w$]+(?::\d+)*)|(?P<space>\s+)|(?P<other>.)",
        re.DOTALL,
    )


def _tokens(sql: str, syntax: Syntax) -> list[tuple[str, str, int]]:
    pattern, position, found = _pattern(syntax), 0, []
    while position < len(sql):
        match = pattern.match(sql, position)
        assert match is not None  # noqa: S101 # the last alternative takes any character
        kind, text = match.lastgroup or "other", match[0]
        line = sql.count("\n", 0, position) + 1
        if match["quoted"] is not None:
            kind = "quoted"
        if kind == "open":
            end = _nested_end(sql, position) if text == "/*" and syntax.nested else -1
            if end < 0:
                raise StatementError(f"line {line}: {_OPENERS.get(text, 'a string')} begins with {text} and never ends")
            kind, text = "comment", sql[position:end]
        found.append((kind, text, line))
        position += len(text)
    return found


def _nested_end(sql: str, start: int) -> int:
    depth = 0
    for match in re.finditer(r"/\*|\*/", sql[start:]):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return start + match.end()
    return -1
