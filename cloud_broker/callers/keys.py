"""Keys of callers: ``ohk_<id>_<secret>``, shown once, kept as SHA-256; replaced without a gap."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from cloud_broker.store.tenants import ApiKey
from cloud_broker.tenants import SCOPES

ID_BYTES: Final = 6  # bytes of chance in an id; it only has to be unlike the others
SECRET_BYTES: Final = 32  # bytes of chance in a secret
MAX_TTL_S: Final = 10 * 366 * 86_400.0  # seconds; who wants longer means a key without an end
SOON_S: Final = 14 * 86_400.0  # seconds before its end from which on a key is said to end soon
DEFAULT_GRACE_S: Final = 86_400.0  # seconds that a replaced key goes on
MAX_GRACE_S: Final = 30 * 86_400.0  # seconds; two keys for one purpose are one too many
MAX_NAME_CHARS: Final = 200  # of a name or an owner
KEY: Final = re.compile(r"ohk_[0-9a-f]{12}_[0-9a-f]{64}")

State = Literal["active", "expires_soon", "expired", "revoked"]


def new_key(
    tenant: str | None,
    scopes: Sequence[str],
    now: float,
    ttl_s: float | None = None,
    *,
    name: str = "",
    owner: str = "",
) -> tuple[ApiKey, str]:
    """
    Return a key's record and its text.

    Args:
        tenant: whose; ``None`` for one that spans tenants.
        ttl_s: seconds that it is valid; ``None`` for until it is revoked.
        name: what it is for.
        owner: who answers for it.

    Raises:
        ValueError: there is no such scope, none was given, or a name is no short text.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        found = ", ".join(unknown) if unknown else "none"
        raise ValueError(f"scopes: wants at least one of {', '.join(SCOPES)}; found {found}")
    for what, text in (("name", name), ("owner", owner)):
        if len(text) > MAX_NAME_CHARS or (text and not text.isprintable()):
            raise ValueError(f"{what}: wants at most {MAX_NAME_CHARS} printable characters")
    key_id, text = _text()
    expires_at = None if ttl_s is None else now + ttl_s
    made = ApiKey(key_id, tenant, tuple(dict.fromkeys(scopes)), now, expires_at, name=name, owner=owner)
    return made, text


def successor(key: ApiKey, now: float) -> tuple[ApiKey, str]:
    """Return record and text of a key with the same rights, valid from now for as long as ``key`` was made for."""
    key_id, text = _text()
    expires_at = None if key.expires_at is None else now + (key.expires_at - key.created_at)
    made = replace(key, id=key_id, created_at=now, expires_at=expires_at, last_used_at=None, replaced_by=None)
    return made, text


def state(key: ApiKey, now: float) -> State:
    """Return how a key is."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "active"
    if key.expires_at <= now:
        return "expired"
    return "expires_soon" if key.expires_at - now <= SOON_S else "active"


def sha256_of(key: str) -> bytes:
    """Return what the store keeps of a key. To look this up tells nothing of the key by the time it takes."""
    return hashlib.sha256(key.encode("utf-8")).digest()


def _text() -> tuple[str, str]:
    key_id = secrets.token_hex(ID_BYTES)
    return key_id, f"ohk_{key_id}_{secrets.token_hex(SECRET_BYTES)}"
