"""Elements of an answer that repeat, as rows: typed by the WSDL, as they come, in constant memory."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config_file import parse
from agent.connectors import CONNECTORS
from agent.connectors.base import DriverSetup, Outputs, Piece, Rows, RowSet
from agent.connectors.sessions import DriverConnector
from agent.errors import (
    CommandError,
    ConfigError,
    OutcomeUnknown,
    SourceFailed,
    SourceRejected,
    TooManyRows,
    ValueUnreadable,
)
from agent.leaving import MASKED
from agent.settings import CallOperation, SoapConnection
from tests.agent.connectors.conftest import MakeSoapDriver, call, rows, run
from tests.agent.connectors.soap_peers import answer, envelope, misbehaving

ORDERS_WSDL = """
<wsdl:definitions targetNamespace="urn:o" xmlns:o="urn:o" xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/"
    xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:xsd="http://www.w3.org/2001/XMLSchema">
  <wsdl:types><xsd:schema targetNamespace="urn:o" elementFormDefault="qualified">
    <xsd:simpleType name="Amount"><xsd:restriction base="xsd:decimal"/></xsd:simpleType>
    <xsd:complexType name="Line"><xsd:sequence><xsd:element name="Sku" type="xsd:string"/>
      <xsd:element name="Qty" type="xsd:int"/></xsd:sequence></xsd:complexType>
    <xsd:complexType name="Order"><xsd:sequence>
      <xsd:element name="No" type="xsd:string"/><xsd:element name="Total" type="o:Amount" minOccurs="0"/>
      <xsd:element name="At" type="xsd:dateTime" minOccurs="0" nillable="true"/>
      <xsd:element name="Paid" type="xsd:boolean" minOccurs="0"/>
      <xsd:element name="Scan" type="xsd:base64Binary" minOccurs="0"/>
      <xsd:element name="Weight" type="xsd:double" minOccurs="0"/>
      <xsd:element name="Line" type="o:Line" minOccurs="0" maxOccurs="unbounded"/>
      <xsd:element name="Ship" type="o:Line" minOccurs="0"/>
      <xsd:element name="Note" type="xsd:anyType" minOccurs="0"/></xsd:sequence>
      <xsd:attribute name="id" type="xsd:long"/></xsd:complexType>
    <xsd:complexType name="BigOrder"><xsd:complexContent><xsd:extension base="o:Order"><xsd:sequence>
      <xsd:element name="Extra" type="xsd:date"/></xsd:sequence></xsd:extension></xsd:complexContent></xsd:complexType>
    <xsd:complexType name="Open"><xsd:sequence><xsd:element name="No" type="xsd:string"/>
      <xsd:any minOccurs="0" maxOccurs="unbounded" processContents="lax"/></xsd:sequence></xsd:complexType>
    <xsd:complexType name="Centre"><xsd:sequence><xsd:element name="Name" type="xsd:string"/>
      <xsd:element name="Part" type="o:Centre" minOccurs="0" maxOccurs="unbounded"/></xsd:sequence></xsd:complexType>
    <xsd:element name="Ask"><xsd:complexType><xsd:sequence/></xsd:complexType></xsd:element>
    <xsd:element name="AskResponse"><xsd:complexType><xsd:sequence>
      <xsd:element name="Before" type="xsd:int" minOccurs="0"/>
      <xsd:element name="Orders" minOccurs="0"><xsd:complexType><xsd:sequence>
        <xsd:element name="Currency" type="xsd:string" minOccurs="0"/>
        <xsd:element name="Order" type="o:Order" minOccurs="0" maxOccurs="unbounded"/>
        <xsd:element name="Hint" type="xsd:string" minOccurs="0" maxOccurs="unbounded"/>
      </xsd:sequence></xsd:complexType></xsd:element>
      <xsd:element name="Alone" minOccurs="0"><xsd:complexType><xsd:sequence>
        <xsd:element name="Name" type="xsd:string" minOccurs="0" maxOccurs="unbounded"/>
      </xsd:sequence></xsd:complexType></xsd:element>
      <xsd:element name="Open" type="o:Open" minOccurs="0" maxOccurs="unbounded"/>
      <xsd:element name="Centre" type="o:Centre" minOccurs="0" maxOccurs="unbounded"/>
      <xsd:element name="After" type="xsd:string" minOccurs="0"/>
    </xsd:sequence></xsd:complexType></xsd:element>
  </xsd:schema></wsdl:types>
  <wsdl:message name="In"><wsdl:part name="b" element="o:Ask"/></wsdl:message>
  <wsdl:message name="Out"><wsdl:part name="b" element="o:AskResponse"/></wsdl:message>
  <wsdl:portType name="P"><wsdl:operation name="Ask">
    <wsdl:input message="o:In"/><wsdl:output message="o:Out"/></wsdl:operation></wsdl:portType>
  <wsdl:binding name="B" type="o:P"><soap:binding transport="http://schemas.xmlsoap.org/soap/http"/>
    <wsdl:operation name="Ask"><soap:operation soapAction=""/><wsdl:input><soap:body use="literal"/></wsdl:input>
      <wsdl:output><soap:body use="literal"/></wsdl:output></wsdl:operation></wsdl:binding>
  <wsdl:service name="S"><wsdl:port name="P" binding="o:B"><soap:address location="http://127.0.0.1:1/"/></wsdl:port></wsdl:service>
