"""
The broker's own authority: who an agent is, and how agents know the broker.

The folder holds ``ca.crt`` and ``ca.key`` (the root: whoever reads this key can be any agent of any tenant), and
``server.crt`` and ``server.key``, which are made anew by themselves. Keys are readable by the broker's account only;
on Windows files take the rights of their folder, which the operator gives.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_broker.tenants import NAME

DAY_S: Final = 86_400.0
CA_LIFE_S: Final = 3_652 * DAY_S
SERVER_LIFE_S: Final = 365 * DAY_S
AGENT_LIFE_S: Final = 30 * DAY_S
EARLY_S: Final = 300.0  # seconds; an agent certificate is valid a little earlier, for clocks that are behind
SERVER_EARLY_S: Final = DAY_S  # so that an agent whose clock is hours behind still gets in, and is told
MAX_CSR_BYTES: Final = 16_384  # bytes; one with a P-256 key has some 300

_IDENTITY: Final = re.compile(r"spiffe://outhaul/tenant/([^/]+)/agent/([^/]+)")


class CertificateInvalid(ValueError):
    """A certificate or a request for one is not as it must be; the text says what was wanted."""


class Authority:
    """
    A certificate authority in a folder.

    Attributes:
        folder: where its files are.
        certificate: of the root.
    """

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, folder: Path, now: float) -> Authority:
        """
        Make a new root in ``folder``, which is made if it is not there.

        Raises:
            FileExistsError: there is one already; all agents would lose the broker.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / "ca.crt").exists() or (folder / "ca.key").exists():
            raise FileExistsError(f"{folder}: an authority is here already")
        key = ec.generate_private_key(ec.SECP256R1())
        # The random part keeps two brokers' roots apart in an agent's error message.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Outhaul authority {secrets.token_hex(4)}")])
        builder = (
            _builder(name, name, key.public_key(), now - SERVER_EARLY_S, now + CA_LIFE_S)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(root=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        certificate = builder.sign(key, hashes.SHA256())
        # The key first: a certificate without its key would look like an authority, and is none.
        _write(folder / "ca.key", _key_pem(key), 0o600)
        _write(folder / "ca.crt", certificate.public_bytes(Encoding.PEM), 0o644)
        return cls(folder, certificate, key)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """
        Open the one in ``folder``.

        Raises:
            FileNotFoundError: there is none.
            CertificateInvalid: its files can't be read as what they should be.
        """
        certificate_pem, key_pem = (folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes()
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = load_pem_private_key(key_pem, None)
        except (ValueError, TypeError) as exc:
            raise CertificateInvalid(f"{folder}: ca.crt or ca.key is damaged ({exc}); put both back") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise CertificateInvalid(f"{folder}: ca.key is not the key of ca.crt; put both back from one backup")
        return cls(folder, certificate, key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root's certificate, hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def ca_der(self) -> bytes:
        """The root's certificate, for tokens."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def ca_pem(self) -> bytes:
        """The root's certificate, for trust files."""
        return self.certificate.public_bytes(Encoding.PEM)

    def server_certificate(self, hosts: Sequence[str], now: float) -> tuple[bytes, bytes]:
        """
        Return certificate and key (PEM) of the broker's own port, from the folder or new.

        New ones are made when there are none, when ``hosts`` changed and when two thirds of their life are over.

        Args:
            hosts: names and IP addresses under which agents dial, at least one.
        """
        certificate_path, key_path = self.folder / "server.crt", self.folder / "server.key"
        with contextlib.suppress(FileNotFoundError, ValueError):
            kept, key_pem = certificate_path.read_bytes(), key_path.read_bytes()
            if self._still_good(x509.load_pem_x509_certificate(kept), key_pem, hosts, now):
                return kept, key_pem
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Outhaul broker")])
        certificate_pem = self._sign(
            name,
            key.public_key(),
            x509.SubjectAlternativeName([_host(host) for host in hosts]),
            ExtendedKeyUsageOID.SERVER_AUTH,
            now - SERVER_EARLY_S,
            now + SERVER_LIFE_S,
        ).public_bytes(Encoding.PEM)
        _write(key_path, _key_pem(key), 0o600)
        _write(certificate_path, certificate_pem, 0o644)
        return certificate_pem, _key_pem(key)

    def sign_agent(
        self, csr_der: bytes, tenant: str, agent: str, now: float, life_s: float = AGENT_LIFE_S
    ) -> tuple[bytes, str, float]:
        """
        Issue an agent's certificate; of the request only the public key is taken.

        Returns:
            The certificate (DER), its serial (hex), its end (seconds since 1970).

        Raises:
            CertificateInvalid: the request is not one for a P-256 key signed with that key.
        """
        for name in (tenant, agent):
            if NAME.fullmatch(name) is None:
                raise CertificateInvalid(f"{name!r} is not a name for a tenant or an agent")
        certificate = self._sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, agent)]),
            public_key_of_csr(csr_der),
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_identity(tenant, agent))]),
            ExtendedKeyUsageOID.CLIENT_AUTH,
            now - EARLY_S,
            now + life_s,
        )
        return (
            certificate.public_bytes(Encoding.DER),
            _hex(certificate.serial_number),
            certificate.not_valid_after_utc.timestamp(),
        )

    def _sign(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        names: x509.SubjectAlternativeName,
        purpose: x509.ObjectIdentifier,
        not_before: float,
        not_after: float,
    ) -> x509.Certificate:
        end = min(not_after, self.certificate.not_valid_after_utc.timestamp())
        return (
            _builder(subject, self.certificate.subject, public_key, not_before, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(root=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(names, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )

    def _still_good(self, kept: x509.Certificate, key_pem: bytes, hosts: Sequence[str], now: float) -> bool:
        try:
            kept.verify_directly_issued_by(self.certificate)
            # The two files are written one after the other; a crash between them leaves a pair that does not fit.
            fits = load_pem_private_key(key_pem, None).public_key() == kept.public_key()
        except (InvalidSignature, ValueError, TypeError):
            return False
        names = kept.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        begin, end = kept.not_valid_before_utc.timestamp(), kept.not_valid_after_utc.timestamp()
        return fits and set(names) == {_host(host) for host in hosts} and begin <= now < begin + (end - begin) * 2 / 3


def identity_of(certificate_der: bytes) -> tuple[str, str, str]:
    """
    Return tenant, agent and serial (hex) of a certificate that TLS has verified.

    Raises:
        CertificateInvalid: it does not name exactly one agent.
    """
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as exc:
        raise CertificateInvalid(f"the certificate names no agent: {exc}") from exc
    found = _IDENTITY.fullmatch(str(names[0].value)) if len(names) == 1 else None
    if (
        found is None
        or not isinstance(names[0], x509.UniformResourceIdentifier)
        or not all(NAME.fullmatch(part) for part in found.groups())
    ):
        raise CertificateInvalid(f"the certificate must name one agent, as {_identity('TENANT', 'AGENT')}")
    return found[1], found[2], _hex(certificate.serial_number)


def public_key_of_csr(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    """
    Return the public key of a signing request (DER).

    Raises:
        CertificateInvalid: it is no request, its signature is wrong, or its key is not on P-256.
    """
    if len(csr_der) > MAX_CSR_BYTES:
        raise CertificateInvalid(f"a signing request of {len(csr_der)} bytes; at most {MAX_CSR_BYTES}")
    try:
        request = x509.load_der_x509_csr(csr_der)
        key = request.public_key()
        signed = request.is_signature_valid
    except Exception as exc:  # cryptography has no one class for what a hostile request may raise
        raise CertificateInvalid("the signing request can't be read") from exc
    if not signed:
        raise CertificateInvalid("the signing request is not signed with its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateInvalid("the signing request must have a key on the curve P-256")
    return key


def same_key(certificate_der: bytes, csr_der: bytes) -> bool:
    """
    Whether one of our certificates was issued for the key of this request.

    Raises:
        CertificateInvalid: the request is not as it must be.
    """
    return x509.load_der_x509_certificate(certificate_der).public_key() == public_key_of_csr(csr_der)


def end_of(certificate_der: bytes) -> float:
    """Return when one of our certificates ends, seconds since 1970."""
    return x509.load_der_x509_certificate(certificate_der).not_valid_after_utc.timestamp()


def server_context(authority: Authority, hosts: Sequence[str], now: float) -> ssl.SSLContext:
    """
    Return the TLS context of the agents' port.

    A client without a certificate gets in, for enrolment comes without one; whoever serves ``/link`` must ask for
    it. One with a certificate that is not ours, has run out or has another purpose does not.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=authority.ca_pem.decode("ascii"))
    # No session tickets: a resumed session would not have its certificate verified again.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    renew_server(context, authority, hosts, now)
    return context


def renew_server(context: ssl.SSLContext, authority: Authority, hosts: Sequence[str], now: float) -> None:
    """Have new connections of a running server shown the certificate of today; cheap, to be called once a day."""
    authority.server_certificate(hosts, now)
    context.load_cert_chain(authority.folder / "server.crt", authority.folder / "server.key")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, not_before: float, not_after: float
) -> x509.CertificateBuilder:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(epoch + timedelta(seconds=int(not_before)))
        .not_valid_after(epoch + timedelta(seconds=int(not_after)))
    )


def _usage(*, root: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not root,
        key_cert_sign=root,
        crl_sign=root,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode("ascii"))


def _identity(tenant: str, agent: str) -> str:
    return f"spiffe://outhaul/tenant/{tenant}/agent/{agent}"


def _hex(serial: int) -> str:
    return f"{serial:040x}"


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    """Put ``data`` at ``path`` whole and on disk, or not at all; it replaces what is there."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # Windows can't flush a folder; its file system does so by itself
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
