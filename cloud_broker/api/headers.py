"""Request headers that mean what their standards say, each read by a pure function."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from starlette.types import Scope

from cloud_broker.errors import RequestInvalid

MAX_KEY_CHARS: Final = 255  # of an Idempotency-Key
GIVEN: Final = "outhaul.headers"

_WAIT: Final = re.compile(r'^\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?$', re.IGNORECASE)
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_QUALITY: Final = re.compile(r"^(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$")


def given(scope: Scope, name: str) -> Sequence[str]:
    """
    Return the values of a header in the order in which they stand; Starlette looks through all headers for each.

    Args:
        name: in small letters.
    """
    found: dict[str, list[str]] | None = scope.get(GIVEN)
    if found is None:
        found = scope[GIVEN] = {}
        for one, value in scope["headers"]:
            found.setdefault(one.decode("latin-1"), []).append(value.decode("latin-1"))
    return found.get(name, ())


def first(scope: Scope, name: str, default: str) -> str:
    """Return the first value of a header, or ``default``."""
    found = given(scope, name)
    return found[0] if found else default


def wait_s(prefer: Sequence[str]) -> int | None:
    """
    Return the seconds of ``Prefer: wait=N``, or None; what can't be understood is passed over.

    Source:
        RFC 7240, sections 2 and 4.3.
    """
    for preference in ",".join(prefer).split(",") if prefer else ():
        match = _WAIT.match(preference)
        if match:
            return int(match[1])
    return None


def idempotency_key(given: Sequence[str]) -> str | None:
    """
    Return the key of an ``Idempotency-Key`` header, with or without the quotes of a structured field.

    Raises:
        RequestInvalid: it is empty, too long, has more than visible ASCII, or there are several.

    Source:
        draft-ietf-httpapi-idempotency-key-header.
    """
    if not given:
        return None
    if len(given) > 1:
        raise RequestInvalid(f"Idempotency-Key wants one value, found {len(given)}.")
    key = given[0].strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    return checked_key("Idempotency-Key", key)


def checked_key(name: str, key: str) -> str:
    """
    Return an idempotency key.

    Args:
        name: what it was called where it came from.

    Raises:
        RequestInvalid: it is empty, too long, or has more than visible ASCII.
    """
    if not 1 <= len(key) <= MAX_KEY_CHARS or not all("!" <= char <= "~" for char in key):
        raise RequestInvalid(
            f"{name} wants 1 to {MAX_KEY_CHARS} visible ASCII characters without spaces, "
            f"such as a UUID; found {len(key)} characters."
        )
    return key


def traceparent(text: str) -> str:
    """
    Return a W3C trace context, or "" for none or one that is malformed, which is to be taken as none.

    Source:
        W3C Trace Context, sections 3.2 and 4.3.
    """
    found = text.strip()
    return found if _TRACEPARENT.fullmatch(found) else ""


def choose(accept: Sequence[str], offered: Sequence[str]) -> str | None:
    """
    Return the offered media type that the ``Accept`` headers like best, or None if they like none.

    The most specific range that fits an offer gives its quality; of equals, the first offered wins.

    Source:
        RFC 9110, section 12.5.1.
    """
    ranges = [_range(part) for part in ",".join(accept).split(",") if part.strip()]
    if not ranges:
        return offered[0]
    best = max(offered, key=lambda media_type: _quality(media_type, ranges))
    return best if _quality(best, ranges) > 0 else None


def _range(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            quality = float(value) if _QUALITY.match(value.strip()) else 0.0
    return media_range, quality


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    for wanted in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        found = [quality for media_range, quality in ranges if media_range == wanted]
        if found:
            return max(found)
    return 0.0
