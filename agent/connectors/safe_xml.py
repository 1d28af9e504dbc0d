"""XML that may come from anywhere: no DTD, no entities, no network, bounded depth and size of a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from lxml import etree

# Of every parser here.
_SAFE: Final[dict[str, Any]] = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,
    "remove_comments": True,
    "remove_pis": True,
}
_MARK_BYTES: Final = 4  # by which a parser tells an encoding; a first piece with fewer would mislead it


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
    parser = etree.XMLParser(**_SAFE, encoding=encoding)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as exc:
        raise _malformed(exc) from exc
    _refuse_dtd(root)
    return root


class Arriving:
    """
    A document that is parsed while its bytes come; refused as by ``parse``.

    Args:
        name: local name of the elements that ``feed`` yields; "" yields none.
    """

    def __init__(self, name: str = "") -> None:
        self._parser: Any = (
            etree.XMLPullParser(("end",), tag=f"{{*}}{name}", **_SAFE) if name else etree.XMLParser(**_SAFE)
        )
        self._events: Iterator[tuple[str, etree._Element]] = self._parser.read_events() if name else iter(())
        self._start: bytes | None = b""

    def feed(self, data: bytes) -> list[etree._Element]:
        """
        Take some bytes more; return the elements that ended in them.

        Raises:
            XmlRefused: as ``parse``.
        """
        if self._start is not None:
            data = self._start + data
            if len(data) < _MARK_BYTES:
                self._start = data
                return []
            self._start = None
        try:
            self._feed(data)
            found = [node for _, node in self._events]
        except etree.XMLSyntaxError as exc:
            raise _malformed(exc) from exc
        if found:
            _refuse_dtd(found[0])
        return found

    def close(self) -> etree._Element:
        """
        Return the root: that was all.

        Raises:
            XmlRefused: as ``parse``.
        """
        try:
            if self._start is not None:
                self._feed(self._start)
            root: etree._Element = self._parser.close()
        except etree.XMLSyntaxError as exc:
            raise _malformed(exc) from exc
        _refuse_dtd(root)
        return root

    def _feed(self, data: bytes) -> None:
        self._parser.feed(data)
        # lxml lets an entity pass that nobody declared, and takes what follows for another document.
        for entry in self._parser.feed_error_log.filter_from_fatals():
            raise XmlRefused(f"not well-formed XML: {entry.message}, line {entry.line}, column {entry.column}")


def local_name(node: etree._Element) -> str:
    """Return an element's name without its namespace, whatever stands there: the parser lets some odd names through."""
    return str(node.tag).rpartition("}")[2]


def _malformed(exc: etree.XMLSyntaxError) -> XmlRefused:
    return XmlRefused(f"not well-formed XML: {exc.msg}")


def _refuse_dtd(node: etree._Element) -> None:
    if node.getroottree().docinfo.internalDTD is not None:
        raise XmlRefused("the XML has a DOCTYPE; documents with a DTD or entities are refused")
