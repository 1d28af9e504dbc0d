"""Our reader of answers beside zeep's own: the same values, where zeep keeps them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import zeep.helpers
from lxml import etree

from agent.connectors.soap import envelope
from agent.connectors.soap.answer import AnswerReader
from agent.connectors.soap.wsdl import Wsdl
from agent.errors import SourceFailed
from config.dev.finance import FOLDER
from tests.agent.connectors import soap_peers
from tests.agent.connectors.test_soap_attacks import TYPES_WSDL
from tests.agent.connectors.test_soap_rows import ORDER, ORDERS_WSDL

_serialize: Any = zeep.helpers.serialize_object  # zeep is typed in part

XSI = 'xmlns:i="http://www.w3.org/2001/XMLSchema-instance"'
INVOICE = (
    "<invoiceNo>RE1</invoiceNo><customer>Müller &amp; Söhne &lt;Köln&gt;</customer><amount>1234567890123456.78</amount>"
    "<currency>EUR</currency><dueDate>2026-01-31</dueDate><urgent>true</urgent><scan>AAEC/w==</scan>"
    "<line><account>4400</account><amount>12.50</amount><quantity>2</quantity><text i:nil='true'/></line>"
    "<line><account>4401</account><amount>3</amount><text>x</text></line>"
)

WHOLE = ORDER.replace(".5+01:00", "+01:00")  # zeep writes a fraction of a second with other digits

REPLIES: list[tuple[str, str, str]] = [
    ("finance", "PostInvoice", "<documentNo>4</documentNo><total>1.5</total><postedAt>2026-01-31T10:00:00Z</postedAt>"),
    ("finance", "FindInvoice", "<found>false</found>"),
    ("finance", "FindInvoice", f"<found>true</found><documentNo>1</documentNo><invoice>{INVOICE}</invoice>"),
    ("finance", "GetOrders", ""),
    ("finance", "GetOrders", "<order><orderNo>1</orderNo><total>1.50</total></order>" * 3),
    ("orders", "Ask", f"<Before>1</Before><Orders><Currency>EUR</Currency>{WHOLE}{WHOLE}<Hint>a</Hint></Orders>"),
    ("orders", "Ask", "<Alone><Name>a</Name><Name>b</Name></Alone><After>x</After>"),
    ("orders", "Ask", "<Centre><Name>a</Name><Part><Name>b</Name><Part><Name>c</Name></Part></Part></Centre>"),
    ("boolean", "Ask", "<v>true</v>"),
    ("integer", "Ask", "<v>123456789012345678901234567890</v>"),
    ("decimal", "Ask", "<v>0.0000000001</v>"),
    ("double", "Ask", "<v>0.1</v>"),
    ("date", "Ask", "<v>2026-01-31</v>"),
    ("dateTime", "Ask", "<v>2026-01-31T10:00:00</v>"),
    ("time", "Ask", "<v>10:00:00</v>"),
    ("base64Binary", "Ask", "<v>AAEC/w==</v>"),
    ("string", "Ask", "<v> a\n b </v>"),
    ("string", "Ask", '<money currency="EUR">1.50</money><base><id>1</id></base><tags>1 2 3</tags>'),
    ("string", "Ask", '<base i:type="t:More" xmlns:t="urn:t"><id>1</id><extra>2026-01-31</extra></base>'),
]  # fmt: skip # a row each


def refuse(url: str) -> bytes:
    raise SourceFailed(f"{url} is not fetched")


@pytest.fixture
def described(tmp_path: Path) -> Callable[[str], Path]:
    """Return the WSDL of a name: a service's, or one whose answer has a ``v`` of that type."""

    def make(name: str) -> Path:
        if name == "finance":
            return FOLDER / "finance.wsdl"
        text = ORDERS_WSDL if name == "orders" else TYPES_WSDL.format(kind=name, version="")
        (tmp_path / "x.wsdl").write_text(text)
        return tmp_path / "x.wsdl"

    return make


@pytest.mark.parametrize(("name", "operation", "inner"), REPLIES, ids=lambda value: str(value)[:30])
def test_an_answer_means_what_zeep_takes_it_for(
    described: Callable[[str], Path], name: str, operation: str, inner: str
) -> None:
    wsdl = Wsdl(str(described(name)), refuse)
    known = wsdl.operation(operation, None, None)
    element = etree.QName(known.answer.qname)
    data = soap_peers.envelope(f'<{element.localname} xmlns="{element.namespace}" {XSI}>{inner}</{element.localname}>')
    ours = AnswerReader(known, wsdl.types).outputs(envelope.read([data]))
    node = envelope.read([data])[0]
    theirs = known.answer.parse(node, wsdl.types)
    assert said(ours) == said(plain(_serialize(theirs, dict)))


def plain(value: Any) -> Any:
    """Return a value of zeep's as JSON has it."""
    if isinstance(value, dict):
        # Besides texts, zeep calls groups that repeat so; none of the answers here has one.
        return {
            "#text" if name == "_value_1" else name: plain(child)
            for name, child in value.items()
            if name != "_value_1" or not isinstance(child, dict | list)
        }
    if isinstance(value, list):
        return [plain(child) for child in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def said(value: Any) -> Any:
    """Return what both say: without what is absent, times as text."""
    if isinstance(value, dict):
        return {name: said(child) for name, child in value.items() if child not in (None, [])}
    if isinstance(value, list):
        return [said(child) for child in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")
    return value
