"""An operator's own PKI: a root, an authority under it, and certificates as other people make them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
LOOPBACK = x509.DNSName("localhost")


class Pki:
    """
    A root with one authority under it.

    Attributes:
        root: its certificate.
        middle: that of the authority that issues.
    """

    def __init__(self) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = rsa.generate_private_key(65_537, 2_048)  # many a company's is RSA still
        self.root = self._made("Example Root", self._root_key.public_key(), "Example Root", self._root_key, ca=True)
        self.middle = self._made("Example Issuing", self._key.public_key(), "Example Root", self._root_key, ca=True)

    def agents(
        self,
        uri: str = "spiffe://outhaul/tenant/acme/agent/plant-1",
        *,
        days: int = 365,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        """A key and its certificate; ``days`` until its end, before today where it is negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        return key, self._made("plant", key.public_key(), "Example Issuing", self._key, names, purpose, days)

    def server(self, folder: Path) -> tuple[Path, Path]:
        """Files of a certificate for this machine with its chain, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([LOOPBACK])
        made = self._made(
            "broker", key.public_key(), "Example Issuing", self._key, names, ExtendedKeyUsageOID.SERVER_AUTH
        )
        chain, secret = folder / "own-server.crt", folder / "own-server.key"
        chain.write_bytes(made.public_bytes(Encoding.PEM) + self.middle.public_bytes(Encoding.PEM))
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, secret

    def bundle(self, folder: Path) -> Path:
        """The file of whom to trust."""
        path = folder / "own-root.pem"
        path.write_bytes(self.root.public_bytes(Encoding.PEM))
        return path

    def _made(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        issuer: str,
        signer: Key,
        names: x509.SubjectAlternativeName | None = None,
        purpose: x509.ObjectIdentifier | None = None,
        days: int = 365,
        *,
        ca: bool = False,
    ) -> x509.Certificate:
        end = datetime.now(UTC) + timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_called(name))
            .issuer_name(_called(issuer))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=400))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if ca:
            builder = builder.add_extension(_signs(), critical=True)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return builder.sign(signer, hashes.SHA256())


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _signs() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
