"""What a schema says of its simple types beyond their kind: lengths, choices, limits. zeep does not keep it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from lxml import etree

_XSD: Final = "{http://www.w3.org/2001/XMLSchema}"


@dataclass(frozen=True, slots=True)
class Facets:
    """The restrictions of one simple type; ``None`` where it has none."""

    base: str | None = None
    enum: tuple[str, ...] | None = None
    min_length: int | None = None
    max_length: int | None = None
    min: str | None = None
    max: str | None = None
    scale: int | None = None
    precision: int | None = None
    pattern: str | None = None


def facets_of(documents: Iterable[etree._Element]) -> dict[str, Facets]:
    """
    Return the facets of all simple types in WSDL and XSD documents, those of their bases included.

    Keys are as zeep names types: ``{namespace}name``, for a type without a name that of its element. Where two such
    types share a name, neither is told.
    """
    found: dict[str, Facets] = {}
    twice: set[str] = set()
    for document in documents:
        for schema in document.iter(f"{_XSD}schema"):
            namespace = schema.get("targetNamespace")
            for node in schema.iter(f"{_XSD}simpleType"):
                parent = node.getparent()
                name = node.get("name") or (parent.get("name") if parent is not None else None)
                restriction = node.find(f"{_XSD}restriction")
                if name is None or restriction is None:
                    continue
                key = f"{{{namespace}}}{name}" if namespace else name
                facets = _read(restriction)
                if found.setdefault(key, facets) != facets:
                    twice.add(key)
    for key in twice:
        del found[key]
    return {key: _with_bases(facets, found, 0) for key, facets in found.items()}


def _read(restriction: etree._Element) -> Facets:
    def one(name: str) -> str | None:
        node = restriction.find(f"{_XSD}{name}")
        return node.get("value") if node is not None else None

    def number(name: str) -> int | None:
        value = one(name)
        return int(value) if value is not None and value.strip().isdecimal() else None

    choices = tuple(node.get("value", "") for node in restriction.findall(f"{_XSD}enumeration"))
    patterns = [node.get("value", "") for node in restriction.findall(f"{_XSD}pattern")]
    return Facets(
        base=_qualified(restriction, restriction.get("base")),
        enum=choices or None,
        min_length=_first(number("minLength"), number("length")),
        max_length=_first(number("maxLength"), number("length")),
        min=one("minInclusive"),
        max=one("maxInclusive"),
        scale=number("fractionDigits"),
        precision=number("totalDigits"),
        pattern=patterns[0] if len(patterns) == 1 else None,
    )


def _first(one: int | None, other: int | None) -> int | None:
    return one if one is not None else other


def _qualified(node: etree._Element, name: str | None) -> str | None:
    if name is None:
        return None
    prefix, _, local = name.rpartition(":")
    namespace = node.nsmap.get(prefix or None)
    return f"{{{namespace}}}{local}" if namespace else local


def _with_bases(facets: Facets, known: Mapping[str, Facets], depth: int) -> Facets:
    base = known.get(facets.base or "")
    if base is None or depth > 50:  # a schema whose types are each other's base
        return facets
    outer = _with_bases(base, known, depth + 1)
    names = ("enum", "min_length", "max_length", "min", "max", "scale", "precision", "pattern")
    return replace(facets, **{name: getattr(outer, name) for name in names if getattr(facets, name) is None})
