"""xml, json and raw: one document per file, whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from lxml import etree

from agent.connectors import safe_xml
from agent.connectors.file import text
from agent.errors import ContentInvalid
from agent.settings import FileFormat

MAX_DEPTH: Final = 200  # levels; the XML parser's own limit is 256
MAX_DOCUMENT_BYTES: Final = 16_777_216  # a document is held in memory, several times over

_NAME = re.compile(r"[^\W\d][\w.-]*(:[^\W\d][\w.-]*)?")
_DECLARATION = re.compile(r"\ufeff?<\?xml\b[^>]*\?>")
_JSON = msgspec.json.Encoder(decimal_format="number")  # a fraction is written with the digits it came with


# --- xml ----------------------------------------------------------------------------------------


def xml_bytes(document: Any, form: FileFormat, encoding: str) -> bytes:
    """
    Return an XML file that declares its encoding.

    Args:
        document: XML text, or an object in which ``@name`` is an attribute, ``#text`` the text and a
            list a repeated element; it has one key, the root element, unless ``form.root`` names that.

    Raises:
        ContentInvalid: not XML, or with a DTD, or not in ``encoding``.
    """
    source = document if isinstance(document, str) else _xml_text(document, form.root)
    root = parse_xml(source)
    body = etree.tostring(root.getroottree(), encoding="unicode")
    content = f'<?xml version="1.0" encoding="{_declared(encoding)}"?>\n{body}\n'
    if problem := text.not_encodable(content, encoding):
        raise ContentInvalid(f"document: {problem}", touched=False)
    return content.encode(encoding)


def parse_xml(source: str) -> etree._Element:
    """
    Parse XML text; what it declares as its encoding no longer matters.

    Raises:
        ContentInvalid: not well-formed, or with a DTD.
    """
    try:
        return safe_xml.parse(_DECLARATION.sub("", source, count=1).strip().encode("utf-8"), "utf-8")
    except (safe_xml.XmlRefused, UnicodeEncodeError) as exc:
        raise ContentInvalid(str(exc), touched=False) from exc


def xml_document(root: etree._Element) -> dict[str, Any]:
    """Return XML as an object: ``@name`` for attributes, ``#text`` for text beside them, lists for repeats."""
    return {_qualified(root): _content(root, {})}


def _xml_text(document: Any, root: str | None) -> str:
    if not isinstance(document, Mapping):
        raise ContentInvalid(f"document wants an object or XML as text, found {type(document).__name__}", touched=False)
    if root is not None and list(document) != [root]:
        document = {root: document}
    if len(document) != 1 or isinstance(next(iter(document.values())), list):
        raise ContentInvalid(
            "document wants exactly one key, the root element, or the operation's format a `root`", touched=False
        )
    parts: list[str] = []
    for name, value in document.items():
        _element(parts, name, value, 1)
    return "".join(parts)


