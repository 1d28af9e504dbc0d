"""What is SOAP in a reply: its envelope, its body, its fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from lxml import etree

from agent.connectors import safe_xml

SOAP_11: Final = "http://schemas.xmlsoap.org/soap/envelope/"
SOAP_12: Final = "http://www.w3.org/2003/05/soap-envelope"


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


def read(pieces: Iterable[bytes]) -> etree._Element:
    """
    Return the body of an envelope that comes in pieces.

    Raises:
        NotSoap: it is none, or XML that is not taken.
    """
    arriving = safe_xml.Arriving()
    try:
        for piece in pieces:
            arriving.feed(piece)
        return body_of(arriving.close())
    except safe_xml.XmlRefused as exc:
        raise NotSoap(str(exc)) from exc


def body_of(root: etree._Element) -> etree._Element:
    """
    Return the body of an envelope of SOAP 1.1 or 1.2.

    Raises:
        NotSoap: it is none.
    """
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
