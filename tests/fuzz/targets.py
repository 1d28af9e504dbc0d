"""
What is fuzzed: everything that reads bytes of somebody else, as functions that take any bytes at all.

A target returns where the bytes are taken or refused as they should be; whatever else it raises is a find. The same
targets are run by Hypothesis in the tests and by atheris in ``make fuzz``; files in ``corpus/`` go to both.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import ntpath
import posixpath
import tempfile
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path, PureWindowsPath
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from lxml import etree

from agent import config_errors, config_file, exact_json, parameters, patterns, pauses
from agent.connectors import safe_xml
from agent.connectors.file import documents, names, tables
from agent.connectors.odbc import statements
from agent.connectors.odbc.connection_string import driver_in, parts_of, secrets_of
from agent.connectors.soap import envelope
from agent.connectors.soap.answer import AnswerReader
from agent.connectors.soap.rows import RowPath, RowStream
from agent.connectors.soap.wsdl import Wsdl
from agent.errors import ConfigError, ContentInvalid, EnrolmentError, ParametersInvalid, SecretError, ValueUnreadable
from agent.identity import authorities, enrolment
from agent.journal import disk, frames, reading, records
from agent.leaving import Leaving
from agent.secrets.vault import VaultStore
from agent.settings import CallOperation, DropOperation, FileFormat, Param, SyntheticOperation
from cloud_broker import catalogues
from cloud_broker import settings as broker_settings
from cloud_broker.audit import check as audit_check
from cloud_broker.audit import lines as audit_lines
from cloud_broker.audit import verify as audit_verify
from cloud_broker.callers import jwts
from cloud_broker.identity import certificates
from cloud_broker.link import terminators
from protocol import canonical, codec, proofs, sealing, signing
from protocol.errors import RemoteProtocolError
from protocol.messages import Hello, Welcome
from protocol.messages import Limits as Own
from protocol.session import Session, Side

ROOT: Final = Path(__file__).resolve().parents[2]
CORPUS: Final = Path(__file__).parent / "corpus"

Target = Callable[[bytes], None]


def text_of(data: bytes) -> str:
    """Any text, with characters beyond what can be printed, and halves of pairs."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")


# --- the link ---------------------------------------------------------------------------------------


def message(data: bytes) -> None:
    """A websocket message is refused, or says the same when it is written again."""
    try:
        found = codec.decode(data)
    except RemoteProtocolError:
        return
    assert codec.decode(codec.encode_all(found)) == found


def conversation(data: bytes) -> None:
    """A session survives any peer: the first byte is the side, then messages, each behind its length."""
    side = Side.AGENT if data[:1] < b"\x80" else Side.BROKER
    session = Session(side, Own(), now=0.0)
    with contextlib.suppress(RemoteProtocolError):
        if data[:1] and data[0] % 2:
            _greeted(session)
        stream, now = io.BytesIO(data[1:]), 0.0
        while size := stream.read(2):
            now += 1.0
            session.receive(stream.read(int.from_bytes(size, "big")), now)
            session.tick(now)
            session.next_message(now)


def _greeted(session: Session) -> None:
    if session.side is Side.AGENT:
        session.greet(_HELLO)
        session.receive(codec.encode(codec.Record(_WELCOME)), 0.0)
    else:
        session.receive(codec.encode(codec.Record(_HELLO)), 0.0)
        session.welcome(_WELCOME)


_HELLO: Final = Hello(versions=[1], release="1", features=[], limits=Own(), journal="j", time=0.0)
_WELCOME: Final = Welcome(version=1, release="1", features=[], limits=Own(), tenant="acme", agent="plant-1", time=0.0)


# --- files of the operators -------------------------------------------------------------------------


def agent_file(data: bytes) -> None:
    """The agent's file is read, as pydantic would; or every problem is told in lines that name it."""
    try:
        config_file.parse(text_of(data), "agent.toml")
    except ConfigError as exc:
        assert str(exc).startswith("agent.toml"), exc  # noqa: PT017 - either is right
        assert "can't be read" not in str(exc), exc  # noqa: PT017 - pydantic finds what is wrong
    else:
        assert config_errors.problems(tomllib.loads(text_of(data))) == []


