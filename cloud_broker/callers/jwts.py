"""
Tokens of OpenID providers (JWTs): pure checks, strict where the standards leave room.

What a token's header says of where keys are to be had (``jku``, ``x5u``, ``jwk``, ``x5c``) is never looked at.

Source:
    RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (best current practice), RFC 9068 (access tokens).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from joserfc import jwk, jws
from joserfc.errors import JoseError

from cloud_broker.tenants import NAME, SCOPES

MAX_TOKEN_CHARS: Final = 16_384  # of a whole token; those of providers have some thousand
MAX_TEXT_CHARS: Final = 255  # of a key id or a subject
MAX_TENANTS: Final = 1_000  # that one token names
MIN_RSA_BITS: Final = 2_048
MAX_MOMENT_S: Final = 2.0**53  # seconds since 1970, either way; beyond it a float no longer counts seconds
TYPES: Final = frozenset({"", "jwt", "at+jwt", "application/jwt", "application/at+jwt"})
# An algorithm and the kind of key that it goes with: kty, and crv where there are several.
ALGORITHMS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "RS256": ("RSA", ()),
    "RS384": ("RSA", ()),
    "RS512": ("RSA", ()),
    "PS256": ("RSA", ()),
    "PS384": ("RSA", ()),
    "PS512": ("RSA", ()),
    "ES256": ("EC", ("P-256",)),
    "ES384": ("EC", ("P-384",)),
    "ES512": ("EC", ("P-521",)),
    "Ed25519": ("OKP", ("Ed25519",)),
    "EdDSA": ("OKP", ("Ed25519",)),
}
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+")

Claims = Mapping[str, Any]


class TokenRefused(Exception):
    """A token is not good; the text says why, and ``expired`` whether a fresh one would be."""

    def __init__(self, why: str, *, expired: bool = False) -> None:
        super().__init__(why)
        self.expired = expired


@dataclass(frozen=True, slots=True)
class Token:
    """
    A token taken apart; nothing of it is true before ``verify``.

    Attributes:
        kid: of the key that it says signed it; ``None`` if it says none.
    """

    text: str
    algorithm: str
    kid: str | None
    claims: Claims

    @property
    def issuer(self) -> str:
        """Who it says has made it."""
        found = self.claims.get("iss")
        return found if isinstance(found, str) else ""


@dataclass(frozen=True, slots=True)
class Key:
    """One public key of a provider, with which algorithms it may be used."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: jwk.Key


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What the tokens of one issuer must be like.

    Attributes:
        tenant_claim: path of names to the tenant or tenants; empty if ``tenants`` says it alone.
        tenants: that its tokens may be for; empty means any that a token names.
        scope_claim: path of names to the scopes.
        roles: scopes for each value of that claim; empty if the values are scopes.
        leeway_s: seconds that the two clocks may differ.
    """

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    tenant_claim: tuple[str, ...] = ("tenant",)
    tenants: tuple[str, ...] = ()
    scope_claim: tuple[str, ...] = ("scope",)
    roles: Mapping[str, Sequence[str]] | None = None
    leeway_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a good token is about."""

    issuer: str
    subject: str
    tenants: tuple[str, ...]
    scopes: tuple[str, ...]


def take_apart(text: str) -> Token:
    """
    Return what a token says.

    Raises:
        TokenRefused: it is none, or says something that must not be passed over.
    """
    if len(text) > MAX_TOKEN_CHARS:
        raise TokenRefused(f"it has {len(text)} characters; at most {MAX_TOKEN_CHARS} are read")
    segments = text.split(".")
    if len(segments) != 3:
        raise TokenRefused("it is no signed token of three parts")
    header = _object("header", segments[0])
    _bytes("signature", segments[2])
    # Whatever `crit` names changes what the token means, and we know no such thing.
    if "crit" in header:
        raise TokenRefused("its header has `crit`, and no extension is known here")
    kind = header.get("typ", "")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise TokenRefused(f"its type is {_short(kind)}, wants JWT or at+jwt")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRefused(f"its algorithm is {_short(algorithm)}, wants one with a public key, such as RS256")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and 1 <= len(kid) <= MAX_TEXT_CHARS):
        raise TokenRefused(f"its key id is no text of 1 to {MAX_TEXT_CHARS} characters")
    return Token(text, algorithm, kid, _object("payload", segments[1]))


