"""What a store keeps of tenants, of their keys, and of the tokens that agents enrol with."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

from cloud_broker.store.agents import Agent


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


class TenantStore(abc.ABC):
    """The part of a store that is about tenants and what they come in with."""

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
