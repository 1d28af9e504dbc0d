"""Before a request is served: its tenant's allowance, and its turn among the tenants."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_broker.callers.allowances import Allowances, Standing, WrongKeys
from cloud_broker.callers.fairness import LONGEST_REST_S, Gate, Usage
from cloud_broker.errors import TooManyWrongKeys, Unauthenticated
from cloud_broker.settings import LimitSettings

# Requests that are worked on at once, until what they keep is on the disk. What waits there at the same time is one
# transaction and one message to an agent, so with few of them each command costs more; many make one round of the event
# loop long, whatever is waiting outside.
AT_ONCE: Final = 64
EACH: Final = 48  # of one tenant: some places are always free for who has none
STREAMS: Final = 1  # row streams that go on in one round of the event loop
NOBODY: Final = ""  # the line of those who showed no good key; no tenant has such a name
VISIT: Final = "outhaul.visit"

log = logging.getLogger(__name__)

T = TypeVar("T")


class Turnstile:
    """What all requests of one application go through."""

    def __init__(self, limits: LimitSettings) -> None:
        self.allowances = Allowances(limits.requests_per_s, limits.requests_at_once, limits.bulk_lines_per_s)
        self.usage = Usage()
        self.requests = Gate(AT_ONCE, EACH, self.usage)
        self.streams = Gate(STREAMS, STREAMS)
        self._wrong = WrongKeys(limits.wrong_keys_per_min)

    def wrong(self, address: str, refusal: Unauthenticated) -> Unauthenticated | TooManyWrongKeys:
        """Count a request without a good key; return what it is answered."""
        wait_s = self._wrong.note(address, time.monotonic())
        if wait_s <= 0:
            return refusal
        return TooManyWrongKeys(
            "Too many wrong keys came from this address; good ones are taken from it all the same.",
            retry_after_s=wait_s,
        )


class Visit:
    """One request, from its coming to its going."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self._tenant: str | None = None
        self._line = NOBODY  # where it waits for its turn
        self._inside = False
        self._standing: Standing | None = None
        self._streamed_at = time.monotonic()

    def count(self, tenant: str) -> None:
        """
        Count for a tenant; again changes nothing.

        Raises:
            TooManyRequests, TooManyAtOnce
        """
        if self._tenant is None:
            self._standing = self._turnstile.allowances.enter(tenant, time.monotonic())
            self._tenant = self._line = tenant

    async def turn(self) -> None:
        """Wait for its turn, unless it has it: that of the tenant it counts for, or of those with no good key."""
        if not self._inside:
            await self._turnstile.requests.enter(self._line)
            self._inside = True

    def more(self, count: int) -> None:
        """Count what is asked in one turn beyond the first: with many in one request a tenant asks no less."""
        self._turnstile.requests.more(self._line, count)

    def rest(self) -> None:
        """Give the turn to another: what comes now waits for somebody else, or is paced by itself."""
        if self._inside:
            self._inside = False
            self._turnstile.requests.leave(self._line)

    @asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Give the turn to another within a block, and wait for one again after it."""
        inside = self._inside
        self.rest()
        yield
        if inside:
            await self.turn()

    async def wait(self, request: Request, awaited: Coroutine[Any, Any, T]) -> T:
        """
        Return what is waited for, without a turn meanwhile; the body of the request must have been read.

        Raises:
            ClientDisconnect: the caller left, and waits for nothing any more.
        """
        self.rest()
        waiting = asyncio.create_task(awaited, name=f"wait for {request.url.path}")
        leaving = asyncio.create_task(gone(request.receive), name=f"caller of {request.url.path}")
        try:
            await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (waiting, leaving):
                task.cancel()
            await asyncio.wait((waiting, leaving))
        if waiting.cancelled():
            raise ClientDisconnect
        return waiting.result()

    async def stream_turn(self) -> None:
        """Wait until a stream of rows may go on for one round of the event loop."""
        tenant = self._tenant or NOBODY
        async with self._turnstile.streams.place(tenant):
            await asyncio.sleep(0)  # one round of the loop: everybody else who is ready goes first
        if self._turnstile.usage.greedy(tenant):
            # As at the gate: half of the time is for the others.
            await asyncio.sleep(min(time.monotonic() - self._streamed_at, LONGEST_REST_S))
        self._streamed_at = time.monotonic()

    def leave(self) -> None:
        """The request has ended, however it did."""
        self.rest()
        if self._tenant is not None:
            self._turnstile.allowances.leave(self._tenant)
            self._tenant = None

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer that say what is left of the tenant's rate."""
        if self._standing is None:
            return []
        size, window_s, left = self._standing.size, math.ceil(self._standing.window_s), self._standing.left
        return [
            (b"ratelimit-policy", f'"requests";q={size};w={window_s}'.encode()),
            (b"ratelimit", f'"requests";r={left};t={window_s}'.encode()),
        ]


def install(app: FastAPI, limits: LimitSettings) -> Turnstile:
    """Let all requests of ``app`` go through a turnstile."""
    made = Turnstile(limits)
    app.state.turnstile = made
    app.add_middleware(_Visits, turnstile=made)
    return made


def turnstile(request: Request) -> Turnstile:
    """Return what all requests go through."""
    found: Turnstile = request.app.state.turnstile
    return found


def visit(request: Request) -> Visit:
    """Return the visit that a request is."""
    found: Visit = request.scope[VISIT]
    return found


async def gone(receive: Receive) -> None:
    """Wait until the caller has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _Visits:
    def __init__(self, app: ASGIApp, turnstile: Turnstile) -> None:
        self._app = app
        self._turnstile = turnstile

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        one = scope[VISIT] = Visit(self._turnstile)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *one.fields()]}
            await send(message)

        try:
            await self._app(scope, receive, tell)
        finally:
            one.leave()
