"""
Enrolment over Secure Transport (RFC 7030), as far as an agent's certificate needs it: for tools of other people.

Who enrols shows a token as an HTTP password, under the agent's name. Renewal goes over the agent's link, or by another
token: what TLS would have to see of a client's certificate for ``simplereenroll`` is not seen here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from fastapi import APIRouter, Request, Response

from cloud_broker.api import problems
from cloud_broker.api.auth import notary
from cloud_broker.api.bodies import read_bytes
from cloud_broker.api.openapi import describe
from cloud_broker.api.services import services
from cloud_broker.api.turnstile import visit
from cloud_broker.audit.trail import BROKER
from cloud_broker.errors import (
    ContentTypeUnsupported,
    RequestInvalid,
    RequestTooLarge,
    StoreUnavailable,
    TooManyRequests,
    Unauthenticated,
)
from cloud_broker.identity.certificates import MAX_CSR_BYTES, CertificateInvalid, public_key_of_csr
from cloud_broker.identity.enrolment import EnrolmentRefused
from protocol.messages import Enrol

router = APIRouter(prefix="/.well-known/est", tags=["enrolment"])

REQUEST: Final = "application/pkcs10"
ANSWER: Final = "application/pkcs7-mime"
MAX_BODY_BYTES: Final = 2 * MAX_CSR_BYTES  # bytes; base64 with line breaks
MAX_PASSWORD_CHARS: Final = 8_192
_CERTIFICATES: Final[dict[str, Any]] = {ANSWER: {"schema": {"type": "string", "contentEncoding": "base64"}}}


@router.get(
    "/cacerts",
    **describe(
        "Whom agents are to trust",
        answers={200: ("Certificates of the authorities, PKCS #7 in base64.", None)},
        media=_CERTIFICATES,
    ),
)
async def cacerts(request: Request) -> Response:
    """Return the authorities; RFC 7030, section 4.1."""
    return _certificates(services(request).authorities())


@router.post(
    "/simpleenroll",
    **describe(
        "Enrol an agent",
        answers={200: ("Its certificate, PKCS #7 in base64.", None)},
        media=_CERTIFICATES,
        problems=[
            RequestInvalid,
            Unauthenticated,
            RequestTooLarge,
            ContentTypeUnsupported,
            TooManyRequests,
            StoreUnavailable,
        ],
        takes={REQUEST: {"schema": {"type": "string", "contentEncoding": "base64"}}},
    ),
)
async def simpleenroll(request: Request) -> Response:
    """
    Return a certificate for a signing request (PKCS #10 in base64); RFC 7030, section 4.2.

    HTTP Basic: the agent's name, and a token or its secret. The same key with the same token gives the same certificate
    again.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != REQUEST:
        raise ContentTypeUnsupported(f"wants Content-Type: {REQUEST}, found {media_type or 'none'}")
    source = request.client.host if request.client else ""
    # Who it is shows only with the token.
    await visit(request).turn()
    try:
        name, secret = _password(request.headers.get("authorization", ""))
        csr = _signing_request(await read_bytes(request, MAX_BODY_BYTES))
        message = Enrol(secret=secret, request=_request_id(csr), release="est")
        _, certificate = await services(request).enrol(name, message, csr, source)
    except EnrolmentRefused as exc:
        notary(request).refused(BROKER, "token_refused", "", exc.reason, source)
        if exc.retry_after_s:
            raise TooManyRequests(exc.reason, retry_after_s=exc.retry_after_s) from exc
        return _unauthenticated(exc.reason)
    except CertificateInvalid as exc:
        raise RequestInvalid(str(exc)) from exc
    return _certificates([x509.load_der_x509_certificate(certificate)])


def _password(authorization: str) -> tuple[str, str]:
    """
    Return the agent's name and the token's secret.

    Raises:
        EnrolmentRefused: they are not there.
    """
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "basic" or len(text) > MAX_PASSWORD_CHARS:
        raise EnrolmentRefused("wants HTTP Basic: the agent's name, and a token of `outhaul-broker token create`")
    try:
        name, _, password = base64.b64decode(text.strip(), validate=True).decode("utf-8").partition(":")
        if password.startswith("oht1."):
            body = password.removeprefix("oht1.")
            facts = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            password = str(facts["secret"])
            password.encode()  # JSON can say half a pair of surrogates, which is no text
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise EnrolmentRefused("the password is cut or damaged; copy all of the token") from exc
    return name, password


def _signing_request(body: bytes) -> bytes:
    try:
        # Tools break lines, which is no part of what is encoded.
        csr = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as exc:
        raise CertificateInvalid("wants a signing request (PKCS #10) in base64") from exc
    public_key_of_csr(csr)
    return csr


def _request_id(csr: bytes) -> str:
    """Return what is the same whenever a key is enrolled again; a request signed again has other bytes."""
    key = public_key_of_csr(csr).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"est-{hashlib.sha256(key).hexdigest()}"


def _certificates(certificates: list[x509.Certificate]) -> Response:
    bundle = pkcs7.serialize_certificates(certificates, Encoding.DER)
    headers = {"Content-Transfer-Encoding": "base64", "Cache-Control": "no-store"}
    return Response(base64.encodebytes(bundle), 200, headers, f"{ANSWER}; smime-type=certs-only")


def _unauthenticated(reason: str) -> Response:
    answer = problems.answer(Unauthenticated(reason))
    answer.headers["WWW-Authenticate"] = 'Basic realm="outhaul-est", charset="UTF-8"'
    return answer
