"""Where the values of ``{secret:NAME}`` live, and how they get to their places."""

from __future__ import annotations

from pathlib import Path

from agent.secrets.base import SecretStore
from agent.secrets.resolve import resolve, resolve_url, secret_names, secret_values
from agent.settings import Settings

__all__ = ["SecretStore", "open_store", "resolve", "resolve_url", "secret_names", "secret_values"]


def open_store(settings: Settings, base_dir: Path = Path()) -> SecretStore:
    """
    Return the store that the operator's file names.

    Args:
        base_dir: folder of the operator's file, where a relative ``state_dir`` starts.

    Raises:
        SecretError: there is none on this machine.
    """
    # Imported here: keyring and cryptography cost 20 MiB and 60 ms, and no agent needs both.
    service = f"outhaul-agent:{settings.agent}"
    if settings.secrets.store == "keyring":
        from agent.secrets.keyring_store import KeyringStore, system_keyring

        return KeyringStore(system_keyring(), service)
    from agent.secrets.vault import VaultStore

    return VaultStore(base_dir / settings.state_dir, service)
