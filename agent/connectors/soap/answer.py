"""A reply's XML as JSON values, by the types of the WSDL; and its faults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from lxml import etree
from zeep.exceptions import LookupError as TypeUnknown
from zeep.wsdl.messages.multiref import process_multiref

from agent.connectors import safe_xml
from agent.connectors.soap.fields import TEXT, Field, fields_of, is_complex
from agent.connectors.soap.types import from_xml
from agent.connectors.soap.wsdl import WsdlOperation
from agent.errors import ValueUnreadable

SOAP_11: Final = "http://schemas.xmlsoap.org/soap/envelope/"
SOAP_12: Final = "http://www.w3.org/2003/05/soap-envelope"
_XSI: Final = "{http://www.w3.org/2001/XMLSchema-instance}"


class NotSoap(ValueError):
    """A reply is no SOAP envelope; the text says what it is."""


@dataclass(frozen=True, slots=True)
class Fault:
    """
    A fault as the service sent it.

    Attributes:
        codes: local names of code and subcodes, the outermost first; a dotted one also in its parts.
        details: local names of the elements in its detail.
        text: for people.
    """

    codes: tuple[str, ...]
    details: tuple[str, ...]
    text: str


def body_of(data: bytes) -> etree._Element:
    """
    Return the body of an envelope of SOAP 1.1 or 1.2.

    Raises:
        NotSoap: it is none, or XML that is not taken.
    """
    try:
        root = safe_xml.parse(data)
    except safe_xml.XmlRefused as exc:
        raise NotSoap(str(exc)) from exc
    for namespace in (SOAP_11, SOAP_12):
        if root.tag == f"{{{namespace}}}Envelope":
            body = root.find(f"{{{namespace}}}Body")
            if body is not None:
                return body
    raise NotSoap(f"wants a SOAP envelope with a body, found the element {safe_xml.local_name(root)}")


def fault_of(body: etree._Element) -> Fault | None:
    """Return the fault in a body, or ``None``."""
    node = body.find(f"{{{SOAP_11}}}Fault")
    if node is not None:
        codes = [_text(node, "faultcode")]
        text, detail = _text(node, "faultstring"), _child(node, "detail")
    else:
        node = body.find(f"{{{SOAP_12}}}Fault")
        if node is None:
            return None
        codes = [(value.text or "").strip() for value in node.iter(f"{{{SOAP_12}}}Value")]
        text = " ".join((part.text or "").strip() for part in node.iter(f"{{{SOAP_12}}}Text"))
        detail = node.find(f"{{{SOAP_12}}}Detail")
    details = tuple(safe_xml.local_name(child) for child in detail) if detail is not None else ()
    return Fault(tuple(_parts(codes)), details, text)


def outputs_of(body: etree._Element, operation: WsdlOperation, types: Any) -> dict[str, Any]:
    """
    Return the fields of an answer; every declared field is there, absent ones as ``null`` or an empty list.

    Args:
        types: zeep's schema, where the types stand that an answer itself names (``xsi:type``).

    Raises:
        ValueUnreadable: a value is not of its type, or an element is not in the WSDL.
    """
    if operation.rpc:
        process_multiref(body)  # type: ignore[no-untyped-call] # zeep is typed in part
    node = next(iter(body), None)
    if operation.answer is None or node is None:
        return {}
    # The wrapper of rpc may have any name; that of a document has the element's.
    if not operation.rpc and node.tag != operation.answer.qname.text:
        raise ValueUnreadable(f"the answer should be the element {operation.answer.qname.text}, found {node.tag!r}")
    reader = _Reader(types)
    name = safe_xml.local_name(node)
    value = reader.value(node, operation.answer.type, name)
    return value if isinstance(value, dict) else {name: value}


def names(operation: WsdlOperation) -> list[str] | None:
    """Return the names that ``outputs_of`` returns, ``None`` where an answer may have others too."""
    if operation.answer is None:
        return []
    kind = operation.answer.type
    if not is_complex(kind):
        return [etree.QName(operation.answer.qname).localname]
    if kind._array_type or _has_wildcard(kind):
        return None
    return [field.name for field in _flat(fields_of(kind), many=False)]


class _Reader:
    def __init__(self, types: Any) -> None:
        self._types = types
        self._fields: dict[int, tuple[Any, list[Field]]] = {}

    def value(self, node: etree._Element, declared: Any, where: str) -> Any:
        if node.get(f"{_XSI}nil") in ("true", "1"):
            return None
        kind = self._kind(node, declared)
        if not is_complex(kind):
            if len(node):
                return _as_it_is(node) if _is_any(kind) else self._unexpected(node[0], where)
            return from_xml(kind, node.text or "", where)
        if kind._array_type:  # of SOAP encoding: its items may have any name
            item = getattr(kind._array_type.array_type, "type", None)
            return [self.value(child, item, f"{where}[{n}]") for n, child in enumerate(node, 1)]
        return self._object(node, kind, where)

    def _object(self, node: etree._Element, kind: Any, where: str) -> dict[str, Any]:
        fields = list(_flat(self._fields_of(kind), many=False))
        found: dict[str, Any] = {}
        by_tag: dict[str, Field] = {}
        for field in fields:
            if field.attribute:
                text = node.get(field.tag)
                found[field.name] = None if text is None else from_xml(field.type, text, f"{where}.{field.name}")
            elif field.name == TEXT and not field.tag:
                found[TEXT] = from_xml(field.type, node.text or "", where)
            else:
                by_tag[field.tag] = field
                found[field.name] = [] if field.many else None
        for child in node:
            declared = by_tag.get(str(child.tag)) or self._without_namespace(by_tag, child)
            inner = f"{where}.{safe_xml.local_name(child)}"
            if declared is None:
                if not _has_wildcard(kind):
                    self._unexpected(child, where)
                found.setdefault(safe_xml.local_name(child), _as_it_is(child))
                continue
            value = self.value(child, declared.type, inner)
            if declared.many:
                found[declared.name].append(value)
            elif found[declared.name] is None:
                found[declared.name] = value
            else:
                raise ValueUnreadable(f"the answer's {inner} stands twice, and the WSDL allows one")
        return found

    def _fields_of(self, kind: Any) -> list[Field]:
        known = self._fields.get(id(kind))
        if known is None:
            known = self._fields[id(kind)] = (kind, fields_of(kind))
        return known[1]

    def _kind(self, node: etree._Element, declared: Any) -> Any:
        named = node.get(f"{_XSI}type")
        if named is None:
            return declared
        prefix, _, local = named.strip().rpartition(":")
        namespace = node.nsmap.get(prefix or None)
        try:
            name = etree.QName(namespace, local)
        except ValueError as exc:
            raise ValueUnreadable(f"the answer names the type {named[:60]!r}, which is no name") from exc
        try:
            known = self._types.get_type(name, fail_silently=True)
        except TypeUnknown:  # for XML Schema's own namespace zeep fails aloud
            return declared
        return declared if known is None else known

    def _without_namespace(self, by_tag: dict[str, Field], child: etree._Element) -> Field | None:
        # Services often differ from their WSDL in `elementFormDefault`; a name that fits only once is not in doubt.
        local = safe_xml.local_name(child)
        fits = [field for tag, field in by_tag.items() if tag.rpartition("}")[2] == local]
        return fits[0] if len(fits) == 1 else None

    def _unexpected(self, child: etree._Element, where: str) -> Any:
        raise ValueUnreadable(f"the answer's {where} holds {safe_xml.local_name(child)!r}, which is not in the WSDL")


def _flat(fields: Iterable[Field], *, many: bool) -> Iterator[Field]:
    """Yield the fields with those of repeated groups in place of the groups, as lists."""
    for field in fields:
        if field.group:
            yield from _flat(field.group, many=True)
        elif many and not field.many:
            yield Field(field.name, field.key, field.tag, field.type, field.nillable, many=True)
        else:
            yield field


def _has_wildcard(kind: Any) -> bool:
    return any(type(element).__name__ == "Any" for _, element in kind.elements)


def _is_any(kind: Any) -> bool:
    return type(kind).__name__ in ("AnyType", "AnySimpleType")


def _as_it_is(node: etree._Element) -> Any:
    """Return what has no type in the WSDL: texts, objects of texts, lists where a name repeats."""
    if not len(node):
        return None if node.get(f"{_XSI}nil") in ("true", "1") else node.text or ""
    found: dict[str, Any] = {}
    for child in node:
        name, value = safe_xml.local_name(child), _as_it_is(child)
        if name not in found:
            found[name] = value
        elif isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = [found[name], value]
    return found


def _child(node: etree._Element, name: str) -> etree._Element | None:
    # By the standard without a namespace; some services give it theirs.
    return next((child for child in node if safe_xml.local_name(child) == name), None)


def _text(node: etree._Element, name: str) -> str:
    child = _child(node, name)
    return (child.text or "").strip() if child is not None else ""


def _parts(codes: Iterable[str]) -> Iterator[str]:
    for code in codes:
        local = code.rpartition(":")[2]
        if local:
            yield local
        if "." in local:
            yield from local.split(".")
