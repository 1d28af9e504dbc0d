"""Keys, signing requests and the certificates that come back; large to load, so a running agent does it when needed."""

from __future__ import annotations

import json
import secrets as chance
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent import durable_file
from agent.errors import EnrolmentError

REQUEST_BYTES: Final = 16  # bytes of chance in a request's id
_IDENTITY: Final = "spiffe://"


@dataclass(frozen=True, slots=True)
class Pending:
    """
    A request for a certificate, kept before anything is sent: a repeated one is the same one.

    Attributes:
        request: a random id.
        key: made for it.
        key_pem: the same, encrypted.
    """

    request: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Issued:
    """
    A certificate of an agent.

    Attributes:
        pem: the certificate.
        serial: hex, 40 digits.
        tenant: as its SPIFFE name says.
        agent: as its SPIFFE name says.
        not_before: seconds since 1970.
        not_after: seconds since 1970.
    """

    pem: bytes
    serial: str
    tenant: str
    agent: str
    not_before: float
    not_after: float


def pending(folder: Path, about: str, passphrase: str) -> Pending:
    """
    Return the request that is kept in ``folder``, or a new one, which is kept there.

    Args:
        about: what it is for; a request for something else is replaced.
        passphrase: that the key is kept with.

    Raises:
        OSError: it can't be kept.
    """
    kept = _kept(folder, about, passphrase)
    if kept is not None:
        return kept
    for path in (folder.parent, folder):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.encode()))
    request = chance.token_urlsafe(REQUEST_BYTES)
    durable_file.write(folder / "agent.key", key_pem, 0o600)
    # Last, as it says that the key beside it is whole.
    durable_file.write(folder / "pending.json", json.dumps({"request": request, "about": about}).encode(), 0o600)
    return Pending(request, key, key_pem)


def _kept(folder: Path, about: str, passphrase: str) -> Pending | None:
    try:
        facts = json.loads((folder / "pending.json").read_bytes())
        key_pem = (folder / "agent.key").read_bytes()
        key = load_pem_private_key(key_pem, passphrase.encode())
        if facts["about"] == about and isinstance(key, ec.EllipticCurvePrivateKey):
            return Pending(str(facts["request"]), key, key_pem)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        # None, half written, or locked with a passphrase that is gone: a new one is as good.
        return None
    return None


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a signing request, DER. The broker takes the public key only; names come from what it knows."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def signature(key_pem: bytes, passphrase: str, data: bytes) -> bytes:
    """
    Return an ECDSA signature (SHA-256, DER) with an agent's key.

    Raises:
        EnrolmentError: the key can't be used.
    """
    try:
        key = load_pem_private_key(key_pem, passphrase.encode())
    except (ValueError, TypeError) as exc:
        raise EnrolmentError(f"the agent's key can't be opened: {exc}") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise EnrolmentError("the agent's key is not on an elliptic curve, as enrolment makes it")
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def read(certificate: bytes) -> Issued:
    """
    Read an agent's certificate, PEM or DER.

    Raises:
        EnrolmentError: it is none; the text says what was wanted.
    """
    found = _certificate(certificate)
    tenant, agent = _named(found)
    return Issued(
        pem=found.public_bytes(Encoding.PEM),
        serial=f"{found.serial_number:040x}",
        tenant=tenant,
        agent=agent,
        not_before=found.not_valid_before_utc.timestamp(),
        not_after=found.not_valid_after_utc.timestamp(),
    )


def _certificate(data: bytes) -> x509.Certificate:
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except ValueError as exc:
        raise EnrolmentError(f"this is no certificate: {exc}") from exc


def _named(certificate: x509.Certificate) -> tuple[str, str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        uris = []
    for uri in uris:
        match uri.removeprefix(_IDENTITY).split("/"):
            case [_, "tenant", tenant, "agent", agent] if uri.startswith(_IDENTITY):
                return tenant, agent
    raise EnrolmentError(
        "the certificate names no agent: it wants the URI spiffe://outhaul/tenant/TENANT/agent/AGENT among its names, "
        f"found {', '.join(uris) or 'none'}"
    )


def checked(der: bytes, key: ec.EllipticCurvePrivateKey, tenant: str, agent: str) -> Issued:
    """
    Read a certificate that came, and see that it is this agent's, for this key.

    Raises:
        EnrolmentError: it is not.
    """
    issued = read(der)
    if (issued.tenant, issued.agent) != (tenant, agent):
        raise EnrolmentError(
            f"the broker sent a certificate for {issued.agent!r} of {issued.tenant!r}, where {agent!r} of {tenant!r} "
            "was wanted"
        )
    certificate = x509.load_der_x509_certificate(der)
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound) as exc:
        raise EnrolmentError(f"the broker sent a certificate without a purpose: {exc}") from exc
    if certificate.public_key() != key.public_key() or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise EnrolmentError("the broker sent a certificate that is not for this agent's key")
    return issued
