"""
A caller's own key, and what it signs: the agent's operator lists its public half, and believes no broker.

The key file is PKCS #8 in PEM, as OpenSSL reads it, with the caller's name in a line before it.
"""

from __future__ import annotations

import base64
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloud_broker.client.errors import WordsError
from cloud_broker.client.known_agents import check_tenant
from cloud_broker.client.records import Agent
from cloud_broker.client.requests import encoded
from protocol import signing
from protocol.canonical import NotCanonical
from protocol.signing import CommandClaims

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from cloud_broker.client.api import Outhaul
    from cloud_broker.client.sealing import SealedCall

DEFAULT_VALID_S: Final = 3_600.0  # seconds from now on in which the command may run
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # as the operator's file takes it
_FIRST_LINE: Final = re.compile(r"# Outhaul signer (\S+)\s")


@dataclass(frozen=True, slots=True)
class Work:
    """
    What a caller signs besides the time.

    Attributes:
        tenant: whose agents these are.
        agent: by name; exactly one of agent and group.
        version: of the operation, as the catalogue has it.
        params_sha256: of ``params_digest``.
        seal_to: where the result is to be sealed, the key that it is sealed to.
        tenant_kept: the file where the tenant was kept just now, as only the broker says that it is the caller's.
    """

    tenant: str
    operation: str
    version: str
    params_sha256: str
    agent: str | None = None
    group: str | None = None
    seal_to: str | None = None
    tenant_kept: Path | None = None


@dataclass(frozen=True, slots=True)
class Signer:
    """
    A caller that can sign.

    Attributes:
        name: as the operators' files have it.
    """

    name: str
    _key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def make(cls, name: str) -> Signer:
        """
        Return a caller with a new key.

        Raises:
            WordsError: the name can't stand in an operator's file.
        """
        # Deferred: a caller that signs nothing needs none of it.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(_checked_name(name), Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, passphrase: Callable[[], str], name: str | None = None) -> Signer:
        """
        Return the caller whose key a file holds.

        Args:
            passphrase: is asked where the key is encrypted.
            name: in place of the one in the file; wanted where it has none, as OpenSSL makes them.

        Raises:
            WordsError: the file can't be used, or others may read it.
        """
        # Deferred: as above.
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        text = _private_text(path)
        secret = passphrase().encode() if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in text else None
        try:
            key = load_pem_private_key(text, secret)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            # Without the library's words, which are about ASN.1.
            what = (
                "the passphrase is wrong, or the file is damaged" if secret is not None else "it holds no private key"
            )
            raise WordsError(f"{path}: {what}") from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise WordsError(f"{path}: wants an Ed25519 key, such as outhaul keygen makes, found another kind")
        if name is None:
            match = _FIRST_LINE.match(text.decode("utf-8", "replace"))
            if match is None:
                raise WordsError(f"{path} does not say whose key it is: name the caller with --signer NAME")
            name = match[1]
        return cls(_checked_name(name), key)

    @property
    def public(self) -> str:
        """The public half, ``ed25519:BASE64``."""
        return "ed25519:" + base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    @property
    def line(self) -> str:
        """What the operator puts under ``[policy.trusted_signers]``."""
        return f'{_toml_key(self.name)} = "{self.public}"'

    def keep(self, path: Path, passphrase: str | None) -> None:
        """
        Write the key to a new file that only this user may read.

        Args:
            passphrase: that it is encrypted with; ``None`` leaves it in clear.

        Raises:
            WordsError: there is such a file, or it can't be written.
        """
        # Deferred: as above.
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        locked = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
        try:
            # A key that others rely on must not be lost: a file that is there stays as it is.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(f"# Outhaul signer {self.name}\n".encode() + pem)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError as exc:
            raise WordsError(f"{path} is there already, and a key is never written over: name another file") from exc
        except OSError as exc:
            raise WordsError(f"{path} can't be written: {exc.strerror}") from exc

    def sign(self, work: Work, idempotency_key: str, valid_s: float = DEFAULT_VALID_S, now: float | None = None) -> str:
        """
        Return the signature of a command.

        Args:
            idempotency_key: that it is submitted with.
            valid_s: seconds from now on in which it may run.
            now: seconds since 1970; the clock, if ``None``.

        Raises:
            WordsError: nobody would take a signature for so long.
        """
        if not 1 <= valid_s <= signing.MAX_VALID_S:
            raise WordsError(
                f"a signature is valid for 1 second to {signing.MAX_VALID_S // 86_400} days, not {valid_s:g} s"
            )
        begins = int(time.time() if now is None else now)
        claims = CommandClaims(
            tenant=work.tenant,
            operation=work.operation,
            version=work.version,
            params_sha256=work.params_sha256,
            idempotency_key=idempotency_key,
            nbf=begins,
            exp=begins + int(valid_s),
            agent=work.agent,
            group=work.group,
            seal_to=work.seal_to,
        )
        signed = signing.signing_input(signing.COMMAND, self.name, signing.command_payload(claims))
        return signing.compact(signed, self._key.sign(signed))


