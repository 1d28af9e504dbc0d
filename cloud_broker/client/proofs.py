"""Whether an agent itself says that a command ended as the broker tells."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from cloud_broker.client.errors import WordsError
from cloud_broker.client.records import Command, RowSet
from protocol import proofs, signing
from protocol.signing import CommandClaims, SignatureMalformed

if TYPE_CHECKING:
    from cloud_broker.client.api import Outhaul, RowFormat

_NOTHING: Final = (b"", b"null")
_REQUEST: Final = {"signature_sha256": "signature", "params_sha256": "parameters"}  # what the agent says of a request


@dataclass(frozen=True, slots=True)
class Sent:
    """
    What a caller itself has of what it sent; without it the broker alone says of which request a proof is.

    Attributes:
        signature: of the command, as it was sent.
        params_sha256: of ``signing.params_digest``; of a sealed command, of its sealed text.
    """

    signature: str | None = None
    params_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """
    What came of a look at an agent's proof.

    Attributes:
        agent: whose it is.
        key: that it was checked with, ``ed25519:…``.
        claims: what the agent signed; empty where the signature is not its.
        problems: what does not fit, for people; empty if all does.
        unproved: what was not compared, for people, and how it would be.
    """

    agent: str
    key: str
    claims: Mapping[str, Any]
    problems: list[str]
    unproved: list[str] = field(default_factory=list)


def verify(
    client: Outhaul, command: Command, key: str | None = None, *, rows: bool = True, sent: Sent | None = None
) -> Verified:
    """
    Compare how a command ended with what its agent signed.

    Args:
        key: the agent's, ``ed25519:…``; ``None`` for the one that is known of it.
        rows: read them all, to compare their digests too.
        sent: what the caller itself sent.

    Raises:
        AgentKeyChanged: the broker shows another key than before.
        WordsError: it has not ended, or ``sent`` has no signature of a command.
    """
    sent = sent or Sent()
    own = _own(sent)
    if not command.final:
        raise WordsError(f"{command.id} is {command.state}: only what has ended is proved")
    if command.agent is None:
        return Verified("", "", {}, ["it was never sent to an agent: the broker alone says how it ended"])
    if key is not None:
        found = _compared(client, command, client.tenant or command.tenant, key, rows)
    else:
        known, _ = client.known_agent(command.agent)
        found = _compared(client, command, known.tenant, known.sign, rows)
    return _with_request(found, command, sent, own) if found.claims else found


def _compared(client: Outhaul, command: Command, tenant: str, key: str, rows: bool) -> Verified:
    agent = command.agent or ""
    try:
        claims = _signed(command.proof or "", agent, key)
    except SignatureMalformed as exc:
        return Verified(agent, key, {}, [str(exc)])
    problems = [
        f"{name}: the agent signed {claims.get(member)!r}, the broker tells {told!r}"
        for name, member, told in (
            ("tenant", "tenant", tenant),
            ("agent", "agent", agent),
            ("id", "command_id", command.id),
            ("attempt", "epoch", command.attempts),
            ("operation", "operation", command.operation),
            ("outcome", "outcome", command.state),
            ("error", "error_code", command.error.code if command.error is not None else ""),
        )
        if claims.get(member) != told
    ]
    if command.resolution is not None:
        problems.append("a person resolved it since; what the agent signed is how it stood before")
    problems += _outputs(command, claims)
    if command.succeeded:
        problems += _row_sets(client, command, claims, rows)
    return Verified(agent, key, claims, problems)


def _own(sent: Sent) -> CommandClaims | None:
    """Return what the caller itself signed; raises ``WordsError``."""
    if sent.signature is None:
        return None
    try:
        return signing.read_command(signing.parse(sent.signature, signing.COMMAND).payload)
    except SignatureMalformed as exc:
        raise WordsError(f"what was given is no signature of a command: {exc}") from exc


def _with_request(found: Verified, command: Command, sent: Sent, own: CommandClaims | None) -> Verified:
    """Compare what the agent says that it was asked with what the caller sent, or the broker says that it did."""
    problems, unproved = list(found.problems), list[str]()
    wanted = {"params_sha256": sent.params_sha256}
    if own is not None and sent.signature is not None:
        wanted = {
            "signature_sha256": signing.signature_digest(sent.signature),
            "params_sha256": sent.params_sha256 or own.params_sha256,
        }
        if own.operation != found.claims.get("operation"):
            problems.append(f"operation: you signed {own.operation!r}, the agent {found.claims.get('operation')!r}")
    # A broker of an earlier release tells only that there is one.
    told = None if command.signed and command.signature_sha256 is None else command.signature_sha256 or ""
    for member, what in _REQUEST.items():
        signed, yours = found.claims.get(member), wanted.get(member)
        if signed is None:
            silent = (
                f"{what}: the proof does not tell of it; so it is with agents of earlier releases, "
                "and with the signature where another agent of the group told what became of it"
            )
            (unproved if yours is None else problems).append(silent)
        elif yours is not None and signed != yours:
            problems.append(f"{what}: not what you sent; this is the proof of another request")
        elif member == "signature_sha256" and told is not None and signed != told:
            problems.append(f"{what}: the agent was given another than the broker tells")
    if own is None and sent.params_sha256 is None:
        unproved.append(
            "whether it is your request: only the broker says so; compare it with what you sent, with --signature FILE "
            "of a signed one, --params of another, --seal-key FILE of a sealed one"
        )
    return replace(found, problems=problems, unproved=unproved)


def _signed(proof: str, agent: str, key: str) -> dict[str, Any]:
    """Return what an agent signed; raises ``SignatureMalformed``."""
    # Deferred: a caller that verifies nothing needs none of it.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not proof:
        raise SignatureMalformed("there is no proof: no agent told how it ended, the broker alone says so")
    jws = proofs.parse(proof)
    if jws.kid != agent:
        raise SignatureMalformed(f"the proof is of the agent {jws.kid!r}, not of {agent!r}")
    try:
        Ed25519PublicKey.from_public_bytes(signing.public_key_bytes(key)).verify(jws.signature, jws.signed)
    except InvalidSignature:
        raise SignatureMalformed("the proof was not made with the agent's key, or was changed since") from None
    return proofs.read_result(jws.payload)


def _outputs(command: Command, claims: Mapping[str, Any]) -> list[str]:
    there = bytes(command.raw_outputs)
    outputs = b"" if there in _NOTHING else there
    if hashlib.sha256(outputs).hexdigest() == claims.get("outputs_sha256"):
        return []
    return ["outputs: not those that the agent signed"]


def _row_sets(client: Outhaul, command: Command, claims: Mapping[str, Any], rows: bool) -> list[str]:
    signed = claims.get("row_sets")
    if not isinstance(signed, list) or len(signed) != len(command.row_sets):
        count = len(signed) if isinstance(signed, list) else "no"
        return [f"row sets: the agent signed {count}, the broker tells {len(command.row_sets)}"]
    problems = []
    for number, (told, manifest) in enumerate(zip(command.row_sets, signed, strict=True)):
        if manifest.get("rows") != told.rows:
            problems.append(
                f"row set {number}: the agent signed {manifest.get('rows')} rows, the broker tells {told.rows}"
            )
        elif rows and _digest(client, command.id, number, told) != (manifest.get("bytes"), manifest.get("sha256")):
            problems.append(f"row set {number}: its rows are not those that the agent signed")
    return problems


def _digest(client: Outhaul, command_id: str, number: int, row_set: RowSet) -> tuple[int, str]:
    count, digest = 0, hashlib.sha256()
    row_format: RowFormat = "sealed" if row_set.sealed else "arrow" if row_set.rows_as == "arrow" else "ndjson"
    with closing(client.stream(command_id, number, row_format)) as pieces:
        for piece in pieces:
            count += len(piece)
            digest.update(piece)
    return count, digest.hexdigest()
