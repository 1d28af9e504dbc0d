"""Tokens of our own making, good and bad: what a provider, or somebody who would like to be one, could write."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

from joserfc import jwk, jws
from joserfc.jwk import KeyParameters

from cloud_broker.callers.jwts import ALGORITHMS, Wanted

ISSUER = "https://login.example.com"
AUDIENCE = "outhaul"
WANTED = Wanted(ISSUER, AUDIENCE, tuple(ALGORITHMS))


def key(algorithm: str, kid: str = "k1") -> jwk.Key:
    """Return a new private key for an algorithm."""
    kind, curves = ALGORITHMS[algorithm]
    parameters: KeyParameters = {"kid": kid, "use": "sig"}
    if kind == "RSA":
        return jwk.RSAKey.generate_key(2048, parameters)
    if kind == "EC":
        return jwk.ECKey.generate_key(curves[0], parameters)
    return jwk.OKPKey.generate_key("Ed25519", parameters)


def public(*keys: jwk.Key) -> dict[str, Any]:
    """Return the JWK set of keys."""
    return {"keys": [one.as_dict(private=False) for one in keys]}


def claims(**changed: Any) -> dict[str, Any]:
    """Return good claims with some changed; ``None`` takes one out."""
    now = int(time.time())
    found = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "tenant": "acme",
        "scope": "commands:read openid",
        "iat": now,
        "nbf": now,
        "exp": now + 600,
    } | changed
    return {name: value for name, value in found.items() if value is not None}


def segment(content: bytes | Mapping[str, Any]) -> str:
    """Return one part of a token."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(signing: jwk.Key, algorithm: str, header: Mapping[str, Any] | None = None, **changed: Any) -> str:
    """Return a token that a key has signed."""
    return raw_token(signing, algorithm, json.dumps(claims(**changed)).encode(), header)


def raw_token(signing: jwk.Key, algorithm: str, payload: bytes, header: Mapping[str, Any] | None = None) -> str:
    """Return a token over a payload as it stands; a header of ``None`` takes one out."""
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.check_header = lambda header: None  # type: ignore[method-assign]  # here the bad ones are written
    registry.max_header_length = 1_000_000
    wanted = {"alg": algorithm, "kid": signing.kid, "typ": "JWT"} | dict(header or {})
    return jws.serialize_compact(
        {name: value for name, value in wanted.items() if value is not None}, payload, signing, registry=registry
    )
