"""``{secret:NAME}`` in the operator's file, replaced by the value where it is used."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from agent.discretion import keep_quiet_about
from agent.errors import SecretError
from agent.secrets.base import SecretStore
from agent.settings import Model, OdbcConnection

SECRET: Final = re.compile(r"\{secret:([A-Za-z0-9][A-Za-z0-9_.-]{0,63})\}")
_ODBC_SPECIAL: Final = re.compile(r"[\[\]{}(),;?*=!@]|^\s|\s$")  # what ends or changes an attribute of ODBC

Resolvable = TypeVar("Resolvable", bound=str | Model)


def resolve(value: Resolvable, store: SecretStore) -> Resolvable:
    """
    Return ``value`` with all its secrets; a model comes back as a new one.

    In an ODBC connection string a value is put in braces where it needs them.

    Raises:
        SecretError: one is missing (the text has the command that sets it), or the store can't be opened.
    """
    return _replace(value, lambda name: _value(name, store))  # type: ignore[no-any-return]  # a text gives a text, a model a model


def resolve_url(url: str, store: SecretStore) -> str:
    """
    Return ``url`` with all its secrets, percent-encoded.

    Raises:
        SecretError: as ``resolve``.
    """
    return SECRET.sub(lambda match: quote(_value(match[1], store), safe=""), url)


def secret_names(value: Any) -> set[str]:
    """Return the names of all secrets in a text, a model, or what they are made of."""
    if isinstance(value, Model):
        value = msgspec.to_builtins(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return {name for child in value for name in secret_names(child)}
    return set(SECRET.findall(value)) if isinstance(value, str) else set()


def secret_values(value: Any, store: SecretStore) -> tuple[str, ...]:
    """
    Return the values of all secrets in a text, a model, or what they are made of.

    Raises:
        SecretError: as ``resolve``.
    """
    return tuple(_value(name, store) for name in sorted(secret_names(value)))


def _value(name: str, store: SecretStore) -> str:
    value = store.get(name)
    if value is None:
        raise SecretError(f"the secret {name!r} is missing; set it with: outhaul-agent secret set {name}")
    keep_quiet_about([value])
    return value


def _replace(value: Any, get: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return SECRET.sub(lambda match: get(match[1]), value)
    if isinstance(value, tuple):
        return tuple(_replace(child, get) for child in value)
    if isinstance(value, dict):
        return {key: _replace(child, get) for key, child in value.items()}
    if isinstance(value, Model):
        fields = {name: _replace(getattr(value, name), get) for name in value.__struct_fields__}
        if isinstance(value, OdbcConnection):
            fields["connection_string"] = _connection_string(value.connection_string, get)
        return msgspec.structs.replace(value, **fields)
    return value


def _connection_string(text: str, get: Callable[[str], str]) -> str:
    def attribute(match: re.Match[str]) -> str:
        value = get(match[1])
        before, after = text[: match.start()].rstrip(), text[match.end() :].lstrip()
        if before.endswith("{") and after.startswith("}"):
            return value.replace("}", "}}")
        if _ODBC_SPECIAL.search(value) is None:
            return value
        if before.endswith("=") and (not after or after.startswith(";")):
            return "{" + value.replace("}", "}}") + "}"
        raise SecretError(
            f"connection_string: the secret {match[1]!r} has characters that ODBC wants in braces, "
            f"so it must be a whole value, such as Pwd={{secret:{match[1]}}}"
        )

    return SECRET.sub(attribute, text)
