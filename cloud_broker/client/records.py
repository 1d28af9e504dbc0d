"""What the broker tells about commands, as typed records; keys that a later broker adds are kept in ``raw`` only."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from cloud_broker.client.errors import UnknownAnswer
from protocol.states import FINAL, CommandState

T = TypeVar("T", bound="Record")

_NOTHING = msgspec.Raw(b"null")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Part of an answer; ``raw`` is its JSON as it came."""

    raw: bytes = b""


class Column(msgspec.Struct, frozen=True):
    """One column of a row set; ``type`` is one of the parameter types."""

    name: str
    type: str = "string"
    source_type: str = ""


class RowSet(msgspec.Struct, frozen=True):
    """One row set of a result; ``rows`` is how many there are, so far or in all."""

    columns: list[Column]
    rows: int = 0
    sealed: bool = False
    rows_as: str = "ndjson"


class Failure(msgspec.Struct, frozen=True):
    """Why a command did not succeed; ``source_code`` is the ERP's own, such as a SQLSTATE."""

    kind: str = ""
    code: str = ""
    message: str = ""
    source_code: str = ""


class Resolution(msgspec.Struct, frozen=True):
    """What a person found out of a command that was in doubt: ``happened`` or ``not_happened``."""

    found: str
    by: str = ""
    who: str | None = None
    note: str | None = None
    at: datetime | None = None


class Command(Record, frozen=True, kw_only=True):
    """
    One request to run one operation.

    Attributes:
        state: ``queued``, ``dispatched``, ``running`` or final; see ``final``.
        waiting_for: while queued: ``agent``, ``paused``, ``window``, ``rate``, ``order``, ``breaker`` or ``retry``.
        not_before: while it waits for another try: when that comes at the earliest.
        attempts: how often it was sent to an agent.
        expires_at: it may not start after this.
        error: of one that did not succeed; while it waits for another try, of the last one.
        warnings: what the caller should know besides.
        replay_of: id of the command that this one does again; ``replayed_by`` the other way round.
        resolution: what a person found out of one that was in doubt.
        sealed: whether only the agent can read its parameters; its result is sealed to ``seal_to``.
        signed: whether it came with a caller's signature.
        signature_sha256: of that signature, hex, as the broker tells it.
        proof: the agent's signature over how it ended; ``Outhaul.verify`` checks it.
    """

    id: str
    state: str
    operation: str = ""
    tenant: str = ""
    agent: str | None = None
    group: str | None = None
    waiting_for: str | None = None
    not_before: datetime | None = None
    attempts: int = 0
    correlation_id: str | None = None
    idempotency_key: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    raw_outputs: msgspec.Raw = msgspec.field(name="outputs", default=_NOTHING)
    row_sets: list[RowSet] = []
    error: Failure | None = None
    warnings: list[str] = []
    replay_of: str | None = None
    replayed_by: str | None = None
    resolution: Resolution | None = None
    sealed: bool = False
    seal_to: str | None = None
    signed: bool = False
    signature_sha256: str | None = None
    proof: str | None = None

    @property
    def final(self) -> bool:
        """Whether it ended."""
        return self.state in FINAL

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.state == CommandState.SUCCEEDED

    @property
    def outputs(self) -> dict[str, Any]:
        """What it returned besides rows: OUT parameters, SOAP body, file receipt; decimals are strings."""
        found = json.loads(bytes(self.raw_outputs))
        return found if isinstance(found, dict) else {}


class Attempt(msgspec.Struct, frozen=True):
    """One try at a command; ``phase`` is how far it came: ``dispatched`` or ``running``."""

    attempt: int
    agent: str = ""
    sent_at: datetime | None = None
    ended_at: datetime | None = None
    phase: str = ""
    outcome: str | None = None
    error: Failure | None = None


class Death(msgspec.Struct, frozen=True):
    """
    What a person needs to know of a dead letter.

    Attributes:
        why: it died.
        phase: how far it had come: ``queued``, ``dispatched`` or ``running``.
        safe: ``replay``, or ``resolve_first`` if it may have happened.
        advice: what to do, in words.
    """

    why: str = ""
    phase: str = ""
    attempts: list[Attempt] = []
    safe: str = ""
    advice: str = ""


class DeadLetter(Command, frozen=True, kw_only=True):
    """A command that needs a person."""

    dead_letter: Death = Death()


class TimelineStep(Record, frozen=True, kw_only=True):
    """Something that happened to a command."""

    at: datetime
    step: str
    attempt: int | None = None
    agent: str | None = None
    phase: str | None = None
    payload_digest: str = ""
    mapping_version: str | None = None
    outcome: str | None = None
    error: Failure | None = None
    detail: str | None = None


