"""The fields of an element, by its zeep type: the one place that knows how zeep nests them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from zeep import xsd
from zeep.xsd.elements.indicators import Choice, Indicator

TEXT: Final = "#text"  # the text of an element that has attributes beside it; zeep calls it _value_1


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
        # In a choice only one is wanted, and which one zeep sees to.
        wanted = required and nested.min_occurs > 0 and not isinstance(nested, Choice)
        children = nested.elements_nested if hasattr(nested, "elements_nested") else nested.elements
        inner = tuple(field for sub, child in children for field in _nested(sub, child, required=wanted))
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
            )
        else:
            yield from inner


def _most(max_occurs: int | str) -> int | None:
    return max_occurs if isinstance(max_occurs, int) else None
