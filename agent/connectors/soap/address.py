"""Addresses of services: what is one, how it may be shown, and how it stands in a request."""

from __future__ import annotations

import functools
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from agent.errors import SourceFailed

SEVERAL: Final = 64  # addresses that are remembered: a connection has few, and asks of them in every call

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_KEPT_CHARACTERS: Final = "/?%:@!$&'()*+,;=~-._[]#"  # of a request's target


@functools.lru_cache(maxsize=SEVERAL)
def split(url: str) -> SplitResult:
    """
    Return the parts of an http or https address.

    Raises:
        SourceFailed: it is none.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or any(character <= " " for character in url):
        raise SourceFailed(f"{url[:200]!r} is not an http or https address; correct wsdl or endpoint", touched=False)
    return parts


def place(url: str) -> str:
    """Return an address as it may be shown: without credentials and query."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


@functools.lru_cache(maxsize=SEVERAL)
def target(parts: SplitResult) -> str:
    """Return path and query as they stand in the request line."""
    return quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), _KEPT_CHARACTERS)


@functools.lru_cache(maxsize=SEVERAL)
def server_of(parts: SplitResult) -> tuple[str, str, int]:
    """Return what tells one server from another: scheme, host and port."""
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]


@functools.lru_cache(maxsize=SEVERAL)
def host(parts: SplitResult) -> str:
    """Return what stands in the header ``Host``."""
    name = parts.hostname or ""
    name = f"[{name}]" if ":" in name else name.encode("idna").decode("ascii")
    return name if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{name}:{parts.port}"