class Skipped(msgspec.Struct, frozen=True):
    """A dead letter that was left as it is, and why."""

    id: str
    why: str = ""


class ReplayRun(Record, frozen=True, kw_only=True):
    """
    Many dead letters, replayed one after another.

    Attributes:
        state: ``running``, ``done`` or ``cancelled``.
        total: how many there were when it began.
        skipped: the first of those left out; ``skipped_count`` is how many there are.
        rate: how many a second.
    """

    id: str
    state: str
    total: int = 0
    replayed: int = 0
    skipped_count: int = 0
    skipped: list[Skipped] = []
    rate: float = 0.0
    by: str = ""
    created_at: datetime | None = None
    finished_at: datetime | None = None


class ReplayPlan(Record, frozen=True, kw_only=True):
    """What a replay would be about; those in doubt would be left out."""

    total: int
    in_doubt: int = 0


class Approval(Record, frozen=True, kw_only=True):
    """
    An act that one person asked for and another decides on.

    Attributes:
        act: ``bulk_replay``, ``resolve``, ``revoke``, ``replace_agent`` or ``mapping_approval``; ``summary`` says it
            in words.
        state: ``open``, ``approved`` while it is done, ``done``, ``failed``, ``refused``, ``withdrawn`` or ``expired``.
        owner: who asked; ``decided_owner`` who decided.
        result: what came of it, in words.
    """

    id: str
    state: str
    act: str = ""
    target: str | None = None
    summary: str = ""
    by: str = ""
    owner: str = ""
    created_at: datetime | None = None
    expires_at: datetime | None = None
    decided_owner: str | None = None
    decided_at: datetime | None = None
    note: str | None = None
    result: str | None = None


class LocalSystem(msgspec.Struct, frozen=True):
    """How a connection of an agent is, until when, if that is known, and what they said who paused it."""

    state: str = "open"
    until: datetime | None = None
    reason: str | None = None


class Agent(Record, frozen=True, kw_only=True):
    """
    An installed agent.

    Attributes:
        state: ``online``, ``degraded``, ``stale``, ``offline`` or ``revoked``.
        problems: why it takes no commands though it is there; then it is ``degraded``.
        keys: its own public keys, ``sign`` and ``seal``, as the broker tells them.
        connections: its local systems by name, each ``open``, ``paused``, ``shut`` or left alone by a ``breaker``.
        outdated: whether its release is earlier than the broker's.
        drained_at: since when it is given nothing new, as somebody wished.
        differs: operations of which other agents of its group have another version, or none, or which it has not.
    """

    name: str
    tenant: str = ""
    state: str = ""
    keys: dict[str, str] | None = None
    problems: list[str] = []
    connections: dict[str, LocalSystem] = {}
    group: str | None = None
    version: str | None = None
    outdated: bool = False
    last_seen_at: datetime | None = None
    drained_at: datetime | None = None
    differs: list[str] = []


class Operation(Record, frozen=True, kw_only=True):
    """
    What an agent's operator allows.

    Attributes:
        effect: how often it may run: ``read``, ``idempotent``, ``once`` or ``at-most-once``.
        params: JSON Schema of the parameters, an object.
        version: what a caller signs besides its name.
        signature_required: whether it runs only when a trusted caller signed it; of those in ``allow``, if any are.
        rows_as: as what else than ``ndjson`` its rows can be asked for: ``arrow``, or nothing.
    """

    name: str
    description: str = ""
    effect: str = ""
    connection: str = ""
    params: dict[str, Any] = {}
    version: str = "1"
    signature_required: bool = False
    allow: list[str] = []
    rows_as: list[str] = []


class Page(msgspec.Struct, frozen=True):
    """Part of a list."""

    items: list[msgspec.Raw]
    next: str | None = None


def decode(body: bytes, kind: type[T]) -> T:
    """
    Return ``body`` as a record.

    Raises:
        UnknownAnswer: it is none.
    """
    try:
        found = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise UnknownAnswer(f"wanted a {kind.__name__.lower()} from the broker, found something else: {exc}") from exc
    msgspec.structs.force_setattr(found, "raw", bytes(body))
    return found


def decode_page(body: bytes) -> Page:
    """
    Return ``body`` as part of a list.

    Raises:
        UnknownAnswer: it is none.
    """
    try:
        return msgspec.json.decode(body, type=Page)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise UnknownAnswer(f"wanted a list from the broker, found something else: {exc}") from exc
