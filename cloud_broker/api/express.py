"""
The door for what is asked thousands of times a second: some routes without the way of server and framework to them.

What those do on their way costs more than keeping a command. Such a route is the same function that the framework
has, for its description and for all that is not usual; what it raises is answered in the same words. Nobody stands
between it and the connection: there is no middleware, and an answer is written at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from cloud_broker.api import commands, headers, problems
from cloud_broker.api.turnstile import VISIT, Turnstile, Visit
from cloud_broker.errors import BrokerError, Unavailable

Route = Callable[[Request], Awaitable[Response]]

# By method and by path as it stands in the request: one with a query, whose words only the framework knows, is another.
ROUTES: Final[dict[tuple[bytes, bytes], Route]] = {(b"POST", b"/v1/commands"): commands.submit}


class Express:
    """
    What such routes stand on.

    Args:
        proxies: whose word on where a request comes from is taken.
    """

    def __init__(self, app: FastAPI, proxies: Iterable[str]) -> None:
        self.app = app
        self.turnstile: Turnstile = app.state.turnstile
        trusted = list(proxies)
        self._forwarded = ProxyHeadersMiddleware(_told, trusted) if trusted else None

    async def answer(self, route: Route, cycle: Hurried) -> tuple[Response, list[tuple[bytes, bytes]]]:
        """Return a route's answer to a request, and its headers."""
        scope: Any = cycle.scope
        if self._forwarded is not None and _is_forwarded(scope):
            await self._forwarded(scope, cycle.receive, cycle.send)
        scope["app"] = self.app
        visit = scope[VISIT] = Visit(self.turnstile)
        try:
            found = await _answered(route, Request(scope, cycle.receive))  # type: ignore[arg-type]  # uvicorn's types of the same
            return found, [*found.raw_headers, *visit.fields()]
        finally:
            visit.leave()


class Hurried(RequestResponseCycle):
    """One request on the short way, in place of uvicorn's own; ``takes`` says by which route it is answered."""

    def takes(self, express: Express, route: Route) -> None:
        self._express = express
        self._route = route

    async def run_asgi(self, app: object) -> None:
        """Answer the request; uvicorn calls it so."""
        try:
            found, fields = await self._express.answer(self._route, self)
        except asyncio.CancelledError:
            # The broker stops, and has waited for long enough.
            found = problems.answer(Unavailable("the broker is stopping; ask again", retry_after_s=5.0))
            fields = found.raw_headers
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected:
            self.response_started = self.response_complete = True
            if not self.keep_alive:
                fields = [*fields, (b"connection", b"close")]
            self.transport.write(whole(found, [*self.default_headers, *fields]))
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
        # It holds the connection, which holds this.
        self.on_response = _nothing


def whole(answer: Response, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return an answer, whose headers are these, as it is sent."""
    head = b"\r\n".join(map(b": ".join, fields))
    return b"".join((STATUS_LINE[answer.status_code], head, b"\r\n\r\n", answer.body))


async def _answered(route: Route, request: Request) -> Response:
    try:
        return await route(request)
    except BrokerError as exc:
        return problems.answer(exc)
    except ClientDisconnect:
        return problems.nobody_there()
    except Exception:  # the last one that can still answer: a 500 without internals
        return problems.unexpected(request.scope)


def _is_forwarded(scope: Scope) -> bool:
    return bool(headers.given(scope, "x-forwarded-for") or headers.given(scope, "x-forwarded-proto"))


async def _told(*_: object) -> None:
    """Do nothing with a request whose headers were read."""


def _nothing() -> None:
    pass
