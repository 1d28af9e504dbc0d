"""
What the broker keeps, and what any store must do.

Every method about a tenant's things takes a ``Scope`` first. Times are seconds since 1970 as float.
A method that returns has made its change durable, as far as the store's own promise goes, unless it says otherwise.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import msgspec

from cloud_broker.audit.trail import Act, AuditFilter, AuditPage, Record
from cloud_broker.identity.lineage import NEW, Lineage
from cloud_broker.store.approvals import ApprovalStore
from cloud_broker.store.blobs import BlobStore
from cloud_broker.tenants import Scope
from protocol.states import CommandState

Effect = Literal["read", "idempotent", "once", "at-most-once"]
MAX_SKIPPED: Final = 100  # that one run names


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer."""

    name: str
    state: Literal["active", "suspended"]
    created_at: float


@dataclass(frozen=True, slots=True)
class ApiKey:
    """
    A caller's key; the key itself is never kept, only its SHA-256.

    Attributes:
        tenant: whose; ``None`` for an administrator's key that spans tenants.
        scopes: what it may do.
        name: what it is for.
        owner: the person or team that answers for what is done with it; "" for nobody in particular.
        replaced_by: id of the key that took its place.
    """

    id: str
    tenant: str | None
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None
    name: str = ""
    owner: str = ""
    replaced_by: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """
    A right to enrol one agent, once; its secret is kept as SHA-256 only.

    Attributes:
        spent_by: the request id of the enrolment that used it.
        certificate: what that enrolment was given (DER), so that a lost reply can be repeated.
    """

    id: str
    tenant: str
    agent: str
    group: str | None
    created_at: float
    expires_at: float
    spent_at: float | None = None
    spent_by: str | None = None
    certificate: bytes | None = None


@dataclass(frozen=True, slots=True)
class NextCertificate:
    """
    What an agent was given to follow its certificate; either is good until a link came with this one.

    Attributes:
        request: the agent's id of the renewal.
        issuer: as in ``Agent``.
        certificate: DER.
    """

    serial: str
    not_after: float
    issuer: str
    request: str
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Agent:
    """
    An enrolled agent and what was last known of it.

    Attributes:
        serial: of its certificate, hex; a link with another serial than this or the next one's is refused.
        journal: mark of its journal, and ``position`` how many records it had, as last told.
        catalogue: JSON bytes as the agent sent them; ``None`` before its first link.
        issuer: SHA-256 of the certificate (DER, hex) of the authority of ours that issued its certificate, or "".
        own_pki: whether its certificates come from the operator's own PKI; then ``serial`` and ``not_after`` are
            those of the last one it showed, and it may show another.
        revoked_reason: for people, or "".
        next: the certificate that it was given to follow this one.
        trusts: SHA-256 of the certificates (DER, hex) of the authorities that it takes a broker's certificate from.
        lineage: the texts that tell it from a copy of it.
        drained_at: since when it is given nothing new, as somebody wished; ``None`` while it is.
    """

    tenant: str
    name: str
    group: str | None
    serial: str
    not_after: float
    enrolled_at: float
    revoked_at: float | None = None
    last_seen_at: float | None = None
    release: str = ""
    system: str = ""
    journal: str = ""
    position: int = 0
    catalogue: bytes | None = None
    catalogue_digest: str = ""
    issuer: str = ""
    own_pki: bool = False
    revoked_reason: str = ""
    next: NextCertificate | None = None
    trusts: tuple[str, ...] = ()
    lineage: Lineage = NEW
    drained_at: float | None = None


class Linked(NamedTuple):
    """Who is on a link."""

    tenant: str
    agent: str
    serial: str
    own_pki: bool


@dataclass(frozen=True, slots=True)
class Arrival:
    """
    An agent that greets, and what comes of it; the functions are pure, and may be called in another thread.

    Attributes:
        at: seconds since 1970; the texts are what it says of itself, ``position`` that of its journal.
        change: returns who it is from now on, as in ``Store.change_identity``.
        refusal: returns why it may not be linked, from its tenant and from what it is then.
        noted: returns what is noted of a change, from the agent before and after it.
    """

    tenant: str
    name: str
    at: float
    release: str
    system: str
    journal: str
    position: int
    change: Callable[[Agent], Agent]
    refusal: Callable[[Tenant, Agent], str | None]
    noted: Callable[[Agent, Agent], Act | None]


