"""Every no of the API as ``application/problem+json`` (RFC 9457), whoever says it."""

from __future__ import annotations

import logging
import math
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud_broker.errors import BrokerError, MethodNotAllowed, NotFound, RequestInvalid, Unauthenticated

MEDIA_TYPE: Final = "application/problem+json"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

log = logging.getLogger(__name__)


class Problem(msgspec.Struct, frozen=True):
    """
    Why a request can't be served.

    Attributes:
        type: names the kind of problem, for programs: ``urn:outhaul:problem:`` and the code with dashes.
        title: the kind of problem, for people.
        status: of HTTP.
        detail: this problem, for people: what was wrong and what would be right.
        code: names the kind of problem, as in the reference.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str


def type_of(kind: type[BrokerError]) -> str:
    """Return the ``type`` of a kind of problem."""
    return f"urn:outhaul:problem:{kind.code.replace('_', '-')}"


def document(error: BrokerError) -> dict[str, Any]:
    """Return the problem document of an error."""
    told: dict[str, Any] = {
        "type": type_of(type(error)),
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    return told | error.extra | told  # extra members last, and never in their place


def answer(error: BrokerError) -> Response:
    """Return the answer that an error is."""
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(retry_after(error.retry_after_s))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="outhaul"'
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.extra.get("allowed", ()))
    return Response(msgspec.json.encode(document(error)), error.status, headers, MEDIA_TYPE)


def retry_after(seconds: float) -> int:
    """Return what a ``Retry-After`` says."""
    return max(1, math.ceil(seconds))


def install(app: FastAPI) -> None:
    """Let all errors of ``app`` be answered here."""
    app.add_exception_handler(BrokerError, _broker_error)
    app.add_exception_handler(HTTPException, _framework_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(ClientDisconnect, _nobody_there)
    app.add_middleware(_Unexpected)


async def _broker_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, BrokerError)  # noqa: S101 - registered for this class only; this tells mypy
    return answer(exc)


async def _framework_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101 - registered for this class only; this tells mypy
    path = request.url.path
    if exc.status_code == 404:
        return answer(NotFound(f"There is no route {path}; /openapi.json lists those there are."))
    if exc.status_code == 405:
        allowed = _allowed(request)
        detail = f"{request.method} is not for {path}; it has {', '.join(allowed)}."
        return answer(MethodNotAllowed(detail, allowed=allowed))
    return answer(RequestInvalid(str(exc.detail)))


def _allowed(request: Request) -> list[str]:
    # A path has one route for each method, and Starlette's own answer names the first one's only.
    return [
        method
        for method in METHODS
        if any(route.matches(dict(request.scope) | {"method": method})[0] is Match.FULL for route in request.app.routes)
    ]


async def _invalid_request(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - registered for this class only; this tells mypy
    errors = [{"name": str(error["loc"][-1]), "reason": error["msg"]} for error in exc.errors()]
    detail = "; ".join(f"{error['name']}: {error['reason']}" for error in errors)
    return answer(RequestInvalid(detail, errors=errors))


async def _nobody_there(request: Request, exc: Exception) -> Response:
    return nobody_there()


def nobody_there() -> Response:
    """Return what is answered to a caller who has left."""
    return Response(status_code=400)


def unexpected(scope: Scope) -> Response:
    """Log the error that is being handled, which nobody foresaw, and return what is told of it."""
    log.exception(
        "%s %s failed", scope["method"], scope["path"], extra={"event": "request_failed", "path": scope["path"]}
    )
    return answer(BrokerError("The broker failed; its log says why."))


class _Unexpected:
    """Answers errors that nobody foresaw, without their inside; that goes to the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:  # the last one that can still answer: a 500 without internals
            told = unexpected(scope)
            # A response under way is left open, and the server cuts it: the caller must not take it for whole.
            if not started:
                await told(scope, receive, send)
