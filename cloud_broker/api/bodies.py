"""Bodies of requests: read to a limit, decoded by a declared shape, refused by name."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from cloud_broker.api import headers
from cloud_broker.api.turnstile import visit
from cloud_broker.errors import ContentTypeUnsupported, RequestInvalid, RequestTooLarge

ENVELOPE_BYTES: Final = 65_536  # bytes of a body besides a command's parameters

T = TypeVar("T", bound="Body")


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a route takes; other members are refused."""


async def read(request: Request, kind: type[T], limit: int = ENVELOPE_BYTES) -> T:
    """
    Return the body of a request; nothing sent means an empty object.

    Args:
        limit: bytes; no more than this is taken into memory.

    Raises:
        ContentTypeUnsupported: it is not called JSON.
        RequestTooLarge: it is beyond the limit.
        RequestInvalid: it is not JSON, or not of this shape.
    """
    media_type = headers.first(request.scope, "content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ContentTypeUnsupported(f"wants Content-Type: application/json, found {media_type}")
    return decoded(await read_bytes(request, limit) or b"{}", kind, "body")


def decoded(raw: bytes, kind: type[T], name: str) -> T:
    """
    Return what JSON says.

    Args:
        name: of the thing, such as ``body``.

    Raises:
        RequestInvalid: it is not JSON, or not of this shape.
    """
    try:
        raw.decode("utf-8")  # the decoder passes raw members over, and would not look into their texts
        return msgspec.json.decode(raw, type=kind)
    except UnicodeDecodeError as exc:
        raise RequestInvalid(f"The {name} is not UTF-8: byte 0x{raw[exc.start]:02x} at {exc.start}.") from exc
    except msgspec.ValidationError as exc:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        raise RequestInvalid(f"The {name} does not fit: {exc}; known members: {known}.") from exc
    except (msgspec.DecodeError, RecursionError) as exc:
        raise RequestInvalid(f"The {name} is not JSON: {exc}.") from exc


async def read_bytes(request: Request, limit: int) -> bytes:
    """
    Return the body of a request as it is; then it is the request's turn.

    Raises:
        RequestTooLarge: it is beyond the limit.
    """
    declared = headers.first(request.scope, "content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise RequestTooLarge(f"The body has {declared} bytes; at most {limit} are taken here.", limit=limit)
    parts: list[bytes] = []
    size = 0
    # How long a body takes is up to its sender, who must not keep a turn from others meanwhile.
    here = visit(request)
    here.rest()
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise RequestTooLarge(f"The body has more than the {limit} bytes that are taken here.", limit=limit)
        parts.append(part)
        more = message.get("more_body", False)
    await here.turn()
    return b"".join(parts)


_encoder = msgspec.json.Encoder()


class _Json(Response):
    """JSON that nobody keeps; made without the framework's way, which looks for what stands here already."""

    def __init__(self, content: bytes, status: int, more: dict[str, str]) -> None:
        self.status_code = status
        self.background = None
        self.body = content
        self.raw_headers = [
            (b"cache-control", b"no-store"),
            *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in more.items()),
            (b"content-length", b"%d" % len(content)),
            (b"content-type", b"application/json"),
        ]


def answer(value: object, status: int = 200, more: dict[str, str] | None = None) -> Response:
    """Return ``value`` as a JSON response, with ``more`` headers."""
    return _Json(_encoder.encode(value), status, more or {})
