"""What a store keeps of agents: who they are, and what was last known of them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cloud_broker.audit.trail import Act
from cloud_broker.identity.lineage import NEW, Lineage
from cloud_broker.tenants import Scope

if TYPE_CHECKING:
    from cloud_broker.store.tenants import Tenant


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


class AgentStore(abc.ABC):
    """The part of a store that is about agents."""

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
    def has_kept(self, scope: Scope, name: str, given: str) -> None:
        """Note that an agent has the text that it was given last, without waiting; it may be lost with the process."""

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
