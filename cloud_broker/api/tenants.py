"""Tenants, for administrators."""

from __future__ import annotations

import time
from typing import Final

from fastapi import APIRouter, Request, Response

from cloud_broker.api.auth import holder
from cloud_broker.api.bodies import Body, answer, read
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import services
from cloud_broker.api.views import ListView, TenantView, tenant_view
from cloud_broker.errors import Conflict, ContentTypeUnsupported, Forbidden, RequestInvalid, StoreUnavailable
from cloud_broker.store.answers import Exists
from cloud_broker.tenants import NAME

router = APIRouter(prefix="/v1/tenants", tags=["administration"])

EXAMPLE: Final = {"name": "acme"}


class NewTenant(Body, frozen=True):
    """A customer to be."""

    name: str


@router.get(
    "",
    **describe(
        "List tenants",
        scope="tenant:admin",
        answers={200: ("By name: all for a key that spans tenants, else the key's own.", ListView)},
        items=TenantView,
        problems=[StoreUnavailable],
    ),
)
async def list_tenants(request: Request) -> Response:
    """List the tenants that the key may see."""
    key = await holder(request, "tenant:admin")
    found = await services(request).store.tenants()
    return answer(ListView([tenant_view(one) for one in found if key.tenants is None or one.name in key.tenants]))


@router.post(
    "",
    **describe(
        "Create a tenant",
        scope="tenant:admin",
        answers={201: ("It is there.", TenantView)},
        problems=[Conflict, ContentTypeUnsupported, StoreUnavailable],
        body=NewTenant,
        example=EXAMPLE,
    ),
)
async def create(request: Request) -> Response:
    """Create a tenant; for a key that spans tenants."""
    key = await holder(request, "tenant:admin")
    if key.tenants is not None:
        raise Forbidden("Tenants are created with a key that spans tenants.")
    name = (await read(request, NewTenant)).name
    if not NAME.match(name):
        raise RequestInvalid(f"name: wants 1 to 64 letters, digits, '.', '_' and '-', found {name[:80]!r}.")
    try:
        tenant = await services(request).store.create_tenant(name, time.time(), by=key.actor)
    except Exists as exc:
        raise Conflict(f"There is a tenant {name!r} already.") from exc
    return answer(tenant_view(tenant), 201)
