"""What a hostile or broken service may send: nothing of it is followed, unpacked, expanded or believed."""

from __future__ import annotations

import gzip
import http.server
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.connectors.soap import wsdl as wsdl_module
from agent.errors import CommandError, OutcomeUnknown, SourceFailed, SourceUnavailable, ValueUnreadable
from config.dev.finance import FOLDER, FinanceService
from tests.agent.connectors.conftest import MakeSoapDriver, outputs, run
from tests.agent.connectors.soap_peers import answer, envelope, misbehaving

FINANCE = "urn:example:finance"
BALANCE = envelope(f'<GetBalanceResponse xmlns="{FINANCE}">1.50</GetBalanceResponse>')
ENTITIES = '<!ENTITY e0 "lol">' + "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))


def ask(soap_driver: MakeSoapDriver, reply: Any, **more: Any) -> dict[str, Any]:
    with misbehaving(reply) as server:
        return outputs(soap_driver("GetBalance", endpoint=server.url, **more), {"GetBalance": "x"}, timeout_s=5)


def test_a_plain_reply_is_taken(soap_driver: MakeSoapDriver) -> None:
    assert ask(soap_driver, answer(BALANCE)) == {"GetBalanceResponse": "1.50"}


# --- XML ----------------------------------------------------------------------------------------

