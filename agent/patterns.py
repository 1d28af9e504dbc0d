"""
Patterns of the operator's file, matched in a time that grows with the text only, whatever the text.

Python's own matcher tries every way to split a text among repeats, which hostile text can make take hours. So a
pattern is read by Python's parser, written out again for the engine that pydantic has, which keeps no ways to try,
and refused where only trying can tell: with look-around and back references.
"""

from __future__ import annotations

import re
import re._constants as codes  # type: ignore[import-not-found]  # the standard library's own parser has no types
import re._parser as parser  # type: ignore[import-not-found]  # the same
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Final

_REPEATS: Final = (codes.MAX_REPEAT, codes.MIN_REPEAT)  # for a whole match they are the same
_CATEGORIES: Final = {  # as re.ASCII has them, because JSON Schema does too
    codes.CATEGORY_DIGIT: "[0-9]",
    codes.CATEGORY_NOT_DIGIT: "[^0-9]",
    codes.CATEGORY_SPACE: r"[\t-\r ]",
    codes.CATEGORY_NOT_SPACE: r"[^\t-\r ]",
    codes.CATEGORY_WORD: "[0-9A-Za-z_]",
    codes.CATEGORY_NOT_WORD: "[^0-9A-Za-z_]",
}
_PLACES: Final = {
    codes.AT_BEGINNING: r"\A",
    codes.AT_BEGINNING_STRING: r"\A",
    codes.AT_END: r"\z",
    codes.AT_END_STRING: r"\z",
    codes.AT_BOUNDARY: r"(?-u:\b)",
}
_LINES: Final = {codes.AT_BEGINNING: "(?m:^)", codes.AT_END: "(?m:$)"}
_LARGEST_CODE: Final = 0x10FFFF
_CASE: Final = ord("a") - ord("A")


def matcher(pattern: str) -> Callable[[str], bool]:
    """
    Return what tells whether the whole of a text fits ``pattern``.

    Raises:
        ValueError: no time can be promised for it, or it is none; the text says why.
    """
    # Imported here: it costs 4 MiB, and most files have no patterns.
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        with warnings.catch_warnings():
            # That a later Python may read `[[` otherwise; what it means is fixed here.
            warnings.simplefilter("ignore", FutureWarning)
            read = parser.parse(pattern, re.ASCII)
    except (re.error, RecursionError, OverflowError) as exc:
        raise ValueError(f"is no regular expression: {exc}") from exc
    try:
        validator = SchemaValidator(
            core_schema.str_schema(pattern=rf"\A(?:{_all(read, read.state.flags)})\z", strict=True)
        )
    except SchemaError as exc:
        raise ValueError("is too large; say how long a text may be with max_length, not in the pattern") from exc
    except RecursionError as exc:
        raise ValueError("has too many groups in each other") from exc
    return validator.isinstance_python


def _all(items: Iterable[Any], flags: int) -> str:
    return "".join(_one(code, argument, flags) for code, argument in items)


def _one(code: Any, argument: Any, flags: int) -> str:
    if code is codes.LITERAL:
        return f"[{_members([(code, argument)], flags)}]"
    if code is codes.NOT_LITERAL:
        return f"[^{_members([(codes.LITERAL, argument)], flags)}]"
    if code is codes.IN:
        negated = argument[0][0] is codes.NEGATE
        return f"[{'^' * negated}{_members(argument[negated:], flags)}]"
    if code is codes.ANY:
        return "(?s:.)" if flags & re.DOTALL else r"[^\n]"
    if code is codes.BRANCH:
        return f"(?:{'|'.join(_all(branch, flags) for branch in argument[1])})"
    if code is codes.SUBPATTERN:
        _, more, fewer, inner = argument
        return f"(?:{_all(inner, (flags | more) & ~fewer)})"
    if code in _REPEATS:
        least, most, inner = argument
        return f"(?:{_all(inner, flags)}){{{least},{'' if most is codes.MAXREPEAT else most}}}"
    if code is codes.AT:
        place = (_LINES.get(argument) if flags & re.MULTILINE else None) or _PLACES.get(argument)
        if place is not None:
            return place
    raise ValueError(
        "could take hours on hostile text: look-around, back references, atomic groups and \\B are not taken; write it "
        "without them"
    )


def _members(members: Iterable[tuple[Any, Any]], flags: int) -> str:
    return "".join(_member(code, argument, flags) for code, argument in members)


def _member(code: Any, argument: Any, flags: int) -> str:
    if code is codes.CATEGORY:
        return _CATEGORIES[argument]
    low, high = argument if code is codes.RANGE else (argument, argument)
    ranges = [(low, high)]
    if flags & re.IGNORECASE:
        for first, last, away in ((ord("A"), ord("Z"), _CASE), (ord("a"), ord("z"), -_CASE)):
            begin, end = max(low, first), min(high, last)
            if begin <= end:
                ranges.append((begin + away, end + away))
    return "".join(rf"\x{{{begin:x}}}-\x{{{min(end, _LARGEST_CODE):x}}}" for begin, end in ranges)
