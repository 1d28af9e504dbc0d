"""Who asks, for which tenant, and whether they may."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import FastAPI, Request

from cloud_broker.api import headers
from cloud_broker.api.turnstile import turnstile, visit
from cloud_broker.audit.notary import Notary
from cloud_broker.audit.trail import BROKER
from cloud_broker.callers.credentials import Credential, Credentials
from cloud_broker.errors import (
    CredentialExpired,
    Forbidden,
    RequestInvalid,
    TenantNotNamed,
    TenantSuspended,
    Unauthenticated,
)
from cloud_broker.tenants import Scope

TENANT_HEADER: Final = "outhaul-tenant"


class Caller(msgspec.Struct, frozen=True):
    """
    Who asks, and for which tenant.

    Attributes:
        key: what they showed: an API key, or a token of an OpenID provider.
    """

    key: Credential
    scope: Scope


def install(app: FastAPI, credentials: Credentials, notary: Notary) -> None:
    """Let the routes of ``app`` know who asks."""
    app.state.credentials = credentials
    app.state.notary = notary


def credentials(request: Request) -> Credentials:
    """Return what checks the callers of this request's application."""
    found: Credentials = request.app.state.credentials
    return found


def notary(request: Request) -> Notary:
    """Return what notes those who were not let in."""
    found: Notary = request.app.state.notary
    return found


async def caller(
    request: Request, wanted: str | tuple[str, ...], *, new_work: bool = False, body: bool = False
) -> Caller:
    """
    Return who asks for something of one tenant; the tenant is one that the key or token is for, whatever is asked.

    Args:
        wanted: the scope that the route needs; one of several where it depends, and the route looks itself.
        new_work: whether a suspended tenant may not do it.
        body: whether its body is read next, and then it is its turn; else it is when this returns.

    Raises:
        Unauthenticated, Forbidden, TenantNotNamed, TenantSuspended, TooManyRequests
    """
    key = await _known(request, wanted)
    named = _one(request, TENANT_HEADER)
    if key.tenants is not None and named is not None and named not in key.tenants:
        await _enter(request, key)
        raise Forbidden(f"The key is not for the tenant that Outhaul-Tenant names: {named!r}.")
    if named is None and key.tenants is not None and len(key.tenants) == 1:
        named = key.tenants[0]
    if named is None:
        raise TenantNotNamed("The key is for several tenants: name one with the Outhaul-Tenant header.")
    here = visit(request)
    here.count(named)
    if not body:
        await here.turn()
    tenant = await credentials(request).tenant(named)
    if tenant is None:
        raise TenantNotNamed(f"There is no tenant {named!r}.")
    if new_work and tenant.state == "suspended":
        raise TenantSuspended(f"The tenant {named} is suspended; nothing new is taken until it is resumed.")
    return Caller(key, Scope(named))


async def holder(request: Request, wanted: str) -> Credential:
    """
    Return the key of a request, whichever tenant it is for.

    Raises:
        Unauthenticated, Forbidden
    """
    key = await _known(request, wanted)
    await _enter(request, key)
    return key


async def _enter(request: Request, key: Credential) -> None:
    """Count a request that is for no tenant in particular."""
    one = key.tenants[0] if key.tenants is not None and len(key.tenants) == 1 else None
    # No tenant has a space in its name.
    here = visit(request)
    here.count(one or f"key {key.id}")
    await here.turn()


async def _known(request: Request, wanted: str | tuple[str, ...]) -> Credential:
    _only_known_query(request)
    key = await _shown(request)
    alternatives = (wanted,) if isinstance(wanted, str) else wanted
    if not any(map(key.may, alternatives)):
        # Who may not do it asks all the same, and counts.
        await _enter(request, key)
        lacking = " or ".join(alternatives)
        raise Forbidden(f"The key {key.id} lacks the scope {lacking}; it has {', '.join(key.scopes)}.", scope=lacking)
    return key


async def _shown(request: Request) -> Credential:
    shown = _one(request, "authorization")
    client = request.scope.get("client")
    address = client[0] if client else ""
    try:
        return await credentials(request).of(shown or "", address)
    except Unauthenticated as exc:
        await visit(request).turn()
        if shown is not None:
            notary(request).refused(BROKER, "login_refused", "", exc.detail, address)
        # One that has expired was good; to show none is no try.
        if shown is None or isinstance(exc, CredentialExpired):
            raise
        raise turnstile(request).wrong(address, exc) from exc


def _one(request: Request, name: str) -> str | None:
    """Return a header; one that stands twice says two things."""
    found = headers.given(request.scope, name)
    if len(found) > 1:
        raise RequestInvalid(f"{name}: wants one value, found {len(found)}.")
    return found[0] if found else None


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
