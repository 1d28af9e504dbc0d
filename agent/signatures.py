"""
Callers' signatures, checked before anything runs; and the agent's own, under how it ended.

The broker is not asked and not believed: whom to trust stands in the operator's file, and each thing that was
signed is compared with what came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from agent import errors, exact_json
from agent.identity.keys import AgentKeys
from agent.journal.base import Claim, Shown
from agent.settings import DropOperation, Operation, Settings, SignerKey
from protocol import proofs, signing
from protocol.canonical import NotCanonical
from protocol.messages import Completed, Run
from protocol.plain_text import plain
from protocol.signing import SKEW_S, CommandClaims, Jws, SignatureMalformed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

DIGEST_BYTES: Final = 16  # of a signer and a key: nobody can make two that meet, and 50,000 fit the memory
_ANEW: Final = "sign the command anew"
_CLOCKS: Final = f"the clocks of caller and agent may differ by {SKEW_S // 60} minutes; see that both are right"


class Signed(msgspec.Struct, frozen=True):
    """
    A signature that was checked.

    Attributes:
        signer: as the operator's file names the caller.
        shown: for the journal.
    """

    signer: str
    shown: Shown

    def still_valid(self, now: float) -> None:
        """Raise ``SignatureExpired`` if it ended while the command waited for its turn."""
        if now > self.shown.until:
            raise _expired("the signature", self.shown.until - SKEW_S, now, _ANEW)


class End(msgspec.Struct, frozen=True):
    """
    How a command ended, to be proved.

    Attributes:
        claim: of the delivery whose end this is.
        completed: as it is told, but for its proof.
        outputs: as they are told.
    """

    claim: Claim
    completed: Completed
    outputs: bytes


class Signatures:
    """The signatures of one agent."""

    def __init__(
        self, settings: Settings, who: Callable[[], tuple[str, str]] = lambda: ("", ""), keys: AgentKeys | None = None
    ) -> None:
        """
        Args:
            who: returns tenant and name of the agent as it knows them itself, not as a broker says.
            keys: the agent's own; without them it proves nothing.
        """
        self._settings = settings
        self._who = who
        self._keys = keys

    def check(self, run: Run, params: bytes, operation: Operation, now: float) -> Signed | None:
        """
        Return the signature of a command, or ``None`` where it has none and needs none; one that is there is checked.

        Args:
            params: as they came.
            now: seconds since 1970.

        Raises:
            SignatureError: the text names the rule, and how an operator or a caller would meet it.
        """
        rule = self._rule(run.operation, operation)
        if not run.signature:
            if rule is None:
                return None
            raise errors.SignatureMissing(
                f"{run.operation} runs only when a trusted caller signed it ({rule}); the caller signs it with: "
                "outhaul call --sign-with KEYFILE; an operator allows it without by taking it out of there",
                touched=False,
            )
        try:
            jws = signing.parse(run.signature, signing.COMMAND)
        except SignatureMalformed as exc:
            raise _invalid(f"it can't be read: {exc}") from exc
        key = self._key_of(jws)
        try:
            claims = signing.read_command(jws.payload)
        except SignatureMalformed as exc:
            raise _invalid(f"what was signed can't be read: {exc}") from exc
        self._compare(claims, run, params, operation)
        _in_time(claims, key, jws.kid, now)
        if operation.allow is not None and jws.kid not in operation.allow:
            raise errors.CallerNotAllowed(
                f"{run.operation}: {jws.kid!r} signed it, and it may be run by {', '.join(operation.allow)} only "
                f"(operations.{run.operation}.allow); an operator allows it by adding {jws.kid!r} there",
                touched=False,
            )
        digest = hashlib.sha256(f"{jws.kid}\0{claims.idempotency_key}".encode()).digest()[:DIGEST_BYTES]
        return Signed(jws.kid, Shown(digest, run.id, claims.exp + SKEW_S, now, jws.kid))

    def proved(self, ends: Sequence[End], now: float, *, shared: bool) -> list[Completed]:
        """
        Return how commands ended, with the agent's signature; as they are where the agent has no keys.

        Args:
            shared: all may have one signature together.
        """
        if self._keys is None:
            return [end.completed for end in ends]
        tenant, agent = self._who()
        payloads = [
            proofs.result_payload(
                tenant,
                agent,
                end.claim.operation,
                end.completed,
                end.outputs,
                int(now),
                params_sha256=end.claim.params_sha256,
                signature_sha256=end.claim.signature_sha256,
            )
            for end in ends
        ]
        groups = [payloads] if shared else [[one] for one in payloads]
        proved = [proof for group in groups for proof in proofs.prove(group, agent, self._keys.sign.sign)]
        return [msgspec.structs.replace(end.completed, proof=proof) for end, proof in zip(ends, proved, strict=True)]

    def _rule(self, name: str, operation: Operation) -> str | None:
        if name in self._settings.policy.require_signature:
            return "policy.require_signature"
        return None if operation.allow is None else f"operations.{name}.allow"

    def _key_of(self, jws: Jws) -> SignerKey:
        """Return the key that made a signature, of those that the file has of its signer."""
        keys = self._settings.policy.trusted_signers.get(jws.kid)
        if keys is None:
            known = ", ".join(self._settings.policy.trusted_signers) or "nobody"
            raise errors.SignerUnknown(
                f"it is signed by {plain(jws.kid)[:64]!r}, and the file trusts {known} (policy.trusted_signers); an "
                "operator adds the caller's public key there, as outhaul keygen printed it",
                touched=False,
            )
        for key in keys:
            if _made_with(key.key, jws):
                return key
        raise _invalid(
            f"it was not made with {'the key' if len(keys) == 1 else 'any of the keys'} of {jws.kid!r} in the file "
            "(policy.trusted_signers), or it was changed on the way; an operator puts the caller's key there"
        )

    def _compare(self, claims: CommandClaims, run: Run, params: bytes, operation: Operation) -> None:
        if claims.group is not None and claims.group not in self._settings.policy.groups:
            raise _invalid(
                f"it was made for the group {_shown(claims.group)}, which this agent does not serve (policy.groups); "
                "an operator adds the group there"
            )
        tenant, agent = self._who()
        try:
            digest = signing.sealed_digest(params) if run.sealed else signing.params_digest(params)
        except NotCanonical as exc:
            raise _invalid(f"the parameters can't be compared: {exc}") from exc
        for name, signed, here in (
            ("tenant", claims.tenant, tenant),
            ("agent", claims.agent, agent if claims.agent is not None else None),
            ("group", claims.group, run.group if claims.group is not None else None),
            ("operation", claims.operation, run.operation),
            ("version", claims.version, operation.version),
            ("params_sha256", claims.params_sha256, digest),
            ("idempotency_key", claims.idempotency_key, run.idempotency_key),
            ("seal_to", claims.seal_to or "", run.seal_to),
        ):
            if signed != here:
                raise _invalid(f"{name}: signed for {_shown(signed)}, and here it is {_shown(here)}; {_ANEW}")
        if not run.sealed and not _order_is_signed(operation, params):
            raise _invalid(
                "the order of the columns in `rows` is not signed, as canonical JSON has none, and the file to write "
                f"depends on it; an operator names the columns in operations.{run.operation}.format.columns, or the "
                "caller has each row's names in their order by code, or seals the parameters"
            )


def params_sha256(run: Run, params: bytes) -> str:
    """Return the digest of parameters as they came; "" where two readers could take them differently."""
    if run.sealed:
        return signing.sealed_digest(params)
    try:
        return signing.params_digest(params)
    except NotCanonical:
        return ""


def _invalid(why: str) -> errors.SignatureInvalid:
    return errors.SignatureInvalid(f"the signature is refused: {why}", touched=False)


def _shown(text: str | None) -> str:
    return repr(plain(text or "")[:80])


def _order_is_signed(operation: Operation, params: bytes) -> bool:
    """Whether who changes the order of names in the parameters changes nothing that is written by position."""
    if not isinstance(operation, DropOperation) or operation.format.type != "csv" or operation.format.columns:
        return True
    try:
        given = exact_json.loads(params)
    except exact_json.NotExact:
        return True  # it is refused with the other parameters
    rows = given.get("rows") if isinstance(given, dict) else None
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    return list(first) == sorted(first, key=lambda name: name.encode("utf-16-be"))


def _made_with(key: str, jws: Jws) -> bool:
    # Deferred: an agent whose callers don't sign needs none of it.
    from cryptography.exceptions import InvalidSignature

    try:
        _public_key(key).verify(jws.signature, jws.signed)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=64)
def _public_key(text: str) -> Ed25519PublicKey:
    # Deferred: as above.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(signing.public_key_bytes(text))


def _in_time(claims: CommandClaims, key: SignerKey, signer: str, now: float) -> None:
    if now < claims.nbf - SKEW_S:
        raise _not_yet("the signature", claims.nbf, now)
    if now > claims.exp + SKEW_S:
        raise _expired("the signature", claims.exp, now, _ANEW)
    # A time without its offset is the clock on the operator's wall.
    if key.not_before is not None and claims.nbf < (begins := key.not_before.timestamp()) - SKEW_S:
        raise _not_yet(f"the key of {signer!r} (policy.trusted_signers, not_before)", begins, claims.nbf)
    if key.not_after is not None and now > (ends := key.not_after.timestamp()):
        fix = "sign with a newer key, or an operator sets a later not_after"
        raise _expired(f"the key of {signer!r} (policy.trusted_signers, not_after)", ends, now, fix)


def _not_yet(what: str, begins: float, now: float) -> errors.SignatureNotYetValid:
    return errors.SignatureNotYetValid(
        f"{what} is valid from {_moment(begins)}, which is {_span(begins - now)} later than {_moment(now)}; {_CLOCKS}",
        touched=False,
    )


def _expired(what: str, ended: float, now: float, fix: str) -> errors.SignatureExpired:
    return errors.SignatureExpired(
        f"{what} was valid until {_moment(ended)}, {_span(now - ended)} ago by this agent's clock; {fix}. {_CLOCKS}",
        touched=False,
    )


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"


def _span(seconds: float) -> str:
    for size, word in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {word}"
    return f"{max(0.0, seconds):.0f} s"
