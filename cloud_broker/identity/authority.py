"""
One authority of the broker: what it issues, and its two files.

Whoever reads its key can be any agent of any tenant. Keys are readable by the broker's account only; on Windows files
take the rights of their folder, which the operator gives.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_broker.identity.certificates import TRUST_DOMAIN, CertificateInvalid, hex_of, name_of, public_key_of_csr
from cloud_broker.tenants import NAME

DAY_S: Final = 86_400.0
CA_LIFE_S: Final = 3_652 * DAY_S
SERVER_LIFE_S: Final = 365 * DAY_S
AGENT_LIFE_S: Final = 30 * DAY_S
EARLY_S: Final = 300.0  # seconds; an agent certificate is valid a little earlier, for clocks that are behind
SERVER_EARLY_S: Final = DAY_S  # so that an agent whose clock is hours behind still gets in, and is told
FIRST: Final = "ca"  # the name of the first authority's files


@dataclass(frozen=True, slots=True)
class Terms:
    """
    What holds for every agent's certificate.

    Attributes:
        life_s: seconds that one is good.
        trust_domain: in the names.
    """

    life_s: float = AGENT_LIFE_S
    trust_domain: str = TRUST_DOMAIN


DEFAULT_TERMS: Final = Terms()


class Authority:
    """
    A certificate authority in a folder.

    Attributes:
        folder: where its files are.
        name: of its files, ``NAME.crt`` and ``NAME.key``.
        certificate: of the root.
        fingerprint: SHA-256 of that certificate, hex.
    """

    def __init__(self, folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self.name = name
        self.certificate = certificate
        self.fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        self._key = key

    def __repr__(self) -> str:
        return f"<Authority {self.name} {self.fingerprint[:8]}>"

    @classmethod
    def create(cls, folder: Path, now: float, name: str = FIRST) -> Authority:
        """
        Make a new root in ``folder``, which is made if it is not there.

        Raises:
            FileExistsError: there is one already; all agents would lose the broker.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        certificate_path, key_path = _files(folder, name)
        if certificate_path.exists() or key_path.exists():
            raise FileExistsError(f"{folder}: an authority is here already")
        key = ec.generate_private_key(ec.SECP256R1())
        # The random part keeps two brokers' roots apart in an agent's error message.
        called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Outhaul authority {secrets.token_hex(4)}")])
        builder = (
            _builder(called, called, key.public_key(), now - SERVER_EARLY_S, now + CA_LIFE_S)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(root=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        certificate = builder.sign(key, hashes.SHA256())
        # The key first: a certificate without its key would look like an authority, and is none.
        write_whole(key_path, _key_pem(key), 0o600)
        write_whole(certificate_path, certificate.public_bytes(Encoding.PEM), 0o644)
        return cls(folder, name, certificate, key)

    @classmethod
    def load(cls, folder: Path, name: str = FIRST) -> Authority:
        """
        Open the one in ``folder``.

        Raises:
            FileNotFoundError: there is none.
            CertificateInvalid: its files can't be read as what they should be.
        """
        certificate_path, key_path = _files(folder, name)
        both = f"{certificate_path.name} or {key_path.name}"
        certificate_pem, key_pem = certificate_path.read_bytes(), key_path.read_bytes()
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = load_pem_private_key(key_pem, None)
        except (ValueError, TypeError) as exc:
            raise CertificateInvalid(f"{folder}: {both} is damaged ({exc}); put both back") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise CertificateInvalid(
                f"{folder}: {key_path.name} is not the key of {certificate_path.name}; put both back from one backup"
            )
        return cls(folder, name, certificate, key)

    def issued(self, certificate: x509.Certificate) -> bool:
        """Whether it signed this certificate itself."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

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
        write_whole(key_path, _key_pem(key), 0o600)
        write_whole(certificate_path, certificate_pem, 0o644)
        return certificate_pem, _key_pem(key)

    def sign_agent(
        self, csr_der: bytes, tenant: str, agent: str, now: float, terms: Terms = DEFAULT_TERMS
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
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name_of(tenant, agent, terms.trust_domain))]),
            ExtendedKeyUsageOID.CLIENT_AUTH,
            now - EARLY_S,
            now + terms.life_s,
        )
        return (
            certificate.public_bytes(Encoding.DER),
            hex_of(certificate.serial_number),
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
            # The two files are written one after the other; a crash between them leaves a pair that does not fit.
            fits = load_pem_private_key(key_pem, None).public_key() == kept.public_key()
        except (ValueError, TypeError):
            return False
        names = kept.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        begin, end = kept.not_valid_before_utc.timestamp(), kept.not_valid_after_utc.timestamp()
        return (
            fits
            and self.issued(kept)
            and set(names) == {_host(host) for host in hosts}
            and begin <= now < begin + (end - begin) * 2 / 3
        )


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.crt", folder / f"{name}.key"


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


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Put ``data`` at ``path`` whole and on disk, or not at all; it replaces what is there."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too: half a key is nobody's, and would lie there for ever
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what changed of the names in a folder survive the loss of power."""
    if os.name == "posix":  # Windows can't flush a folder; its file system does so by itself
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