BAD_XML: list[tuple[str, bytes]] = [
    ("billion laughs", f"<!DOCTYPE a [{ENTITIES}]><a>&e11;</a>".encode()),
    ("quadratic", f'<!DOCTYPE a [<!ENTITY e "{"x" * 50_000}">]><a>{"&e;" * 50_000}</a>'.encode()),
    ("external entity", b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>'),
    ("external dtd", b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd"><a/>'),
    ("parameter entity", b'<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:1/x"> %p;]><a/>'),
    ("harmless dtd", b"<!DOCTYPE a>" + BALANCE),
    ("depth", b"<a>" * 100_000 + b"</a>" * 100_000),
    ("attributes", b"<a " + b" ".join(b'a%d=""' % n for n in range(1_000)) + b"><b></a>"),
    ("cut off", BALANCE[:-5]),
    ("two roots", BALANCE + BALANCE),
    ("wrong encoding", b'<?xml version="1.0" encoding="utf-8"?><a>\xff\xfe</a>'),
    ("other root", b"<html><body>hello</body></html>"),
    ("no body", b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"/>'),
    ("no xml", b"hello"),
    ("nothing", b""),
]


@pytest.mark.parametrize("body", [body for _, body in BAD_XML], ids=[name for name, _ in BAD_XML])
def test_xml_that_is_no_plain_soap_is_refused_and_nobody_knows(soap_driver: MakeSoapDriver, body: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="no SOAP"):
        ask(soap_driver, answer(body))
    assert time.monotonic() - started < 4


def test_a_bomb_in_a_fault_is_refused(soap_driver: MakeSoapDriver) -> None:
    fault = envelope("<s:Fault><faultcode>s:Client</faultcode><faultstring>&e11;</faultstring></s:Fault>").decode()
    with pytest.raises(OutcomeUnknown, match=r"DOCTYPE|well-formed"):
        ask(soap_driver, answer(f"<!DOCTYPE a [{ENTITIES}]>{fault}".encode(), "500 Error"))


# --- values that are not what the WSDL says ------------------------------------------------------

ODD: list[tuple[str, str]] = [
    ("<GetBalanceResponse xmlns='urn:example:finance'>1,50</GetBalanceResponse>", "type decimal, found '1,50'"),
    ("<GetBalanceResponse xmlns='urn:example:finance'>1e5</GetBalanceResponse>", "type decimal"),
    ("<GetBalanceResponse xmlns='urn:example:finance'/>", "type decimal, found ''"),
    ("<GetBalanceResponse xmlns='urn:example:finance'><x/></GetBalanceResponse>", "'x', which is not in the WSDL"),
    ("<Other xmlns='urn:example:finance'>1</Other>", "should be the element"),
    ("<GetBalanceResponse>1</GetBalanceResponse>", "should be the element"),
]


@pytest.mark.parametrize(("body", "reason"), ODD)
def test_a_value_that_is_none_of_its_type_is_not_passed_on(soap_driver: MakeSoapDriver, body: str, reason: str) -> None:
    with pytest.raises(ValueUnreadable) as caught:
        ask(soap_driver, answer(envelope(body)))
    assert reason in caught.value.message
    assert caught.value.touched


TYPES_WSDL = """
<wsdl:definitions targetNamespace="urn:t" xmlns:t="urn:t" xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/"
    xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap{version}/" xmlns:xsd="http://www.w3.org/2001/XMLSchema">
  <wsdl:types><xsd:schema targetNamespace="urn:t" elementFormDefault="qualified">
    <xsd:complexType name="Money"><xsd:simpleContent><xsd:extension base="xsd:decimal">
      <xsd:attribute name="currency" type="xsd:string"/></xsd:extension></xsd:simpleContent></xsd:complexType>
    <xsd:complexType name="Base"><xsd:sequence><xsd:element name="id" type="xsd:int"/></xsd:sequence></xsd:complexType>
    <xsd:complexType name="More"><xsd:complexContent><xsd:extension base="t:Base"><xsd:sequence>
      <xsd:element name="extra" type="xsd:date"/></xsd:sequence></xsd:extension></xsd:complexContent></xsd:complexType>
    <xsd:element name="Ask"><xsd:complexType><xsd:sequence>
      <xsd:choice><xsd:element name="one" type="xsd:int"/><xsd:element name="other" type="xsd:string"/></xsd:choice>
      <xsd:element name="when" type="xsd:dateTime" minOccurs="0"/>
      <xsd:element name="hex" type="xsd:hexBinary" minOccurs="0"/>
      <xsd:element name="year" type="xsd:gYear" minOccurs="0"/><xsd:element name="money" type="t:Money" minOccurs="0"/>
      <xsd:element name="tags" minOccurs="0"><xsd:simpleType>
        <xsd:list itemType="xsd:int"/></xsd:simpleType></xsd:element>
      <xsd:element name="two" type="xsd:string" minOccurs="0" maxOccurs="2"/>
    </xsd:sequence></xsd:complexType></xsd:element>
    <xsd:element name="AskResponse"><xsd:complexType><xsd:sequence>
      <xsd:element name="v" type="xsd:{kind}" minOccurs="0" nillable="true"/>
      <xsd:element name="money" type="t:Money" minOccurs="0"/><xsd:element name="base" type="t:Base" minOccurs="0"/>
      <xsd:element name="tags" minOccurs="0"><xsd:simpleType>
        <xsd:list itemType="xsd:int"/></xsd:simpleType></xsd:element>
      <xsd:sequence minOccurs="0" maxOccurs="unbounded"><xsd:element name="k" type="xsd:string"/>
        <xsd:element name="n" type="xsd:int"/></xsd:sequence>
      <xsd:any minOccurs="0" processContents="lax" namespace="##other"/>
    </xsd:sequence></xsd:complexType></xsd:element>
  </xsd:schema></wsdl:types>
  <wsdl:message name="In"><wsdl:part name="b" element="t:Ask"/></wsdl:message>
  <wsdl:message name="Out"><wsdl:part name="b" element="t:AskResponse"/></wsdl:message>
  <wsdl:portType name="P"><wsdl:operation name="Ask">
    <wsdl:input message="t:In"/><wsdl:output message="t:Out"/></wsdl:operation></wsdl:portType>
  <wsdl:binding name="B" type="t:P"><soap:binding transport="http://schemas.xmlsoap.org/soap/http"/>
    <wsdl:operation name="Ask"><soap:operation soapAction="urn:ask"/><wsdl:input><soap:body use="literal"/></wsdl:input>
      <wsdl:output><soap:body use="literal"/></wsdl:output></wsdl:operation></wsdl:binding>
  <wsdl:service name="S"><wsdl:port name="P" binding="t:B"><soap:address location="http://127.0.0.1:1/"/></wsdl:port></wsdl:service>
</wsdl:definitions>
"""


@pytest.fixture
def typed(soap_driver: MakeSoapDriver, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], bytes]]:
    """Ask a service whose answer has a ``v`` of type ``kind``; return the outputs and the request's bytes."""

    def typed_ask(
        inner: str, kind: str = "string", params: dict[str, Any] | None = None, version: str = ""
    ) -> tuple[dict[str, Any], bytes]:
        (tmp_path / "t.wsdl").write_text(TYPES_WSDL.format(kind=kind, version=version))
        body = envelope(
            f'<AskResponse xmlns="urn:t" xmlns:i="http://www.w3.org/2001/XMLSchema-instance">{inner}</AskResponse>'
        )
        with misbehaving(answer(body)) as server:
            driver = soap_driver("Ask", wsdl="t.wsdl", endpoint=server.url)
            return outputs(driver, params or {"one": 1}), server.requests[0]

    return typed_ask


VALUES: list[tuple[str, str, Any]] = [
    ("string", "", ""),
    ("string", "  a\n b ", "  a\n b "),
    ("boolean", "true", True),
    ("boolean", " 0 ", False),
    ("integer", "123456789012345678901234567890", 123456789012345678901234567890),
    ("long", "-9223372036854775808", -9223372036854775808),
    ("unsignedByte", "+255", 255),
    ("decimal", "0.0000000001", "0.0000000001"),
    ("decimal", "+00.10", "0.10"),
    (
        "decimal",
        "12345678901234567890.123456789012345678901234567890",
        "12345678901234567890.123456789012345678901234567890",
    ),
    ("double", "1.7976931348623157E308", 1.7976931348623157e308),
    ("double", "0.1", 0.1),
    ("double", "-INF", "-Infinity"),
    ("float", "NaN", "NaN"),
    ("date", "2026-01-31", "2026-01-31"),
    ("date", "2026-01-31+01:00", "2026-01-31+01:00"),
    ("date", "0001-01-01", "0001-01-01"),
    ("dateTime", "9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
    ("dateTime", "2026-01-31T10:00:00", "2026-01-31T10:00:00"),
    ("time", "10:00:00.5-05:00", "10:00:00.5-05:00"),
    ("base64Binary", "AAEC\n /w==", "AAEC/w=="),
    ("hexBinary", "000102fF", "AAEC/w=="),
    ("duration", "P1DT2H", "P1DT2H"),
    ("gYear", "2026", "2026"),
    ("anyURI", "urn:x", "urn:x"),
]


@pytest.mark.parametrize(("kind", "text", "wanted"), VALUES)
def test_every_type_arrives_without_loss(typed: Any, kind: str, text: str, wanted: Any) -> None:
    found, _ = typed(f"<v>{text}</v>", kind)
    assert found["v"] == wanted
    assert type(found["v"]) is type(wanted)


def test_nothing_and_null_and_empty_differ_where_json_can_say_it(typed: Any) -> None:
    assert typed("")[0]["v"] is None
    assert typed('<v i:nil="true"/>')[0]["v"] is None
    assert typed("<v/>")[0]["v"] == ""


NOT_OF_THE_TYPE = [
    ("boolean", "yes"),
    ("int", "1.0"),
    ("integer", ""),
    ("double", "1,5"),
    ("date", "31.01.2026"),
    ("dateTime", "2026-01-31"),
    ("base64Binary", "!"),
    ("hexBinary", "0"),
]


@pytest.mark.parametrize(("kind", "text"), NOT_OF_THE_TYPE)
def test_what_is_none_of_its_type_is_named(typed: Any, kind: str, text: str) -> None:
    with pytest.raises(ValueUnreadable, match=r"AskResponse\.v should be of type"):
        typed(f"<v>{text}</v>", kind)


def test_shapes_of_all_kinds_are_read(typed: Any) -> None:
    found, _ = typed(
        '<money currency="EUR">1.50</money><base i:type="t:More" xmlns:t="urn:t"><id>1</id>'
        "<extra>2026-01-31</extra></base><tags>1 2 3</tags><k>a</k><n>1</n><k>b</k><n>2</n>"
        '<x xmlns="urn:other"><y>1</y><y>2</y></x>'
    )
    assert found == {
        "v": None,
        "money": {"#text": "1.50", "currency": "EUR"},
        "base": {"id": 1, "extra": "2026-01-31"},
        "tags": [1, 2, 3],
        "k": ["a", "b"],
        "n": [1, 2],
        "x": {"y": ["1", "2"]},
    }


def test_an_element_more_than_the_wsdl_allows_is_not_dropped_quietly(typed: Any) -> None:
    with pytest.raises(ValueUnreadable, match="stands twice"):
        typed("<v>1</v><v>2</v>")


SENT: list[tuple[dict[str, Any], str]] = [
    ({"one": 1}, "<ns0:one>1</ns0:one>"),
    ({"other": "x", "when": "2026-01-31T10:00:00+01:00"}, "<ns0:when>2026-01-31T10:00:00+01:00</ns0:when>"),
    ({"one": 1, "when": "2026-01-31T10:00:00.123456Z"}, "<ns0:when>2026-01-31T10:00:00.123456Z</ns0:when>"),
    ({"one": 1, "hex": "AAEC/w=="}, "<ns0:hex>000102FF</ns0:hex>"),
    ({"one": 1, "year": "2026"}, "<ns0:year>2026</ns0:year>"),
    ({"one": 1, "money": {"#text": "1.50", "currency": "EUR"}}, '<ns0:money currency="EUR">1.50</ns0:money>'),
    ({"one": 1, "tags": [1, 2]}, "<ns0:tags>1 2</ns0:tags>"),
    ({"one": 1, "two": ["a", "b"]}, "<ns0:two>a</ns0:two><ns0:two>b</ns0:two>"),
]


@pytest.mark.parametrize(("params", "wanted"), SENT, ids=repr)
def test_values_are_sent_as_their_types_want(typed: Any, params: dict[str, Any], wanted: str) -> None:
    _, request = typed("", params=params)
    assert wanted in request.decode()
    assert b'\r\nSOAPAction: "urn:ask"\r\n' in request


@pytest.mark.parametrize(("params", "_wanted"), SENT, ids=repr)
@pytest.mark.parametrize("version", ["", "12"])
def test_the_first_request_and_those_after_it_are_written_alike(
    soap_driver: MakeSoapDriver, tmp_path: Path, params: dict[str, Any], _wanted: str, version: str
) -> None:
    (tmp_path / "t.wsdl").write_text(TYPES_WSDL.format(kind="string", version=version))
    body = envelope('<AskResponse xmlns="urn:t"/>')
    with misbehaving(answer(body)) as server:
        driver = soap_driver("Ask", wsdl="t.wsdl", endpoint=server.url)
        for _ in range(3):
            outputs(driver, params)
        assert server.requests == [server.requests[0]] * 3


@pytest.mark.parametrize(
    "params", [{"one": 1, "other": "x"}, {"one": 1, "year": "x"}, {"one": 1, "two": ["a", "b", "c"]}], ids=repr
)
def test_values_that_do_not_fit_are_not_sent(typed: Any, params: dict[str, Any]) -> None:
    with pytest.raises(CommandError) as caught:
        typed("", params=params)
    assert caught.value.code == "parameters_invalid"


def test_soap_1_2_is_spoken_where_the_wsdl_says_so(soap_driver: MakeSoapDriver, tmp_path: Path) -> None:
    (tmp_path / "t.wsdl").write_text(TYPES_WSDL.format(kind="int", version="12"))
    new = "http://www.w3.org/2003/05/soap-envelope"
    fault = (
        f'<e:Envelope xmlns:e="{new}"><e:Body><e:Fault><e:Code><e:Value>e:Sender</e:Value><e:Subcode>'
        '<e:Value xmlns:m="urn:m">m:OutOfStock</e:Value></e:Subcode></e:Code><e:Reason><e:Text xml:lang="en">No stock.'
        "</e:Text></e:Reason></e:Fault></e:Body></e:Envelope>"
    )
    with misbehaving(answer(fault.encode(), "400 Bad Request", "application/soap+xml")) as server:
        for business, error in ((("OutOfStock",), "source_rejected"), ((), "source_failed")):
            driver = soap_driver("Ask", {"business_faults": business}, wsdl="t.wsdl", endpoint=server.url)
            with pytest.raises(CommandError, match=r"No stock\.") as caught:
                run(driver, {"one": 1})
            assert caught.value.code == error
        assert b'application/soap+xml; charset=utf-8; action="urn:ask"' in server.requests[0]


# --- HTTP ---------------------------------------------------------------------------------------

ODD_REPLIES: list[tuple[bytes, type[CommandError], str]] = [
    (answer(b"<html>Wartung</html>", "503 Down", "text/html"), OutcomeUnknown, "HTTP 503.*Wartung"),
    (answer(b"<html>ok</html>", "200 OK", "text/html"), OutcomeUnknown, "HTTP 200 and no SOAP"),
    (answer(b"", "500 Error"), OutcomeUnknown, "HTTP 500.*an empty reply"),
    (answer(BALANCE, "500 Error"), OutcomeUnknown, "an envelope without a fault"),
    (answer(b"x", "401 No"), SourceFailed, "did not let us in"),
    (answer(b"x", "403 No"), SourceFailed, "did not let us in"),
    (answer(b"nothing here", "404 Not Found"), SourceFailed, "HTTP 404.*nothing here"),
    (
        answer(b"", "302 Found", more="Location: http://evil.invalid/\r\n"),
        SourceFailed,
        r"sends us on to http://evil\.invalid/",
    ),
    (answer(b"", "307 Temporary", more="Location: /other\r\n"), SourceFailed, "not followed"),
    (answer(b"x" * 5_000, "500 Error"), OutcomeUnknown, "x{300}…"),
    (answer(gzip.compress(b" " * 10_000_000), more="Content-Encoding: gzip\r\n"), OutcomeUnknown, "compressed"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n<a>", OutcomeUnknown, "contact was lost"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n<a></", OutcomeUnknown, "contact was lost"),
    (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", OutcomeUnknown, "contact was lost"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, OutcomeUnknown, "contact was lost"),
    (b"SSH-2.0-OpenSSH\r\n", OutcomeUnknown, "contact was lost"),
    (b"", OutcomeUnknown, "contact was lost"),
]


@pytest.mark.parametrize(("reply", "error", "reason"), ODD_REPLIES, ids=lambda value: repr(value)[:40])
def test_odd_replies_are_told_for_what_they_are(
    soap_driver: MakeSoapDriver, reply: bytes, error: type[CommandError], reason: str
) -> None:
    with pytest.raises(error, match=reason) as caught:
        ask(soap_driver, reply)
    assert type(caught.value) is error


def test_a_login_is_not_shown_to_where_we_are_sent(soap_driver: MakeSoapDriver) -> None:
    auth = {"scheme": "basic", "username": "svc", "password": "s3cr3t"}
    with misbehaving(answer(BALANCE)) as thief:
        for status in ("301 Moved", "302 Found", "307 Temporary", "308 Permanent"):
            with pytest.raises(SourceFailed, match="not followed"):
                ask(soap_driver, answer(b"", status, more=f"Location: {thief.url}\r\n"), auth=auth)
        assert thief.requests == []


@pytest.mark.parametrize(
    "challenge", ["Basic realm=x", "Digest realm=x", 'Digest realm="x", nonce="y", algorithm=FOO', "", "Negotiate"]
)
def test_a_challenge_that_is_no_digest_gets_no_answer(soap_driver: MakeSoapDriver, challenge: str) -> None:
    auth = {"scheme": "digest", "username": "svc", "password": "s3cr3t"}
    with misbehaving(answer(b"", "401 No", more=f"WWW-Authenticate: {challenge}\r\n")) as server:
        with pytest.raises(SourceFailed) as caught:
            run(soap_driver("GetBalance", endpoint=server.url, auth=auth), {"GetBalance": "x"})
        assert len(server.requests) == 1
    assert "s3cr3t" not in caught.value.message


def test_a_reply_beyond_the_limit_is_left_while_it_is_read(soap_driver: MakeSoapDriver) -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n\r\n<a>")
        while True:
            connection.sendall(b"x" * 65_536)

    with pytest.raises(OutcomeUnknown, match="more than 100000 bytes; raise max_reply_bytes"):
        ask(soap_driver, endless, max_reply_bytes=100_000)


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 100 Continue\r\n"])
def test_a_byte_now_and_then_does_not_stretch_the_time(soap_driver: MakeSoapDriver, start: bytes) -> None:
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(start)
        while not done.wait(0.05):
            connection.sendall(b"x")

    started = time.monotonic()
    with misbehaving(drip) as server:
        driver = soap_driver("GetBalance", endpoint=server.url)
        with pytest.raises(OutcomeUnknown, match="in time"):
            run(driver, {"GetBalance": "x"}, timeout_s=0.5)
        assert time.monotonic() - started < 3
        done.set()


def test_a_connection_that_is_never_accepted_touched_nothing(soap_driver: MakeSoapDriver) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        filling = [socket.socket() for _ in range(4)]
        for one in filling:  # until the queue is full and the system answers no more
            one.setblocking(False)
            one.connect_ex(address)
        with pytest.raises(SourceUnavailable) as caught:
            run(
                soap_driver("GetBalance", endpoint=f"http://127.0.0.1:{address[1]}/x"),
                {"GetBalance": "x"},
                timeout_s=0.5,
            )
        assert not caught.value.touched
        for one in filling:
            one.close()


# --- WSDL ---------------------------------------------------------------------------------------

HOSTILE_WSDL: list[tuple[str, str]] = [
    (f"<!DOCTYPE a [{ENTITIES}]><a>&e11;</a>", "DOCTYPE|well-formed"),
    ('<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><a>&e;</a>', "DOCTYPE"),
    ("hello", "well-formed"),
    ("<a/>", "can't be read|no operation"),
    ("", "well-formed"),
]


@pytest.mark.parametrize(("text", "reason"), HOSTILE_WSDL, ids=lambda value: repr(value)[:30])
def test_a_wsdl_that_is_none_is_refused(soap_driver: MakeSoapDriver, tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.wsdl").write_text(text)
    with pytest.raises(SourceFailed, match=reason):
        run(soap_driver("GetBalance", wsdl="x.wsdl"), {})


def importing(location: str) -> str:
    return (
        (FOLDER / "finance.wsdl")
        .read_text()
        .replace(
            '<xsd:schema targetNamespace="urn:example:finance" elementFormDefault="qualified">',
            '<xsd:schema targetNamespace="urn:example:finance" elementFormDefault="qualified">'
            f'<xsd:import namespace="urn:x" schemaLocation="{location}"/>',
        )
    )


SCHEMA = '<xsd:schema xmlns:xsd="http://www.w3.org/2001/XMLSchema" targetNamespace="urn:x"/>'


def test_a_local_wsdl_fetches_nothing(soap_driver: MakeSoapDriver, tmp_path: Path) -> None:
    with misbehaving(answer(SCHEMA.encode())) as server:
        (tmp_path / "x.wsdl").write_text(importing(server.url))
        with pytest.raises(SourceFailed, match="may not fetch from the network: save that document beside it"):
            soap_driver("GetBalance", wsdl="x.wsdl")
        assert server.requests == []


def test_a_local_wsdl_may_import_a_file_beside_it(
    soap_driver: MakeSoapDriver, finance: FinanceService, tmp_path: Path
) -> None:
    (tmp_path / "x.wsdl").write_text(importing("x.xsd"))
    (tmp_path / "x.xsd").write_text(SCHEMA)
    assert "GetBalanceResponse" in outputs(soap_driver("GetBalance", wsdl="x.wsdl"), {"GetBalance": "x"})


@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://127.0.0.1/x.xsd"])
def test_a_wsdl_by_url_reads_no_local_files(soap_driver: MakeSoapDriver, location: str) -> None:
    with misbehaving(answer(importing(location).encode())) as server, pytest.raises(SourceFailed):
        soap_driver("GetBalance", wsdl=server.url)


def test_a_wsdl_by_url_shows_the_login_only_to_its_own_server(soap_driver: MakeSoapDriver) -> None:
    auth = {"scheme": "basic", "username": "svc", "password": "s3cr3t"}
    with misbehaving(answer(SCHEMA.encode())) as other:
        with misbehaving(answer(importing(other.url).encode())) as server:
            soap_driver("GetBalance", wsdl=server.url, auth=auth)
            assert b"Authorization: Basic" in server.requests[0]
        assert len(other.requests) == 1
        assert b"Authorization" not in other.requests[0]


def test_a_wsdl_whose_server_is_away_can_be_tried_again(soap_driver: MakeSoapDriver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SourceUnavailable):
        soap_driver("GetBalance", wsdl=f"http://127.0.0.1:{port}/x?wsdl")


def test_a_wsdl_that_imports_without_end_is_left(soap_driver: MakeSoapDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsdl_module, "MAX_DOCUMENTS", 5)
    fetched: list[str] = []

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            n = len(fetched)
            body = (
                importing("/1")
                if n == 1
                else (
                    f'<xsd:schema xmlns:xsd="http://www.w3.org/2001/XMLSchema" targetNamespace="urn:{n}">'
                    f'<xsd:import namespace="urn:{n + 1}" schemaLocation="/{n}"/></xsd:schema>'
                ).replace('targetNamespace="urn:2"', 'targetNamespace="urn:x"')
            )
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(SourceFailed, match="more than 5 documents"):
                soap_driver("GetBalance", wsdl=f"http://127.0.0.1:{server.server_port}/")
        finally:
            server.shutdown()
            thread.join()
    assert len(fetched) == 5
