"""
What is signed, as bytes, and how a signature is read; who signs and who checks has the keys.

A signature is a compact JWS (RFC 7515) with Ed25519 (RFC 9864). There is one way to write
each: header and payload are canonical JSON with exactly the members named here, so nothing can be added, left out
or said twice.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from protocol import canonical
from protocol.plain_text import plain

COMMAND: Final = "outhaul-command+jws"  # ``typ`` of a caller's signature over a command
ALGORITHM: Final = "Ed25519"
ALGORITHMS: Final = (ALGORITHM, "EdDSA")  # the latter is the older name of the same
VERSION: Final = 1

MAX_SIGNATURE_CHARS: Final = 4_096  # of a command's signature; with the longest names it has some 1,500
MAX_VALID_S: Final = 31 * 86_400  # seconds from nbf to exp; agents remember what was shown until then
SKEW_S: Final = 300  # seconds that two clocks may differ
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

# Points of small order, in each way to write them: with one of them as a key, anybody can make signatures.
_NO_KEYS: Final = frozenset(
    bytes.fromhex(y + high)
    for y, ends in (
        ("00" * 31, ("00", "80")),
        ("01" + "00" * 30, ("00", "80")),
        ("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc", ("05", "85")),
        ("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03", ("7a", "fa")),
        ("ec" + "ff" * 30, ("7f", "ff")),
        ("ed" + "ff" * 30, ("7f", "ff")),
        ("ee" + "ff" * 30, ("7f", "ff")),
    )
    for high in ends
)
COMPACT: Final = r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"  # a pattern of a compact JWS
_COMPACT: Final = re.compile(COMPACT)
_RECOVERY: Final = b"outhaul recovery 1\0"
_HEADER: Final = ("alg", "kid", "typ")
_MEMBERS: Final = ("exp", "idempotency_key", "nbf", "operation", "params_sha256", "tenant", "v", "version")
_TO: Final = ("agent", "group")
_SEAL_TO: Final = "seal_to"
_TEXTS: Final = ("idempotency_key", "operation", "params_sha256", "tenant", "version")
_TIMES: Final = ("nbf", "exp")


class SignatureMalformed(ValueError):
    """It is no signature of the kind that was wanted; the text says what is wrong with it."""


class Jws(msgspec.Struct, frozen=True):
    """
    A signature that was read and not yet checked.

    Attributes:
        kid: who is said to have signed.
        payload: what was signed, as bytes.
        signed: the bytes that the signature is over.
        signature: ``SIGNATURE_BYTES`` of it.
    """

    kid: str
    payload: bytes
    signed: bytes
    signature: bytes


class CommandClaims(msgspec.Struct, frozen=True):
    """
    What a caller signs.

    Attributes:
        agent: by name; exactly one of agent and group.
        version: of the operation, as the catalogue has it.
        params_sha256: hex, of the canonical JSON of the parameters; where they are sealed, of the sealed text.
        nbf: the first second at which it may run, since 1970.
        exp: the last one.
        seal_to: the caller's public key that the result is sealed to, where there is one.
    """

    tenant: str
    operation: str
    version: str
    params_sha256: str
    idempotency_key: str
    nbf: int
    exp: int
    agent: str | None = None
    group: str | None = None
    seal_to: str | None = None


def recovery(request: str, csr: bytes) -> bytes:
    """
    Return what an agent whose certificate has run out signs with that certificate's key.

    Args:
        request: as in ``protocol.messages.Recover``.
        csr: the signing request, DER.
    """
    return _RECOVERY + request.encode() + b"\0" + csr


# --- one JWS ----------------------------------------------------------------------------------------


def signing_input(typ: str, kid: str, payload: bytes) -> bytes:
    """Return the bytes that a signature is over."""
    return _header(typ, kid) + b"." + base64url(payload)


@functools.lru_cache(maxsize=64)
def _header(typ: str, kid: str) -> bytes:
    return base64url(canonical.encode({"alg": ALGORITHM, "kid": kid, "typ": typ}))


def compact(signed: bytes, signature: bytes) -> str:
    """Return the text of a JWS."""
    return (signed + b"." + base64url(signature)).decode("ascii")


def check_shape(text: str) -> None:
    """
    Refuse what can't be a command's signature, for one who has no keys to check it with.

    Raises:
        SignatureMalformed: it is no compact JWS, or too long for one.
    """
    if len(text) > MAX_SIGNATURE_CHARS:
        raise SignatureMalformed(f"wants at most {MAX_SIGNATURE_CHARS} characters, found {len(text)}")
    if _COMPACT.fullmatch(text) is None:
        raise SignatureMalformed("wants a compact JWS: three parts in base64url, joined by dots")


def parse(text: str, typ: str) -> Jws:
    """
    Read a compact JWS; whether the signature is right is for who has the key.

    Args:
        typ: the kind that is wanted.

    Raises:
        SignatureMalformed: it is none of this kind.
    """
    parts = text.split(".")
    if len(parts) != 3:
        raise SignatureMalformed(f"wants three parts joined by dots (a compact JWS), found {len(parts)}")
    header, payload, signature = (
        from_base64url(name, part) for name, part in zip(("header", "payload", "signature"), parts, strict=True)
    )
    kid = _kid(header, typ)
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureMalformed(f"the signature wants {SIGNATURE_BYTES} bytes, found {len(signature)}")
    return Jws(kid, payload, text.rpartition(".")[0].encode("ascii"), signature)


def _kid(header: bytes, typ: str) -> str:
    found = canonical_object("header", header)
    if tuple(found) != _HEADER:
        raise SignatureMalformed(f"the header wants exactly the members {', '.join(_HEADER)}, found {_names(found)}")
    if found["alg"] not in ALGORITHMS:
        raise SignatureMalformed(f"alg: wants {ALGORITHM}, found {_shown(found['alg'])}")
    if found["typ"] != typ:
        raise SignatureMalformed(f"typ: wants {typ}, found {_shown(found['typ'])}")
    kid = found["kid"]
    if not isinstance(kid, str) or not kid:
        raise SignatureMalformed(f"kid: wants the name of who signed, found {_shown(kid)}")
    return kid


# --- commands ---------------------------------------------------------------------------------------


def params_digest(params: bytes) -> str:
    """
    Return what a caller signs of the parameters.

    Args:
        params: JSON, as it is sent.

    Raises:
        NotCanonical: two readers could take it differently.
    """
    return hashlib.sha256(canonical.canonical(params)).hexdigest()


def sealed_digest(sealed: bytes) -> str:
    """Return what a caller signs of sealed parameters: the digest of the text that is sent."""
    return hashlib.sha256(sealed).hexdigest()


def signature_digest(signature: str) -> str:
    """Return what names a command's signature, hex; "" where it has none."""
    return hashlib.sha256(signature.encode()).hexdigest() if signature else ""


