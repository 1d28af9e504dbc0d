"""Callers' keys, for administrators."""

from __future__ import annotations

import time
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request, Response

from cloud_broker.api.auth import caller
from cloud_broker.api.bodies import Body, answer, read
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import services
from cloud_broker.api.views import KeyView, ListView, NewKeyView, key_view, time_or_none
from cloud_broker.errors import ContentTypeUnsupported, Forbidden, NotFound, RequestInvalid, StoreUnavailable
from cloud_broker.keys import MAX_TTL_S, new_key, sha256_of

router = APIRouter(prefix="/v1/keys", tags=["administration"])

EXAMPLE: Final = {"scopes": ["commands:write", "commands:read"], "ttl": 2592000}


class NewKey(Body, frozen=True):
    """
    A caller's key to be.

    Attributes:
        scopes: what it may do; only what the key that asks may do itself.
        ttl: seconds that it is valid; without it, until it is revoked.
    """

    scopes: list[str]
    ttl: float | None = None


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
    return answer(ListView([key_view(key) for key in await services(request).store.keys(who.scope.tenant)]))


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
    beyond = sorted(set(wanted.scopes) - set(who.key.scopes))
    if beyond and "*" not in who.key.scopes:
        raise Forbidden(f"The key {who.key.id} can't give what it has not: {', '.join(beyond)}.")
    if wanted.ttl is not None and not 0 < wanted.ttl <= MAX_TTL_S:
        raise RequestInvalid(f"ttl: wants more than 0 and at most {MAX_TTL_S:.0f} seconds, found {wanted.ttl:g}.")
    try:
        key, text = new_key(who.scope.tenant, wanted.scopes, time.time(), wanted.ttl)
    except ValueError as exc:
        raise RequestInvalid(f"scopes: {exc}.") from exc
    await services(request).store.add_key(key, sha256_of(text))
    return answer(NewKeyView(key.id, text, key.tenant, list(key.scopes), time_or_none(key.expires_at)), 201)


@router.post(
    "/{key_id}/revoke",
    **describe(
        "Revoke a key",
        scope="tenant:admin",
        answers={200: ("It is refused from now on.", KeyView)},
        problems=[NotFound, StoreUnavailable],
    ),
)
async def revoke(request: Request, key_id: Annotated[str, Path(description="Of the key.", max_length=200)]) -> Response:
    """Revoke a key of the tenant."""
    who = await caller(request, "tenant:admin")
    store = services(request).store
    # Only among the tenant's own: another tenant's key is not there.
    if all(key.id != key_id for key in await store.keys(who.scope.tenant)):
        raise NotFound(f"There is no key {key_id!r}.")
    await store.revoke_key(key_id, time.time())
    return answer(next(key_view(key) for key in await store.keys(who.scope.tenant) if key.id == key_id))