@dataclass(frozen=True, slots=True)
class Arrived:
    """
    What came of an agent's greeting.

    Attributes:
        before: the agent as it was; ``agent`` as it is. Both without their catalogue.
        refusal: why it may not be linked, or ``None``; only then what it says of itself was kept.
        head: number and hash of the last record in its tenant's chain.
    """

    before: Agent
    agent: Agent
    refusal: str | None
    head: tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class RowSetInfo:
    """
    One row set of a finished result.

    Attributes:
        columns: dicts with ``name``, ``type``, ``source_type``.
        offset: bytes of the whole result before it.
        bytes: its length.
        rows: how many.
        sealed: whether only the caller can read them; then there are no columns here.
        rows_as: what its bytes are where they are not sealed: ``ndjson``, or ``arrow``.
    """

    columns: tuple[dict[str, str], ...]
    offset: int
    bytes: int
    rows: int
    sealed: bool = False
    rows_as: str = "ndjson"


@dataclass(frozen=True, slots=True)
class CommandError:
    """Why a command did not succeed; ``source_code`` is the ERP's own."""

    kind: str
    code: str
    message: str
    source_code: str = ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """
    What a person found out of a command that was in doubt.

    Attributes:
        found: whether it had happened.
        by: id of the key that said so; ``who`` is the person, if named.
    """

    found: Literal["happened", "not_happened"]
    by: str
    at: float
    who: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """
    Something in a command's life that its own row does not tell: an attempt that did not end it, a late answer…

    Attributes:
        step: ``attempt_failed``, ``requeued``, ``lost``, ``asked``, ``late_answer``, ``cancel_requested``,
            ``resolved``, ``replayed``.
        attempt: its epoch; 0 where it is about none.
        phase: how far the attempt had come: ``dispatched`` or ``running``; "" where it is about none.
        started_at: when that attempt was sent.
        outcome: what the agent said of it, or "".
        detail: for people.
        outputs: JSON bytes of a late answer.
    """

    command_id: str
    at: float
    step: str
    attempt: int = 0
    agent: str = ""
    phase: str = ""
    started_at: float | None = None
    outcome: str = ""
    error: CommandError | None = None
    detail: str = ""
    outputs: bytes | None = None


class Command(msgspec.Struct, frozen=True):
    """
    One request to run one operation; the row of the store.

    Attributes:
        id: public.
        agent: by name; set at submission, or at dispatch where a group was asked.
        effect: of the operation, as the catalogue had it at submission.
        connection: the operation's, for its limit of commands at once.
        params: JSON bytes of an object, or text that only the agent can read.
        fingerprint: SHA-256 over operation, addressee and params; tells one use of an idempotency key from another;
            "" without one.
        epoch: number of the last attempt that was sent; 0 before the first.
        journal: the agent's ``journal`` at the last attempt.
        dispatched_at: when the last attempt was sent.
        failures: attempts that failed for a technical reason and count against the retries.
        not_before: it waits until then before it is sent again.
        error: why it did not succeed; while it is queued, why the last attempt did not.
        result: ``inline`` (``inline`` holds it), ``file`` (the results folder has it), or ``none``.
        replay_of: id of the command that this one does again.
        replayed_by: id of the command that does this one again.
        sealed: whether ``params`` is text that only the agent can read, instead of an object.
        signature: of the caller, a compact JWS, or "".
        seal_to: the caller's public key that the result is sealed to, or "".
        proof: the agent's signature over the end, a compact JWS, or "".
        operation_digest: of the operation's entry in the catalogue that it was checked against at submission, hex.
        rows_as: as what its rows were asked for: ``ndjson`` or ``arrow``.
    """

    id: str
    tenant: str
    agent: str | None
    group: str | None
    operation: str
    connection: str
    effect: Effect
    params: bytes
    fingerprint: str
    created_at: float
    expires_at: float
    state: CommandState = CommandState.QUEUED
    epoch: int = 0
    journal: str = ""
    correlation_id: str = ""
    idempotency_key: str | None = None
    ordering_key: str | None = None
    priority: int = 0
    traceparent: str = ""
    key_id: str = ""
    cancel_requested: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    outputs: bytes | None = None
    row_sets: tuple[RowSetInfo, ...] = ()
    error: CommandError | None = None
    warnings: tuple[str, ...] = ()
    result: Literal["none", "inline", "file"] = "none"
    dispatched_at: float | None = None
    failures: int = 0
    not_before: float | None = None
    replay_of: str | None = None
    replayed_by: str | None = None
    resolution: Resolution | None = None
    sealed: bool = False
    signature: str = ""
    seal_to: str = ""
    proof: str = ""
    operation_digest: str = ""
    rows_as: str = "ndjson"


