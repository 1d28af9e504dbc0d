"""
The agent's own keys: one signs how commands ended, one opens what callers sealed to this agent.

They stand in ``state_dir/identity/keys.json``, encrypted with the passphrase that also opens the key of the
certificate, and outlive certificates: callers compare their public halves once and keep them.
"""

from __future__ import annotations

import base64
import json
import logging
import secrets as chance
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent import durable_file
from agent.errors import EnrolmentError, SecretError
from agent.identity.held import PASSPHRASE, current_serial, identity_folder
from agent.secrets import SecretStore

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

log = logging.getLogger(__name__)

PASSPHRASE_BYTES: Final = 32  # bytes of chance
_FORMAT: Final = "outhaul-agent-keys-1"


class AgentKeys(msgspec.Struct, frozen=True, dict=True):
    """
    Both key pairs.

    Attributes:
        sign_bytes: the private half, Ed25519.
        seal_bytes: the private half, X25519.
        public: what callers know of them: ``{"sign": "ed25519:BASE64", "seal": "x25519:BASE64"}``.
    """

    sign_bytes: bytes
    seal_bytes: bytes
    public: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<AgentKeys {self.public}>"

    @cached_property
    def sign(self) -> Ed25519PrivateKey:
        """The key that signs."""
        # Deferred, here and below: it costs 8 MiB, and an agent that runs no command needs none of it.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.sign_bytes)

    @cached_property
    def seal(self) -> X25519PrivateKey:
        """The key that opens what is sealed."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        return X25519PrivateKey.from_private_bytes(self.seal_bytes)


def keys_file(state_dir: Path) -> Path:
    """Return where the keys are kept."""
    return identity_folder(state_dir) / "keys.json"


def open_keys(state_dir: Path, secrets: SecretStore, *, replace: bool = False) -> AgentKeys:
    """
    Return the agent's keys; they are made, and kept, where there are none.

    Args:
        replace: make others also where those that are there can't be opened any more, as after the loss of
            the store of secrets; callers who knew the old ones have to compare the new ones.

    Raises:
        EnrolmentError: they can't be opened or kept; the text has the fix.
        SecretError: the store of secrets can't be used.
    """
    path = keys_file(state_dir)
    passphrase = _passphrase(state_dir, secrets)
    try:
        return _opened(path, passphrase)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise EnrolmentError(f"{path}: can't be read: {exc.strerror}; run this as the agent's account") from exc
    except (ValueError, KeyError, TypeError) as exc:
        if not replace:
            raise EnrolmentError(
                f"{path}: the agent's own keys are damaged, or locked with another passphrase than the secret "
                f"{PASSPHRASE!r}. Put back a copy of both; or remove this file, and the agent makes new keys, which "
                "your callers have to compare and accept"
            ) from exc
        log.warning("%s: can't be opened any more; new keys are made", path, extra={"event": "agent_keys_replaced"})
    return _made(path, passphrase)


def public_keys(state_dir: Path) -> dict[str, str] | None:
    """
    Return the public halves without opening the keys, or ``None`` if there are none yet.

    Raises:
        EnrolmentError: the file can't be read.
    """
    path = keys_file(state_dir)
    try:
        public = json.loads(path.read_bytes())["public"]
        return {"sign": str(public["sign"]), "seal": str(public["seal"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise EnrolmentError(f"{path}: can't be read ({exc}); run this as the agent's account") from exc


def _passphrase(state_dir: Path, secrets: SecretStore) -> bytes:
    kept = secrets.get(PASSPHRASE)
    if kept is None:
        if keys_file(state_dir).exists() or current_serial(state_dir) is not None:
            # Another one would only hide what is wrong.
            raise SecretError(
                f"the secret {PASSPHRASE!r}, which opens the agent's keys in {identity_folder(state_dir)}, is missing. "
                "Run this as the agent's account; if the store of secrets was lost, enrol again with a new token: "
                "outhaul-agent enroll --token TOKEN"
            )
        kept = chance.token_urlsafe(PASSPHRASE_BYTES)
        secrets.set(PASSPHRASE, kept)
    return kept.encode()


def load_libraries() -> None:
    """Load what opens keys, for who will be asked in a moment."""
    from cryptography.hazmat.primitives import serialization  # noqa: F401 - to be there when it is needed
    from cryptography.hazmat.primitives.asymmetric import ed25519, x25519  # noqa: F401 - the same


def _opened(path: Path, passphrase: bytes) -> AgentKeys:
    # Deferred: an agent that is asked for its catalogue or its version needs none of it.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    document: dict[str, Any] = json.loads(path.read_bytes())
    if document["format"] != _FORMAT:
        raise ValueError("it is of another release")
    sign = load_pem_private_key(document["sign"].encode(), passphrase)
    seal = load_pem_private_key(document["seal"].encode(), passphrase)
    if not isinstance(sign, Ed25519PrivateKey) or not isinstance(seal, X25519PrivateKey):
        raise TypeError("it holds keys of another kind")
    return AgentKeys(sign.private_bytes_raw(), seal.private_bytes_raw(), _public(sign, seal))


def _made(path: Path, passphrase: bytes) -> AgentKeys:
    # Deferred: as above.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    sign, seal = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    locked = BestAvailableEncryption(passphrase)
    public = _public(sign, seal)
    document = {
        "format": _FORMAT,
        "public": public,
        "sign": sign.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked).decode(),
        "seal": seal.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked).decode(),
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable_file.write(path, json.dumps(document, indent=2).encode(), 0o600)
    except OSError as exc:
        raise EnrolmentError(
            f"{path}: the agent's own keys can't be kept ({exc.strerror}); run this as the agent's account, and see "
            "that state_dir is its own"
        ) from exc
    return AgentKeys(sign.private_bytes_raw(), seal.private_bytes_raw(), public)


def _public(sign: Ed25519PrivateKey, seal: X25519PrivateKey) -> dict[str, str]:
    return {
        "sign": "ed25519:" + base64.b64encode(sign.public_key().public_bytes_raw()).decode(),
        "seal": "x25519:" + base64.b64encode(seal.public_key().public_bytes_raw()).decode(),
    }