def broker_file(data: bytes) -> None:
    """The broker's file is read, or every problem is told in lines that name it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "broker.toml"
        path.write_bytes(data)
        try:
            broker_settings.load(path)
        except broker_settings.ConfigError as exc:
            assert str(exc).startswith(str(path)), exc  # noqa: PT017 - either is right


def connection_string(data: bytes) -> None:
    """A connection string is taken apart, whatever is in it."""
    text = text_of(data)
    parts_of(text)
    secrets_of(text)
    driver_in(text)


SYNTAXES: Final = (
    statements.Syntax(dollar=True, nested=True),
    statements.Syntax(backslash=True, hash=True, backtick=True),
    statements.Syntax(backtick=True, bracket=True),
    statements.Syntax(nested=True, bracket=True, split=False),
    statements.Syntax(split=False),
)


def statement(data: bytes) -> None:
    """SQL is read by the rules of every database, or refused."""
    text = text_of(data)
    for syntax in SYNTAXES:
        with contextlib.suppress(statements.StatementError):
            statements.parse(text, syntax)
            statements.first_word(text, syntax)


def token(data: bytes) -> None:
    """The text of a token, as somebody pasted it."""
    with contextlib.suppress(EnrolmentError):
        enrolment.parse_token(text_of(data))


# --- JSON -------------------------------------------------------------------------------------------


def json_text(data: bytes) -> None:
    """Two readers of JSON agree; what one takes exactly, the other writes in one way."""
    try:
        value = exact_json.loads(data)
    except exact_json.NotExact:
        value = None
    else:
        _no_nan(value)
        assert exact_json.loads(canonical.canonical(data)) == value
    with contextlib.suppress(canonical.NotCanonical):
        once = canonical.canonical(data)
        assert canonical.canonical(once) == once
        # Nothing that two readers take differently: Python's own reads the same members.
        if len(data) < 4_000:
            assert json.loads(once, parse_int=str, parse_float=str) == json.loads(data, parse_int=str, parse_float=str)


def _no_nan(value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for child in value:
            _no_nan(child)
    else:
        assert value == value, "NaN"


def json_file(data: bytes) -> None:
    """A picked JSON file is rows, each an object on one line, or refused."""
    try:
        rows = documents.json_rows(data.decode("utf-8", "replace"))
    except ContentInvalid:
        return
    for row in rows:
        assert b"\n" not in row
        assert isinstance(msgspec.json.decode(row), dict)


def params(data: bytes) -> None:
    """A request's parameters fit what the operator declared, or each problem is told."""
    try:
        found = parameters.decode(_OPERATION, data)
    except ParametersInvalid:
        return
    assert set(found) == set(_OPERATION.params)
    assert found["word"] is None or (isinstance(found["word"], str) and len(found["word"]) <= 5)
    assert found["count"] is None or 0 <= found["count"] <= 9


_OPERATION: Final = SyntheticOperation(
    connection="x",
    synthetic="echo",
    params={
        "word": Param(type="string", max_length=5, required=False),
        "count": Param(type="integer", min=0, max=9, required=False),
        "amount": Param(type="decimal", scale=2, required=False),
        "at": Param(type="datetime", required=False),
        "day": Param(type="date", required=False),
        "time": Param(type="time", required=False),
        "raw": Param(type="binary", required=False),
        "id": Param(type="uuid", required=False),
        "any": Param(type="json", required=False),
        "one": Param(enum=("a", "b"), required=False),
        "real": Param(type="number", required=False),
        "code": Param(type="string", pattern="([a-z]{2}-)*[0-9]+", required=False),
    },
)


