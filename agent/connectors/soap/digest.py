"""HTTP digest authentication: the answer to a server's challenge."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final
from urllib.request import parse_http_list, parse_keqv_list

_HASHES: Final[dict[str, Callable[[bytes], str]]] = {
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),  # what the standard's first form asks for
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
    "SHA-512-256": lambda data: hashlib.new("sha512_256", data).hexdigest(),
}


class ChallengeRefused(ValueError):
    """The server's challenge can't be answered; the text says why."""


def answer(challenge: str, method: str, target: str, username: str, password: str, cnonce: str) -> str:
    """
    Return the value of the ``Authorization`` header.

    Args:
        challenge: the value of ``WWW-Authenticate``.
        target: path and query, as in the request line.
        cnonce: fresh random text.

    Raises:
        ChallengeRefused: no digest challenge, or an algorithm or protection that is not known.

    Source:
        RFC 7616, HTTP Digest Access Authentication.
    """
    scheme, _, rest = challenge.strip().partition(" ")
    if scheme.lower() != "digest":
        raise ChallengeRefused(f"the server asks for {scheme or 'nothing'}, not for digest")
    asked = parse_keqv_list(parse_http_list(rest))
    if "nonce" not in asked or "realm" not in asked:
        raise ChallengeRefused("the server's digest challenge lacks realm or nonce")
    algorithm = asked.get("algorithm", "MD5")
    plain = algorithm.upper().removesuffix("-SESS")
    if plain not in _HASHES:
        raise ChallengeRefused(f"the server's digest algorithm {algorithm} is not known")
    hashed = _HASHES[plain]
    protections = [part.strip() for part in asked.get("qop", "").split(",") if part.strip()]
    if protections and "auth" not in protections:
        raise ChallengeRefused(f"the server's digest protection {', '.join(protections)} is not known")

    def digest(text: str) -> str:
        return hashed(text.encode("utf-8"))

    who = digest(f"{username}:{asked['realm']}:{password}")
    if algorithm.upper().endswith("-SESS"):
        who = digest(f"{who}:{asked['nonce']}:{cnonce}")
    what = digest(f"{method}:{target}")
    count = "00000001"  # each challenge is answered once
    middle = f"{asked['nonce']}:{count}:{cnonce}:auth" if protections else asked["nonce"]
    fields = {
        "username": _quoted(username),
        "realm": _quoted(asked["realm"]),
        "nonce": _quoted(asked["nonce"]),
        "uri": _quoted(target),
        "response": _quoted(digest(f"{who}:{middle}:{what}")),
        "algorithm": algorithm,
    }
    if protections:
        fields |= {"qop": "auth", "nc": count, "cnonce": _quoted(cnonce)}
    if "opaque" in asked:
        fields["opaque"] = _quoted(asked["opaque"])
    return "Digest " + ", ".join(f"{name}={value}" for name, value in fields.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
