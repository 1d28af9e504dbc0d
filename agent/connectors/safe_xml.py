"""XML that may come from anywhere: no DTD, no entities, no network, bounded depth and size of a text."""

from __future__ import annotations

from lxml import etree


class XmlRefused(ValueError):
    """The bytes are not XML, or XML of a kind that is not taken; the text says why."""


def parse(data: bytes, encoding: str | None = None) -> etree._Element:
    """
    Return the root of a document, without its comments and processing instructions.

    Args:
        encoding: what the bytes are in, whatever they themselves declare; ``None`` to believe them.

    Raises:
        XmlRefused: not well-formed, with a DOCTYPE, or nested deeper than 256 levels.
    """
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        encoding=encoding,
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as exc:
        raise XmlRefused(f"not well-formed XML: {exc.msg}") from exc
    if root.getroottree().docinfo.internalDTD is not None:
        raise XmlRefused("the XML has a DOCTYPE; documents with a DTD or entities are refused")
    return root


def local_name(node: etree._Element) -> str:
    """Return an element's name without its namespace, whatever stands there: the parser lets some odd names through."""
    return str(node.tag).rpartition("}")[2]
