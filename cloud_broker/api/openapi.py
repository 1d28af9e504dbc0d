"""The API's own description: OpenAPI 3.1, its schemas taken from the records that are really sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi

from cloud_broker.api.problems import MEDIA_TYPE, Problem, type_of
from cloud_broker.errors import (
    BrokerError,
    CredentialExpired,
    Forbidden,
    RequestInvalid,
    TenantNotNamed,
    TooManyAtOnce,
    TooManyRequests,
    TooManyWrongKeys,
    Unauthenticated,
)

# What may go wrong on every route with a key.
EVERYWHERE: Final = (
    RequestInvalid,
    Unauthenticated,
    CredentialExpired,
    Forbidden,
    TenantNotNamed,
    TooManyRequests,
    TooManyAtOnce,
    TooManyWrongKeys,
)
SCHEMAS: Final = "#/components/schemas/"
ABOUT: Final = """Submit commands to agents beside legacy ERPs, wait for them, and stream their rows.

Errors are problem documents (RFC 9457) with a stable `type`. Lists are `{"items": [...], "next": cursor or null}`.
Times are RFC 3339 in UTC, decimals are strings, bytes are base64."""

_records: dict[str, type] = {}


def describe(
    summary: str,
    *,
    answers: Mapping[int, tuple[str, type | tuple[type, ...] | None]],
    scope: str | tuple[str, ...] | None = None,
    problems: Sequence[type[BrokerError]] = (),
    items: type | None = None,
    media: Mapping[str, Any] | None = None,
    body: type | None = None,
    example: Mapping[str, Any] | None = None,
    parameters: Sequence[Mapping[str, Any]] = (),
    takes: Mapping[str, Any] | None = None,
    lines: tuple[type, tuple[type, ...], str] | None = None,
) -> dict[str, Any]:
    """
    Return what a route's decorator takes to be described well.

    Args:
        answers: what good answers say and are, one or another of several, by status; the first is the usual one.
        scope: what a key needs, one or another of several; ``None`` for a route that needs no key.
        problems: what may go wrong besides what can on every route with a key.
        items: of an answer that is a list.
        media: the content of an answer that is not JSON.
        body: of the request.
        takes: the content of a request that is not JSON.
        lines: of a request and an answer that are lines of JSON: what they are, one or another of several, and the
            media type.
    """
    every = EVERYWHERE if scope else ()
    if lines is not None:
        line, answers_of_lines, media_type = lines
        # A stream has no schema of its own in OpenAPI 3.1; that of one of its lines is what everybody looks for.
        media = {media_type: {"schema": {"oneOf": [_schema(one) for one in answers_of_lines]}}}
        takes = {media_type: {"schema": _schema(line)} | ({"example": example} if example else {})}
    responses = {str(status): _answer(text, kind, items, media) for status, (text, kind) in answers.items()}
    responses |= _problems([*every, *problems])
    extra: dict[str, Any] = {"responses": responses}
    if scope:
        extra["security"] = [{"key": [one]} for one in ((scope,) if isinstance(scope, str) else scope)]
        tenant = {
            "name": "Outhaul-Tenant",
            "in": "header",
            "description": "Which tenant, for a key that spans tenants.",
            "schema": {"type": "string"},
        }
        extra["parameters"] = [tenant, *parameters]
    if body is not None:
        content = {"schema": _schema(body)} | ({"example": example} if example else {})
        needed = any(field.required for field in msgspec.structs.fields(body))
        extra["requestBody"] = {"required": needed, "content": {"application/json": content}}
    if takes is not None:
        extra["requestBody"] = {"required": True, "content": dict(takes)}
    return {
        "summary": summary,
        "status_code": next(iter(answers)),
        "response_class": Response,
        "openapi_extra": extra,
    }


def _answer(
    text: str, kind: type | tuple[type, ...] | None, items: type | None, media: Mapping[str, Any] | None
) -> dict[str, Any]:
    if media is not None:
        return {"description": text, "content": dict(media)}
    if kind is None:
        return {"description": text}
    schema = {"oneOf": [_schema(one) for one in kind]} if isinstance(kind, tuple) else _schema(kind)
    if items is not None:
        schema = {"allOf": [schema, {"properties": {"items": {"type": "array", "items": _schema(items)}}}]}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _problems(kinds: Sequence[type[BrokerError]]) -> dict[str, Any]:
    by_status: dict[str, list[type[BrokerError]]] = {}
    for kind in kinds:
        by_status.setdefault(str(kind.status), []).append(kind)
    return {
        status: {
            "description": "; ".join(f"`{kind.code}`: {kind.title}" for kind in same),
            "content": {
                MEDIA_TYPE: {
                    "schema": _schema(Problem),
                    "examples": {
                        kind.code: {
                            "value": {
                                "type": type_of(kind),
                                "title": kind.title,
                                "status": kind.status,
                                "detail": (kind.__doc__ or "").strip(),
                                "code": kind.code,
                            }
                        }
                        for kind in same
                    },
                }
            },
        }
        for status, same in by_status.items()
    }


def _schema(kind: type) -> dict[str, Any]:
    _records[kind.__name__] = kind
    return {"$ref": SCHEMAS + kind.__name__}


def install(app: FastAPI) -> None:
    """Serve the description of ``app`` at ``/openapi.json``."""
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(_document(app))
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's own way to change the description


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="Outhaul", version=app.version, openapi_version="3.1.0", description=ABOUT, routes=app.routes
    )
    for path in document["paths"].values():
        for operation in path.values():
            # The framework's own description of invalid input, which is answered here as a problem.
            invalid = operation["responses"].get("422", {}).get("content", {})
            invalid.pop("application/json", None)
            if not invalid:
                operation["responses"].pop("422", None)
    _, schemas = msgspec.json.schema_components(tuple(_records.values()), ref_template=SCHEMAS + "{name}")
    document["components"] = {
        "schemas": schemas,
        "securitySchemes": {
            "key": {"type": "http", "scheme": "bearer", "description": "An API key: `ohk_<id>_<secret>`."}
        },
    }
    return document