def command_payload(claims: CommandClaims) -> bytes:
    """Return the payload of a command's signature."""
    members = {name: getattr(claims, name) for name in _MEMBERS if name != "v"} | {"v": VERSION}
    for name in (*_TO, _SEAL_TO):
        if (value := getattr(claims, name)) is not None:
            members[name] = value
    return canonical.encode(members)


def read_command(payload: bytes) -> CommandClaims:
    """
    Return what a caller signed.

    Raises:
        SignatureMalformed: it is not exactly what a caller signs.
    """
    found = canonical_object("payload", payload)
    to = [name for name in _TO if name in found]
    more = [*to, _SEAL_TO] if _SEAL_TO in found else to
    if len(to) != 1 or tuple(found) != tuple(sorted((*_MEMBERS, *more))):
        raise SignatureMalformed(
            f"the payload wants exactly the members {', '.join(_MEMBERS)}, one of agent and group, and {_SEAL_TO} "
            f"where the result is to be sealed; found {_names(found)}"
        )
    if found["v"] != VERSION or not is_whole(found["v"]):
        raise SignatureMalformed(f"v: wants {VERSION}, found {_shown(found['v'])}")
    for name in (*_TEXTS, *more):
        if not isinstance(found[name], str) or not found[name]:
            raise SignatureMalformed(f"{name}: wants a text, found {_shown(found[name])}")
    for name in _TIMES:
        if not is_whole(found[name]) or found[name] < 0:
            raise SignatureMalformed(f"{name}: wants whole seconds since 1970, found {_shown(found[name])}")
    if not 0 < found["exp"] - found["nbf"] <= MAX_VALID_S:
        raise SignatureMalformed(
            f"exp: wants to come after nbf, by at most {MAX_VALID_S // 86_400} days; "
            f"found {found['exp'] - found['nbf']} seconds"
        )
    return CommandClaims(**{name: value for name, value in found.items() if name != "v"})


# --- keys -------------------------------------------------------------------------------------------


def public_key_bytes(text: str) -> bytes:
    """
    Return the bytes of a public key that is written as ``ed25519:BASE64``.

    Raises:
        SignatureMalformed: it is none, or one with which anybody can sign.
    """
    kind, _, encoded = text.partition(":")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if kind != "ed25519" or len(key) != KEY_BYTES:
        raise SignatureMalformed(f"wants ed25519: and {KEY_BYTES} bytes in base64, found {_shown(text)}")
    if key in _NO_KEYS:
        raise SignatureMalformed(f"wants a key that somebody made, found {_shown(text)}, with which anybody can sign")
    return key


def fingerprint(public: str) -> str:
    """Return a public key (``KIND:BASE64``) as people compare it: ten groups of four, of its SHA-256 in base32."""
    digest = base64.b32encode(hashlib.sha256(public.encode()).digest()).decode().lower()
    return "-".join(digest[start : start + 4] for start in range(0, 40, 4))


# --- reading ----------------------------------------------------------------------------------------


def canonical_object(part: str, text: bytes) -> dict[str, Any]:
    """Return the object of a text that is canonical JSON, its members in order; raises ``SignatureMalformed``."""
    try:
        same = canonical.canonical(text) == text
    except canonical.NotCanonical as exc:
        raise SignatureMalformed(f"the {part}: {exc}") from exc
    if not same:
        raise SignatureMalformed(f"the {part} wants canonical JSON (RFC 8785): sorted keys, no spaces")
    try:
        found = json.loads(text)
    except ValueError as exc:  # a number with more digits than Python reads
        raise SignatureMalformed(f"the {part}: {exc}") from exc
    if not isinstance(found, dict):
        raise SignatureMalformed(f"the {part} wants a JSON object")
    return found


def is_whole(value: object) -> bool:
    """Return whether a number of JSON is a whole one: neither true nor 1.0, which Python takes for the same."""
    return isinstance(value, int) and not isinstance(value, bool)


def base64url(data: bytes) -> bytes:
    """Return bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def from_base64url(name: str, text: str) -> bytes:
    """Return the bytes, at least one, of base64url without padding; raises ``SignatureMalformed``."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    # Of two texts that decode to the same, one only is the signature.
    if not data or base64url(data).decode() != text:
        raise SignatureMalformed(f"the {name} wants base64url without padding")
    return data


def _names(found: Mapping[str, Any]) -> str:
    return ", ".join(plain(name)[:40] for name in list(found)[:20]) or "none"


def _shown(value: object) -> str:
    return plain(repr(value))[:80]
