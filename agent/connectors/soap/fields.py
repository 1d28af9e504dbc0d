"""The fields of an element, by its zeep type: the one place that knows how zeep nests them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from zeep import xsd
from zeep.xsd.elements.indicators import Choice, Indicator

TEXT: Final = "#text"  # the text of an element that has attributes beside it; zeep calls it _value_1


Alternatives = tuple[frozenset[str], ...]  # the names of each branch of a choice, of which one may be given


@dataclass(frozen=True, slots=True)
class Field:
    """
    One field of an object.

    Attributes:
        name: its key in JSON.
        key: its name for zeep.
        tag: the element's name, ``{namespace}local``; "" for text and groups.
        type: zeep's type; of a ``group`` it is ``None``.
        nillable: whether ``null`` may stand in it.
        many: whether it is a list.
        at_least, at_most: how long the list may be; ``None`` for any length.
        required: whether it must be given.
        attribute: whether it is an XML attribute.
        group: the fields of a group of elements that may be repeated as a whole, or ``()``.
        choices: of the group, as ``choices_of``.
    """

    name: str
    key: str
    tag: str
    type: Any
    nillable: bool = False
    many: bool = False
    at_least: int = 0
    at_most: int | None = None
    required: bool = True
    attribute: bool = False
    group: tuple[Field, ...] = ()
    choices: tuple[Alternatives, ...] = ()


def is_complex(kind: Any) -> bool:
    """Whether a type has fields."""
    return isinstance(kind, xsd.ComplexType)


def fields_of(kind: Any) -> list[Field]:
    """Return the fields of a complex type; wildcards (``xsd:any``) are no fields."""
    found = []
    element = kind._element
    if isinstance(element, xsd.Element) and not is_complex(element.type):
        found.append(Field(TEXT, "_value_1", "", element.type))
    else:
        for name, nested in kind.elements_nested:
            found += _nested(name, nested, required=True)
    for name, attribute in kind.attributes:
        if attribute.name is not None:
            found.append(
                Field(
                    name,
                    name,
                    attribute.qname.text,
                    attribute.type,
                    required=attribute.required,
                    attribute=True,
                )
            )
    return found


def choices_of(kind: Any) -> tuple[Alternatives, ...]:
    """Return the choices among the fields of a complex type; zeep takes the first that fits and drops the others."""
    return tuple(choice for _, nested in kind.elements_nested for choice in _choices(nested))


def _choices(nested: Any) -> Iterator[Alternatives]:
    if not isinstance(nested, Indicator):
        return
    children = _children(nested)
    if isinstance(nested, Choice):
        yield tuple(frozenset(field.name for field in _nested(name, child, required=False)) for name, child in children)
    for _, child in children:
        if not getattr(child, "accepts_multiple", False):
            yield from _choices(child)


def _children(nested: Any) -> list[tuple[str | None, Any]]:
    found: list[tuple[str | None, Any]] = (
        nested.elements_nested if hasattr(nested, "elements_nested") else nested.elements
    )
    return found


def _nested(name: str | None, nested: Any, *, required: bool) -> Iterator[Field]:
    if isinstance(nested, xsd.Element):
        yield Field(
            name or nested.attr_name,
            name or nested.attr_name,
            nested.qname.text,
            nested.type,
            nillable=nested.nillable,
            many=nested.accepts_multiple,
            at_least=nested.min_occurs if required else 0,
            at_most=_most(nested.max_occurs),
            required=required and nested.min_occurs > 0 and nested.default is None,
        )
    elif isinstance(nested, Indicator):
        # zeep takes all of a choice for optional; whether one must be given the service sees to.
        wanted = required and nested.min_occurs > 0 and not isinstance(nested, Choice)
        inner = tuple(field for sub, child in _children(nested) for field in _nested(sub, child, required=wanted))
        if nested.accepts_multiple:
            key = name or "_value_1"
            yield Field(
                key,
                key,
                "",
                None,
                many=True,
                at_least=nested.min_occurs if wanted else 0,
                at_most=_most(nested.max_occurs),
                required=wanted,
                group=inner,
                choices=tuple(_choices(nested)),
            )
        else:
            yield from inner


def _most(max_occurs: int | str) -> int | None:
    return max_occurs if isinstance(max_occurs, int) else None