def pattern(data: bytes) -> None:
    """A pattern that is taken never runs away, whatever it is given; one that could is refused with the file."""
    text = text_of(data)
    try:
        fits = patterns.matcher(text)
    except ValueError:
        return
    for character in ("a", "0", " ", "-", "ab"):
        fits(character * 4_000 + "!")


# --- XML --------------------------------------------------------------------------------------------


def xml(data: bytes) -> None:
    """XML of anybody becomes an object without entities, or is refused."""
    try:
        root = safe_xml.parse(data)
    except safe_xml.XmlRefused:
        return
    try:
        found = documents.xml_document(root)
    except ContentInvalid:
        return
    assert len(found) == 1
    assert not list(root.iter(etree.Entity))


def xml_file(data: bytes) -> None:
    """What was read from XML can be written as XML again."""
    form = FileFormat(type="xml")
    try:
        document = documents.xml_document(documents.parse_xml(text_of(data)))
        written = documents.xml_bytes(document, form, "utf-8")
    except ContentInvalid:
        return
    documents.parse_xml(written.decode("utf-8"))


def soap(data: bytes) -> None:
    """A SOAP reply is an answer, a fault, or refused; also with a body that is put into an envelope here."""
    _reply(data)
    _reply(_ENVELOPE % data)


def _reply(data: bytes) -> None:
    with contextlib.suppress(envelope.NotSoap, ValueUnreadable):
        if envelope.fault_of(envelope.read([data])) is None:
            for operation in _operations():
                with contextlib.suppress(ValueUnreadable):
                    AnswerReader(operation, _wsdl().types).outputs(envelope.read([data[:7], data[7:]]))
            _rows_agree(data)


def _rows_agree(data: bytes) -> None:
    """Rows that are read as they come are those that stand in the answer read whole, or there is no answer."""
    operation = _wsdl().operation("GetOrders", None, None)
    path, reader = RowPath(operation, "order"), AnswerReader(operation, _wsdl().types)
    whole = came = None
    with contextlib.suppress(ValueUnreadable):
        whole = reader.outputs(envelope.read([data])).get("order", [])
    columns = [column.name for column in path.columns]
    stream = RowStream(path, reader, range(len(columns)), Leaving(CallOperation(connection="x", call="GetOrders")))
    with contextlib.suppress(ValueUnreadable):
        rows = [*stream.feed(data[:300]), *stream.feed(data[300:])]
        reader.outputs(stream.close())
        came = [dict(zip(columns, row, strict=True)) for row in rows]
    if came is not None:
        assert came == [order or dict.fromkeys(columns) for order in whole or []]
    elif b"type" not in data:  # a row of another type may have other columns
        assert whole is None


_ENVELOPE: Final = (
    b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
    b'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
    b'xmlns:f="urn:example:finance"><s:Body>%s</s:Body></s:Envelope>'
)


@functools.cache
def _wsdl() -> Wsdl:
    return Wsdl(str(ROOT / "config" / "dev" / "finance" / "finance.wsdl"), _nothing)


def _nothing(url: str) -> bytes:
    raise AssertionError(f"a reply made us fetch {url}")


@functools.cache
def _operations() -> list[Any]:
    return [_wsdl().operation(name, None, None) for name in ("PostInvoice", "FindInvoice", "GetOrders")]


# --- tables in files --------------------------------------------------------------------------------


FORMS: Final = (
    (FileFormat(type="csv"), "utf-8"),
    (FileFormat(type="csv", delimiter=";", header=False), "cp1252"),
    (FileFormat(type="csv", columns=("a", "b")), "utf-16"),
    (FileFormat(type="csv", delimiter="\t", columns=("a", "b"), header=False), "cp037"),
    (FileFormat(type="fixed-width", columns=("a", "b"), widths=(3, 5)), "utf-8"),
    (FileFormat(type="fixed-width", columns=("a", "b"), widths=(1, 2), align=("right", "left"), fill="0"), "cp500"),
)


