"""Callers that sign, for tests: each field can be bent."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol import signing
from protocol.messages import Run
from protocol.signing import CommandClaims

NOW = 1_790_000_000
PARAMS = b'{"customer": "C042", "total": 10.50}'
CLAIMS = CommandClaims(
    tenant="acme",
    agent="plant-1",
    operation="order",
    version="1",
    params_sha256=signing.params_digest(PARAMS),
    idempotency_key="order-4711",
    nbf=NOW - 60,
    exp=NOW + 600,
)


class Caller:
    """Somebody with a key."""

    def __init__(self, name: str = "web-shop", seed: bytes = b"w") -> None:
        self.name = name
        self._key = Ed25519PrivateKey.from_private_bytes(seed * 32)

    @property
    def public(self) -> str:
        return "ed25519:" + base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, claims: CommandClaims = CLAIMS, **changes: Any) -> str:
        """Sign what is well formed."""
        return self.sign_bytes(signing.command_payload(msgspec.structs.replace(claims, **changes)))

    def sign_bytes(self, payload: bytes, *, header: bytes | None = None) -> str:
        """Sign anything."""
        signed = signing.signing_input(signing.COMMAND, self.name, payload)
        if header is not None:
            signed = encoded(header).encode() + signed[signed.index(b".") :]
        return signing.compact(signed, self._key.sign(signed))

    def bent(self, bend: Callable[[dict[str, Any]], Any]) -> str:
        """Sign the usual payload after ``bend`` changed it in place, or returned other bytes."""
        members = json.loads(signing.command_payload(CLAIMS))
        found = bend(members)
        if not isinstance(found, bytes):
            found = json.dumps(dict(sorted(members.items())), separators=(",", ":"), ensure_ascii=False).encode()
        return self.sign_bytes(found)


def encoded(data: bytes) -> str:
    """Base64url as a JWS has it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def run(signature: str, **changes: Any) -> Run:
    """The command that ``CLAIMS`` are about."""
    facts = {"idempotency_key": CLAIMS.idempotency_key, "signature": signature} | changes
    return Run("cmd_1", 1, facts.pop("operation", "order"), 60.0, 0, **facts)
