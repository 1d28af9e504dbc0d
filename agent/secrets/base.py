"""What a store of secrets is: the values behind ``{secret:NAME}``."""

from __future__ import annotations

import abc
import re
from typing import Final

from agent.errors import SecretError

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MAX_SECRET_CHARS: Final = 65_536  # characters; a certificate chain with its key has some thousands


class SecretStore(abc.ABC):
    """Names and their values; every call may read a disk or ask another process."""

    @abc.abstractmethod
    def get(self, name: str) -> str | None:
        """
        Return the value of ``name``, or ``None`` if there is none.

        Raises:
            SecretError: the store can't be opened.
        """

    @abc.abstractmethod
    def set(self, name: str, value: str) -> None:
        """
        Keep ``value`` under ``name``, in place of what was there.

        Raises:
            SecretError: the store can't be written, or the name or the value can't be kept.
        """

    @abc.abstractmethod
    def delete(self, name: str) -> bool:
        """
        Forget ``name``; whether it was there.

        Raises:
            SecretError: the store can't be written.
        """

    @abc.abstractmethod
    def names(self) -> list[str]:
        """
        Return all names, sorted.

        Raises:
            SecretError: the store can't be opened.
        """


def check(name: str, value: str = "x") -> None:
    """
    Refuse what no store keeps.

    Raises:
        SecretError: with what was wanted.
    """
    if NAME.fullmatch(name) is None:
        raise SecretError(f"wants a name of letters, digits, '_', '-' and '.', found {name[:64]!r}")
    if not value:
        raise SecretError(f"the value of {name!r} is empty; nothing was kept")
    if "\0" in value or len(value) > MAX_SECRET_CHARS:
        raise SecretError(f"the value of {name!r} wants at most {MAX_SECRET_CHARS} characters and no NUL")
