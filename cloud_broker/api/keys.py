"""Callers' keys, for administrators."""

from __future__ import annotations

import time
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request, Response

from cloud_broker.api.auth import Caller, caller, credentials
from cloud_broker.api.bodies import Body, answer, read
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import services
from cloud_broker.api.views import KeyView, ListView, NewKeyView, key_view, time_or_none
from cloud_broker.callers.keys import DEFAULT_GRACE_S, MAX_GRACE_S, MAX_TTL_S, new_key, sha256_of, state, successor
from cloud_broker.errors import (
    Conflict,
    ContentTypeUnsupported,
    Forbidden,
    NotFound,
    RequestInvalid,
    StoreUnavailable,
)
from cloud_broker.store.tenants import ApiKey

router = APIRouter(prefix="/v1/keys", tags=["administration"])

EXAMPLE: Final = {"name": "web shop", "scopes": ["commands:write", "commands:read"], "ttl": 2592000}
KeyId = Annotated[str, Path(description="Of the key.", max_length=200)]


class NewKey(Body, frozen=True):
    """
    A caller's key to be.

    Attributes:
        scopes: what it may do; only what the key that asks may do itself.
        ttl: seconds that it is valid; without it, until it is revoked.
        name: what it is for.
        owner: who answers for it. A key of one tenant gives its own owner only, or who has one could be two people.
    """

    scopes: list[str]
    ttl: float | None = None
    name: str = ""
    owner: str | None = None


class Rotation(Body, frozen=True):
    """
    How a key is replaced.

    Attributes:
        grace: seconds that the old one goes on.
    """

    grace: float = DEFAULT_GRACE_S


@router.get(
    "",
    **describe(
        "List keys",
        scope="tenant:admin",
        answers={200: ("The tenant's, revoked ones included, without their secrets.", ListView)},
        items=KeyView,
        problems=[StoreUnavailable],
    ),
)
async def list_keys(request: Request) -> Response:
    """List a tenant's keys."""
    who = await caller(request, "tenant:admin")
    now = time.time()
    return answer(ListView([key_view(key, now) for key in await services(request).store.keys(who.scope.tenant)]))


@router.post(
    "",
    **describe(
        "Create a key",
        scope="tenant:admin",
        answers={201: ("Shown now and never again.", NewKeyView)},
        problems=[ContentTypeUnsupported, StoreUnavailable],
        body=NewKey,
        example=EXAMPLE,
    ),
)
async def create(request: Request) -> Response:
    """Create a key of the tenant."""
    who = await caller(request, "tenant:admin")
    wanted = await read(request, NewKey)
    owner = who.key.owner if wanted.owner is None else wanted.owner
    _within(who, wanted.scopes, owner)
    if wanted.ttl is not None and not 0 < wanted.ttl <= MAX_TTL_S:
        raise RequestInvalid(f"ttl: wants more than 0 and at most {MAX_TTL_S:.0f} seconds, found {wanted.ttl:g}.")
    try:
        key, text = new_key(who.scope.tenant, wanted.scopes, time.time(), wanted.ttl, name=wanted.name, owner=owner)
    except ValueError as exc:
        raise RequestInvalid(f"{exc}.") from exc
    await services(request).store.add_key(key, sha256_of(text), by=who.key.actor)
    return answer(_new(key, text), 201)


@router.post(
    "/{key_id}/rotate",
    **describe(
        "Replace a key",
        scope="tenant:admin",
        answers={201: ("A new key with the same rights, shown now and never again; the old one goes on.", NewKeyView)},
        problems=[NotFound, Conflict, ContentTypeUnsupported, StoreUnavailable],
        body=Rotation,
        example={"grace": 86400},
    ),
)
async def rotate(request: Request, key_id: KeyId) -> Response:
    """Replace a key without a gap: both are good for the time of grace, then the new one alone."""
    who = await caller(request, "tenant:admin")
    grace_s = (await read(request, Rotation)).grace
    if not 0 <= grace_s <= MAX_GRACE_S:
        raise RequestInvalid(f"grace: wants 0 to {MAX_GRACE_S:.0f} seconds, found {grace_s:g}.")
    old, now = await _key(request, who, key_id), time.time()
    _within(who, old.scopes, old.owner)
    if state(old, now) in ("revoked", "expired") or old.replaced_by is not None:
        how = f"was replaced by {old.replaced_by}" if old.replaced_by else f"is {state(old, now)}"
        raise Conflict(f"The key {key_id} {how}; create a new one, or rotate the one that is in use.")
    key, text = successor(old, now)
    if not await services(request).store.rotate_key(old.id, key, sha256_of(text), now + grace_s, by=who.key.actor):
        raise Conflict(f"The key {key_id} was revoked or replaced just now.")
    credentials(request).forget()
    return answer(_new(key, text), 201)


@router.post(
    "/{key_id}/revoke",
    **describe(
        "Revoke a key",
        scope="tenant:admin",
        answers={200: ("It is refused from now on.", KeyView)},
        problems=[NotFound, StoreUnavailable],
    ),
)
async def revoke(request: Request, key_id: KeyId) -> Response:
    """Revoke a key of the tenant."""
    who = await caller(request, "tenant:admin")
    await _key(request, who, key_id)
    await services(request).store.revoke_key(key_id, time.time(), by=who.key.actor)
    credentials(request).forget()
    return answer(key_view(await _key(request, who, key_id), time.time()))


async def _key(request: Request, who: Caller, key_id: str) -> ApiKey:
    # Only among the tenant's own: another tenant's key is not there.
    for key in await services(request).store.keys(who.scope.tenant):
        if key.id == key_id:
            return key
    raise NotFound(f"There is no key {key_id!r}.")


def _within(who: Caller, scopes: list[str] | tuple[str, ...], owner: str) -> None:
    """Refuse to give what the key that asks has not itself."""
    beyond = sorted(scope for scope in set(scopes) if not who.key.may(scope))
    if beyond:
        raise Forbidden(f"The key {who.key.id} can't give what it has not: {', '.join(beyond)}.")
    if who.key.tenants is not None and owner != who.key.owner:
        raise Forbidden(
            f"The key {who.key.id} is of {who.key.owner or 'nobody in particular'}, and can't make one for another "
            "owner; a key that spans tenants can, and `outhaul-broker key` on the broker's own machine."
        )


def _new(key: ApiKey, text: str) -> NewKeyView:
    return NewKeyView(key.id, text, key.tenant, list(key.scopes), time_or_none(key.expires_at))
