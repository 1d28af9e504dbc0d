"""What a caller sends to have a command run, checked as far as that needs no knowledge of agents."""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

import msgspec

from cloud_broker.api.bodies import Body
from cloud_broker.commands import Submission
from cloud_broker.errors import RequestInvalid, RequestTooLarge
from protocol import sealing
from protocol.signing import SignatureMalformed, check_shape

DEFAULT_TTL_S: Final = 3_600.0  # seconds
MAX_TTL_S: Final = 30 * 86_400.0  # seconds
MAX_TEXT_CHARS: Final = 200  # of a name, a correlation id, an ordering key
MAX_PRIORITY: Final = 100

NOT_GIVEN: Final = msgspec.Raw(b"")


class NewCommand(Body, frozen=True):
    """
    What to run, and where.

    Attributes:
        operation: its name in the operator's file.
        agent: by name; this or group.
        group: any live agent of it; this or agent.
        params: of the operation; they reach the agent as they are written here, digit for digit.
        sealed: the parameters as text that only the agent can read, in place of params; ``seal_to`` is wanted then.
        seal_to: the caller's public key, ``x25519:BASE64``: the result is sealed to it, nobody else can read it.
        correlation_id: the caller's own word for what this belongs to; in every log.
        ttl: seconds until it may not start any more.
        ordering_key: commands with the same one run one after another.
        priority: -100 to 100; higher ones go first.
        signature: of the caller, a compact JWS over what is asked for, which the agent checks; an Idempotency-Key is
            wanted with it.
        rows_as: as what the rows are wanted. ``ndjson`` rows are read as NDJSON or CSV, ``arrow`` ones as an Arrow
            stream only; the operation's ``rows_as`` says whether its agent can.
    """

    operation: str
    agent: str | None = None
    group: str | None = None
    params: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})] = msgspec.field(
        default_factory=lambda: NOT_GIVEN
    )
    sealed: str | None = None
    seal_to: str | None = None
    correlation_id: str | None = None
    ttl: float | None = None
    ordering_key: str | None = None
    priority: int = 0
    signature: str | None = None
    rows_as: Literal["ndjson", "arrow"] = "ndjson"


def checked_ttl(ttl_s: float) -> float:
    """Return seconds that a command may live; raises ``RequestInvalid`` for what is out of bounds."""
    if not (math.isfinite(ttl_s) and 0 < ttl_s <= MAX_TTL_S):
        raise RequestInvalid(f"ttl: wants more than 0 and at most {MAX_TTL_S:.0f} seconds, found {ttl_s:g}.")
    return ttl_s


def checked_signature(text: str | None, key: str | None) -> str:
    """Return a caller's signature or ""; raises ``RequestInvalid`` for what can't be one, and for one without a key."""
    if text is None:
        return ""
    try:
        check_shape(text)
    except SignatureMalformed as exc:
        raise RequestInvalid(f"signature: {exc}.") from exc
    if key is None:
        raise RequestInvalid(
            "signature: wants an idempotency key as well, which is part of what was signed: the header "
            "Idempotency-Key, or in bulk the member idempotency_key."
        )
    return text


def submission_of(wanted: NewCommand, key: str | None, traceparent: str, limit: int, key_id: str) -> Submission:
    """
    Return what a caller asks for, checked as far as that needs no knowledge of agents.

    Args:
        key: the idempotency key.
        limit: bytes of parameters.
        key_id: of the credential that it came with.

    Raises:
        RequestInvalid, RequestTooLarge
    """
    params = _params(wanted, limit)
    if (wanted.agent is None) == (wanted.group is None):
        found = "neither" if wanted.agent is None else "both"
        raise RequestInvalid(f"wants exactly one of agent and group, found {found}.")
    signature = checked_signature(wanted.signature, key)
    _check_sealing(wanted)
    for name in ("operation", "agent", "group", "correlation_id", "ordering_key"):
        text = getattr(wanted, name)
        if text is not None and not 1 <= len(text) <= MAX_TEXT_CHARS:
            raise RequestInvalid(f"{name}: wants 1 to {MAX_TEXT_CHARS} characters, found {len(text)}.")
    ttl_s = DEFAULT_TTL_S if wanted.ttl is None else checked_ttl(wanted.ttl)
    if abs(wanted.priority) > MAX_PRIORITY:
        raise RequestInvalid(f"priority: wants -{MAX_PRIORITY} to {MAX_PRIORITY}, found {wanted.priority}.")
    return Submission(
        operation=wanted.operation,
        params=params,
        agent=wanted.agent,
        group=wanted.group,
        ttl_s=ttl_s,
        correlation_id=wanted.correlation_id or "",
        idempotency_key=key,
        ordering_key=wanted.ordering_key,
        priority=wanted.priority,
        traceparent=traceparent,
        key_id=key_id,
        sealed=wanted.sealed is not None,
        seal_to=wanted.seal_to or "",
        signature=signature,
        rows_as=wanted.rows_as,
    )


def _params(wanted: NewCommand, limit: int) -> bytes:
    """Return the parameters, sealed or not."""
    given = bytes(wanted.params)
    if given and wanted.sealed is not None:
        raise RequestInvalid("wants exactly one of params and sealed, found both.")
    name, params = ("params", given or b"{}") if wanted.sealed is None else ("sealed", wanted.sealed.encode())
    if len(params) > limit:
        raise RequestTooLarge(f"{name}: {len(params)} bytes; at most {limit} are taken here.", limit=limit)
    if wanted.sealed is None and not params.startswith(b"{"):
        raise RequestInvalid(f"params: wants an object, found {params[:20].decode(errors='replace')}.")
    return params


def _check_sealing(wanted: NewCommand) -> None:
    if wanted.sealed is None and wanted.seal_to is None:
        return
    if wanted.rows_as != "ndjson":
        raise RequestInvalid("rows_as: the rows of a sealed result come as ndjson only; leave it out, or seal_to.")
    if wanted.agent is None:
        raise RequestInvalid("group: what is sealed is sealed to one agent's key, so wants agent in its place.")
    if wanted.seal_to is None:
        raise RequestInvalid("sealed: wants seal_to as well, the key that the answer is sealed to.")
    for name, text, bytes_of in (
        ("seal_to", wanted.seal_to, sealing.key_bytes),
        ("sealed", wanted.sealed, sealing.params_bytes),
    ):
        try:
            if text is not None:
                bytes_of(text)
        except ValueError as exc:
            raise RequestInvalid(f"{name}: {exc}.") from exc
