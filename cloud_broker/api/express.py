"""
The door for what is asked thousands of times a second: some routes without the framework's way to them.

What the framework does on its way costs more than keeping a command. Such a route is the same function that the
framework has, for its description and for all that is not usual; what it raises is answered in the same words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cloud_broker.api import commands, problems
from cloud_broker.api.turnstile import VISIT, Turnstile, Visit
from cloud_broker.errors import BrokerError

Route = Callable[[Request], Awaitable[Response]]

ROUTES: Final[dict[tuple[str, str], Route]] = {("POST", "/v1/commands"): commands.submit}


class Express:
    """The application, with a short way to some of its routes."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._turnstile: Turnstile = app.state.turnstile

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = ROUTES.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None or scope["query_string"]:
            # Which words a query may have, only the framework knows.
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        visit = scope[VISIT] = Visit(self._turnstile)
        try:
            answer = await _answer(route, Request(scope, receive))
            answer.raw_headers.extend(visit.fields())
            await answer(scope, receive, send)
        finally:
            visit.leave()


async def _answer(route: Route, request: Request) -> Response:
    try:
        return await route(request)
    except BrokerError as exc:
        return problems.answer(exc)
    except ClientDisconnect:
        return problems.nobody_there()
    except Exception:  # the last one that can still answer: a 500 without internals
        return problems.unexpected(request.scope)
