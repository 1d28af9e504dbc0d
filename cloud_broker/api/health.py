"""Whether the process lives, and whether it can take work."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response

from cloud_broker.api.bodies import answer
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import services
from cloud_broker.errors import Unavailable

router = APIRouter(tags=["health"])


class HealthView(msgspec.Struct, frozen=True):
    """``status`` is ok."""

    status: str = "ok"


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", **describe("Is the process alive?", answers={200: ("It is.", HealthView)}))
async def alive() -> Response:
    """Answer; no more is asked."""
    return answer(HealthView())


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    **describe("Can it take work?", answers={200: ("It can.", HealthView)}, problems=[Unavailable]),
)
async def ready(request: Request) -> Response:
    """Write to the store and look whether agents can dial."""
    there = services(request)
    checks = {"store": await there.store.healthy(), "link": there.link_listening()}
    if not all(checks.values()):
        missing = ", ".join(name for name, good in checks.items() if not good)
        raise Unavailable(f"Not ready: {missing}.", checks=checks, retry_after_s=5)
    return answer(HealthView())
