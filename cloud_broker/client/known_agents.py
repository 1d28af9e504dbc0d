"""
Agents whose keys were seen before: kept at the first sight, compared ever after.

One file beside the profiles. An agent stands in it under the broker's address and the tenant that the caller named,
not under what the broker says of it: a broker must not be able to make a known agent look like a new one. Where the
caller names no tenant, the one that a broker named first stands in it under the broker's address and ``*``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cloud_broker.client.errors import AgentKeyChanged, ProfileError, TenantChanged, WordsError
from cloud_broker.client.profile import folder, write_private

FILE: Final = "known_agents.json"
ANY: Final = "*"  # no agent's name
KINDS: Final = {"ed25519": "sign", "x25519": "seal"}


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """What an agent is known by: its tenant and its public keys, ``ed25519:…`` and ``x25519:…``."""

    tenant: str
    sign: str
    seal: str


def check(
    url: str, tenant: str | None, name: str, found: KnownAgent, environ: Mapping[str, str] = os.environ
) -> Path | None:
    """
    Compare an agent with what is kept of it, and keep it if it was never seen.

    Args:
        url: of the broker that tells of it.
        tenant: that the caller named, if it did.

    Returns:
        The file, if the agent is new in it; nobody has compared its keys then.

    Raises:
        AgentKeyChanged: it was another one before.
        ProfileError: the file can't be read or written.
    """
    path = folder(environ) / FILE
    kept = _read(path)
    place = " ".join(filter(None, (url, tenant, name)))
    known = kept.get(place)
    if known is None:
        write_private(path, {**kept, place: asdict(found)})
        return path
    if known != asdict(found):
        raise AgentKeyChanged(
            f"{name} shows other keys than before: either it was set up anew, or somebody wants to be taken for it. "
            f"Compare what `outhaul agents {name}` shows with `outhaul-agent identity` on its machine; only if they "
            f"are the same, take its entry out of {path}"
        )
    return None


def check_tenant(url: str, found: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """
    Compare the tenant that a broker names to a caller who named none with the one before, and keep it if it is new.

    Returns:
        The file, if no tenant was known there; only the broker says that it is the caller's.

    Raises:
        TenantChanged: it was another one before.
        ProfileError: the file can't be read or written.
    """
    path = folder(environ) / FILE
    kept = _read(path)
    # Agents that were seen without a tenant's name tell it too.
    before = {entry["tenant"] for place, entry in kept.items() if place.split(" ")[:-1] == [url]}
    if before - {found}:
        raise TenantChanged(
            f"the broker says that your tenant is {found}, and before it was {' and '.join(sorted(before))}: nothing "
            "was signed. Name the one that you mean: --tenant NAME, or `outhaul login --tenant NAME` for later calls"
        )
    if not before:
        write_private(path, {**kept, f"{url} {ANY}": {"tenant": found}})
        return path
    return None


def given(text: str) -> dict[str, str]:
    """
    Return the keys in ``ed25519:…,x25519:…``, one or both, as ``sign`` and ``seal``.

    Raises:
        WordsError: it is no such text.
    """
    keys = {}
    for key in text.replace(",", " ").split():
        kind = KINDS.get(key.partition(":")[0])
        if kind is None or kind in keys:
            raise WordsError(
                f"--agent-keys: wants ed25519:KEY,x25519:KEY as `outhaul-agent identity` has it, found {key}"
            )
        keys[kind] = key
    return keys


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise ProfileError(f"{path} can't be read: {exc}") from exc
    if not isinstance(document, dict):
        raise ProfileError(f"{path} is damaged: put back a copy, or remove it and compare the keys of your agents anew")
    return document
