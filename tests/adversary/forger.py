"""Certificates of every wrong kind, signed with an authority's own key or with another's."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
URI = "spiffe://outhaul/tenant/acme/agent/plant-1"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> str:
        """The certificate's text."""
        return self.certificate.public_bytes(Encoding.PEM).decode("ascii")

    def load_into(self, context: ssl.SSLContext, *chain: Pair) -> ssl.SSLContext:
        """Have ``context`` show this certificate, with those above it behind it."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pair.pem"
            path.write_text(key + self.pem() + "".join(above.pem() for above in chain), "ascii")
            context.load_cert_chain(path)
        return context


def pair_of(folder: Path, name: str) -> Pair:
    """Read NAME.crt and NAME.key of a folder."""
    certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
    key = load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Pair(certificate, key)


def uri(text: str) -> x509.UniformResourceIdentifier:
    """A URI among a certificate's names."""
    return x509.UniformResourceIdentifier(text)


def ip(text: str) -> x509.IPAddress:
    """An address among a certificate's names."""
    return x509.IPAddress(ipaddress.ip_address(text))


def authority(name: x509.Name | None = None) -> Pair:
    """Another authority, with a name of its own or with somebody else's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = name or x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Another authority")])
    builder = _builder(subject, subject, key, -1, 3650)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Pair(builder.sign(key, hashes.SHA256()), key)


def issue(
    by: Pair,
    names: Sequence[x509.GeneralName] = (uri(URI),),
    *,
    begins: float = -1,
    ends: float = 30,
    purpose: x509.ObjectIdentifier | None = CLIENT,
    ca: bool = False,
    serial: int | None = None,
    common_name: str = "plant-1",
    key: ec.EllipticCurvePrivateKey | None = None,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Pair:
    """
    Issue a certificate, right or wrong.

    Args:
        by: who signs it.
        names: its subject alternative names; none leaves the extension out.
        begins: days from now.
        ends: days from now.
        more: further extensions, each with whether it is critical.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(subject, by.certificate.subject, key, begins, ends, serial)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=ca), critical=True)
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical=critical)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key())
    return Pair(builder.add_extension(above, critical=False).sign(by.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begins: float,
    ends: float,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
