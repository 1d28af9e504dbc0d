"""Whom the agent takes a broker's certificate from: one authority, or several while the broker changes to another."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import Sequence
from typing import Final

from agent.errors import EnrolmentError
from agent.identity.held import ENROL, Identity, trusting

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def authorities_of(identity: Identity) -> list[bytes]:
    """
    Return the certificates (DER) of all authorities that the agent takes a broker's certificate from.

    Raises:
        EnrolmentError: they can't be read.
    """
    try:
        text = identity.authorities.read_text(encoding="utf-8")
        return [ssl.PEM_cert_to_DER_cert(found) for found in _PEM.findall(text)]
    except (OSError, ValueError) as exc:
        raise EnrolmentError(f"{identity.authorities}: can't be read ({exc}); put it back, or {ENROL}") from exc


def fingerprints(authorities: Sequence[bytes]) -> list[str]:
    """Return the SHA-256 (hex) of certificates (DER), as ``Hello.trusts`` has them."""
    return [hashlib.sha256(der).hexdigest() for der in authorities]


def authorities_in(texts: Sequence[str]) -> list[bytes]:
    """
    Return the authorities of a broker's message, DER.

    Raises:
        EnrolmentError: they are none; the text says what was wrong.
    """
    try:
        found = [base64.b64decode(text, validate=True) for text in texts]
        if not found:
            raise ValueError("none")
        for der in found:
            trusting(der)
    except (ValueError, ssl.SSLError) as exc:
        raise EnrolmentError(f"the broker sent authorities that are no certificates: {exc}") from exc
    return found


def pem_of(authorities: Sequence[bytes]) -> bytes:
    """Return certificates (DER) as the text of a PEM file."""
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in authorities).encode("ascii")