</wsdl:definitions>
"""

ORDER = (
    '<Order id="7"><No>A1</No><Total>12.50</Total><At>2026-01-31T10:00:00.5+01:00</At><Paid>true</Paid>'
    "<Scan>AAEC</Scan><Weight>0.5</Weight><Line><Sku>x</Sku><Qty>2</Qty></Line><Line><Sku>y</Sku><Qty>3</Qty></Line>"
    "<Ship><Sku>z</Sku><Qty>1</Qty></Ship><Note>say &lt;this></Note></Order>"
)
ROW = {
    "No": "A1",
    "Total": "12.50",
    "At": "2026-01-31T10:00:00.5+01:00",
    "Paid": True,
    "Scan": "AAEC",
    "Weight": 0.5,
    "Line": [{"Sku": "x", "Qty": 2}, {"Sku": "y", "Qty": 3}],
    "Ship": {"Sku": "z", "Qty": 1},
    "Note": "say <this>",
    "id": 7,
}
EMPTY = dict.fromkeys(ROW) | {"Line": []}


def document(inner: str) -> bytes:
    """Return a whole envelope whose answer holds ``inner``."""
    nil = "http://www.w3.org/2001/XMLSchema-instance"
    return envelope(f'<AskResponse xmlns="urn:o" xmlns:o="urn:o" xmlns:i="{nil}">{inner}</AskResponse>')


Ask = Callable[..., list[Piece]]


@pytest.fixture
def ask(soap_driver: MakeSoapDriver, tmp_path: Path) -> Ask:
    """Call a service whose reply is ``reply``, or an answer with ``inner``; return the pieces."""
    (tmp_path / "o.wsdl").write_text(ORDERS_WSDL)

    def make(
        inner: str = "", path: str = "Orders/Order", reply: Any = None, connection: Any = None, **more: Any
    ) -> list[Piece]:
        with misbehaving(reply if reply is not None else answer(document(inner))) as server:
            operation = {"effect": "read", "rows": path, **more}
            driver = soap_driver("Ask", operation, wsdl="o.wsdl", endpoint=server.url, **(connection or {}))
            return run(driver)

    return make


def values(pieces: list[Piece]) -> dict[str, Any]:
    """Return the outputs."""
    assert isinstance(pieces[-1], Outputs)
    return pieces[-1].values


# --- what comes out -----------------------------------------------------------------------------


def test_elements_that_repeat_are_rows_typed_by_the_wsdl(ask: Ask) -> None:
    pieces = ask(f"<Before>1</Before><Orders><Currency>EUR</Currency>{ORDER}<Order/></Orders><After>x</After>")
    (first,) = [piece for piece in pieces if isinstance(piece, RowSet)]
    assert pieces[0] is first
    assert {column.name: column.type for column in first.columns} == {
        "No": "string",
        "Total": "decimal",
        "At": "datetime",
        "Paid": "boolean",
        "Scan": "binary",
        "Weight": "number",
        "Line": "json",
        "Ship": "json",
        "Note": "json",
        "id": "integer",
    }
    assert {column.name: column.source_type for column in first.columns}["Total"] == "Amount"
    assert rows(pieces) == [ROW, EMPTY]
    assert values(pieces) == {"Before": 1, "Orders": {"Currency": "EUR", "Hint": []}, "Alone": None} | {
        "Open": [],
        "Centre": [],
        "After": "x",
    }


def test_a_place_that_holds_nothing_but_rows_is_no_output(ask: Ask) -> None:
    pieces = ask("<Alone><Name>a</Name><Name/><Name>c</Name></Alone>", "Alone/Name")
    assert rows(pieces) == [{"Name": "a"}, {"Name": ""}, {"Name": "c"}]
    assert "Alone" not in values(pieces)


@pytest.mark.parametrize("inner", ["", "<Orders/>", "<Orders></Orders>"])
def test_no_rows_are_a_row_set_without_rows(ask: Ask, inner: str) -> None:
    pieces = ask(inner)
    assert [type(piece) for piece in pieces] == [RowSet, Outputs]


def test_a_row_that_is_nil_has_nulls(ask: Ask) -> None:
    pieces = ask('<Orders><Order i:nil="true"/><Order><No>1</No><At i:nil="true"/></Order></Orders>')
    assert rows(pieces) == [dict.fromkeys(ROW), EMPTY | {"No": "1"}]


def test_elements_of_the_same_name_elsewhere_are_no_rows(ask: Ask) -> None:
    inner = "<Centre><Name>a</Name><Part><Name>b</Name></Part></Centre><Centre><Name>c</Name></Centre>"
    pieces = ask(inner, "Centre")
    assert rows(pieces) == [
        {"Name": "a", "Part": [{"Name": "b", "Part": []}]},
        {"Name": "c", "Part": []},
    ]


def test_what_stands_in_headers_or_beside_the_answer_is_no_row(ask: Ask) -> None:
    other = '<AskResponse xmlns="urn:o"><Orders><Order><No>666</No></Order></Orders></AskResponse>'
    body = document("<Orders><Order><No>1</No></Order></Orders>").replace(b"</s:Body>", f"{other}</s:Body>".encode())
    body = body.replace(b"<s:Body>", f"<s:Header>{other}</s:Header><s:Body>".encode())
    assert rows(ask(reply=answer(body))) == [EMPTY | {"No": "1"}]


def test_rows_without_their_namespace_are_taken_as_answers_are(ask: Ask) -> None:
    assert rows(ask('<Orders xmlns=""><Order><No>1</No></Order></Orders>')) == [EMPTY | {"No": "1"}]


def test_what_stands_in_a_row_beside_the_wsdl_has_a_column(ask: Ask) -> None:
    pieces = ask('<Open><No>1</No><x xmlns="urn:x"><y>2</y></x></Open><Open><No>2</No></Open>', "Open")
    assert rows(pieces) == [{"No": "1", "#any": {"x": {"y": "2"}}}, {"No": "2", "#any": None}]


def test_an_answer_split_anywhere_has_the_same_rows(ask: Ask, soap_driver: MakeSoapDriver) -> None:
    body = document(f"<Before>1</Before>\n <Orders>\n  {ORDER}\n\n  <Order><No>ü</No></Order>\n </Orders>\n")

    def dribble(size: int) -> Callable[[socket.socket], None]:
        def behave(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(body), size):
                piece = body[start : start + size]
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")

        return behave

    whole = ask(reply=answer(body))
    for size in (1, 2, 3, 7, 50):
        pieces = ask(reply=dribble(size))
        assert rows(pieces) == rows(whole) == [ROW, EMPTY | {"No": "ü"}]
        assert values(pieces) == values(whole)


# --- what may leave -----------------------------------------------------------------------------


def test_columns_and_mask_hold_for_rows_and_within_them(ask: Ask) -> None:
    inner = f"<Before>1</Before><Orders>{ORDER}</Orders>"
    pieces = ask(inner, columns=("No", "Line", "before"), mask=("No", "Sku"))
    assert isinstance(pieces[0], RowSet)
    assert [column.name for column in pieces[0].columns] == ["No", "Line"]
    assert rows(pieces) == [{"No": MASKED, "Line": [{"Sku": MASKED, "Qty": 2}, {"Sku": MASKED, "Qty": 3}]}]
    assert values(pieces) == {"Before": 1}


def test_where_no_column_may_leave_there_is_no_row_set(ask: Ask) -> None:
    pieces = ask(f"<Before>1</Before><Orders>{ORDER}</Orders>", columns=("Before",))
    assert [type(piece) for piece in pieces] == [Outputs]
    assert values(pieces) == {"Before": 1}


def test_a_listed_column_that_no_row_has_is_told_before_anything_is_sent(ask: Ask) -> None:
    with pytest.raises(SourceFailed, match=r"has no 'Nummer', which operations\.op\.columns lists") as caught:
        ask("", columns=("No", "Nummer"))
    assert not caught.value.touched


# --- the path -----------------------------------------------------------------------------------

BAD_PATHS: list[tuple[str, str]] = [
    (
        "Ordres/Order",
        r"rows = 'Ordres/Order': AskResponse has no 'Ordres'; it has: Before, Orders, Alone, Open, Centre",
    ),
    ("Orders/order", r"AskResponse/Orders has no 'order'; it has: Currency, Order, Hint"),
    ("Orders", r"AskResponse has one Orders at most; wants an element that repeats"),
    ("Orders/Order/Line", r"AskResponse/Orders has many Order; only the last name of the path may repeat"),
    ("After/x", r"AskResponse/After has no elements"),
]


@pytest.mark.parametrize(("path", "reason"), BAD_PATHS)
def test_a_path_that_leads_nowhere_is_told_with_what_there_is(
    soap_driver: MakeSoapDriver, tmp_path: Path, path: str, reason: str
) -> None:
    (tmp_path / "o.wsdl").write_text(ORDERS_WSDL)
    driver = soap_driver("Ask", {"rows": path}, wsdl="o.wsdl")
    (finding,) = driver.check("op")
    assert finding.ok is False
    with pytest.raises(SourceFailed, match=reason) as caught:
        run(driver)
    assert not caught.value.touched
    assert finding.detail == caught.value.message


def test_check_names_the_columns_of_the_rows(soap_driver: MakeSoapDriver, tmp_path: Path) -> None:
    (tmp_path / "o.wsdl").write_text(ORDERS_WSDL)
    (finding,) = soap_driver("Ask", {"rows": "Orders/Order"}, wsdl="o.wsdl").check("op")
    assert finding.ok
    assert "a row has No, Total, At" in finding.detail


# --- what goes wrong ----------------------------------------------------------------------------


def test_a_fault_is_a_fault_and_no_rows(ask: Ask) -> None:
    fault = envelope("<s:Fault><faultcode>Closed</faultcode><faultstring>The period is closed.</faultstring></s:Fault>")
    for status in ("200 OK", "500 Error"):
        with pytest.raises(SourceRejected, match="The period is closed"):
            ask(reply=answer(fault, status), business_faults=("Closed",))


ODD: list[tuple[str, str]] = [
    ("<Orders><Order><No>1</No><Total>x</Total></Order></Orders>", r"Orders/Order\.Total should be of type decimal"),
    ("<Orders><Order><Nr>1</Nr></Order></Orders>", r"Orders/Order holds 'Nr', which is not in the WSDL"),
    ("<Orders><Order/><Unknown/></Orders>", "holds 'Unknown', which is not in the WSDL"),
    ("<Orders><Order/></Orders><Orders><Order/></Orders>", "Orders stands twice"),
    ('<Orders><Order i:type="o:BigOrder"><No>1</No><Extra>2026-01-31</Extra></Order></Orders>', "has Extra besides"),
]


@pytest.mark.parametrize(("inner", "reason"), ODD)
def test_a_value_that_is_none_of_its_type_is_not_passed_on(ask: Ask, inner: str, reason: str) -> None:
    with pytest.raises(ValueUnreadable, match=reason):
        ask(inner)


def half(connection: socket.socket) -> None:
    """Send rows, and then nothing of the rest."""
    body = document(f"<Orders>{ORDER * 1000}</Orders>")
    connection.sendall(answer(body)[: len(body) // 2])


CUT: list[tuple[Any, str]] = [
    (half, "contact was lost"),
    (answer(document(f"<Orders>{ORDER * 1000}</Orders>")[:-20]), "no SOAP.*not well-formed"),
    (answer(document(f"<Orders>{ORDER * 1000}</Orders>") + b"<a/>"), "no SOAP.*Extra content"),
    (answer(b"<!DOCTYPE a>" + document(f"<Orders>{ORDER}</Orders>")), "no SOAP.*DOCTYPE"),
    (answer(document(f"<Orders>{ORDER * 3000}&nbsp;</Orders>")), "no SOAP.*nbsp"),
    (answer(b"<html>Wartung</html>", "503 Down"), "HTTP 503.*Wartung"),
]


@pytest.mark.parametrize(("reply", "reason"), CUT, ids=[reason for _, reason in CUT])
def test_a_reply_that_is_not_whole_is_never_taken_for_one(ask: Ask, reply: Any, reason: str) -> None:
    with pytest.raises(OutcomeUnknown, match=reason):
        ask(reply=reply)


def test_rows_that_come_in_small_pieces_are_let_go_of_too(ask: Ask) -> None:
    body = document(f"<Orders>\n{ORDER * 2000}\n</Orders>")

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 1_001):
            piece = body[start : start + 1_001]
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")

    assert len(rows(ask(reply=behave, connection={"max_reply_bytes": 10_000}))) == 2000


LARGE: list[tuple[str, bool]] = [
    (f"<Orders>{ORDER * 5000}</Orders>", True),  # rows are let go of
    (f"<Orders>{'<Hint>x</Hint>' * 20_000}</Orders>", False),
    (f"<Orders>{(ORDER + '<Hint>x</Hint>') * 3000}</Orders>", False),  # and so is what stands between them counted
    (f"<Orders>{ORDER}<Order><No>{'x' * 300_000}</No></Order></Orders>", False),
    (f"<Orders>{ORDER}</Orders><After>{'x' * 300_000}</After>", False),
]


@pytest.mark.parametrize(("inner", "taken"), LARGE, ids=["rows", "others", "between", "one row", "after"])
def test_only_what_is_held_counts_against_the_limit(ask: Ask, inner: str, taken: bool) -> None:
    if taken:
        assert len(rows(ask(inner, connection={"max_reply_bytes": 200_000}))) == 5000
        return
    with pytest.raises(OutcomeUnknown, match="more than 200000 bytes besides its rows"):
        ask(inner, connection={"max_reply_bytes": 200_000})


@pytest.mark.parametrize(("effect", "error"), [("read", TooManyRows), ("at-most-once", OutcomeUnknown)])
async def test_more_rows_than_allowed_are_refused_and_nothing_that_happened_is_denied(
    tmp_path: Path, effect: Any, error: type[CommandError]
) -> None:
    (tmp_path / "o.wsdl").write_text(ORDERS_WSDL)
    with misbehaving(answer(document(f"<Orders>{ORDER * 3000}</Orders>"))) as server:
        connection = SoapConnection(type="soap", wsdl=str(tmp_path / "o.wsdl"), endpoint=server.url)
        operation = CallOperation(connection="erp", call="Ask", rows="Orders/Order", effect=effect, max_rows=2999)
        connector = DriverConnector(DriverSetup("erp", connection, {"op": operation}), CONNECTORS["soap"])
        try:
            with pytest.raises(error, match="more than 2999 rows"):
                async for _ in connector.run(call()):
                    pass
        finally:
            await connector.close()


# --- as they come, in constant memory ------------------------------------------------------------


def test_the_first_rows_are_there_before_the_rest_was_sent(soap_driver: MakeSoapDriver, tmp_path: Path) -> None:
    (tmp_path / "o.wsdl").write_text(ORDERS_WSDL)
    begun, _, _ = document(f"<Orders>{ORDER * 100}|</Orders>").partition(b"|")

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + begun)
        connection.recv(1)  # until the caller is gone

    with misbehaving(behave) as server:
        driver = soap_driver("Ask", {"rows": "Orders/Order"}, wsdl="o.wsdl", endpoint=server.url)
        pieces: Iterator[Piece] = driver.run(call())
        assert isinstance(next(pieces), RowSet)
        first = next(pieces)
        assert isinstance(first, Rows)
        assert first.count > 0
        pieces.close()  # type: ignore[attr-defined] # a generator, as the worker knows


MEMORY = """
import resource, socket, sys, threading
from agent.connectors.base import Call, DriverSetup, Rows
from agent.connectors.soap.driver import SoapDriver
from agent.settings import CallOperation, SoapConnection

