"""What callers see of the broker's things; the members and their order are the contract's."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from cloud_broker.callers.keys import state
from cloud_broker.conditions import AgentCondition
from cloud_broker.releases import outdated
from cloud_broker.store.agents import Agent
from cloud_broker.store.commands import Command, CommandError, Resolution, RowSetInfo
from cloud_broker.store.tenants import ApiKey, Tenant
from protocol.signing import signature_digest
from protocol.states import FINAL, CommandState


class ColumnView(msgspec.Struct, frozen=True):
    """One column; ``type`` is one of the parameter types."""

    name: str
    type: str


class RowSetView(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One row set; ``rows`` is how many there are, so far or in all. The columns of a sealed one are in it.

    Attributes:
        rows_as: ``arrow`` where they are read as an Arrow stream; ``ndjson`` is left out.
    """

    columns: list[ColumnView]
    rows: int
    sealed: bool = False
    rows_as: str = "ndjson"


class ErrorView(msgspec.Struct, frozen=True):
    """Why a command did not succeed; ``source_code`` is the ERP's own, such as a SQLSTATE, or empty."""

    kind: str
    code: str
    message: str
    source_code: str


class ResolutionView(msgspec.Struct, frozen=True):
    """
    What a person found out of a command that was in doubt.

    Attributes:
        found: happened or not_happened.
        by: id of the key that said so; ``who`` is the person, if named.
    """

    found: str
    by: str
    who: str | None
    note: str | None
    at: str


class CommandLinks(msgspec.Struct, frozen=True, rename={"self_": "self"}):
    """Where more is to be had."""

    self_: str
    rows: str
    cancel: str
    timeline: str


class CommandView(msgspec.Struct, frozen=True):
    """
    One request to run one operation.

    Attributes:
        waiting_for: while queued: agent, drained, paused, window, rate, order, breaker or retry.
        outcome: the final state, once there is one.
        not_before: while it waits for another try: when that comes at the earliest.
        attempts: how often it was sent to an agent.
        expires_at: it may not start after this.
        outputs: OUT parameters, SOAP body or file receipt, as the agent wrote them; of a sealed result
            ``{"sealed": text}``, with the ERP's error text and the warnings in it.
        error: why it did not succeed; while it waits for another try, why the last one failed.
        replay_of: id of the command that this one does again.
        replayed_by: id of the command that does this one again.
        resolution: what a person found out of one that was in doubt.
        sealed: whether only the agent can read the parameters.
        seal_to: the caller's public key that the result is sealed to.
        rows_as: as what its rows were asked for.
        signed: whether it came with the caller's signature.
        signature_sha256: of that signature, hex, as the agent's proof names it.
        proof: the agent's signature over how it ended, for `outhaul commands verify`; none where no agent told it.
        warnings: what the caller should know besides, such as a type that a driver is known to spoil.
    """

    id: str
    tenant: str
    agent: str | None
    group: str | None
    operation: str
    state: CommandState
    waiting_for: str | None
    not_before: str | None
    outcome: CommandState | None
    attempts: int
    correlation_id: str | None
    idempotency_key: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str
    outputs: msgspec.Raw | None
    row_sets: list[RowSetView]
    error: ErrorView | None
    warnings: list[str]
    replay_of: str | None
    replayed_by: str | None
    resolution: ResolutionView | None
    sealed: bool
    seal_to: str | None
    rows_as: str
    signed: bool
    signature_sha256: str | None
    proof: str | None
    links: CommandLinks


class NextCertificateView(msgspec.Struct, frozen=True):
    """
    What an agent was given to follow its certificate; either is good until a link came with this one.

    Attributes:
        serial: hex.
        issuer: SHA-256 of the broker's authority that issued it, hex.
    """

    serial: str
    not_after: str
    issuer: str


class CertificateView(msgspec.Struct, frozen=True):
    """
    An agent's certificate.

    Attributes:
        serial: hex; null for an agent with certificates of the operator's own PKI that was never linked.
        issuer: SHA-256 of the broker's authority that issued it, hex; null for one of the operator's own PKI.
        own_pki: whether the agent's certificates come from the operator's own PKI.
        next: what is to follow it, if there is one.
    """

    serial: str | None
    not_after: str | None
    issuer: str | None
    own_pki: bool
    next: NextCertificateView | None


