"""An answer's XML as JSON values, by the types of the WSDL, each of which is looked through once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from lxml import etree
from zeep.exceptions import LookupError as TypeUnknown
from zeep.wsdl.messages.multiref import process_multiref

from agent.connectors.safe_xml import local_name
from agent.connectors.soap.fields import TEXT, Field, fields_of, is_complex
from agent.connectors.soap.types import converter, name_of
from agent.connectors.soap.wsdl import WsdlOperation
from agent.errors import ValueUnreadable

_XSI: Final = "{http://www.w3.org/2001/XMLSchema-instance}"
_NIL: Final = f"{_XSI}nil"
_TYPE: Final = f"{_XSI}type"

Read = Callable[[etree._Element], Any]


class AnswerReader:
    """
    Reads the answers of one operation.

    Args:
        types: zeep's schema, where the types stand that an answer itself names (``xsi:type``).
    """

    def __init__(self, operation: WsdlOperation, types: Any) -> None:
        self._operation = operation
        self._types = types
        self._reads: dict[int, tuple[Any, Read]] = {}  # by the type's id, with the type so that the id stays its own

    def outputs(self, body: etree._Element) -> dict[str, Any]:
        """
        Return the fields of an answer; every declared field is there, absent ones as ``null`` or an empty list.

        Raises:
            ValueUnreadable: a value is not of its type, or an element is not in the WSDL.
        """
        declared = self._operation.answer
        if self._operation.rpc:
            process_multiref(body)  # type: ignore[no-untyped-call] # zeep is typed in part
        node = next(iter(body), None)
        if declared is None or node is None:
            return {}
        # The wrapper of rpc may have any name; that of a document has the element's.
        if not self._operation.rpc and node.tag != declared.qname.text:
            raise ValueUnreadable(f"the answer should be the element {declared.qname.text}, found {node.tag!r}")
        value = self.value(node, declared.type, local_name(node))
        return value if isinstance(value, dict) else {local_name(node): value}

    def value(self, node: etree._Element, kind: Any, where: str) -> Any:
        """
        Return the JSON value of an element that is declared to be of type ``kind``.

        Raises:
            ValueUnreadable: as ``outputs``; ``where`` begins the place.
        """
        try:
            return self.plain_or_named(node, kind)
        except _Odd as odd:
            place = "".join(reversed(odd.places))
            raise ValueUnreadable(f"the answer's {where}{place} {odd.what}") from odd

    def plain_or_named(self, node: etree._Element, kind: Any) -> Any:
        """As ``value``, for the readers of types: what is wrong is told without its place."""
        if node.keys():
            if is_nil(node):
                return None
            kind = self._kind(node, kind)
        return self.read(kind)(node)

    def read(self, kind: Any) -> Read:
        """Return what reads an element of a type that has neither ``xsi:nil`` nor ``xsi:type``."""
        known = self._reads.get(id(kind))
        if known is None:
            known = self._reads[id(kind)] = (kind, self._made(kind))
        return known[1]

    def _made(self, kind: Any) -> Read:
        if not is_complex(kind):
            return as_it_is if is_any(kind) else _plain(kind)
        if kind._array_type:  # of SOAP encoding: its items may have any name
            item = getattr(kind._array_type.array_type, "type", None)
            return lambda node: [self._item(child, item, n) for n, child in enumerate(node, 1)]
        return _Shape(self, kind).read

    def _item(self, node: etree._Element, kind: Any, number: int) -> Any:
        try:
            return self.plain_or_named(node, kind)
        except _Odd as odd:
            odd.places.append(f"[{number}]")
            raise

    def _kind(self, node: etree._Element, declared: Any) -> Any:
        named = node.get(_TYPE)
        if named is None:
            return declared
        prefix, _, local = named.strip().rpartition(":")
        try:
            name = etree.QName(node.nsmap.get(prefix or None), local)
        except ValueError as exc:
            raise ValueUnreadable(f"the answer names the type {named[:60]!r}, which is no name") from exc
        try:
            known = self._types.get_type(name, fail_silently=True)
        except TypeUnknown:  # for XML Schema's own namespace zeep fails aloud
            return declared
        return declared if known is None else known


def names(operation: WsdlOperation) -> list[str] | None:
    """Return the names of an answer's outputs, ``None`` where it may have others too."""
    if operation.answer is None:
        return []
    kind = operation.answer.type
    if not is_complex(kind):
        return [etree.QName(operation.answer.qname).localname]
    if kind._array_type or has_wildcard(kind):
        return None
    return [field.name for field in flat(fields_of(kind))]


def flat(fields: Iterable[Field], *, many: bool = False) -> Iterator[Field]:
    """Yield the fields with those of repeated groups in place of the groups, as lists."""
    for field in fields:
        if field.group:
            yield from flat(field.group, many=True)
        elif many and not field.many:
            yield Field(field.name, field.key, field.tag, field.type, field.nillable, many=True)
        else:
            yield field


