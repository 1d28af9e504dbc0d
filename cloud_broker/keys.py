"""Keys of callers: ``ohk_<id>_<secret>``, shown once, kept as SHA-256."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Final

from cloud_broker.store.base import ApiKey
from cloud_broker.tenants import SCOPES

ID_BYTES: Final = 6  # bytes of chance in an id; it only has to be unlike the others
SECRET_BYTES: Final = 32  # bytes of chance in a secret
MAX_TTL_S: Final = 10 * 366 * 86_400.0  # seconds; who wants longer means a key without an end
KEY: Final = re.compile(r"ohk_[0-9a-f]{12}_[0-9a-f]{64}")


def new_key(tenant: str | None, scopes: Sequence[str], now: float, ttl_s: float | None = None) -> tuple[ApiKey, str]:
    """
    Return a key's record and its text.

    Args:
        tenant: whose; ``None`` for one that spans tenants.
        ttl_s: seconds that it is valid; ``None`` for until it is revoked.

    Raises:
        ValueError: there is no such scope, or none was given.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        found = ", ".join(unknown) if unknown else "none"
        raise ValueError(f"wants at least one of the scopes {', '.join(SCOPES)}; found {found}")
    key_id = secrets.token_hex(ID_BYTES)
    text = f"ohk_{key_id}_{secrets.token_hex(SECRET_BYTES)}"
    expires_at = None if ttl_s is None else now + ttl_s
    return ApiKey(key_id, tenant, tuple(dict.fromkeys(scopes)), now, expires_at), text


def sha256_of(key: str) -> bytes:
    """Return what the store keeps of a key. To look this up tells nothing of the key by the time it takes."""
    return hashlib.sha256(key.encode("utf-8")).digest()