class Finish(msgspec.Struct, frozen=True):
    """
    The final state of a command, written once.

    Attributes:
        agent: whose word it is, if it is not that of the agent of the last attempt; ``epoch``, ``journal`` likewise.
        proof: as in ``Command``.
        by: who ended it, for the audit trail: ``agent:NAME``, or ``broker``.
        head: of the agent's journal then, as ``POSITION:HASH``, or "".
        started_at: when it began; ``None`` where the store knows, or nobody does.
    """

    state: CommandState
    finished_at: float
    outputs: bytes | None = None
    row_sets: tuple[RowSetInfo, ...] = ()
    error: CommandError | None = None
    warnings: tuple[str, ...] = ()
    result: Literal["none", "inline", "file"] = "none"
    inline: bytes | None = None
    proof: str = ""
    by: str = "broker"
    head: str = ""
    agent: str = ""
    epoch: int = 0
    journal: str = ""
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class CommandFilter:
    """
    What to list; ``None`` means any.

    Attributes:
        since: submitted then or later; ``before`` earlier than that.
        dead_letters: only what failed, is in doubt or expired, and was not replayed.
        code: of its error.
    """

    state: CommandState | None = None
    operation: str | None = None
    agent: str | None = None
    correlation_id: str | None = None
    since: float | None = None
    dead_letters: bool = False
    before: float | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A dead letter that a run left as it is."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class ReplayRun:
    """
    Many dead letters, replayed one after another, oldest first.

    Attributes:
        wanted: which; its ``before`` is no later than the run itself, or it would replay its own replays.
        total: how many there were when it began, at most as many as were asked for.
        rate: how many a second.
        by: id of the key that asked for it.
        cursor: id of the last one looked at; "" before the first.
        skipped: the first ``MAX_SKIPPED`` of those left out; ``skipped_count`` is how many there are.
        fingerprint: of what was asked for; tells one use of an idempotency key from another.
    """

    id: str
    tenant: str
    wanted: CommandFilter
    total: int
    rate: float
    by: str
    created_at: float
    state: Literal["running", "done", "cancelled"] = "running"
    cursor: str = ""
    replayed: int = 0
    skipped_count: int = 0
    skipped: tuple[Skipped, ...] = ()
    finished_at: float | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list; ``next`` goes into the call for the following part, ``None`` at the end."""

    items: Sequence[Any] = field(default_factory=tuple)
    next: str | None = None


class IdempotencyConflict(Exception):
    """The idempotency key was used before, with another request."""


class Exists(Exception):
    """Something of this name is there already."""


class Store(ApprovalStore, BlobStore, abc.ABC):
    """All that the broker keeps besides large results."""

    @abc.abstractmethod
    async def open(self) -> None:
        """Open, and bring the schema up to date. Refuses a store that a later release wrote."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Finish what was asked and close; calls after this raise ``RuntimeError``."""

    @abc.abstractmethod
    async def healthy(self) -> bool:
        """Whether a write gets through now."""

    # --- the audit trail --------------------------------------------------------------------------

    # What the other methods do they note themselves, in the same transaction; ``by`` is the actor (``audit.Act``).

    @abc.abstractmethod
    async def note(self, act: Act) -> None:
        """Keep an act at the end of its chain."""

    @abc.abstractmethod
    def note_soon(self, act: Act) -> None:
        """Likewise, without waiting; it may be lost with the process."""

    @abc.abstractmethod
    async def audit_chains(self) -> list[tuple[str, int, bytes]]:
        """Return every chain by name, with number and hash of its last record."""

    @abc.abstractmethod
    async def audit_head(self, tenant: str) -> tuple[int, bytes]:
        """Return number and hash of a chain's last record; ``(0, BEGINNING)`` if there is none."""

    @abc.abstractmethod
    async def audit_after(self, tenant: str, number: int, limit: int) -> list[Record]:
        """Return the records of a chain behind ``number``, oldest first."""

    @abc.abstractmethod
    async def audit_page(self, tenant: str, wanted: AuditFilter, cursor: int | None, limit: int) -> AuditPage:
        """Return records of a chain, newest first; a page may have fewer than ``limit`` and still a next one."""

    # --- tenants, keys, tokens --------------------------------------------------------------------

    @abc.abstractmethod
    async def create_tenant(self, name: str, now: float, *, by: str = "broker") -> Tenant:
        """Raises ``Exists``."""

    @abc.abstractmethod
    async def tenant(self, name: str) -> Tenant | None:
        """Return one tenant."""

    @abc.abstractmethod
    async def tenants(self) -> list[Tenant]:
        """Return all, by name."""

    @abc.abstractmethod
    async def set_tenant_state(self, name: str, state: Literal["active", "suspended"], *, by: str = "broker") -> bool:
        """Return whether there is such a tenant."""

    @abc.abstractmethod
    async def add_key(self, key: ApiKey, sha256: bytes, *, by: str = "broker") -> None:
        """Keep a key."""

    @abc.abstractmethod
    async def key_by_hash(self, sha256: bytes) -> ApiKey | None:
        """Return the key with this hash, revoked or expired ones included."""

    @abc.abstractmethod
    async def keys(self, tenant: str | None) -> list[ApiKey]:
        """Return a tenant's keys; all of them for ``None``."""

    @abc.abstractmethod
    async def revoke_key(self, key_id: str, now: float, *, by: str = "broker") -> bool:
        """Return whether there is such a key."""

    @abc.abstractmethod
    async def rotate_key(
        self, key_id: str, successor: ApiKey, sha256: bytes, ends_at: float, *, by: str = "broker"
    ) -> bool:
        """
        In one transaction: keep ``successor``, and let the key that it replaces end then, if it would not end earlier.

        Return False, changing nothing, unless there is such a key, neither revoked nor replaced.
        """

    @abc.abstractmethod
    async def key_used(self, key_id: str, now: float) -> None:
        """Note that a key was used; may return before the change is kept."""

    @abc.abstractmethod
    async def add_token(self, token: Token, sha256: bytes, *, by: str = "broker") -> None:
        """Keep a token."""

    @abc.abstractmethod
    async def token_by_hash(self, sha256: bytes) -> Token | None:
        """Return the token whose secret has this hash, spent or expired ones included."""

    @abc.abstractmethod
    async def open_tokens(self, now: float) -> int:
        """Return how many tokens of all tenants can still be used."""

    @abc.abstractmethod
    async def spend_token(self, token_id: str, agent: Agent, request: str, certificate: bytes, now: float) -> bool:
        """
        In one transaction: mark the token spent and enrol the agent (replacing one of that name).

        Return False, changing nothing, if the token was spent before.
        """

    # --- agents -----------------------------------------------------------------------------------

    @abc.abstractmethod
    async def agent(self, scope: Scope, name: str) -> Agent | None:
        """Return one agent."""

    @abc.abstractmethod
    async def agents(self, scope: Scope) -> list[Agent]:
        """Return all of a tenant's, by name."""

    @abc.abstractmethod
    async def add_agent(self, agent: Agent, *, by: str = "broker") -> None:
        """Register an agent that needs no token; raises ``Exists``."""

    @abc.abstractmethod
    async def revoke_agent(self, scope: Scope, name: str, now: float, reason: str = "", *, by: str = "broker") -> bool:
        """Return whether there is such an agent; the first reason stands."""

    @abc.abstractmethod
    async def drain_agent(self, scope: Scope, name: str, at: float | None, now: float, *, by: str = "broker") -> bool:
        """
        Keep that an agent is given nothing new; return whether there is such an agent.

        Args:
            at: since when; the first time stands. ``None`` to give it commands again.
        """

    @abc.abstractmethod
    async def change_identity(
        self,
        scope: Scope,
        name: str,
        change: Callable[[Agent], Agent],
        noted: Callable[[Agent, Agent], Act | None] | None = None,
    ) -> Agent | None:
        """
        In one transaction: look at an agent and keep who it is; return it as it is then, or None if there is none.

        Of what ``change`` returns these are kept: ``serial``, ``not_after``, ``issuer``, ``next``, ``trusts``,
        ``lineage``, ``revoked_at``, ``revoked_reason``. What it raises is raised, and nothing is kept.

        Args:
            change: a pure function; may be called in another thread.
            noted: returns what is noted of a change, from the agent before and after it; likewise.
        """

    @abc.abstractmethod
    async def standing(self, scope: Scope, name: str) -> tuple[Tenant | None, Agent | None]:
        """Return a tenant and one of its agents, without its catalogue; ``None`` for what there is not."""

    @abc.abstractmethod
    async def doubtful(self, linked: Sequence[Linked]) -> list[int]:
        """Return the places of those who may perhaps not be linked any more: revoked, suspended, replaced…"""

    @abc.abstractmethod
    async def arrived(self, arrival: Arrival) -> Arrived | None:
        """In one transaction, keep who an agent is that greets, and what it says; ``None`` if there is none."""

    @abc.abstractmethod
    async def has_kept(self, scope: Scope, name: str, given: str) -> None:
        """Note that an agent has the text that it was given last. Need not be durable on return."""

    @abc.abstractmethod
    async def agent_seen(
        self,
        scope: Scope,
        name: str,
        now: float,
        *,
        release: str = "",
        system: str = "",
        journal: str = "",
        position: int = 0,
    ) -> None:
        """
        Note that it is there; what is empty leaves what was known. Need not be durable on return.

        Of the positions of one journal the highest is kept; another journal starts over.
        """

    @abc.abstractmethod
    async def put_catalogue(self, scope: Scope, name: str, catalogue: bytes, digest: str) -> None:
        """Keep what the agent says may be run."""

    # --- commands ---------------------------------------------------------------------------------

    @abc.abstractmethod
    async def add_command(self, scope: Scope, command: Command) -> tuple[Command, bool]:
        """
        Keep a new command; return it and True, or the one with the same idempotency key and False.

        Raises:
            IdempotencyConflict: that one has another fingerprint.
        """

    @abc.abstractmethod
    async def add_commands(
        self, scope: Scope, commands: Sequence[Command]
    ) -> list[tuple[Command, bool] | IdempotencyConflict]:
        """Keep many at once, in order; return of each what ``add_command`` does, or the error that it would raise."""

    @abc.abstractmethod
    async def command(self, scope: Scope, command_id: str) -> Command | None:
        """Return one command."""

    @abc.abstractmethod
    async def command_by_key(self, scope: Scope, idempotency_key: str) -> Command | None:
        """Return the command that an idempotency key was used for."""

    @abc.abstractmethod
    async def inline_result(self, scope: Scope, command_id: str) -> bytes | None:
        """Return the bytes of a result kept inline."""

    @abc.abstractmethod
    async def commands(self, scope: Scope, wanted: CommandFilter, cursor: str | None, limit: int) -> Page:
        """Return commands, newest first."""

    @abc.abstractmethod
    async def open_commands(self) -> list[Command]:
        """Return every command of every tenant that is in no final state, oldest first; used once, at the start."""

    @abc.abstractmethod
    async def dispatched(
        self, scope: Scope, command_id: str, epoch: int, agent: str, journal: str, now: float, *, durable: bool
    ) -> None:
        """
        Note that an attempt is about to be sent: state ``dispatched``, ``dispatched_at`` now.

        With ``durable=False`` it may return before the change is kept; changes of one command keep their order.
        """

    @abc.abstractmethod
    async def running(self, scope: Scope, command_id: str, now: float) -> None:
        """Note that the work began: state ``running``; may return before the change is kept."""

    @abc.abstractmethod
    async def requeue(
        self,
        scope: Scope,
        command_id: str,
        *,
        step: Step | None = None,
        failures: int = 0,
        not_before: float | None = None,
    ) -> None:
        """
        Back to ``queued``: it was certainly not run, or may be run again.

        Args:
            step: what became of the attempt; its error becomes the command's.
            failures: as in ``Command``.
            not_before: as in ``Command``.
        """

    @abc.abstractmethod
    async def request_cancel(self, scope: Scope, command_id: str, *, by: str = "broker") -> Command | None:
        """Note that its caller wants it no more; return it."""

    @abc.abstractmethod
    async def finish(self, scope: Scope, command_id: str, finish: Finish) -> bool:
        """Write the final state; return False, changing nothing, if it has one already."""

    @abc.abstractmethod
    async def forget_before(self, before: float, limit: int) -> list[tuple[str, str]]:
        """
        Remove commands and runs finished before; return ``(tenant, id)`` of up to ``limit`` that have result files.

        Those in doubt stay until somebody resolves them, and count from then. Call it until it returns none: then
        nothing else is left. Removes few at a time and rests between, so that whoever writes meanwhile hardly waits.
        """

    @abc.abstractmethod
    async def shrink(self) -> None:
        """Give free space back to the disk, likewise few at a time; what is soon used again is kept."""

    # --- dead letters -----------------------------------------------------------------------------

    @abc.abstractmethod
    async def add_step(self, scope: Scope, step: Step) -> None:
        """Keep a step of a command's life."""

    @abc.abstractmethod
    async def steps(self, scope: Scope, command_id: str) -> list[Step]:
        """Return the steps of a command that are not in its own row, oldest first."""

    @abc.abstractmethod
    async def resolve(
        self, scope: Scope, command_id: str, state: CommandState, resolution: Resolution, error: CommandError | None
    ) -> bool:
        """Write what a person found out; return False, changing nothing, unless the command is in doubt."""

    @abc.abstractmethod
    async def replay(
        self, scope: Scope, original: str, command: Command, run: str | None = None
    ) -> tuple[Command, bool]:
        """
        In one transaction: keep ``command``, whose ``replay_of`` is ``original``, mark that one as replayed by it,
        and let the run, if there is one, have replayed it.

        Return it and True, or the one that replayed ``original`` before and False.

        Raises:
            LookupError: there is no such command that has ended.
            IdempotencyConflict: another command has its idempotency key.
        """

    @abc.abstractmethod
    async def count_dead_letters(self, scope: Scope, wanted: CommandFilter, limit: int) -> tuple[int, int]:
        """Return how many dead letters there are, at most ``limit``, and how many of them are in doubt."""

    @abc.abstractmethod
    async def dead_letters_after(self, scope: Scope, wanted: CommandFilter, cursor: str, limit: int) -> list[Command]:
        """Return dead letters whose ids are greater than ``cursor``, oldest first; without their params."""

    @abc.abstractmethod
    async def add_replay_run(self, scope: Scope, run: ReplayRun) -> tuple[ReplayRun, bool]:
        """
        Keep a new run; return it and True, or the one with the same idempotency key and False.

        Raises:
            IdempotencyConflict: that one has another fingerprint.
        """

    @abc.abstractmethod
    async def replay_run(self, scope: Scope, run_id: str) -> ReplayRun | None:
        """Return one run."""

    @abc.abstractmethod
    async def replay_runs(self, scope: Scope, cursor: str | None, limit: int) -> Page:
        """Return runs, newest first."""

    @abc.abstractmethod
    async def open_replay_runs(self) -> list[ReplayRun]:
        """Return every run of every tenant that is to go on, oldest first."""

    @abc.abstractmethod
    async def replay_skipped(self, scope: Scope, run_id: str, skipped: Skipped) -> None:
        """Let a run have left one out."""

    @abc.abstractmethod
    async def end_replay_run(
        self, scope: Scope, run_id: str, state: Literal["done", "cancelled"], now: float, *, by: str = "broker"
    ) -> bool:
        """Return False, changing nothing, unless it runs."""