def work_of(
    client: Outhaul,
    agent: str | None,
    operation: str,
    params: Mapping[str, Any] | None = None,
    *,
    group: str | None = None,
    sealed: SealedCall | None = None,
    version: str | None = None,
) -> Work:
    """
    Return what a caller signs of a call; the same arguments as of ``Outhaul.call``.

    Raises:
        WordsError: the operation's version, or the tenant, is not known here; or the parameters can't be signed.
        TenantChanged: the caller names no tenant, and the broker another one than before.
    """
    if sealed is not None:
        agent, operation = sealed.agent, sealed.operation
        digest = signing.sealed_digest(sealed.text.encode())
    else:
        digest = params_digest(encoded(dict(params or {})))
    if version is not None and client.tenant is not None:
        agents = []
    else:
        agents = [client.agent(agent)] if agent is not None else [one for one in client.agents() if one.group == group]
    tenant, kept = client.tenant, None
    if tenant is None:
        tenant = _tenant_of(agents)
        kept = check_tenant(client.url, tenant)
    return Work(
        tenant=tenant,
        operation=operation,
        version=version or _version(client, agents, operation),
        params_sha256=digest,
        agent=agent,
        group=group,
        seal_to=None if sealed is None else sealed.seal_to,
        tenant_kept=kept,
    )


def keep_signature(path: Path, signature: str) -> None:
    """
    Write a signature to a new file, for ``outhaul commands verify --signature FILE``.

    Raises:
        WordsError: there is such a file, or it can't be written.
    """
    try:
        with path.open("x", encoding="ascii") as file:
            file.write(f"{signature}\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as exc:
        raise WordsError(f"--signature: {path} is there already, of another call: name another file") from exc
    except OSError as exc:
        raise WordsError(f"--signature: {path} can't be written: {exc.strerror}") from exc


def kept_signature(path: Path) -> str:
    """Return what ``keep_signature`` wrote; raises ``WordsError``."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise WordsError(f"--signature: {path} can't be read: {exc}") from exc


def _tenant_of(agents: Sequence[Agent]) -> str:
    if not agents:
        raise WordsError("no agent of this group is known, so the tenant is not: name it, to sign for it")
    return agents[0].tenant


def _version(client: Outhaul, agents: Sequence[Agent], operation: str) -> str:
    for agent in agents:
        for found in client.operations(agent.name):
            if found.name == operation:
                return found.version
    raise WordsError(f"no operation {operation!r} is known there, so its version is not: give it, to sign for it")


def params_digest(params: bytes) -> str:
    """
    Return what is signed of parameters, JSON bytes as they are sent.

    Raises:
        WordsError: two readers could take them differently.
    """
    try:
        return signing.params_digest(params)
    except NotCanonical as exc:
        raise WordsError(f"the parameters can't be signed: {exc}") from exc


def _checked_name(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise WordsError(f"a signer's name wants at most 64 letters, digits, '_', '-' and '.', found {name!r}")
    return name


def _toml_key(name: str) -> str:
    return f'"{name}"' if "." in name else name  # a dot would make a table


def _private_text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if sys.platform != "win32" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise WordsError(f"{path} holds a private key and others may read it: run `chmod 600 {path}`")
            return file.read()
    except OSError as exc:
        raise WordsError(f"{path} can't be read: {exc.strerror}") from exc
