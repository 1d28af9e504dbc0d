"""
What an agent signs of how commands ended, as bytes, and how its proof of one is read.

One end by itself is proved by a JWS over it. Ends that are told together share one signature, as signing is what an
end costs most: it is over the root of a hash tree of them, and each has its own way to the root beside it, so that it
is proved without the others. A leaf is ``SHA-256(0 || end)``, a node ``SHA-256(1 || the lesser child || the greater)``;
a child that is left over goes up as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from protocol import canonical, signing
from protocol.messages import Completed, RowSetDone
from protocol.plain_text import plain
from protocol.signing import VERSION, Jws, SignatureMalformed, base64url, canonical_object, from_base64url, is_whole

RESULT: Final = "outhaul-result+jws"  # ``typ`` of an agent's signature over how one command ended
RESULTS: Final = "outhaul-results+jws"  # over the root of several ends
MAX_PROOF_CHARS: Final = 262_144  # with 1,000 row sets it has some 170,000
HASH_BYTES: Final = 32

_PROOF: Final = re.compile(rf"{signing.COMPACT}(~[A-Za-z0-9_-]+~[A-Za-z0-9_-]+)?")
_ROOT: Final = ("root", "v")


class _Root(msgspec.Struct):
    """What an agent signs of several ends, its members in the order of their names."""

    root: str
    v: int = VERSION


# --- one end ----------------------------------------------------------------------------------------


class _Result(msgspec.Struct, kw_only=True):
    """What an agent signs, its members in the order of their names."""

    agent: str
    at: int
    command_id: str
    epoch: int
    error_code: str
    head: str
    operation: str
    outcome: str
    outputs_sha256: str
    params_sha256: str | UnsetType
    position: int
    row_sets: list[RowSetDone]
    signature_sha256: str | UnsetType
    tenant: str
    v: int


def result_payload(
    tenant: str,
    agent: str,
    operation: str,
    completed: Completed,
    outputs: bytes,
    at: int,
    *,
    params_sha256: str | None = None,
    signature_sha256: str | None = None,
) -> bytes:
    """
    Return what an agent signs of a command's end.

    Args:
        operation: that ran.
        completed: as it is told, but for its proof.
        outputs: as they are told.
        at: seconds since 1970.
        params_sha256: of ``params_digest`` or ``sealed_digest``, as the parameters came; "" where two readers could
            take them differently, ``None`` where it is not known any more.
        signature_sha256: of ``signature_digest``, as the signature came; ``None`` where it is not known any more.
    """
    signed = _Result(
        agent=agent,
        at=at,
        command_id=completed.id,
        epoch=completed.epoch,
        error_code=completed.error_code,
        head=completed.head,
        operation=operation,
        outcome=completed.outcome,
        outputs_sha256=hashlib.sha256(outputs).hexdigest(),
        params_sha256=UNSET if params_sha256 is None else params_sha256,
        position=completed.position,
        row_sets=completed.row_sets,
        signature_sha256=UNSET if signature_sha256 is None else signature_sha256,
        tenant=tenant,
        v=VERSION,
    )
    return canonical.encode_sorted(signed)


def read_result(payload: bytes) -> dict[str, Any]:
    """
    Return what an agent signed, member by member; what a later release adds is there too.

    Raises:
        SignatureMalformed: it is no canonical JSON object of this version.
    """
    found = canonical_object("payload", payload)
    if found.get("v") != VERSION or not is_whole(found["v"]):
        raise SignatureMalformed(f"v: wants {VERSION}, found {plain(repr(found.get('v')))[:80]}")
    return found


# --- proofs -----------------------------------------------------------------------------------------


def prove(ends: Sequence[bytes], agent: str, sign: Callable[[bytes], bytes]) -> list[str]:
    """
    Return the proof of each of some ends; it is signed once.

    Args:
        ends: of ``result_payload``; one or more.
        sign: returns the agent's signature.
    """
    if len(ends) == 1:
        return [_signed(RESULT, agent, ends[0], sign)]
    levels = [[hashlib.sha256(b"\0" + end).digest() for end in ends]]
    while len(below := levels[-1]) > 1:
        level = [_node(*below[first : first + 2]) for first in range(0, len(below) - 1, 2)]
        levels.append(level + below[2 * len(level) :])
    jws = _signed(RESULTS, agent, canonical.encode_sorted(_Root(levels[-1][0].hex())), sign)
    return [
        f"{jws}~{base64url(end).decode('ascii')}~{base64url(_way(levels, number)).decode('ascii')}"
        for number, end in enumerate(ends)
    ]


def parse(text: str) -> Jws:
    """
    Read a proof; its payload is the end. Whether the signature is right is for who has the key.

    Raises:
        SignatureMalformed: it is none, or its end is not of those that were signed together.
    """
    if "~" not in text:
        return signing.parse(text, RESULT)
    parts = text.split("~")
    if len(parts) != 3:
        raise SignatureMalformed(f"wants a JWS, an end and its way, joined by ~; found {len(parts)} parts")
    jws = signing.parse(parts[0], RESULTS)
    end, way = (from_base64url(name, part) for name, part in zip(("end", "way"), parts[1:], strict=True))
    found = canonical_object("payload", jws.payload)
    if tuple(found) != _ROOT or found["v"] != VERSION or not is_whole(found["v"]):
        raise SignatureMalformed(f"the payload wants exactly the members {', '.join(_ROOT)}, and v to be {VERSION}")
    if len(way) % HASH_BYTES:
        raise SignatureMalformed(f"the way wants hashes of {HASH_BYTES} bytes, found {len(way)} bytes")
    reached = hashlib.sha256(b"\0" + end).digest()
    for first in range(0, len(way), HASH_BYTES):
        reached = _node(reached, way[first : first + HASH_BYTES])
    if reached.hex() != found["root"]:
        raise SignatureMalformed("the end is not one of those that were signed together, or was changed since")
    return msgspec.structs.replace(jws, payload=end)


def check_shape(text: str) -> None:
    """
    Refuse what can't be a proof, for one who has no keys to check it with.

    Raises:
        SignatureMalformed: it has not the form of one, or is too long.
    """
    if len(text) > MAX_PROOF_CHARS:
        raise SignatureMalformed(f"wants at most {MAX_PROOF_CHARS} characters, found {len(text)}")
    if _PROOF.fullmatch(text) is None:
        raise SignatureMalformed("wants a compact JWS, alone or with an end and its way, joined by ~")


def _signed(typ: str, agent: str, payload: bytes, sign: Callable[[bytes], bytes]) -> str:
    signed = signing.signing_input(typ, agent, payload)
    return signing.compact(signed, sign(signed))


def _node(one: bytes, other: bytes) -> bytes:
    # The lesser first: so a way need not say on which side each of its hashes stands.
    return hashlib.sha256(b"\1" + (one + other if one < other else other + one)).digest()


def _way(levels: Sequence[Sequence[bytes]], number: int) -> bytes:
    """Return what stands beside an end and beside each node above it; nothing stands beside one that is left over."""
    beside = []
    for level in levels[:-1]:
        if number ^ 1 < len(level):
            beside.append(level[number ^ 1])
        number >>= 1
    return b"".join(beside)
