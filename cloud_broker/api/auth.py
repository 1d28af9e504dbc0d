"""Who asks, for which tenant, and whether they may."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI, Request

from cloud_broker.api.services import services
from cloud_broker.errors import Forbidden, RequestInvalid, TenantNotNamed, TenantSuspended, Unauthenticated
from cloud_broker.keys import KEY, sha256_of
from cloud_broker.store.base import ApiKey
from cloud_broker.tenants import Scope

TENANT_HEADER: Final = "outhaul-tenant"
NOTE_USE_S: Final = 60.0  # seconds; the last use of a key is known to a minute, and costs a write a minute
WANTED: Final = "Send a key as 'Authorization: Bearer ohk_…'; `outhaul-broker key create` makes one."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and for which tenant."""

    key: ApiKey
    scope: Scope


def install(app: FastAPI) -> None:
    """Let ``app`` remember which keys were used lately."""
    app.state.keys_used = {}


async def caller(request: Request, wanted: str, *, new_work: bool = False) -> Caller:
    """
    Return who asks for something of one tenant.

    Args:
        wanted: the scope that the route needs.
        new_work: whether a suspended tenant may not do it.

    Raises:
        Unauthenticated, Forbidden, TenantNotNamed, TenantSuspended
    """
    key = await holder(request, wanted)
    named = request.headers.get(TENANT_HEADER)
    if key.tenant is not None:
        if named is not None and named != key.tenant:
            raise Forbidden(f"The key belongs to one tenant, and Outhaul-Tenant names another: {named!r}.")
        if not new_work:
            return Caller(key, Scope(key.tenant))
    elif named is None:
        raise TenantNotNamed("The key spans tenants: name one with the Outhaul-Tenant header.")
    name = key.tenant or named or ""
    tenant = await services(request).store.tenant(name)
    if tenant is None:
        raise TenantNotNamed(f"Outhaul-Tenant names {name!r}, and there is no such tenant.")
    if new_work and tenant.state == "suspended":
        raise TenantSuspended(f"The tenant {name} is suspended; nothing new is taken until it is resumed.")
    return Caller(key, Scope(name))


async def holder(request: Request, wanted: str) -> ApiKey:
    """
    Return the key of a request, whichever tenant it is for.

    Raises:
        Unauthenticated, Forbidden
    """
    _only_known_query(request)
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    text = text.strip()
    if not text or scheme.lower() != "bearer":
        raise Unauthenticated(f"The request carries no key. {WANTED}")
    key = await services(request).store.key_by_hash(sha256_of(text)) if KEY.fullmatch(text) else None
    now = time.time()
    if key is None:
        raise Unauthenticated(f"The key is not known here. {WANTED}")
    if key.revoked_at is not None:
        raise Unauthenticated(f"The key {key.id} was revoked. {WANTED}")
    if key.expires_at is not None and key.expires_at <= now:
        raise Unauthenticated(f"The key {key.id} has expired. {WANTED}")
    await _note_use(request, key, now)
    if wanted not in key.scopes and "*" not in key.scopes:
        raise Forbidden(f"The key {key.id} lacks the scope {wanted}; it has {', '.join(key.scopes)}.", scope=wanted)
    return key


async def _note_use(request: Request, key: ApiKey, now: float) -> None:
    used: dict[str, float] = request.app.state.keys_used
    if now - used.get(key.id, 0.0) >= NOTE_USE_S:
        used[key.id] = now
        await services(request).store.key_used(key.id, now)


def _only_known_query(request: Request) -> None:
    """Refuse a misspelt filter, which would otherwise list everything, and one of two, which would be dropped."""
    if request.scope.get("query_string"):
        known = [field.alias for field in request.scope["route"].dependant.query_params]
        unknown = sorted(set(request.query_params) - set(known))
        if unknown:
            names = ", ".join(known) if known else "none"
            raise RequestInvalid(f"Unknown query parameter {unknown[0]!r}; known here: {names}.")
        for name in known:
            if len(request.query_params.getlist(name)) > 1:
                raise RequestInvalid(f"{name}: wants one value, found {request.query_params.getlist(name)}.")
