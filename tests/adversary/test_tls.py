"""
The broker's two ports and the agent's dial, against certificates of every wrong kind.

A broker runs as a program. Most certificates here are signed with its own authority's key: what they show is that a
mistake of the authority, or of somebody else who uses it, still lets nobody in.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from websockets.sync.client import connect

from agent.errors import LinkError
from agent.identity.enrolment import parse_token
from agent.identity.held import trusting
from agent.link.websocket import open_websocket
from protocol import codec
from protocol.codec import Record
from protocol.messages import Enrol, Enrolled
from tests.adversary.forger import CLIENT, SERVER, URI, Pair, authority, ip, issue, pair_of, uri
from tests.whole.site import Broker, Caller, broker

WAIT_S: Final = 10.0  # seconds for an answer on this machine
UPGRADE: Final = (
    "GET {path} HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: outhaul.1\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What came of knocking.

    Attributes:
        status: of HTTP; 0 if TLS let nothing through.
        text: the answer, or why there is none.
        version: of TLS.
        resumed: the session is one from before.
        session: to come back with.
    """

    status: int
    text: str
    version: str | None = None
    resumed: bool | None = None
    session: ssl.SSLSession | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """A broker with one tenant, one other, and the certificate of the first one's agent."""

    broker: Broker
    root: Pair
    agent: Pair
    caller: Caller

    @property
    def data(self) -> Path:
        return self.broker.folder / "data"

    def context(self, *shown: Pair) -> ssl.SSLContext:
        """A client that trusts this broker and shows a certificate, with those above it, or none."""
        made = trusting(self.root.pem())
        if shown:
            shown[0].load_into(made, *shown[1:])
        return made

    def knock(self, context: ssl.SSLContext, path: str = "/link", session: ssl.SSLSession | None = None) -> Answer:
        return knock(self.broker.link_port, context, path, session)


def knock(port: int, context: ssl.SSLContext, path: str, session: ssl.SSLSession | None = None) -> Answer:
    """Do TLS and ask for a websocket."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), WAIT_S) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as tls,
        ):
            tls.sendall(UPGRADE.format(path=path).encode())
            text = tls.recv(65_536).decode(errors="replace")
            # With TLS 1.3 a server sends tickets, if it does, after the handshake: what was read has taken them.
            words = text.split(" ", 2)
            status = int(words[1]) if len(words) > 1 else 0
            return Answer(status, text, tls.version(), tls.session_reused, tls.session)
    except OSError as exc:  # ssl.SSLError is one
        return Answer(0, str(exc))


def enrolled(site: Broker, token: str) -> Pair:
    """Enrol as an agent does, with a key that the tests have."""
    found = parse_token(token)
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    asks = Record(Enrol(found.secret, secrets.token_urlsafe(16), "0"), request.public_bytes(Encoding.DER))
    context = trusting(found.ca)
    with connect(f"{found.url}/enrol", ssl=context, subprotocols=["outhaul.1"], compression=None) as link:  # type: ignore[list-item]  # a text is one
        link.send(codec.encode(asks))
        (answer,) = codec.decode(link.recv(decode=False))
    assert isinstance(answer.message, Enrolled), answer
    return Pair(x509.load_der_x509_certificate(bytes(answer.payload)), key)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with broker(tmp_path_factory.mktemp("tls")) as running:
        caller = running.tenant("acme")
        running.tenant("globex")
        agent = enrolled(running, running.token("acme", "plant-1"))
        enrolled(running, running.token("globex", "plant-1"))
        yield Site(running, pair_of(running.folder / "data", "ca"), agent, caller)
        caller.close()


# --- who comes in at all ------------------------------------------------------------------------------


def test_the_agents_own_certificate_is_let_in(site: Site) -> None:
    answer = site.knock(site.context(site.agent))
    assert (answer.status, answer.version) == (101, "TLSv1.3"), answer.text


def test_without_a_certificate_there_is_no_link_but_the_way_to_one(site: Site) -> None:
    assert site.knock(site.context()).status == 401
    assert site.knock(site.context(), "/prove").status == 401
    assert site.knock(site.context(), "/enrol").status == 101


Forged = Callable[[Site], tuple[Pair, ...]]


def under(site: Site, *, ca: bool) -> tuple[Pair, ...]:
    """A certificate signed by one of the authority's own, which is an authority itself or no more than an agent."""
    above = issue(site.root, ca=True, purpose=None) if ca else site.agent
    return issue(above), above


