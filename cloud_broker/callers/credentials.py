"""What callers show of themselves, checked: API keys, and tokens of OpenID providers."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import msgspec

from cloud_broker.audit import trail as audit
from cloud_broker.callers.fairness import Gate
from cloud_broker.callers.jwts import TokenRefused
from cloud_broker.callers.keys import KEY
from cloud_broker.callers.openid import Providers
from cloud_broker.errors import CredentialExpired, Unauthenticated
from cloud_broker.store.base import Store
from cloud_broker.store.tenants import ApiKey, Tenant

NOTE_USE_S: Final = 60.0  # seconds; the last use of a key is known to a minute, and costs a write a minute
KEPT_S: Final = 0.5  # seconds that what the store said is taken for true; a revocation elsewhere acts by then
MAX_KEPT: Final = 10_000  # keys, and tenants
CHECKS: Final = 4  # credentials that are looked up at once: the store answers them together, and others between them
CHECKS_EACH: Final = 2  # of one address
WANTED: Final = "Send a key as 'Authorization: Bearer ohk_…'; `outhaul-broker key create` makes one."

Name = TypeVar("Name")
Thing = TypeVar("Thing")


class Credential(msgspec.Struct, frozen=True):
    """
    Who asks, and what they may do.

    Attributes:
        id: of the key; of a token its issuer and subject.
        tenants: that it is for; ``None`` if it spans all.
        owner: the person or team behind it; "" if that is not known.
    """

    id: str
    tenants: tuple[str, ...] | None
    scopes: tuple[str, ...]
    owner: str = ""

    @property
    def actor(self) -> str:
        """As the audit trail names it."""
        return audit.caller(self.id)

    def may(self, scope: str) -> bool:
        """Whether it has a scope."""
        return scope in self.scopes or "*" in self.scopes


class Lately(Generic[Name, Thing]):
    """
    What was looked up lately.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, look: Callable[[Name], Awaitable[Thing | None]], clock: Callable[[], float]) -> None:
        self._look = look
        self._clock = clock
        self._found: OrderedDict[Name, tuple[float, Thing]] = OrderedDict()
        self._generation = 0

    async def get(self, name: Name) -> Thing | None:
        """Return it, as it was at most ``KEPT_S`` ago; what is not there is looked up each time."""
        kept = self.kept(name)
        if kept is not None:
            return kept
        asked_at, generation = self._clock(), self._generation
        found = await self._look(name)
        self._found.pop(name, None)
        # Not what was looked up before somebody changed it.
        if found is not None and generation == self._generation:
            _keep(self._found, name, (asked_at, found))
        return found

    def kept(self, name: Name) -> Thing | None:
        """Return it if it was looked up at most ``KEPT_S`` ago."""
        found = self._found.get(name)
        return found[1] if found is not None and self._clock() - found[0] < KEPT_S else None

    def forget(self) -> None:
        """Look everything up again: something has changed."""
        self._generation += 1
        self._found.clear()


class Credentials:
    """
    Checks what callers show.

    A key or tenant that was changed elsewhere, by the command line for instance, is seen within ``KEPT_S``; what
    is changed here says so with ``forget``, and counts at once.

    Checks go by turns: addresses take turns, and so does each credential that was good before. So a flood of wrong
    ones makes others wait for a turn, from its own address too.
    """

    def __init__(self, store: Store, providers: Providers, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._providers = providers
        self._clock = clock
        self._keys: Lately[bytes, ApiKey] = Lately(store.key_by_hash, clock)
        self._tenants: Lately[str, Tenant] = Lately(store.tenant, clock)
        self._used: OrderedDict[str, float] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()  # digests of what was good, used last comes last
        self._checks = Gate(CHECKS, CHECKS_EACH)

    def forget(self) -> None:
        """Look at keys and tenants anew: one of them has changed."""
        self._keys.forget()
        self._tenants.forget()

    async def tenant(self, name: str) -> Tenant | None:
        """Return a tenant."""
        return await self._tenants.get(name)

    async def of(self, authorization: str, address: str) -> Credential:
        """
        Return who an ``Authorization`` header is, once it is its turn.

        Args:
            address: where it comes from.

        Raises:
            Unauthenticated: it is nobody.
            Unavailable: the keys of its issuer can't be had now.
        """
        scheme, _, text = authorization.partition(" ")
        text = text.strip()
        if not text or scheme.lower() != "bearer":
            raise Unauthenticated(f"The request carries no key. {WANTED}")
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        if (key := self._keys.kept(digest)) is not None:
            return await self._good_key(key)
        line = f"good {digest.hex()}" if digest in self._good else f"from {address}"
        found = await self._checked(text, digest, line)
        _keep(self._good, digest, None)
        return found

    async def _checked(self, text: str, digest: bytes, line: str) -> Credential:
        if KEY.fullmatch(text):
            return await self._by_key(digest, line)
        if self._providers and text.count(".") == 2:
            return await self._by_token(text, line)
        raise Unauthenticated(f"The key is not known here. {WANTED}")

    async def _by_key(self, digest: bytes, line: str) -> Credential:
        async with self._checks.place(line):
            key = await self._keys.get(digest)
        if key is None:
            raise Unauthenticated(f"The key is not known here. {WANTED}")
        return await self._good_key(key)

    async def _good_key(self, key: ApiKey) -> Credential:
        now = time.time()
        if key.revoked_at is not None:
            raise Unauthenticated(f"The key {key.id} was revoked. {WANTED}")
        if key.expires_at is not None and key.expires_at <= now:
            follower = f" It was replaced by the key {key.replaced_by}." if key.replaced_by else ""
            raise CredentialExpired(f"The key {key.id} has expired.{follower} {WANTED}")
        if now - self._used.get(key.id, 0.0) >= NOTE_USE_S:
            _keep(self._used, key.id, now)
            await self._store.key_used(key.id, now)
        return Credential(key.id, None if key.tenant is None else (key.tenant,), key.scopes, key.owner)

    async def _by_token(self, text: str, line: str) -> Credential:
        async with self._checks.place(line):
            await asyncio.sleep(0)  # one round of the loop: signatures are checked a few in each
        # Without a place: it may wait for a provider, and nobody else should.
        try:
            found = await self._providers.identity(text)
        except TokenRefused as exc:
            kind = CredentialExpired if exc.expired else Unauthenticated
            raise kind(f"The token is refused: {exc}.") from exc
        who = f"{found.issuer}#{found.subject}"
        return Credential(who, found.tenants, found.scopes, who)


def _keep(kept: OrderedDict[Name, Thing], name: Name, thing: Thing) -> None:
    """Keep a thing as the last of all, and so many at most."""
    kept[name] = thing
    kept.move_to_end(name)
    if len(kept) > MAX_KEPT:
        kept.popitem(last=False)
