"""
Agents' certificates as a TLS terminator passes them on (RFC 9440), and their verification.

The terminator has seen that whoever dialled holds the certificate's key. Nothing else is taken from it: chain, time and
purpose are looked at here, as TLS does where agents come in directly.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud_broker.identity.certificates import CertificateInvalid

CERTIFICATE: Final = "Client-Cert"
CHAIN: Final = "Client-Cert-Chain"
FORWARDED: Final = "X-Forwarded-For"
MAX_FIELD_CHARS: Final = 24_000  # of one certificate in base64
MAX_CHAIN: Final = 5  # certificates between an agent's and its authority's


class Terminators:
    """
    Addresses whose word about a certificate counts.

    Args:
        networks: such as ``10.0.0.0/8`` or ``::1``.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def __contains__(self, host: str) -> bool:
        if not self._networks:
            return False
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        # A listener on `::` sees IPv4 addresses in IPv6's clothes.
        plain = getattr(address, "ipv4_mapped", None) or address
        return any(plain in network for network in self._networks)


def shown(certificate: Sequence[str], chain: Sequence[str]) -> tuple[bytes | None, list[bytes]]:
    """
    Return an agent's certificate and what stands between it and its authority, DER, from the two headers' values.

    Raises:
        CertificateInvalid: they are not as the RFC wants them.
    """
    if len(certificate) > 1:
        raise CertificateInvalid(f"{CERTIFICATE} came {len(certificate)} times; the terminator must replace a client's")
    if not certificate:
        return None, []
    between = [_bytes(CHAIN, part) for part in ",".join(chain).split(",") if part.strip()]
    if len(between) > MAX_CHAIN:
        raise CertificateInvalid(f"{CHAIN} has {len(between)} certificates; at most {MAX_CHAIN}")
    return _bytes(CERTIFICATE, certificate[0]), between


def address_of(forwarded: Sequence[str], otherwise: str) -> str:
    """Return the address that a terminator says somebody comes from: the last one, which it wrote itself."""
    last = ",".join(forwarded).rpartition(",")[2].strip()
    try:
        return str(ipaddress.ip_address(last))
    except ValueError:
        return otherwise


def verify(certificate: bytes, between: Sequence[bytes], trusted: Sequence[x509.Certificate], now: float) -> None:
    """
    See that a certificate is good for a client: issued by who is trusted, in its time, for that purpose.

    Raises:
        CertificateInvalid: it is not; the text says why.
    """
    if not trusted:
        raise CertificateInvalid("the certificate's authority is not trusted")
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        chain = [x509.load_der_x509_certificate(der) for der in between]
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store(list(trusted)))
            .time(datetime.fromtimestamp(now, UTC))
            .extension_policies(ca_policy=_authorities(), ee_policy=_clients())
            .build_client_verifier()
        )
        verifier.verify(leaf, chain)
    except (verification.VerificationError, ValueError) as exc:
        raise CertificateInvalid(f"the certificate can't be trusted: {exc}") from exc


def _authorities() -> verification.ExtensionPolicy:
    # Less than the web's rules: an operator's PKI has seldom been made by them. The verifier itself looks at CA and
    # path length.
    return verification.ExtensionPolicy.permit_all().require_present(
        x509.BasicConstraints, verification.Criticality.AGNOSTIC, _is_authority
    )


def _clients() -> verification.ExtensionPolicy:
    return (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None)
        .require_present(x509.ExtendedKeyUsage, verification.Criticality.AGNOSTIC, _is_for_clients)
    )


def _is_authority(
    policy: verification.Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints
) -> None:
    if not constraints.ca:
        raise ValueError("a certificate in the chain is not an authority's")


def _is_for_clients(
    policy: verification.Policy, certificate: x509.Certificate, purposes: x509.ExtendedKeyUsage
) -> None:
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise ValueError("it is not for clients")


def _bytes(name: str, value: str) -> bytes:
    """
    Return the byte sequence of a structured field.

    Source:
        RFC 8941, section 3.3.5; RFC 9440, section 2.1.
    """
    text = value.strip()
    if len(text) > MAX_FIELD_CHARS or len(text) < 2 or text[0] != ":" or text[-1] != ":":
        raise CertificateInvalid(f"{name} wants a certificate as :BASE64: (RFC 9440)")
    try:
        return base64.b64decode(text[1:-1], validate=True)
    except ValueError as exc:
        raise CertificateInvalid(f"{name} wants a certificate as :BASE64: (RFC 9440)") from exc
