"""
Regular expressions that hostile text can make run for hours.

Python's matcher tries every way to split a text among repeats. Where a repeat stands in a repeat and
both may take the same characters, as in ``(a+)+``, the ways double with each character.
"""

from __future__ import annotations

import re
import re._constants as codes  # type: ignore[import-not-found]  # the standard library's own parser has no types
import re._parser as parser  # type: ignore[import-not-found]  # the same
from collections.abc import Iterable
from typing import Any, Final

_REPEATS: Final = (codes.MAX_REPEAT, codes.MIN_REPEAT)
_PROBES: Final = [chr(code) for code in range(32, 256)]  # by which two sets of characters are compared
_FEW: Final = 10  # times; a repeat of fewer can't run away


def runs_away(pattern: str) -> bool:
    """
    Whether some text may take ``pattern`` a time that grows exponentially with its length.

    Errs on the safe side: an unlimited repeat of something that itself repeats is taken for bad unless
    each round must contain a character that the inner repeat can't take, as in ``([0-9]+,)*``.
    """
    return _any_bad(parser.parse(pattern, re.ASCII))


def _any_bad(items: Iterable[Any]) -> bool:
    return any(
        (code in _REPEATS and argument[1] > _FEW and _ambiguous(list(argument[2])))
        or any(_any_bad(inner) for inner in _parts(code, argument))
        for code, argument in items
    )


def _ambiguous(body: list[Any]) -> bool:
    """Whether rounds of ``body`` can be cut out of one text in more than one way."""
    body = _unwrapped(body)
    inner = [argument for code, argument in body if code in _REPEATS and argument[0] != argument[1]]
    others = [part for code, argument in body if code not in _REPEATS for part in _parts(code, argument)]
    if any(map(_has_repeat, others)) or _overlapping(body):
        return True
    if not inner:
        return False
    taken = {probe for argument in inner for probe in _takes(list(argument[2]))}
    fixed = (_takes([item]) for item in body if item[0] in (codes.LITERAL, codes.IN, codes.NOT_LITERAL))
    return not any(found.isdisjoint(taken) for found in fixed)


def _overlapping(body: list[Any]) -> bool:
    """Whether two branches may begin with the same character; a branch that is more than characters may."""
    for code, argument in body:
        if code is not codes.BRANCH:
            continue
        seen: set[str] = set()
        for branch in argument[1]:
            first = _takes(list(branch)[:1]) if len(branch) else set(_PROBES)
            if not seen.isdisjoint(first):
                return True
            seen |= first
    return False


def _unwrapped(body: list[Any]) -> list[Any]:
    """Return ``body`` with groups replaced by what is in them."""
    found: list[Any] = []
    for code, argument in body:
        found += _unwrapped(list(argument[-1])) if code is codes.SUBPATTERN else [(code, argument)]
    return found


def _has_repeat(items: Iterable[Any]) -> bool:
    return any(code in _REPEATS or any(map(_has_repeat, _parts(code, argument))) for code, argument in items)


def _parts(code: Any, argument: Any) -> list[Any]:
    if code is codes.BRANCH:
        return list(argument[1])
    if isinstance(argument, parser.SubPattern):
        return [argument]
    if isinstance(argument, tuple):
        return [part for part in argument if isinstance(part, parser.SubPattern)]
    return []


def _takes(items: list[Any]) -> set[str]:
    """Return which of the probes ``items`` may begin with; all, where that is not plain to see."""
    if len(items) != 1:
        return set(_PROBES)
    code, argument = items[0]
    if code is codes.LITERAL:
        return {chr(argument)}
    if code is codes.NOT_LITERAL:
        return set(_PROBES) - {chr(argument)}
    if code is codes.IN:
        return {probe for probe in _PROBES if _in_class(argument, ord(probe))}
    if code in _REPEATS and argument[0] > 0:
        return _takes(list(argument[2]))
    if code is codes.SUBPATTERN:
        return _takes(list(argument[-1]))
    return set(_PROBES)


def _in_class(members: list[Any], code: int) -> bool:
    negated = bool(members) and members[0][0] is codes.NEGATE
    return negated is not any(_is_member(kind, value, code) for kind, value in members)


def _is_member(kind: Any, value: Any, code: int) -> bool:
    if kind is codes.LITERAL:
        return bool(value == code)
    if kind is codes.RANGE:
        return bool(value[0] <= code <= value[1])
    if kind is codes.CATEGORY:
        return re.fullmatch(_CATEGORIES[value], chr(code), re.ASCII) is not None
    return False


_CATEGORIES: Final = {
    codes.CATEGORY_DIGIT: r"\d",
    codes.CATEGORY_NOT_DIGIT: r"\D",
    codes.CATEGORY_SPACE: r"\s",
    codes.CATEGORY_NOT_SPACE: r"\S",
    codes.CATEGORY_WORD: r"\w",
    codes.CATEGORY_NOT_WORD: r"\W",
}
