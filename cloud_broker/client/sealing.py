"""
A call that only its agent can read, and whose result only its caller can: the caller's keys, and what they open.

The bytes are told in ``protocol/sealing.py``.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cloud_broker.client.errors import SealBroken, WordsError
from protocol import sealing
from protocol.framing import Buffer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

_FORMAT: Final = "outhaul-seal-key-1"


class End(msgspec.Struct, frozen=True):
    """
    How a command ended, as the agent sealed it.

    Attributes:
        outcome: the state that the agent says it ended in.
        row_sets: how many rows each has.
        epoch: of the attempt that it is of.
    """

    outcome: str
    outputs: msgspec.Raw = msgspec.Raw(b"null")
    error: Mapping[str, str] | None = None
    warnings: list[str] = []
    row_sets: list[int] = []
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class SealedCall:
    """
    One call: its sealed parameters, and all that is needed to read what comes back.

    Attributes:
        text: the sealed parameters, as they are sent.
        seal_to: the public key of this call, ``x25519:…``.
    """

    tenant: str
    agent: str
    operation: str
    text: str
    seal_to: str
    _key: bytes = field(repr=False)
    _secret: bytes = field(repr=False)
    _digest: str = field(repr=False)  # of the parameters, keyed with the secret

    @classmethod
    def of(cls, tenant: str, agent: str, operation: str, params: bytes, to: str) -> SealedCall:
        """
        Seal parameters.

        Args:
            params: JSON bytes of an object.
            to: the agent's public key, ``x25519:…``.

        Raises:
            WordsError: it is no key.
        """
        # Deferred: a caller that seals nothing needs none of it.
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

        key, secret = X25519PrivateKey.generate(), os.urandom(sealing.KEY_BYTES)
        seal_to = sealing.key_text(key.public_key().public_bytes_raw())
        info = sealing.params_info(tenant, agent, operation, seal_to)
        try:
            public = X25519PublicKey.from_public_bytes(sealing.key_bytes(to))
            sealed = _suite().encrypt(sealing.with_secret(secret, params), public, info)
        except ValueError as exc:
            raise WordsError(f"the key of {agent}: {exc}") from exc
        text = sealing.params_text(sealed)
        return cls(tenant, agent, operation, text, seal_to, key.private_bytes_raw(), secret, _digest_of(secret, params))

    def asks(self, agent: str, operation: str, params: bytes) -> bool:
        """Whether this is a call of an operation with these very parameters."""
        same = hmac.compare_digest(self._digest, _digest_of(self._secret, params))
        return same and (self.agent, self.operation) == (agent, operation)

    # --- what comes back --------------------------------------------------------------------------

    def opener(self, command_id: str, part: int) -> sealing.Opener:
        """Return what opens one part of the result; raises ``protocol.sealing.SealBroken``."""
        # Deferred: as above.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        def unwrap(epoch: int, wrapped: bytes) -> sealing.Cipher:
            info = sealing.result_info(self.tenant, self.agent, command_id, epoch)
            try:
                chance = _suite().decrypt(wrapped, X25519PrivateKey.from_private_bytes(self._key), info)
            except (InvalidTag, ValueError) as exc:
                raise sealing.SealBroken("it is of another command, or sealed to another key") from exc
            cipher = AESGCM(sealing.content_key(chance, self._secret))

            def decrypt(nonce: bytes, data: Buffer) -> bytes:
                try:
                    return cipher.decrypt(nonce, data, None)
                except InvalidTag as exc:
                    raise sealing.SealBroken("something in it was changed, left out, doubled or moved") from exc

            return decrypt

        return sealing.Opener(part, unwrap)

    def end(self, command_id: str, outputs: bytes) -> End | None:
        """
        Return the end in the outputs of a command; ``None`` if there is none, because no agent ended it.

        Raises:
            SealBroken: it is not what the agent sealed.
        """
        try:
            sealed = json.loads(outputs or b"null")
            if sealed is None:
                return None
            opener = self.opener(command_id, sealing.END)
            texts = list(opener.feed(base64.b64decode(sealed["sealed"], validate=True)))
            opener.close()
            return msgspec.structs.replace(msgspec.json.decode(b"".join(texts), type=End), epoch=opener.epoch)
        except (ValueError, KeyError, TypeError, msgspec.DecodeError) as exc:
            raise SealBroken(f"the end of {command_id} is not what the agent sealed: {exc}") from exc

    # --- kept for later -----------------------------------------------------------------------------

    def keep(self, path: Path) -> None:
        """
        Write all of it to a new file that only this user may read.

        Raises:
            WordsError: there is such a file, or it can't be written.
        """
        document = {
            "format": _FORMAT,
            "tenant": self.tenant,
            "agent": self.agent,
            "operation": self.operation,
            "sealed": self.text,
            "seal_to": self.seal_to,
            "key": _text(self._key),
            "secret": _text(self._secret),
            "params_digest": self._digest,
        }
        try:
            # Another's key must not be lost: a file that is there stays as it is.
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise WordsError(f"--seal-key: {path} can't be written: {exc.strerror}") from exc

    @classmethod
    def kept(cls, path: Path) -> SealedCall:
        """
        Return the call that ``keep`` wrote.

        Raises:
            WordsError: the file holds none.
        """
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if document["format"] != _FORMAT:
                raise ValueError("it is of another release")
            return cls(
                tenant=str(document["tenant"]),
                agent=str(document["agent"]),
                operation=str(document["operation"]),
                text=str(document["sealed"]),
                seal_to=str(document["seal_to"]),
                _key=base64.b64decode(document["key"], validate=True),
                _secret=base64.b64decode(document["secret"], validate=True),
                _digest=str(document["params_digest"]),
            )
        except OSError as exc:
            raise WordsError(f"--seal-key: {path} can't be read: {exc.strerror}") from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise WordsError(f"--seal-key: {path} holds no key of a sealed call: {exc}") from exc


def _digest_of(secret: bytes, params: bytes) -> str:
    return hmac.digest(secret, b"params\0" + params, "sha256").hex()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _suite() -> Suite:
    # Deferred: as above.
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
