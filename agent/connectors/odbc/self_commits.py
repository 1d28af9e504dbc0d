"""Work that ends its transaction by itself, which can't be ``once``: found in its text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from agent.connectors.odbc.statements import StatementError, Syntax, parse, words

MAX_DEPTH: Final = 4  # procedures within procedures that are looked into

_ENDS: Final = frozenset({"COMMIT", "ROLLBACK"})
_AFTER_END: Final = frozenset({";", "AND", "WORK", "TRANSACTION", "TRAN", "RELEASE", "NO", "END", ""})
# A word after which a statement begins, in procedures and in text of several statements.
_BEFORE_STATEMENT: Final = frozenset({";", "BEGIN", "THEN", "ELSE", "DO", "LOOP", "REPEAT", ">", ""})

# MariaDB: what commits without saying so; as first words of a statement.
IMPLICIT_COMMITS: Final = (
    ("START", "TRANSACTION"),
    ("SET", "AUTOCOMMIT"),
    ("LOCK", "TABLES"),
    ("LOCK", "TABLE"),
    ("CREATE",),
    ("ALTER",),
    ("DROP",),
    ("RENAME",),
    ("TRUNCATE",),
    ("GRANT",),
    ("REVOKE",),
    ("ANALYZE",),
    ("OPTIMIZE",),
    ("REPAIR",),
    ("CHECK",),
    ("FLUSH",),
    ("XA",),
)
_TEMPORARY: Final = frozenset({("CREATE", "TEMPORARY"), ("DROP", "TEMPORARY")})


def ending_statement(text: str, syntax: Syntax, implicit: Iterable[Sequence[str]] = ()) -> str:
    """
    Return the first statement in ``text`` that would end the transaction, such as ``COMMIT``; "" if there is none.

    Args:
        implicit: first words of statements that commit without saying so.

    Text that can't be taken apart has none: what it does shows when it runs.
    """
    try:
        found = ["", *words(text, syntax), "", ""]
    except StatementError:
        return ""
    starts = [tuple(start) for start in implicit]
    for before, word, after, then in zip(found, found[1:], found[2:], [*found[3:], ""], strict=False):
        if word in _ENDS and after in _AFTER_END and before != "." and then != "TO":
            return word
        if before not in _BEFORE_STATEMENT or (word, after) in _TEMPORARY:
            continue
        for start in starts:
            if (word, after)[: len(start)] == start:
                return " ".join(start)
    return ""


def called(text: str, syntax: Syntax) -> list[str]:
    """Return the names of the procedures that ``text`` calls."""
    try:
        found = words(text, syntax, fold=False)
    except StatementError:
        return []
    names = []
    for i, word in enumerate(found[:-1]):
        if word.upper() == "CALL":
            name = found[i + 1]
            if found[i + 2 : i + 3] == ["."] and i + 3 < len(found):
                name += f".{found[i + 3]}"
            names.append(name)
    return names


def ends_within(
    name: str, body_of: Callable[[str], str], syntax: Syntax, implicit: Iterable[Sequence[str]] = ()
) -> tuple[str, str]:
    """
    Return the procedure and its statement that would end the transaction, in ``name`` and what it calls; or "", "".

    Args:
        body_of: returns a procedure's text, "" where it can't be read.
    """
    implicit = tuple(implicit)
    waiting, seen = [(name, 0)], set()
    while waiting:
        routine, depth = waiting.pop(0)
        if routine in seen:
            continue
        seen.add(routine)
        body = body_of(routine)
        found = ending_statement(body, syntax, implicit)
        if found:
            return routine, found
        if depth < MAX_DEPTH:
            schema = routine.rpartition(".")[0]
            waiting += [
                (f"{schema}.{inner}" if schema and "." not in inner else inner, depth + 1)
                for inner in called(body, syntax)
            ]
    return "", ""


def ending_in_sql(sql: str, syntax: Syntax, implicit: Iterable[Sequence[str]] = ()) -> str:
    """
    Return the first of an operation's own statements that would end the transaction; "" if there is none.

    Raises:
        StatementError: the text can't be taken apart.
    """
    implicit = tuple(implicit)
    started = (("BEGIN",), ("START", "TRANSACTION"), ("ABORT",), ("END",)) if syntax.split else ()
    for statement in parse(sql, syntax):
        found = ending_statement(statement.sql, syntax, (*implicit, *started))
        if found:
            return found
    return ""