def table(data: bytes) -> None:
    """A csv or fixed-width file is rows of its columns, or refused with its line; the first byte is the form."""
    form, encoding = FORMS[data[0] % len(FORMS)] if data else FORMS[0]
    try:
        rows = list(tables.read(io.BytesIO(data[1:]), form, encoding))
    except ContentInvalid:
        return
    assert all(len(row) == len(rows[0]) for row in rows)


def drop_name(data: bytes) -> None:
    """A name that passes is one file in its folder, on Windows as on Linux, and no other name for another."""
    text = text_of(data)
    try:
        names.check(text)
    except names.NameRefused:
        return
    for path, root in ((posixpath, "/srv/edi"), (ntpath, "C:\\edi"), (ntpath, "\\\\server\\share\\edi")):
        joined = path.join(root, text)
        assert path.normpath(joined) == joined
        assert path.split(joined) == (root, text)
        assert path.splitdrive(text)[0] == ""
    assert PureWindowsPath(text).name == text
    assert not PureWindowsPath(text).is_reserved()
    assert len(text.encode("utf-8")) <= names.MAX_NAME_BYTES
    assert len(text.encode("utf-16-le")) // 2 <= 255
    assert not names.is_ours(text)
    assert names.is_ours(names.temporary(text, f"cmd_{'0' * 26}", "part", 1))


def filled_name(data: bytes) -> None:
    """Whatever a caller's value is, the file is one in its folder."""
    operation = DropOperation(connection="edi", drop="ORD-{a}{b}.csv", format=FileFormat(type="raw"))
    a, _, b = text_of(data).partition("\n")
    try:
        name = names.fill(operation.drop, {"a": a, "b": b})
    except names.NameRefused:
        return
    assert name == f"ORD-{a}{b}.csv"
    drop_name(name.encode("utf-8"))


# --- what is kept on a disk that somebody else may write ------------------------------------------


def vault(data: bytes) -> None:
    """A vault that somebody changed gives no secret and no surprise."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "secrets.vault").write_bytes(data)
        store = VaultStore(folder, "s")
        for act in (
            lambda: store.names(),
            lambda: store.get("n"),
            lambda: store.set("n", "v"),
            lambda: store.delete("n"),
        ):
            with contextlib.suppress(SecretError):
                act()


def journal(data: bytes) -> None:
    """A journal's file is records and damages, which together are all of it."""
    end = 0
    for piece in frames.scan(data, 1):
        assert piece.offset == end
        end = piece.end
        if isinstance(piece, frames.Frame):
            assert frames.encode(piece.sequence, piece.body, 1, piece.chain) == data[piece.offset : piece.end]
    assert end == len(data)
    _folder_of({"000001.log": data, "000002.log": _framed(data)})


def journal_record(data: bytes) -> None:
    """A record with a good checksum that says anything at all: one line in it for each."""
    _folder_of({"000001.log": _framed(data)})


def _framed(data: bytes) -> bytes:
    chain, whole = frames.BEGINNING, []
    for number, body in enumerate(data.split(b"\n")):
        chain = frames.follow(chain, number, body)
        whole.append(frames.encode(number, body, 1, chain))
    return b"".join(whole)