def keys_of(document: object) -> tuple[Key, ...]:
    """
    Return the keys of a JWK set that may verify a signature; others, of which there may be any, are left out.

    Raises:
        ValueError: it is no JWK set.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError('wants a JWK set: {"keys": [...]}')
    return tuple(key for entry in entries if (key := _key(entry)) is not None)


def choose(keys: Sequence[Key], token: Token) -> Key | None:
    """Return the key that a token says signed it; without a key id, the only one there is for its algorithm."""
    fitting = [key for key in keys if token.algorithm in key.algorithms]
    if token.kid is None:
        return fitting[0] if len(fitting) == 1 else None
    named = [key for key in fitting if key.kid == token.kid]
    # Two keys of one id: which of them is meant nobody can tell.
    return named[0] if len(named) == 1 else None


def verify(token: Token, key: Key, wanted: Wanted, now: float) -> Identity:
    """
    Return who a token is about, once its signature and all it says fit.

    Raises:
        TokenRefused: something does not.
    """
    if token.algorithm not in wanted.algorithms:
        raise TokenRefused(
            f"its algorithm is {token.algorithm}; of this issuer {', '.join(wanted.algorithms)} are taken"
        )
    if token.algorithm not in key.algorithms:
        raise TokenRefused("its key is of another kind than its algorithm")
    try:
        jws.deserialize_compact(token.text, key.key, registry=_Registry([token.algorithm]))
    except (JoseError, ValueError) as exc:
        raise TokenRefused("its signature does not fit") from exc
    claims = token.claims
    if token.issuer != wanted.issuer:
        raise TokenRefused(f"its issuer is {_short(claims.get('iss'))}, wants {wanted.issuer}")
    audience = claims.get("aud")
    if wanted.audience not in (audience if isinstance(audience, list) else [audience]):
        raise TokenRefused(f"its audience is {_short(audience)}, wants {wanted.audience}")
    _in_time(claims, wanted.leeway_s, now)
    subject = claims.get("sub")
    if not (isinstance(subject, str) and 1 <= len(subject) <= MAX_TEXT_CHARS and subject.isprintable()):
        raise TokenRefused(f"its subject is no text of 1 to {MAX_TEXT_CHARS} characters")
    return Identity(wanted.issuer, subject, _tenants(claims, wanted), _scopes(claims, wanted))


def _in_time(claims: Claims, leeway_s: float, now: float) -> None:
    expires_at = _moment(claims, "exp")
    if expires_at is None:
        raise TokenRefused("it has no end (`exp`)")
    if now >= expires_at + leeway_s:
        raise TokenRefused("it has expired", expired=True)
    for name in ("nbf", "iat"):
        begins_at = _moment(claims, name)
        if begins_at is not None and begins_at > now + leeway_s:
            raise TokenRefused(f"it is not valid yet (`{name}`); is a clock wrong?")


def _moment(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # Compared, not converted: an integer of JSON may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_MOMENT_S:
        raise TokenRefused(f"its `{name}` is no time in seconds")
    return float(value)


def _tenants(claims: Claims, wanted: Wanted) -> tuple[str, ...]:
    if not wanted.tenant_claim:
        return wanted.tenants
    found = _texts(claims, wanted.tenant_claim)
    if not 1 <= len(found) <= MAX_TENANTS or not all(NAME.match(name) for name in found):
        raise TokenRefused(f"its claim {'.'.join(wanted.tenant_claim)} names no tenant")
    mine = tuple(dict.fromkeys(name for name in found if not wanted.tenants or name in wanted.tenants))
    if not mine:
        raise TokenRefused("none of its tenants is one that this issuer may speak for")
    return mine


def _scopes(claims: Claims, wanted: Wanted) -> tuple[str, ...]:
    found = _texts(claims, wanted.scope_claim)
    if len(found) == 1:
        found = found[0].split()
    if wanted.roles:
        given = [scope for role in found for scope in wanted.roles.get(role, ())]
    else:
        # All rights are given by name only: `*` wants a role.
        given = [scope for scope in found if scope in SCOPES and scope != "*"]
    return tuple(dict.fromkeys(given))


def _texts(claims: Claims, path: Sequence[str]) -> list[str]:
    value: Any = claims
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return [value]
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _key(entry: object) -> Key | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    operations = entry.get("key_ops", ["verify"])
    kid = entry.get("kid")
    if not isinstance(operations, list) or "verify" not in operations or not isinstance(kid, str | None):
        return None
    algorithms = tuple(
        name
        for name, (kind, curves) in ALGORITHMS.items()
        if entry.get("kty") == kind and (not curves or entry.get("crv") in curves) and entry.get("alg") in (None, name)
    )
    # A secret one is nobody's to publish, and a set is no place to take a private one from.
    if not algorithms or "d" in entry or "k" in entry:
        return None
    try:
        key = jwk.import_key({name: value for name, value in entry.items() if isinstance(value, str)})
        public = key.public_key
        if isinstance(public, RSAPublicKey) and public.key_size < MIN_RSA_BITS:
            return None
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return Key(kid, algorithms, key)


class _Registry(jws.JWSRegistry):
    """Headers were judged before; what is not known in them is passed over, as the standard says."""

    max_header_length = MAX_TOKEN_CHARS
    max_payload_length = MAX_TOKEN_CHARS
    max_signature_length = MAX_TOKEN_CHARS

    def __init__(self, algorithms: Sequence[str]) -> None:
        super().__init__(algorithms=algorithms, strict_check_header=False)

    def check_header(self, header: Any) -> None:
        """Nothing is left to check."""


def _object(what: str, segment: str) -> dict[str, Any]:
    raw = _bytes(what, segment)
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as exc:
        raise TokenRefused(f"its {what} is no JSON that can be read in one way only") from exc
    if not isinstance(found, dict):
        raise TokenRefused(f"its {what} is no JSON object")
    return found


def _bytes(what: str, segment: str) -> bytes:
    if _SEGMENT.fullmatch(segment) is None:
        raise TokenRefused(f"its {what} is no base64url")
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except (binascii.Error, ValueError) as exc:
        raise TokenRefused(f"its {what} is no base64url") from exc
    # Spare bits at the end would let one token be written in several ways.
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != segment:
        raise TokenRefused(f"its {what} is no base64url")
    return raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _short(value: object) -> str:
    return repr(value)[:80]