class ConnectionView(msgspec.Struct, frozen=True):
    """
    How one of an agent's connections is.

    Attributes:
        state: open; paused by somebody at the agent's machine, where alone it can be undone; shut outside of its
            windows; breaker while it is left alone after failures.
        until: when that ends, if it is known.
        reason: what they said who paused it.
    """

    state: str
    until: str | None
    reason: str | None


class AgentView(msgspec.Struct, frozen=True):
    """
    One enrolled agent.

    Attributes:
        state: online, degraded, stale, offline or revoked.
        problems: why it takes no commands though it is there; then it is degraded.
        connections: its local systems by name; none while it is away.
        version: of its program, as it last said.
        outdated: whether that is an earlier release than the broker's own.
        system: its operating system, as it last said.
        catalogue_digest: SHA-256 of its catalogue, hex; null before its first link.
        keys: its own public keys as it told them, ``sign`` and ``seal``; null before its first link.
        drained_at: since when it is given nothing new, as somebody wished; null while it is.
        differs: operations of which other agents of its group have another version, or none, or which it has not.
    """

    tenant: str
    name: str
    group: str | None
    state: str
    problems: list[str]
    connections: dict[str, ConnectionView]
    version: str | None
    outdated: bool
    system: str | None
    certificate: CertificateView
    enrolled_at: str
    last_seen_at: str | None
    revoked_at: str | None
    revoked_reason: str | None
    catalogue_digest: str | None
    keys: dict[str, str] | None
    drained_at: str | None
    differs: list[str]


class OperationView(msgspec.Struct, frozen=True):
    """
    What an agent's operator allows.

    Attributes:
        params: JSON Schema of the parameters.
        version: what a caller signs besides its name.
        signature_required: whether it runs only when a trusted caller signed it.
        allow: the callers that may have it run, by their names in the operator's file; empty for every trusted one.
        rows_as: as what else than ``ndjson`` its rows can be asked for: ``arrow``, or nothing.
    """

    name: str
    effect: str
    connection: str
    params: msgspec.Raw
    kind: str = ""
    description: str = ""
    timeout_s: float = 60.0
    version: str = "1"
    signature_required: bool = False
    allow: list[str] = []
    rows_as: list[str] = []


class TokenView(msgspec.Struct, frozen=True):
    """A right to enrol one agent, once; shown now and never again."""

    token: str
    expires_at: str


class TenantView(msgspec.Struct, frozen=True):
    """A customer; ``state`` is active or suspended."""

    name: str
    state: str
    created_at: str


class KeyView(msgspec.Struct, frozen=True):
    """
    A caller's key, without its secret; ``tenant`` is null for one that spans tenants.

    Attributes:
        name: what it is for.
        owner: the person or team that answers for it.
        state: active, expires_soon (within two weeks), expired or revoked.
        replaced_by: id of the key that took its place.
    """

    id: str
    tenant: str | None
    name: str | None
    owner: str | None
    scopes: list[str]
    state: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    replaced_by: str | None


class NewKeyView(msgspec.Struct, frozen=True):
    """A new key; ``key`` is shown now and never again."""

    id: str
    key: str
    tenant: str | None
    scopes: list[str]
    expires_at: str | None


class BlobView(msgspec.Struct, frozen=True):
    """
    A content that is kept for a command to come.

    Attributes:
        blob: its id, for `{"blob": ID}` in place of a content.
        bytes: how many there are.
        sha256: of them, hex.
    """

    blob: str
    bytes: int
    sha256: str


class ListView(msgspec.Struct, frozen=True):
    """Part of a list; ``next`` goes into ``cursor`` of the following request, null at the end."""

    items: Sequence[Any]
    next: str | None = None


def time_text(seconds: float) -> str:
    """Return a time as RFC 3339 in UTC, to the microsecond."""
    whole = math.floor(seconds)
    micros = round((seconds - whole) * 1e6)
    return f"{_second(whole + 1)}.000000Z" if micros == 1_000_000 else f"{_second(whole)}.{micros:06d}Z"


@functools.lru_cache(1_024)
def _second(whole: int) -> str:
    # Of thousands of times that are told most are of the same few seconds.
    return datetime.fromtimestamp(whole, UTC).isoformat()[:19]


def time_or_none(seconds: float | None) -> str | None:
    """The same, where there may be none."""
    return None if seconds is None else time_text(seconds)