def _folder_of(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file, data in files.items():
            (Path(name) / file).write_bytes(data)
        for whole in (False, True):
            found = reading.read(disk.Disk(), Path(name), records.Index(), whole=whole)
            assert found.size <= sum(map(len, files.values()))
            assert all(str(damage) for damage in found.damages)


# --- signatures, seals, certificates ----------------------------------------------------------------


def signature(data: bytes) -> None:
    """A caller's signature is exactly one text, or refused; the bytes may be its payload too."""
    with contextlib.suppress(signing.SignatureMalformed):
        parsed = signing.parse(text_of(data), signing.COMMAND)
        assert parsed.signed + b"." in text_of(data).encode()
    with contextlib.suppress(signing.SignatureMalformed):
        claims = signing.read_command(data)
        assert signing.command_payload(claims) == data
    with contextlib.suppress(signing.SignatureMalformed):
        proofs.read_result(data)
    with contextlib.suppress(signing.SignatureMalformed):
        proofs.parse(text_of(data))
    with contextlib.suppress(signing.SignatureMalformed):
        signing.public_key_bytes(text_of(data))


def sealed(data: bytes) -> None:
    """Sealed bytes are opened whole and in order, or not at all; nothing is kept of what does not fit."""
    with contextlib.suppress(ValueError):
        sealing.params_bytes(text_of(data))
    with contextlib.suppress(ValueError):
        sealing.key_bytes(text_of(data))

    def unwrap(epoch: int, wrapped: bytes) -> Callable[[bytes, bytes | bytearray | memoryview], bytes]:
        return lambda nonce, frame: bytes(frame[: -sealing.TAG_BYTES])

    opener = sealing.Opener(data[0] if data else 0, unwrap)
    with contextlib.suppress(sealing.SealBroken):
        for at in range(1, len(data), 7):
            list(opener.feed(data[at : at + 7]))
        opener.close()


def jwt(data: bytes) -> None:
    """A token of an OpenID provider is taken apart, or refused."""
    with contextlib.suppress(jwts.TokenRefused):
        jwts.take_apart(text_of(data))
    with contextlib.suppress(ValueError):
        jwts.keys_of(json.loads(data))


def certificate(data: bytes) -> None:
    """A request for a certificate is one with our kind of key, or refused."""
    with contextlib.suppress(certificates.CertificateInvalid):
        certificates.public_key_of_csr(data)


def terminator(data: bytes) -> None:
    """What a TLS terminator says in its headers, one a line: a certificate that is trusted, or refused."""
    first, *rest = data.decode("latin-1").split("\n")
    with contextlib.suppress(certificates.CertificateInvalid):
        found, between = terminators.shown([first] if first else [], rest)
        if found is not None:
            terminators.verify(found, between, [_root()], 1_800_000_000.0)
    terminators.address_of(rest, "127.0.0.1")


@functools.cache
def _root() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
    begins = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begins).not_valid_after(begins + timedelta(days=9_000))
    return builder.sign(key, hashes.SHA256())


def authority_texts(data: bytes) -> None:
    """Authorities that a broker wants to be trusted, one a line."""
    with contextlib.suppress(EnrolmentError):
        authorities.authorities_in(text_of(data).split("\n"))


def audit_export(data: bytes) -> None:
    """An export of the audit trail that somebody changed is checked, or told by its line."""
    lines = data.split(b"\n")
    with contextlib.suppress(audit_lines.LineInvalid):
        audit_verify.of_export(lines, audit_check.by_chain(audit_lines.kept(lines)))
    with contextlib.suppress(audit_lines.LineInvalid):
        audit_verify.of_export(lines, {})


def paused(data: bytes) -> None:
    """A pause that can't be read pauses everything, and never nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / pauses.FOLDER
        folder.mkdir()
        (folder / "x.json").write_bytes(data)
        (found,) = pauses.said(Path(name))
        for connection, one in pauses.in_force([found], ["erp", found.connection]).items():
            assert pauses.refusal(connection, one)


def catalogue(data: bytes) -> None:
    """What an agent says that it can do is read, or refused; and asked with anything."""
    try:
        found = catalogues.read(data)
    except catalogues.CatalogueInvalid:
        return
    for operation in found.operations.values():
        operation.problems({"a": 1}, 7)


TARGETS: Final[dict[str, Target]] = {
    target.__name__: target
    for target in (
        message,
        conversation,
        agent_file,
        broker_file,
        connection_string,
        statement,
        token,
        json_text,
        json_file,
        params,
        pattern,
        xml,
        xml_file,
        soap,
        table,
        drop_name,
        filled_name,
        vault,
        journal,
        journal_record,
        signature,
        sealed,
        jwt,
        certificate,
        terminator,
        authority_texts,
        audit_export,
        paused,
        catalogue,
    )
}


def seeds(target: str) -> list[bytes]:
    """The corpus of a target: inputs that say something, and those that once broke it."""
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
