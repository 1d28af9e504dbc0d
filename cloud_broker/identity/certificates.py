"""What stands in a certificate and in a request for one, read with care: either may come from anybody."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_broker.tenants import NAME

MAX_CSR_BYTES: Final = 16_384  # bytes; one with a P-256 key has some 300
TRUST_DOMAIN: Final = "outhaul"

_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"
_IDENTITY: Final = re.compile(r"spiffe://([^/]+)/tenant/([^/]+)/agent/([^/]+)")


class CertificateInvalid(ValueError):
    """A certificate or a request for one is not as it must be; the text says what was wanted."""


def identity_of(certificate_der: bytes, trust_domain: str = TRUST_DOMAIN) -> tuple[str, str, str]:
    """
    Return tenant, agent and serial (hex) of a certificate that TLS has verified.

    Raises:
        CertificateInvalid: it does not name exactly one agent.
    """
    return identity_in(read(certificate_der), trust_domain)


def read(certificate_der: bytes) -> x509.Certificate:
    """
    Return a certificate.

    Raises:
        CertificateInvalid: it is none.
    """
    try:
        return x509.load_der_x509_certificate(certificate_der)
    except ValueError as exc:
        raise CertificateInvalid(f"the certificate names no agent: {exc}") from exc


def identity_in(certificate: x509.Certificate, trust_domain: str = TRUST_DOMAIN) -> tuple[str, str, str]:
    """Return what ``identity_of`` does, and raise likewise, of a certificate that was read already."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as exc:
        raise CertificateInvalid(f"the certificate names no agent: {exc}") from exc
    uris = [str(name.value) if isinstance(name, x509.UniformResourceIdentifier) else "" for name in names]
    return *_named(uris, trust_domain), hex_of(certificate.serial_number)


def identity_told(certificate: Mapping[str, Any], trust_domain: str = TRUST_DOMAIN) -> tuple[str, str, str]:
    """
    Return the same, and raise likewise, of a certificate as ``ssl`` tells of it once it is verified.

    That takes a fraction of the time: ``ssl`` has read it anyway.
    """
    uris = [value if kind == "URI" else "" for kind, value in certificate.get("subjectAltName", ())]
    try:
        serial = int(certificate["serialNumber"], 16)
    except ValueError as exc:  # more digits than any authority may give it are told in lines
        raise CertificateInvalid("the certificate's serial is too long") from exc
    return *_named(uris, trust_domain), hex_of(serial)


def end_told(certificate: Mapping[str, Any]) -> float:
    """Return when it ends, seconds since 1970."""
    # As `ssl.cert_time_to_seconds`, which takes twenty times as long.
    month, day, clock, year, _ = certificate["notAfter"].split()
    hour, minute, second = map(int, clock.split(":"))
    return float(calendar.timegm((int(year), _MONTHS.index(month) // 3 + 1, int(day), hour, minute, second)))


def _named(uris: Sequence[str], trust_domain: str) -> tuple[str, str]:
    """Return tenant and agent, from all the names of a certificate; "" stands for one that is no URI."""
    found = _IDENTITY.fullmatch(uris[0]) if len(uris) == 1 else None
    if found is None or found[1] != trust_domain or not all(NAME.fullmatch(part) for part in found.groups()[1:]):
        raise CertificateInvalid(f"the certificate must name one agent, as {name_of('TENANT', 'AGENT', trust_domain)}")
    return found[2], found[3]


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


def name_of(tenant: str, agent: str, trust_domain: str = TRUST_DOMAIN) -> str:
    """Return the URI that stands for an agent in its certificate."""
    return f"spiffe://{trust_domain}/tenant/{tenant}/agent/{agent}"


def hex_of(serial: int) -> str:
    """Return a serial as the store has it."""
    return f"{serial:040x}"
