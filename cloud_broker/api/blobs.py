"""Contents that are too large for JSON: sent first, then named by a command."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from fastapi import APIRouter, Request, Response

from cloud_broker.api.auth import caller
from cloud_broker.api.bodies import answer
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import services
from cloud_broker.api.turnstile import visit
from cloud_broker.api.views import BlobView
from cloud_broker.errors import (
    ContentTypeUnsupported,
    NoRoom,
    RequestInvalid,
    RequestTooLarge,
    StoreUnavailable,
    TenantSuspended,
)

_SHA256: Final = re.compile(r"sha-256=:([A-Za-z0-9+/=]+):")

router = APIRouter(prefix="/v1/blobs", tags=["commands"])

CONTENT_DIGEST: Final = {
    "name": "Content-Digest",
    "in": "header",
    "description": "RFC 9530, such as `sha-256=:BASE64:`; a body with another digest is refused.",
    "schema": {"type": "string"},
}


@router.post(
    "",
    **describe(
        "Send a blob",
        scope="commands:write",
        answers={201: ('Kept: name it in a command, as `{"blob": ID}` in place of a content.', BlobView)},
        problems=[RequestTooLarge, ContentTypeUnsupported, TenantSuspended, NoRoom, StoreUnavailable],
        takes={"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        parameters=[CONTENT_DIGEST],
    ),
)
async def send(request: Request) -> Response:
    """
    Keep the body as it comes, of any type, for the drops that will name it; it is removed a while after its use.

    The same bytes again are the same blob, with the same id.
    """
    who = await caller(request, "commands:write", new_work=True)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ContentTypeUnsupported(f"Content-Encoding: a blob is kept as it comes, and can't be {encoding[:40]!r}.")
    sha256 = _declared_digest(request)
    length = request.headers.get("content-length", "")
    declared = int(length) if length.isdecimal() and len(length) < 20 else 0
    # How long a body takes is up to its sender, who must not keep a turn from others meanwhile.
    async with visit(request).resting():
        blob = await services(request).blobs.receive(
            who.scope, request.stream(), by=who.key.id, declared=declared, sha256=sha256
        )
    return answer(BlobView(blob.id, blob.bytes, blob.sha256), 201)


def _declared_digest(request: Request) -> str | None:
    """Return the SHA-256 that the sender says, hex; other digests say nothing to us."""
    said = ", ".join(request.headers.getlist("content-digest"))
    if "sha-256=" not in said.lower():
        return None
    match = _SHA256.search(said)
    try:
        digest = base64.b64decode(match[1], validate=True) if match is not None else b""
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise RequestInvalid(f"Content-Digest: wants sha-256=:BASE64: of 32 bytes, found {said[:100]!r}.")
    return digest.hex()
