"""What pages made from the code share: tables, docstrings read into parts, pages with made parts in them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Final

_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.*)$")
_MADE: Final = re.compile(r"(<!-- made: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a Markdown table; bars in the cells are escaped."""
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def summary(documented: object) -> str:
    """Return the first paragraph of a docstring, on one line, in Markdown."""
    return _markdown(inspect.getdoc(documented) or "").partition("\n\n")[0].replace("\n", " ")


def attributes(documented: object) -> dict[str, str]:
    """Return what a docstring says under ``Attributes:``, by name, in Markdown."""
    _, _, rest = (inspect.getdoc(documented) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        begins = _ATTRIBUTE.match(line)
        if begins:
            name, found[begins[1]] = begins[1], begins[2]
        elif name and line.startswith("     "):
            found[name] += f" {line.strip()}"
        elif not line.strip():
            break
    return {key: _markdown(text) for key, text in found.items()}


def filled(page: str, parts: Mapping[str, Sequence[str]]) -> str:
    """
    Return ``page`` with each part between ``<!-- made: NAME -->`` and ``<!-- end -->`` made anew.

    Raises:
        ValueError: the page has other places than there are parts.
    """
    places = [match["name"] for match in _MADE.finditer(page)]
    if sorted(places) != sorted(parts):
        raise ValueError(f"the page has places for {sorted(places)}, there are parts {sorted(parts)}")
    return _MADE.sub(lambda match: match[1] + "\n" + "\n".join(parts[match["name"]]) + "\n\n" + match[3], page)


def _markdown(text: str) -> str:
    return text.replace("``", "`")
