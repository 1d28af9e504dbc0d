"""Secrets behind the ``keyring`` package: the operating system's own store, named and never guessed."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from keyring.backend import KeyringBackend
from keyring.errors import KeyringError, PasswordDeleteError

from agent.errors import SecretError
from agent.secrets.base import SecretStore, check

_NAMES: Final = "@names"  # no secret's name; keyrings can't list what they hold
WINDOWS_CHARS: Final = 1280  # characters; Windows Credential Manager keeps 2,560 bytes of UTF-16


class KeyringStore(SecretStore):
    """Secrets in one keyring, under one service name; the names are kept as one more entry."""

    def __init__(self, backend: KeyringBackend, service: str) -> None:
        self._backend = backend
        self._service = service

    def get(self, name: str) -> str | None:
        check(name)
        with _told():
            return self._backend.get_password(self._service, name)

    def set(self, name: str, value: str) -> None:
        check(name, value)
        self._check_size(name, value)
        with _told():
            self._backend.set_password(self._service, name, value)
        self._note({*self.names(), name})

    def delete(self, name: str) -> bool:
        check(name)
        with _told():
            try:
                self._backend.delete_password(self._service, name)
            except PasswordDeleteError:
                there = False
            else:
                there = True
        self._note(set(self.names()) - {name})
        return there

    def names(self) -> list[str]:
        with _told():
            text = self._backend.get_password(self._service, _NAMES)
        return sorted(json.loads(text)) if text else []

    def _note(self, names: Collection[str]) -> None:
        text = json.dumps(sorted(names))
        self._check_size("the list of names", text)
        with _told():
            self._backend.set_password(self._service, _NAMES, text)

    def _check_size(self, name: str, value: str) -> None:
        if sys.platform == "win32" and len(value) > WINDOWS_CHARS:
            raise SecretError(
                f"{name}: Windows keeps at most {WINDOWS_CHARS} characters, found {len(value)}; "
                'use store = "vault" in [secrets]'
            )


def system_keyring() -> KeyringBackend:
    """
    Return the keyring of this operating system for this account.

    Raises:
        SecretError: there is none, as on a Linux server without a desktop session.
    """
    backend: type[KeyringBackend]
    # Each imported where it exists; keyring's own search would also take plain-text stores that happen to be there.
    try:
        if sys.platform == "win32":
            from keyring.backends.Windows import WinVaultKeyring as backend
        elif sys.platform == "darwin":
            from keyring.backends.macOS import Keyring as backend
        else:
            from keyring.backends.SecretService import Keyring as backend
        if not backend.viable:
            raise RuntimeError("not usable")
        return backend()
    except (ImportError, RuntimeError, KeyringError) as exc:
        raise SecretError('there is no keyring for this account; use store = "vault" in [secrets]') from exc


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except KeyringError as exc:
        raise SecretError(f"the keyring did not answer: {exc}; is it unlocked for this account?") from exc
