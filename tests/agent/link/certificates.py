"""Signing requests for tests."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key


def csr_of(key_path: Path, passphrase: str) -> bytes:
    """A signing request (DER) for the key in a file."""
    key = load_pem_private_key(key_path.read_bytes(), passphrase.encode())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return csr(key)


def csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A signing request (DER) for a key."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)
