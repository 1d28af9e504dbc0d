"""Where the values of ``{secret:NAME}`` live; how they get to their places stands in ``resolve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.secrets.base import SecretStore

if TYPE_CHECKING:
    from agent.settings import Settings

__all__ = ["SecretStore", "open_store", "store_of"]


def open_store(settings: Settings, base_dir: Path = Path()) -> SecretStore:
    """
    Return the store that the operator's file names.

    Args:
        base_dir: folder of the operator's file, where a relative ``state_dir`` starts.

    Raises:
        SecretError: there is none on this machine.
    """
    return store_of(settings.secrets.store, settings.agent, base_dir / settings.state_dir)


def store_of(kind: str, agent: str, state_dir: Path) -> SecretStore:
    """Return an agent's store, ``vault`` or ``keyring``; raises as ``open_store``."""
    # Imported here: keyring and cryptography cost 20 MiB and 60 ms, and no agent needs both.
    service = f"outhaul-agent:{agent}"
    if kind == "keyring":
        from agent.secrets.keyring_store import KeyringStore, system_keyring

        return KeyringStore(system_keyring(), service)
    from agent.secrets.vault import VaultStore

    return VaultStore(state_dir, service)
