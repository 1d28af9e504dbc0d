"""What a proxy's URL says, and which hosts are dialled without one."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import msgspec

from agent.errors import ConfigError

SCHEMES: Final = ("http", "https", "socks5", "socks5h")


class Proxy(msgspec.Struct, frozen=True):
    """
    One proxy.

    Attributes:
        url: with user and password, percent-encoded; never shown.
        shown: without them.
        user: whether there is one.
        place: where it was found, for people.
    """

    url: str
    shown: str
    user: bool
    place: str = ""

    def __repr__(self) -> str:
        return f"<Proxy {self.shown}>"

    @property
    def host(self) -> str:
        """Its name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Its port."""
        return urlsplit(self.url).port or 0

    @property
    def scheme(self) -> str:
        """One of ``SCHEMES``."""
        return urlsplit(self.url).scheme

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password, or ``None`` where there is no user."""
        parts = urlsplit(self.url)
        return (unquote(parts.username or ""), unquote(parts.password or "")) if self.user else None


def parse(url: str, place: str) -> Proxy:
    """
    Read a proxy's URL; without a scheme it is an HTTP proxy, as curl has it.

    Args:
        place: where it stands, for errors.

    Raises:
        ConfigError: it is not one of ours.
    """
    wanted = f"{place}: wants http://user:{{secret:NAME}}@proxy:3128 or socks5h://proxy:1080"
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 1080)
    except ValueError as exc:
        raise ConfigError(f"{wanted}; found a port or address that can't be read") from exc
    # Windows and some desktops write socks:// for what is SOCKS 5 everywhere today.
    scheme = "socks5h" if parts.scheme == "socks" else parts.scheme
    if scheme not in SCHEMES:
        raise ConfigError(f"{wanted}; found the scheme {scheme!r}, which is none of {', '.join(SCHEMES)}")
    if not parts.hostname:
        raise ConfigError(f"{wanted}; found no host")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(f"{wanted}; found something after the port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = f"{scheme}://{host}:{port}"
    if parts.username is None:
        return Proxy(shown, shown, False, place)
    user, password = (quote(unquote(text), safe="") for text in (parts.username, parts.password or ""))
    return Proxy(f"{scheme}://{user}:{password}@{host}:{port}", shown, True, place)


def exempt(host: str, port: int, entries: Iterable[str]) -> bool:
    """
    Whether a list of exceptions says that ``host`` is dialled without a proxy.

    Args:
        entries: hosts, domains (``example.com`` and ``.example.com``, each with all below), patterns (``10.*``),
            addresses and networks (``10.0.0.0/8``), each with a port or without; ``*`` is all, and ``<local>``, as
            Windows has it, every name without a dot.
    """
    host = host.strip("[]").rstrip(".").lower()
    return any(_matches(host, port, entry.strip().lower()) for entry in entries)


def _matches(host: str, port: int, entry: str) -> bool:
    # Windows writes a scheme before some.
    entry = entry.rpartition("://")[2].rstrip(".")
    if entry in ("", "*"):
        return entry == "*"
    if entry == "<local>":
        return "." not in host and ":" not in host
    network = _network(entry)
    if network is None:
        name, colon, wanted = entry.rpartition(":")
        if colon:
            if wanted != str(port):
                return False
            entry = name
            network = _network(entry)
    if network is not None:
        try:
            return ipaddress.ip_address(host.partition("%")[0]) in network
        except ValueError:
            return False
    if "*" in entry:
        return fnmatchcase(host, entry)
    return host == entry.lstrip(".") or host.endswith("." + entry.lstrip("."))


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None
