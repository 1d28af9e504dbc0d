"""What TLS tells of a certificate that it verified is what stands in it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cloud_broker.identity.authority import Authority
from cloud_broker.identity.certificates import CertificateInvalid, end_of, end_told, identity_of, identity_told
from cloud_broker.identity.trust import Trust
from cloud_broker.link.tls import server_context
from tests.agent.link.certificates import csr

URI = x509.UniformResourceIdentifier


def told(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, server: ssl.SSLContext, folder: Path) -> Any:
    """Return what a server's TLS tells of a client that shows a certificate."""
    file = folder / "client.pem"
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + key_pem)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.load_cert_chain(file)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1].getpeercert()


def test_an_agent_is_who_its_certificate_names_until_that_ends(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", time.time())
    key = ec.generate_private_key(ec.SECP256R1())
    der, serial, _ = authority.sign_agent(csr(key), "acme", "plant-1", time.time())
    server = server_context(authority, ["localhost"], time.time())
    found: Mapping[str, Any] = told(x509.load_der_x509_certificate(der), key, server, tmp_path)
    assert identity_told(found) == identity_of(der) == ("acme", "plant-1", serial)
    assert end_told(found) == end_of(der)
    assert Trust(tmp_path / "ca").issuer_named(found["issuer"]) == authority.fingerprint
    assert Trust(tmp_path / "ca").issuer_named(((("commonName", "another"),),)) == ""


def _signed(
    names: Sequence[x509.GeneralName], serial: int, ca: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey
) -> tuple[x509.Certificate, x509.Certificate]:
    now = datetime.now(UTC)
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])

    def builder(subject: x509.Name, of: ec.EllipticCurvePrivateKey, number: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(called)
            .public_key(of.public_key())
            .serial_number(number)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )

    root = builder(called, ca, 1).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    leaf = builder(x509.Name([]), key, serial)
    if names:
        leaf = leaf.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return root.sign(ca, hashes.SHA256()), leaf.sign(ca, hashes.SHA256())


@pytest.mark.parametrize(
    "names",
    [
        [],
        [x509.DNSName("spiffe://outhaul/tenant/a/agent/b")],
        [URI("https://outhaul/tenant/a/agent/b")],
        [URI("spiffe://outhaul/tenant/a/agent/b/c")],
        [URI("spiffe://outhaul/tenant/a%2Fb/agent/c")],
        [URI("spiffe://outhaul/tenant//agent/c")],
        [URI("spiffe://other/tenant/a/agent/c")],
        [URI("spiffe://outhaul/tenant/a/agent/c\n")],
        [URI("spiffe://outhaul/tenant/a/agent/c\0")],
        [URI("spiffe://outhaul/tenant/a/agent/b"), URI("spiffe://outhaul/tenant/a/agent/c")],
        [URI("spiffe://outhaul/tenant/a/agent/b"), x509.DNSName("b")],
        [URI("spiffe://outhaul/tenant/a/agent/b"), x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))],
    ],
)
def test_whoever_is_not_named_once_and_well_is_nobody(names: Sequence[x509.GeneralName], tmp_path: Path) -> None:
    ca, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root, leaf = _signed(names, 7, ca, key)
    server = server_context(Authority.create(tmp_path / "ca", time.time()), ["localhost"], time.time())
    server.verify_flags &= ~ssl.VERIFY_X509_STRICT
    server.load_verify_locations(cadata=root.public_bytes(Encoding.DER))
    with pytest.raises(CertificateInvalid, match="must name one agent"):
        identity_told(told(leaf, key, server, tmp_path))


def test_a_serial_of_many_lines_is_refused() -> None:
    name = (("URI", "spiffe://outhaul/tenant/a/agent/b"),)
    with pytest.raises(CertificateInvalid, match="serial"):
        identity_told({"subjectAltName": name, "serialNumber": "AB" * 35 + "\\\n" + "CD"})
