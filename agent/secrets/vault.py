"""
Secrets in one encrypted file, for servers where no one logs in.

Each value is locked by itself with AES-256-GCM, bound to its service and name; what keeps the
master key is said in ``master_key.py``.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent import durable_file
from agent.errors import SecretError
from agent.secrets.base import SecretStore, check
from agent.secrets.master_key import master_key, source_for_new

FORMAT: Final = "outhaul-vault-1"
LOCK_S: Final = 30.0  # seconds to wait for other programs, each of which needs milliseconds
LOOK_S: Final = 0.01  # seconds between two looks at a lock
_NONCE_BYTES: Final = 12
_PROOF: Final = b"outhaul vault 1 proof"  # locked with the key, so that a wrong key is told from a damaged value

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, folder: Path) -> None:
        """Wait for our turn; LK_LOCK would look once a second only, and give up after ten."""
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                return msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            except OSError as exc:
                if time.monotonic() > deadline:
                    raise SecretError(
                        f"{folder}: another program has used the vault for {LOCK_S:.0f} s; end it, and try again"
                    ) from exc
            time.sleep(LOOK_S)

else:
    import fcntl

    def _lock(descriptor: int, folder: Path) -> None:
        """Wait for our turn."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)


class VaultStore(SecretStore):
    """The secrets of one service in the file ``secrets.vault`` in ``folder``; safe between processes."""

    def __init__(self, folder: Path, service: str) -> None:
        self._folder = folder
        self._path = folder / "secrets.vault"
        self._service = service

    def get(self, name: str) -> str | None:
        check(name)
        if not self._path.exists():
            return None
        with self._locked():
            vault = self._read()
            entry = vault["entries"].get(self._service, {}).get(name)
            if entry is None:
                return None
            return _open(self._key(vault), entry, _bound(self._service, name), f"{self._path}: {name}").decode()

    def set(self, name: str, value: str) -> None:
        check(name, value)
        with self._locked():
            vault = self._read()
            key = self._key(vault)
            entries = vault["entries"].setdefault(self._service, {})
            entries[name] = _close(key, value.encode(), _bound(self._service, name))
            self._write(vault)

    def delete(self, name: str) -> bool:
        check(name)
        with self._locked():
            vault = self._read()
            there = vault["entries"].get(self._service, {}).pop(name, None) is not None
            if there:
                self._write(vault)
        return there

    def names(self) -> list[str]:
        """Return all names, sorted; they are not encrypted."""
        if not self._path.exists():
            return []
        with self._locked():
            return sorted(self._read()["entries"].get(self._service, {}))

    def _key(self, vault: dict[str, Any]) -> bytes:
        key = master_key(vault["key"], self._folder, create="proof" not in vault)
        if "proof" not in vault:
            vault["proof"] = _close(key, _PROOF, _PROOF)
        _open(
            key,
            vault["proof"],
            _PROOF,
            f"{self._path} was locked with another key (copied from another machine?); "
            "put its key back, or move the file away and set the secrets again",
        )
        return key

    def _read(self) -> dict[str, Any]:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return {"format": FORMAT, "key": source_for_new(), "entries": {}}
        except OSError as exc:
            raise SecretError(f"{self._path} can't be read: {exc.strerror}; run this as the agent's account") from exc
        try:
            vault = json.loads(text)
            if vault["format"] != FORMAT:
                raise ValueError(f"wants format {FORMAT}")
            if vault["key"] not in ("credential", "dpapi", "file") or "proof" not in vault:
                raise ValueError("wants a key and its proof")
            for entries in vault["entries"].values():
                for entry in (*entries.values(), vault["proof"]):
                    base64.b64decode(entry, validate=True)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise SecretError(self._set_aside()) from exc
        return dict(vault)

    def _set_aside(self) -> str:
        kept = self._path.with_name(
            f"{self._path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(3)}"
        )
        self._path.rename(kept)
        return (
            f"{self._path} is damaged and was set aside as {kept}; put it back from a backup, or set the secrets again"
        )

    def _write(self, vault: dict[str, Any]) -> None:
        try:
            durable_file.write(self._path, json.dumps(vault, indent=1, sort_keys=True).encode(), 0o600)
        except OSError as exc:
            raise SecretError(
                f"{self._path} can't be written: {exc.strerror}; run this as the agent's account"
            ) from exc

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out: reading too, because Windows can't replace a file that is open."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._folder / "secrets.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise SecretError(f"{self._folder} can't be used: {exc.strerror}; run this as the agent's account") from exc
        try:
            _lock(descriptor, self._folder)
            yield
        finally:
            os.close(descriptor)  # which ends the lock


def _bound(service: str, name: str) -> bytes:
    return f"{len(service)}:{service}|{name}".encode()


def _close(key: bytes, value: bytes, bound: bytes) -> str:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return base64.b64encode(nonce + AESGCM(key).encrypt(nonce, value, bound)).decode("ascii")


def _open(key: bytes, entry: str, bound: bytes, place: str) -> bytes:
    data = base64.b64decode(entry)
    try:
        return AESGCM(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], bound)
    except (InvalidTag, ValueError) as exc:
        words = "" if bound == _PROOF else " was changed by someone else than us; set it again"
        raise SecretError(f"{place}{words}") from exc
