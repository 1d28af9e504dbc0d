"""OpenID providers: where their keys are, fetched, kept, and fetched again when a token names one that is new."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from cloud_broker.callers.jwts import Identity, Key, Token, TokenRefused, Wanted, choose, keys_of, take_apart, verify
from cloud_broker.errors import Unavailable
from cloud_broker.settings import ConfigError, IssuerSettings, checked_web_address

FETCH_S: Final = 5.0  # seconds for one document, all of it
MAX_DOCUMENT_BYTES: Final = 1_048_576
FRESH_S: Final = 300.0  # seconds after which keys are looked up again: one that was withdrawn is refused by then
UNKNOWN_S: Final = 10.0  # seconds between two fetches because of tokens whose key is not known
STALE_S: Final = 86_400.0  # seconds that keys go on to count while the provider can't be reached
DISCOVERY: Final = "/.well-known/openid-configuration"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    keys: tuple[Key, ...] = ()
    at: float = float("-inf")


class Provider:
    """
    One issuer.

    Args:
        clock: seconds that only grow; replaced in tests.
    """

    def __init__(self, settings: IssuerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.wanted = Wanted(
            issuer=settings.issuer,
            audience=settings.audience,
            algorithms=settings.algorithms,
            tenant_claim=settings.tenant_claim,
            tenants=settings.tenants,
            scope_claim=settings.scope_claim,
            roles=settings.roles,
            leeway_s=settings.leeway,
        )
        self.fetches = 0
        self._jwks = settings.jwks
        self._clock = clock
        self._kept = _Kept()
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Provider {self.wanted.issuer} {len(self._kept.keys)} keys>"

    async def identity(self, token: Token) -> Identity:
        """
        Return who a token is about.

        Raises:
            TokenRefused: it is not good.
            Unavailable: the provider's keys were never to be had, or not for long.
        """
        key = await self._key(token)
        if key is None:
            raise TokenRefused("no key of its issuer has made it")
        return verify(token, key, self.wanted, time.time())

    async def _key(self, token: Token) -> Key | None:
        age_s = self._clock() - self._kept.at
        if age_s > STALE_S:
            await self._ask()
            if self._clock() - self._kept.at > STALE_S:
                raise Unavailable(
                    f"The keys of {self.wanted.issuer} can't be had now, so its tokens can't be checked.",
                    retry_after_s=UNKNOWN_S,
                )
        elif age_s > FRESH_S and self._may_ask():
            # Beside: who shows a token of a known key need not wait for the provider.
            self._ask_beside()
        key = choose(self._kept.keys, token)
        if key is None and self._kept.at < self._clock() - UNKNOWN_S:
            await self._ask()
            key = choose(self._kept.keys, token)
        return key

    def _may_ask(self) -> bool:
        return self._clock() - self._asked_at > UNKNOWN_S

    async def _ask(self) -> None:
        """Fetch the keys, or wait for who does; not more often than is allowed."""
        if self._asking is None and not self._may_ask():
            return
        await asyncio.shield(self._ask_beside())

    def _ask_beside(self) -> asyncio.Task[None]:
        if self._asking is None:
            self._asked_at = self._clock()
            self._asking = asyncio.create_task(self._fetch(), name=f"keys of {self.wanted.issuer}")
            self._asking.add_done_callback(self._asked)
        return self._asking

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None

    async def _fetch(self) -> None:
        self.fetches += 1
        try:
            async with asyncio.timeout(FETCH_S):
                keys = keys_of(await self._document())
        except (OSError, ValueError, RecursionError, TimeoutError, ConfigError, httpx2.HTTPError) as exc:
            log.warning(
                "the keys of %s can't be had: %s; those that are known go on to count",
                self.wanted.issuer,
                exc or type(exc).__name__,
                extra={"event": "issuer_unreachable", "issuer": self.wanted.issuer},
            )
            return
        if not keys:
            log.warning("%s has no key that can be used", self.wanted.issuer, extra={"event": "issuer_without_keys"})
        self._kept = _Kept(keys, self._clock())

    async def _document(self) -> Any:
        if self._jwks and "://" not in self._jwks:
            return json.loads(await asyncio.to_thread(Path(self._jwks).read_bytes))
        address = self._jwks or await self._discovered()
        return await fetched(address)

    async def _discovered(self) -> str:
        found = await fetched(self.wanted.issuer.rstrip("/") + DISCOVERY)
        if not isinstance(found, dict) or found.get("issuer") != self.wanted.issuer:
            raise ValueError(f"its discovery document is not that of {self.wanted.issuer}")
        address = found.get("jwks_uri")
        if not isinstance(address, str):
            raise ValueError("its discovery document names no jwks_uri")
        return checked_web_address(address)


class Providers:
    """All issuers of the broker's file."""

    def __init__(self, issuers: Sequence[IssuerSettings]) -> None:
        self._providers = {settings.issuer: Provider(settings) for settings in issuers}

    def __bool__(self) -> bool:
        return bool(self._providers)

    async def identity(self, text: str) -> Identity:
        """
        Return who a token is about.

        Raises:
            TokenRefused: it is not good, or of nobody who is known here.
            Unavailable: its provider's keys can't be had.
        """
        token = take_apart(text)
        provider = self._providers.get(token.issuer)
        if provider is None:
            raise TokenRefused(f"its issuer {token.issuer[:80]!r} is not one of this broker")
        return await provider.identity(token)


async def fetched(address: str) -> Any:
    """
    Return a JSON document; no redirect is followed, and a large one is not read.

    Raises:
        ValueError: what came is none.
        httpx2.HTTPError: it can't be had.
    """
    parts: list[bytes] = []
    async with (
        httpx2.AsyncClient(follow_redirects=False, timeout=FETCH_S) as client,
        client.stream("GET", address, headers={"Accept": "application/json"}) as answer,
    ):
        if answer.status_code != 200:
            raise ValueError(f"{address} answers {answer.status_code}")
        async for part in answer.aiter_bytes():
            parts.append(part)
            if sum(map(len, parts)) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"{address} gives more than {MAX_DOCUMENT_BYTES} bytes")
    return json.loads(b"".join(parts))