def has_wildcard(kind: Any) -> bool:
    """Whether elements that the WSDL does not name may stand in a complex type."""
    return any(type(element).__name__ == "Any" for _, element in kind.elements)


def is_nil(node: etree._Element) -> bool:
    """Whether an element says that it is nothing."""
    return node.get(_NIL) in ("true", "1")


def is_any(kind: Any) -> bool:
    """Whether a simple type says nothing of its values."""
    return type(kind).__name__ in ("AnyType", "AnySimpleType")


class _Odd(Exception):
    """
    A value can't be read.

    Attributes:
        what: is wrong with it.
        places: where it stands, from the inside out; who passes it on adds its own.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.places: list[str] = []


class _Shape:
    """The objects of one complex type."""

    def __init__(self, reader: AnswerReader, kind: Any) -> None:
        self._reader = reader
        self._kind = kind
        self._ready = False

    def _prepare(self) -> None:
        # Only now, when the type itself is known: it may hold itself.
        self._absent: dict[str, Any] = {}
        self._lists: list[str] = []
        self._attributes: list[tuple[str, str, Callable[[str], Any]]] = []
        self._text: Callable[[str], Any] | None = None
        self._by_tag: dict[str, tuple[str, bool, Any, Read]] = {}
        for field in flat(fields_of(self._kind)):
            self._absent[field.name] = None
            if field.attribute:
                self._attributes.append((field.name, field.tag, _checked(field.type)))
            elif field.name == TEXT and not field.tag:
                self._text = _checked(field.type)
            else:
                self._by_tag[field.tag] = (field.name, field.many, field.type, self._reader.read(field.type))
                if field.many:
                    self._lists.append(field.name)
        # Services often differ from their WSDL in `elementFormDefault`; a name that fits only once is not in doubt.
        locals_ = [tag.rpartition("}")[2] for tag in self._by_tag]
        self._by_local = {
            local: self._by_tag[tag]
            for local, tag in zip(locals_, self._by_tag, strict=True)
            if locals_.count(local) == 1
        }
        self._wildcard = has_wildcard(self._kind)
        self._ready = True

    def read(self, node: etree._Element) -> dict[str, Any]:
        """Return an object with all fields of the type."""
        if not self._ready:
            self._prepare()
        found = self._absent.copy()
        for name in self._lists:
            found[name] = []
        if self._attributes or self._text is not None:
            self._read_beside(node, found)
        by_tag, by_local, value_of = self._by_tag, self._by_local, self._reader.plain_or_named
        for child in node:
            known = by_tag.get(child.tag) or by_local.get(local_name(child))
            if known is None:
                self._take_other(child, found)
                continue
            name, many, kind, read = known
            try:
                value = value_of(child, kind) if child.keys() else read(child)
                if many:
                    found[name].append(value)
                elif found[name] is None:
                    found[name] = value
                else:
                    raise _Odd("stands twice, and the WSDL allows one")
            except _Odd as odd:
                odd.places.append(f".{local_name(child)}")
                raise
        return found

    def _take_other(self, child: etree._Element, found: dict[str, Any]) -> None:
        if not self._wildcard:
            raise _unexpected(child)
        found.setdefault(local_name(child), as_it_is(child))

    def _read_beside(self, node: etree._Element, found: dict[str, Any]) -> None:
        if self._text is not None:
            found[TEXT] = self._text(node.text or "")
        for name, tag, read in self._attributes:
            text = node.get(tag)
            if text is not None:
                try:
                    found[name] = read(text)
                except _Odd as odd:
                    odd.places.append(f".{name}")
                    raise


def _plain(kind: Any) -> Read:
    """Return what reads an element of a simple type."""
    convert = _checked(kind)

    def read(node: etree._Element) -> Any:
        if len(node):
            raise _unexpected(node[0])
        return convert(node.text or "")

    def read_text(node: etree._Element) -> str:
        if len(node):
            raise _unexpected(node[0])
        return node.text or ""

    return read_text if convert is str else read


def _checked(kind: Any) -> Callable[[str], Any]:
    convert = converter(kind)
    if convert is None:
        return str

    def checked(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as exc:
            raise _Odd(f"should be of type {name_of(kind)}, found {text[:60]!r}") from exc

    return checked


def _unexpected(child: etree._Element) -> _Odd:
    return _Odd(f"holds {local_name(child)!r}, which is not in the WSDL")


def as_it_is(node: etree._Element) -> Any:
    """Return what has no type in the WSDL: texts, objects of texts, lists where a name repeats."""
    if not len(node):
        return None if is_nil(node) else node.text or ""
    found: dict[str, Any] = {}
    for child in node:
        name, value = local_name(child), as_it_is(child)
        if name not in found:
            found[name] = value
        elif isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = [found[name], value]
    return found