def command_view(command: Command, waiting_for: str | None, row_sets: Sequence[RowSetInfo]) -> CommandView:
    """Return what a caller sees of a command."""
    here = f"/v1/commands/{command.id}"
    return CommandView(
        id=command.id,
        tenant=command.tenant,
        agent=command.agent,
        group=command.group,
        operation=command.operation,
        state=command.state,
        waiting_for=waiting_for,
        not_before=time_or_none(command.not_before) if command.state is CommandState.QUEUED else None,
        outcome=command.state if command.state in FINAL else None,
        attempts=command.epoch,
        correlation_id=command.correlation_id or None,
        idempotency_key=command.idempotency_key,
        created_at=time_text(command.created_at),
        started_at=time_or_none(command.started_at),
        finished_at=time_or_none(command.finished_at),
        expires_at=time_text(command.expires_at),
        outputs=msgspec.Raw(command.outputs) if command.outputs else None,
        row_sets=[_row_set(info) for info in row_sets],
        error=error_view(command.error),
        warnings=list(command.warnings),
        replay_of=command.replay_of,
        replayed_by=command.replayed_by,
        resolution=_resolution(command.resolution),
        sealed=command.sealed,
        seal_to=command.seal_to or None,
        rows_as=command.rows_as,
        signed=bool(command.signature),
        signature_sha256=signature_digest(command.signature) or None,
        proof=command.proof or None,
        links=CommandLinks(here, f"{here}/rows", f"{here}/cancel", f"{here}/timeline"),
    )


def _row_set(info: RowSetInfo) -> RowSetView:
    columns = [ColumnView(column["name"], column["type"]) for column in info.columns]
    shown = RowSetView(columns, info.rows, info.sealed)
    return shown if info.rows_as == "ndjson" else msgspec.structs.replace(shown, rows_as=info.rows_as)


def _resolution(found: Resolution | None) -> ResolutionView | None:
    if found is None:
        return None
    return ResolutionView(found.found, found.by, found.who or None, found.note or None, time_text(found.at))


def error_view(error: CommandError | None) -> ErrorView | None:
    """Return what a caller sees of an error."""
    return None if error is None else ErrorView(error.kind, error.code, error.message, error.source_code)


def agent_view(agent: Agent, condition: AgentCondition, differs: Sequence[str] = ()) -> AgentView:
    """Return what a caller sees of an agent; ``differs`` as in the view."""
    return AgentView(
        tenant=agent.tenant,
        name=agent.name,
        group=agent.group,
        state=condition.state,
        problems=list(condition.problems),
        connections={
            name: ConnectionView(connection.state, time_or_none(connection.until), connection.reason or None)
            for name, connection in condition.connections.items()
        },
        version=agent.release or None,
        outdated=outdated(agent.release),
        system=agent.system or None,
        certificate=_certificate(agent),
        enrolled_at=time_text(agent.enrolled_at),
        last_seen_at=time_or_none(agent.last_seen_at),
        revoked_at=time_or_none(agent.revoked_at),
        revoked_reason=agent.revoked_reason or None,
        catalogue_digest=agent.catalogue_digest or None,
        keys=_keys.decode(agent.catalogue).keys if agent.catalogue is not None else None,
        drained_at=time_or_none(agent.drained_at),
        differs=list(differs),
    )


class _Catalogue(msgspec.Struct, frozen=True):
    keys: dict[str, str] | None = None


_keys = msgspec.json.Decoder(_Catalogue)


def _certificate(agent: Agent) -> CertificateView:
    following = agent.next
    return CertificateView(
        serial=agent.serial or None,
        not_after=time_text(agent.not_after) if agent.serial else None,
        issuer=agent.issuer or None,
        own_pki=agent.own_pki,
        next=None
        if following is None
        else NextCertificateView(following.serial, time_text(following.not_after), following.issuer),
    )


def tenant_view(tenant: Tenant) -> TenantView:
    """Return what an administrator sees of a tenant."""
    return TenantView(tenant.name, tenant.state, time_text(tenant.created_at))


def key_view(key: ApiKey, now: float) -> KeyView:
    """Return what an administrator sees of a key."""
    return KeyView(
        id=key.id,
        tenant=key.tenant,
        name=key.name or None,
        owner=key.owner or None,
        scopes=list(key.scopes),
        state=state(key, now),
        created_at=time_text(key.created_at),
        expires_at=time_or_none(key.expires_at),
        revoked_at=time_or_none(key.revoked_at),
        last_used_at=time_or_none(key.last_used_at),
        replaced_by=key.replaced_by,
    )