def _element(parts: list[str], name: str, value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ContentInvalid(f"document is nested deeper than {MAX_DEPTH} levels", touched=False)
    _check_name(name)
    if isinstance(value, list):
        for item in value:
            if isinstance(item, list):
                raise ContentInvalid(f"document: {name!r} holds a list in a list, which XML can't say", touched=False)
            _element(parts, name, item, depth)
        return
    if not isinstance(value, Mapping):
        parts.append(f"<{name}>{_escaped(_scalar(value, name))}</{name}>")
        return
    parts.append(f"<{name}")
    for key, attribute in value.items():
        if key.startswith("@"):
            _check_name(key[1:])
            parts.append(f" {key[1:]}={_quoted(_scalar(attribute, key))}")
    parts.append(">")
    for key, child in value.items():
        if key == "#text":
            parts.append(_escaped(_scalar(child, key)))
        elif not key.startswith("@"):
            _element(parts, key, child, depth + 1)
    parts.append(f"</{name}>")


def _check_name(name: str) -> None:
    # What is more than a name here would become markup.
    if not _NAME.fullmatch(name):
        raise ContentInvalid(f"document: {name!r} can't be the name of an XML element or attribute", touched=False)


def _scalar(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping | list):
        raise ContentInvalid(f"document: {name!r} wants a plain value, found {type(value).__name__}", touched=False)
    # A bare CR would come back as LF; as a reference it survives. `_escaped` leaves it alone.
    return str(value)


def _content(node: etree._Element, outer: Mapping[str | None, str]) -> Any:
    values: dict[str, Any] = {}
    for prefix, address in node.nsmap.items():
        if outer.get(prefix) != address:
            values[f"@xmlns:{prefix}" if prefix else "@xmlns"] = address
    for key, attribute in node.attrib.items():
        values[f"@{_attribute_name(node, str(key))}"] = str(attribute)
    pieces = [node.text or ""]
    for child in node:
        pieces.append(child.tail or "")
        name, value = _qualified(child), _content(child, node.nsmap)
        if name not in values:
            values[name] = value
        elif isinstance(values[name], list):
            values[name].append(value)
        else:
            values[name] = [values[name], value]
    own = "".join(pieces).strip()
    if not values:
        return own or None
    if own:
        values["#text"] = own
    return values


def _qualified(node: etree._Element) -> str:
    local = safe_xml.local_name(node)
    return f"{node.prefix}:{local}" if node.prefix else local


def _attribute_name(node: etree._Element, key: str) -> str:
    namespace, _, local = key.removeprefix("{").rpartition("}")
    if not namespace:
        return local
    if namespace == "http://www.w3.org/XML/1998/namespace":
        return f"xml:{local}"
    prefix = next(prefix for prefix, address in node.nsmap.items() if prefix and address == namespace)
    return f"{prefix}:{local}"


def _declared(encoding: str) -> str:
    """Return the name by which XML parsers know a Python codec."""
    name = text.codec_name(encoding)
    known = {
        "ascii": "US-ASCII",
        "utf-8-sig": "UTF-8",
        "utf-16-le": "UTF-16LE",
        "utf-16-be": "UTF-16BE",
        "shift_jis": "Shift_JIS",
        "cp932": "Windows-31J",
        "cp1140": "IBM01140",
    }
    if name in known:
        return known[name]
    if name.startswith("cp125"):
        return f"windows-{name[2:]}"
    if name.startswith("cp"):
        return f"IBM{name[2:]}"
    return name.upper().replace("_", "-").replace("ISO8859", "ISO-8859").replace("ISO2022", "ISO-2022")


# --- json ---------------------------------------------------------------------------------------


def json_bytes(document: Any, encoding: str) -> bytes:
    """
    Return a JSON file.

    Raises:
        ContentInvalid: a character has no place in ``encoding``.
    """
    content = _JSON.encode(document).decode("utf-8")
    if problem := text.not_encodable(content, encoding):
        raise ContentInvalid(f"document: {problem}", touched=False)
    return content.encode(encoding)


def json_rows(content: str) -> list[bytes]:
    """
    Return the objects of a JSON file, which holds one or an array of them, each as JSON on one line.

    Raises:
        ContentInvalid: not JSON, or something else than objects.
    """
    source = content.lstrip("\ufeff").encode("utf-8")
    try:
        if source.lstrip()[:1] == b"[":
            items = [bytes(item) for item in msgspec.json.decode(source, type=list[msgspec.Raw])]
        else:
            items = [bytes(msgspec.json.decode(source, type=msgspec.Raw))]
        for number, item in enumerate(items, 1):
            if item.lstrip()[:1] != b"{":
                raise ContentInvalid(f"entry {number}: wants an object, found {item[:20].decode(errors='replace')!r}")
            msgspec.json.decode(item)  # Raw was only skimmed
        return [msgspec.json.format(item, indent=-1) for item in items]
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ContentInvalid(f"not JSON: {exc}") from exc


# Not those of xml.sax, which load what reads URLs, HTTP, mail and TLS: 8 MiB.
def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _quoted(text: str) -> str:
    spaces = _escaped(text).replace("\n", "&#10;").replace("\r", "&#13;").replace("\t", "&#9;")
    return '"' + spaces.replace('"', "&quot;") + '"'
