"""What is signed, as bytes; who signs and who checks has the keys."""

from __future__ import annotations

from typing import Final

_RECOVERY: Final = b"outhaul recovery 1\0"


def recovery(request: str, csr: bytes) -> bytes:
    """
    Return what an agent whose certificate has run out signs with that certificate's key.

    Args:
        request: as in ``protocol.messages.Recover``.
        csr: the signing request, DER.
    """
    return _RECOVERY + request.encode() + b"\0" + csr
