"""Which proxy stands between the agent and its broker."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import urllib.request
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from agent.errors import ConfigError
from agent.secrets import SecretStore, resolve_url

SCHEMES: Final = ("http", "https", "socks5", "socks5h")
# In the order of their weight; Windows' own settings come under the names "https" and "socks".
_SYSTEM_KEYS: Final = ("wss", "https", "all", "socks")


@dataclass(frozen=True, slots=True)
class Proxy:
    """
    One proxy.

    Attributes:
        url: with user and password, percent-encoded; never shown.
        shown: without them.
        user: whether there is one.
    """

    url: str = field(repr=False)
    shown: str
    user: bool


def proxy_for(broker_url: str, setting: str, secrets: SecretStore) -> Proxy | None:
    """
    Return the proxy for ``broker_url``, or ``None`` for the straight way.

    Args:
        setting: ``link.proxy`` of the operator's file: ``system``, ``none`` or the proxy's URL.
        secrets: gives the values of ``{secret:NAME}`` in it.

    Raises:
        ConfigError: it is not a proxy's URL; the text does not show it, as it may hold a password.
        SecretError: a secret is missing.
    """
    if setting == "none":
        return None
    if setting != "system":
        return parse(resolve_url(setting, secrets), "link.proxy in the operator's file")
    parts = urlsplit(broker_url)
    found = _from_system(parts.hostname or "", parts.port or 443)
    return parse(found, "the system's proxy setting (HTTPS_PROXY, ALL_PROXY or Windows)") if found else None


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
        return Proxy(shown, shown, user=False)
    user, password = (quote(unquote(text), safe="") for text in (parts.username, parts.password or ""))
    return Proxy(f"{scheme}://{user}:{password}@{host}:{port}", shown, user=True)


def _from_system(host: str, port: int) -> str | None:
    # urllib reads the environment and, on Windows, the registry of the account that runs the agent.
    if urllib.request.proxy_bypass(f"{host}:{port}") or _in_exempt_network(host):
        return None
    proxies = urllib.request.getproxies()
    return next((proxies[key] for key in _SYSTEM_KEYS if proxies.get(key)), None)


def _in_exempt_network(host: str) -> bool:
    """Whether NO_PROXY has a network such as ``10.0.0.0/8`` that holds ``host``; urllib knows names only."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(","):
        with contextlib.suppress(ValueError):
            if address in ipaddress.ip_network(entry.strip(), strict=False):
                return True
    return False