STOPPED_BY_TLS: Final[dict[str, Forged]] = {
    "expired": lambda site: (issue(site.root, begins=-40, ends=-1, serial=site.agent.certificate.serial_number),),
    "not yet valid": lambda site: (issue(site.root, begins=1, serial=site.agent.certificate.serial_number),),
    "of another authority": lambda site: (issue(authority()),),
    "of another authority with our authority's name": lambda site: (issue(authority(site.root.certificate.subject)),),
    "of another authority that is sent along": lambda site: (issue(other := authority()), other),
    "a server's": lambda site: (issue(site.root, purpose=SERVER),),
    "the broker's own": lambda site: (pair_of(site.data, "server"),),
    "for mail": lambda site: (issue(site.root, purpose=ExtendedKeyUsageOID.EMAIL_PROTECTION),),
    "the authority's": lambda site: (site.root,),
    "an authority's with the name of an agent": lambda site: (issue(site.root, ca=True),),
    "signed by an agent": lambda site: under(site, ca=False),
    "signed by an authority below ours, which allows none": lambda site: under(site, ca=True),
    "with a critical extension that nobody knows": lambda site: (
        issue(site.root, more=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.9999.1"), b"\5\0"), True)]),
    ),
}


@pytest.mark.parametrize("kind", STOPPED_BY_TLS)
def test_a_certificate_of_the_wrong_kind_does_not_get_through_tls(site: Site, kind: str) -> None:
    shown = STOPPED_BY_TLS[kind](site)
    for path in ("/link", "/prove", "/enrol"):
        answer = site.knock(site.context(*shown), path)
        assert answer.status == 0, answer.text
    assert site.knock(site.context(site.agent)).status == 101, "the broker lives on"


DNS, OTHER = x509.DNSName("plant-1"), uri("spiffe://outhaul/tenant/globex/agent/plant-1")
NAMED: Final[dict[str, list[x509.GeneralName]]] = {
    "nobody": [],
    "two agents": [uri(URI), OTHER],
    "two agents, the other first": [OTHER, uri(URI)],
    "the same agent twice": [uri(URI), uri(URI)],
    "an agent and a host": [uri(URI), DNS],
    "a host and an agent": [DNS, uri(URI)],
    "an agent and an address": [uri(URI), ip("127.0.0.1")],
    "a host that is called as an agent": [x509.DNSName("spiffe.outhaul.tenant.acme.agent.plant-1")],
    "a host": [x509.DNSName("localhost")],
    "a mail address": [x509.RFC822Name("plant-1@acme")],
    "a folder": [x509.DirectoryName(x509.Name([]))],
    "the agent in upper case": [uri("spiffe://outhaul/tenant/acme/agent/PLANT-1")],
    "the tenant in upper case": [uri("spiffe://outhaul/tenant/ACME/agent/plant-1")],
    "the scheme in upper case": [uri("SPIFFE://outhaul/tenant/acme/agent/plant-1")],
    "the domain in upper case": [uri("spiffe://OUTHAUL/tenant/acme/agent/plant-1")],
    "another domain": [uri("spiffe://outhaul.example/tenant/acme/agent/plant-1")],
    "a domain with a port": [uri("spiffe://outhaul:443/tenant/acme/agent/plant-1")],
    "a domain with a user": [uri("spiffe://acme@outhaul/tenant/acme/agent/plant-1")],
    "a letter in percent": [uri("spiffe://outhaul/tenant/acme/agent/plant%2D1")],
    "a slash in percent": [uri("spiffe://outhaul/tenant/acme%2Fagent%2Fplant-1/agent/plant-1")],
    "a slash at the end": [uri(URI + "/")],
    "a further part": [uri(URI + "/agent/plant-1")],
    "two slashes": [uri("spiffe://outhaul/tenant//acme/agent/plant-1")],
    "a way up": [uri("spiffe://outhaul/tenant/globex/../acme/agent/plant-1")],
    "a query": [uri(URI + "?")],
    "a fragment": [uri(URI + "#globex")],
    "a line break": [uri(URI + "\n")],
    "a NUL": [uri(URI + "\0.globex")],
    "a space before": [uri(" " + URI)],
    "an empty tenant": [uri("spiffe://outhaul/tenant//agent/plant-1")],
    "an empty agent": [uri("spiffe://outhaul/tenant/acme/agent/")],
    "very much": [uri(URI + "x" * 4000)],
}


@pytest.mark.parametrize("name", NAMED)
def test_a_certificate_that_does_not_name_exactly_one_agent_is_nobody(site: Site, name: str) -> None:
    # With the agent's own serial: it is the name alone that makes the difference.
    forged = issue(site.root, NAMED[name], serial=site.agent.certificate.serial_number)
    for path in ("/link", "/prove"):
        answer = site.knock(site.context(forged), path)
        assert answer.status in (0, 403), answer.text


UNKNOWN: Final[dict[str, Callable[[Site], Pair]]] = {
    "a serial that the broker never gave": lambda site: issue(site.root),
    "another tenant's agent with this one's serial and key": lambda site: issue(
        site.root, [OTHER], serial=site.agent.certificate.serial_number, key=site.agent.key
    ),
    "an agent that does not exist": lambda site: issue(site.root, [uri("spiffe://outhaul/tenant/acme/agent/nobody")]),
    "a tenant that does not exist": lambda site: issue(
        site.root, [uri("spiffe://outhaul/tenant/nobody/agent/plant-1")]
    ),
    "its name as common name only": lambda site: issue(site.root, [], common_name=URI),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_certificate_that_the_broker_did_not_give_this_agent_is_refused(site: Site, kind: str) -> None:
    assert site.knock(site.context(UNKNOWN[kind](site))).status == 403


def test_a_revoked_certificate_is_refused_and_a_replaced_one_too(site: Site) -> None:
    first = enrolled(site.broker, site.broker.token("acme", "plant-2"))
    assert site.knock(site.context(first)).status == 101
    second = enrolled(site.broker, site.broker.token("acme", "plant-2"))
    assert site.knock(site.context(first)).status == 403
    assert site.knock(site.context(second)).status == 101
    assert site.caller.post("/v1/agents/plant-2/revoke").status_code == 200
    assert site.knock(site.context(second)).status == 403
    assert site.knock(site.context(second), "/prove").status == 403


# --- the protocol itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1])
def test_nothing_older_than_tls_1_3_reaches_the_link(site: Site, newest: ssl.TLSVersion) -> None:
    # So there is no renegotiation, no compression and no static RSA either: 1.3 has none of them.
    context = older(site.context(site.agent), newest)
    for path in ("/link", "/enrol"):
        assert site.knock(context, path).status == 0


def older(context: ssl.SSLContext, newest: ssl.TLSVersion) -> ssl.SSLContext:
    """Let a client speak an old version of TLS, and no newer one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = newest
        context.maximum_version = newest
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def test_a_session_is_never_taken_up_again_without_its_certificate(site: Site) -> None:
    context = site.context(site.agent)
    first = site.knock(context)
    assert first.status == 101
    assert first.session is None or not first.session.has_ticket
    again = site.knock(context, session=first.session) if first.session else site.knock(context)
    assert (again.status, again.resumed) == (101, False)


def test_what_is_no_tls_gets_no_answer_of_http(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.broker.link_port), WAIT_S) as raw:
        raw.sendall(UPGRADE.format(path="/link").encode())
        raw.settimeout(WAIT_S)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            said = raw.recv(4096)
    assert b"HTTP" not in said
    assert site.knock(site.context(site.agent)).status == 101


@pytest.mark.parametrize("header", ["Client-Cert", "X-Forwarded-Client-Cert", "X-SSL-Client-Cert", "X-Client-Cert"])
def test_a_certificate_in_a_header_is_nobodys(site: Site, header: str) -> None:

    der = base64.b64encode(site.agent.certificate.public_bytes(Encoding.DER)).decode()
    path = f"/link HTTP/1.1\r\n{header}: :{der}:\r\nX-Rest: "
    assert site.knock(site.context(), path).status in (400, 401)


def test_the_api_speaks_tls_1_2_and_newer_with_its_own_certificate(tmp_path: Path) -> None:
    root = authority()
    shown = issue(root, [ip("127.0.0.1")], purpose=SERVER)
    made = Broker(tmp_path)
    key = shown.key
    write_pair(tmp_path / "api.crt", tmp_path / "api.key", shown.certificate, key)
    text = made.file.read_text().replace("[api]\n", '[api]\ncertificate = "api.crt"\nkey = "api.key"\n')
    made.file.write_text(text)
    made.facts("init")
    made.program.start()
    try:
        made.program.wait_until(lambda: knock(made.api_port, trusting(root.pem()), "/healthz").status > 0, "serving")
        assert knock(made.api_port, trusting(root.pem()), "/healthz").status > 0
        for newest, reached in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False)):
            context = older(trusting(root.pem()), newest)
            assert (knock(made.api_port, context, "/healthz").status > 0) is reached
        # The broker's own authority is for agents; callers trust whom their system trusts.
        strangers = trusting(pair_of(tmp_path / "data", "ca").pem())
        assert knock(made.api_port, strangers, "/healthz").status == 0
    finally:
        made.program.stop()


def write_pair(
    certificate_path: Path, key_path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    """Write a certificate and its key as an operator would put them."""

    certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


# --- the agent's side ---------------------------------------------------------------------------------


class Impostor:
    """A server that is not the broker; it keeps what it was told before the other side left."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT_S)
        self.port = self._listener.getsockname()[1]
        self.heard: list[bytes] = []
        self.shown: list[bytes | None] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Impostor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept(); closing it would not
        self._thread.join(WAIT_S)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                raw.settimeout(WAIT_S)
                with raw, contextlib.suppress(OSError), self._context.wrap_socket(raw, server_side=True) as tls:
                    self.shown.append(tls.getpeercert(binary_form=True))
                    self.heard.append(tls.recv(65_536))


def impostor(*shown: Pair, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A server's context that asks for a certificate, as the broker does, and checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if newest is not None:
        context.maximum_version = newest
    return shown[0].load_into(context, *shown[1:])


IMPOSTORS: Final[dict[str, Callable[[Pair], tuple[Pair, ...]]]] = {
    "another host": lambda root: (issue(root, [x509.DNSName("broker.example.com")], purpose=SERVER),),
    "another address": lambda root: (issue(root, [ip("127.0.0.2")], purpose=SERVER),),
    "the address as text": lambda root: (issue(root, [x509.DNSName("127.0.0.1")], purpose=SERVER),),
    "the host as common name only": lambda root: (issue(root, [], purpose=SERVER, common_name="127.0.0.1"),),
    "every host": lambda root: (issue(root, [x509.DNSName("*")], purpose=SERVER),),
    "another authority": lambda root: (issue(authority(), [ip("127.0.0.1")], purpose=SERVER),),
    "another authority that is sent along": lambda root: (
        issue(other := authority(root.certificate.subject), [ip("127.0.0.1")], purpose=SERVER),
        other,
    ),
    "an agent of the same authority": lambda root: (issue(root, [ip("127.0.0.1")], purpose=CLIENT),),
    "an agent that signs": lambda root: (
        issue(own := issue(root, [uri(URI)]), [ip("127.0.0.1")], purpose=SERVER),
        own,
    ),
    "a certificate that has run out": lambda root: (
        issue(root, [ip("127.0.0.1")], purpose=SERVER, begins=-9, ends=-1),
    ),
    "a certificate that is not valid yet": lambda root: (issue(root, [ip("127.0.0.1")], purpose=SERVER, begins=1),),
}


@pytest.mark.parametrize("kind", IMPOSTORS)
async def test_the_agent_tells_an_impostor_nothing(kind: str) -> None:
    root = authority()
    with Impostor(impostor(*IMPOSTORS[kind](root))) as there, pytest.raises(LinkError) as refused:
        await open_websocket(f"wss://127.0.0.1:{there.port}", "/link", ours(root), None, timeout_s=WAIT_S)
    assert refused.value.stage == "tls"
    # A second look at its certificate is allowed, which says nothing and shows nothing.
    assert b"".join(there.heard) == b""
    assert set(there.shown) <= {None}


async def test_the_agent_speaks_nothing_older_than_tls_1_3() -> None:
    root = authority()
    shown = issue(root, [ip("127.0.0.1")], purpose=SERVER)
    with Impostor(impostor(shown, newest=ssl.TLSVersion.TLSv1_2)) as there, pytest.raises(LinkError):
        await open_websocket(f"wss://127.0.0.1:{there.port}", "/link", ours(root), None, timeout_s=WAIT_S)
    assert there.heard == []


async def test_the_impostors_here_would_be_believed_with_the_right_certificate() -> None:
    root = authority()
    with Impostor(impostor(issue(root, [ip("127.0.0.1")], purpose=SERVER))) as there, pytest.raises(LinkError):
        await open_websocket(f"wss://127.0.0.1:{there.port}", "/link", ours(root), None, timeout_s=WAIT_S)
    assert b"GET /link" in there.heard[0]


def ours(root: Pair) -> ssl.SSLContext:
    """The agent's own context, with a certificate that it would show."""
    return issue(root).load_into(trusting(root.pem()))