wsdl, order, begin, end = (open(path, "rb").read() for path in sys.argv[1:5])
listener = socket.create_server(("127.0.0.1", 0))

def serve():
    while True:
        connection, _ = listener.accept()
        with connection:
            request = b""
            while b"</soap-env:Envelope>" not in request:
                request += connection.recv(65536)
            many = counts.pop(0)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n" + begin)
            for _ in range(many // 1000):
                connection.sendall(order * 1000)
            connection.sendall(end)

counts = [5_000, 100_000]
wanted = list(counts)
threading.Thread(target=serve, daemon=True).start()
connection = SoapConnection(type="soap", wsdl=sys.argv[1], endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}/x")
operation = CallOperation(connection="x", call="Ask", effect="read", rows="Orders/Order", timeout=600.0)
driver = SoapDriver(DriverSetup("x", connection, {"op": operation}))
driver.open()
peaks = []
for many in wanted:
    rows = sum(p.count for p in driver.run(Call("c", "op", b"{}", 600.0)) if isinstance(p, Rows))
    assert rows == many, rows
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*peaks)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells peak memory another way")
def test_twenty_times_the_rows_take_no_more_memory(tmp_path: Path) -> None:
    begin, end = document("<Orders>\n|</Orders>").split(b"|")
    files = [tmp_path / name for name in ("o.wsdl", "order", "begin", "end")]
    for file, data in zip(files, (ORDERS_WSDL.encode(), f"  {ORDER}\n".encode(), begin, end), strict=True):
        file.write_bytes(data)
    found = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, files)], capture_output=True, text=True, check=True, timeout=110
    )
    small, large = (int(kib) for kib in found.stdout.split())
    assert large - small < 2_048, "KiB of peak memory more"


FILE = """
agent = "plant-1"
state_dir = "state"
connections.finance = {{ type = "soap", wsdl = "finance.wsdl" }}
operations.orders = {{ connection = "finance", call = "GetOrders", rows = "{path}" }}
"""


@pytest.mark.parametrize("path", ["/Orders", "Orders/", "Orders//Order", "a b", "", "Orders/Order\\n"])
def test_a_path_that_is_none_is_refused_with_the_file(path: str) -> None:
    with pytest.raises(ConfigError, match=r"agent\.toml:5: operations\.orders\.rows"):
        parse(FILE.format(path=path), "agent.toml")


def test_rows_of_the_real_service_come_as_the_list_would(soap_driver: MakeSoapDriver) -> None:
    pieces = run(soap_driver("GetOrders", {"rows": "order"}), {"customer": "C1", "count": 3})
    assert rows(pieces) == [{"orderNo": f"C1-{n}", "total": f"{n}.50"} for n in (1, 2, 3)]
    assert values(pieces) == {}


def test_errors_of_the_line_are_what_they_are_without_rows(ask: Ask) -> None:
    with pytest.raises(CommandError, match="compressed"):
        ask(reply=answer(b"x", more="Content-Encoding: gzip\r\n"))
