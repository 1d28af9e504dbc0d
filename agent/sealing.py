"""
Sealed commands at the agent: parameters that only it can open, results that only their caller can.

A result is sealed before it is spooled or kept in the journal, so what is sent, kept, resumed and counted is what the
broker sees; the journal keeps sealed parameters as they came.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import CannotUnseal, EnrolmentError
from agent.journal.base import Claim
from protocol import limits, sealing
from protocol.messages import ColumnInfo, Completed
from protocol.sealing import Sealer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.hpke import Suite

WARNING_BYTES: Final = 131_072  # bytes of warnings beside the largest outputs; sealed, all of it still fits a message
TOO_MUCH: Final = "there were warnings, and no room for them beside the outputs"
TOLD: Final = "the text is sealed; only the caller can read it"
_encoder: Final = msgspec.json.Encoder()


class Opened(msgspec.Struct, frozen=True):
    """
    What a command is to the agent.

    Attributes:
        claim: with its parameters in clear; it is not kept anywhere.
        seal: for its result; ``None`` if the caller wants that in clear.
    """

    claim: Claim
    seal: ResultSeal | None = None


class Seals:
    """The agent's end of sealing, with its own key."""

    def __init__(self, key: Callable[[], X25519PrivateKey], who: Callable[[], tuple[str, str]]) -> None:
        """
        Args:
            key: returns the agent's own; asked when the first sealed command comes.
            who: returns tenant and name of the agent as it knows them itself, not as a broker says; may raise
                EnrolmentError.
        """
        self._key = key
        self._who = who

    def open(self, claim: Claim) -> Opened:
        """
        Return what a command is.

        Raises:
            CannotUnseal: its parameters are not sealed to this agent for this operation, or the result can't be
                sealed to what the caller named; the texts tell nothing of what is sealed.
        """
        if not claim.sealed and not claim.seal_to:
            return Opened(claim)
        if claim.epoch > sealing.MAX_ATTEMPT:
            # Nor could its end be told, and nothing may be begun whose end can't.
            raise CannotUnseal(f"attempt {claim.epoch} of it can't be sealed", touched=False)
        try:
            tenant, agent = self._who()
        except EnrolmentError as exc:
            raise CannotUnseal(str(exc), touched=False) from exc
        params, secret = self._params(claim, tenant, agent) if claim.sealed else (claim.params, b"")
        info = sealing.result_info(tenant, agent, claim.id, claim.epoch)
        try:
            seal = ResultSeal(_public_key(claim.seal_to), info, secret, claim.epoch)
        except ValueError as exc:
            raise CannotUnseal(f"its result can't be sealed; seal_to: {exc}", touched=False) from exc
        return Opened(msgspec.structs.replace(claim, params=params, sealed=False), seal)

    def _params(self, claim: Claim, tenant: str, agent: str) -> tuple[bytes, bytes]:
        """Return the parameters of a sealed command and its secret."""
        # Deferred: agents whose callers seal nothing never load it.
        from cryptography.exceptions import InvalidTag

        info = sealing.params_info(tenant, agent, claim.operation, claim.seal_to)
        try:
            sealed = sealing.params_bytes(claim.params.decode("ascii"))
            secret, params = sealing.without_secret(_suite().decrypt(sealed, self._key(), info))
        except (ValueError, InvalidTag) as exc:
            raise CannotUnseal(
                "its sealed parameters can't be opened: they were changed on their way, or sealed to another key, or "
                f"for another agent than {tenant}/{agent}, another operation or another `seal_to`. If this "
                "agent was enrolled anew, take its new key (`outhaul-agent identity` shows it) and call again",
                touched=False,
            ) from exc
        return params, secret


class ResultSeal:
    """Seals the result of one attempt."""

    def __init__(self, to: X25519PublicKey, info: bytes, secret: bytes, epoch: int) -> None:
        # Deferred: as above.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        chance = os.urandom(sealing.KEY_BYTES)
        self._epoch = epoch
        self._wrapped = _suite().encrypt(chance, to, info)
        cipher = AESGCM(sealing.content_key(chance, secret))
        self._encrypt: sealing.Cipher = lambda nonce, data: cipher.encrypt(nonce, data, None)

    def row_set(self, index: int, columns: Sequence[ColumnInfo]) -> tuple[bytes, Sealer]:
        """Return the first bytes of a row set, with its columns, and what seals its rows."""
        sealer = Sealer(self._encrypt, index)
        return sealing.head(self._epoch, index, self._wrapped) + sealer.frame(_encoder.encode(columns)), sealer

    def end(self, completed: Completed, outputs: bytes) -> tuple[Completed, bytes]:
        """Return the end of a command as the broker may see it: all that came from the source is sealed."""
        error = {
            "code": completed.error_code,
            "message": completed.error_message,
            "source_code": completed.source_code,
        }
        document = {
            "outcome": completed.outcome,
            "outputs": msgspec.Raw(outputs) if outputs else None,
            "error": error if completed.error_code else None,
            "warnings": completed.warnings,
            "row_sets": [done.rows for done in completed.row_sets],
        }
        text_of_end = _encoder.encode(document)
        if len(text_of_end) > limits.MAX_OUTPUT_BYTES + WARNING_BYTES:
            # A message has no room for both; outputs are what was asked for.
            text_of_end = _encoder.encode({**document, "warnings": [TOO_MUCH]})
        frame = Sealer(self._encrypt, sealing.END).frame(text_of_end, last=True)
        text = base64.b64encode(sealing.head(self._epoch, sealing.END, self._wrapped) + frame).decode()
        told = msgspec.structs.replace(
            completed, error_message=TOLD if completed.error_message else "", source_code="", warnings=[]
        )
        return told, _encoder.encode({"sealed": text})


def _public_key(text: str) -> X25519PublicKey:
    # Deferred: as above.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return X25519PublicKey.from_public_bytes(sealing.key_bytes(text))


def _suite() -> Suite:
    # Deferred: as above.
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
