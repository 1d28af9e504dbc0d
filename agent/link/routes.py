"""Which ways lead to the broker: its addresses, and the proxies before them."""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from agent.errors import ConfigError
from agent.link.diagnosis import Looks
from agent.link.proxy import Proxy, exempt, parse
from agent.secrets import SecretStore
from agent.secrets.resolve import resolve_url
from agent.settings import Link

# In the order of their weight.
_ENVIRONMENT: Final = ("wss_proxy", "https_proxy", "all_proxy")
# Where Linux distributions keep the list of authorities; a frozen program knows only where its builder's was.
_LISTS: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class Routes(msgspec.Struct, frozen=True):
    """
    What the operator's file says of the way to the broker.

    Attributes:
        proxy: ``system``, ``none`` or the proxy's URL.
        no_proxy: hosts that are dialled without one, as in ``proxy.exempt``.
        urls: of the broker, in place of the one in the token; none takes that.
        extra_authorities: PEM file with authorities of the company's own, for proxies that speak TLS.
        looks: what was lately seen of who is not trusted.
    """

    proxy: str = "system"
    no_proxy: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    extra_authorities: Path | None = None
    looks: Looks = msgspec.field(default_factory=Looks)

    @classmethod
    def of(cls, link: Link, base_dir: Path = Path()) -> Routes:
        """Return what a file says; its relative paths begin at ``base_dir``."""
        extra = base_dir / link.extra_authorities if link.extra_authorities is not None else None
        return cls(link.proxy, link.no_proxy, tuple(url.rstrip("/") for url in link.urls), extra)

    def addresses(self, url: str) -> tuple[str, ...]:
        """Return where the broker is; ``url`` is what the token said."""
        return self.urls or (url,)

    def proxies(self, broker_url: str, secrets: SecretStore) -> list[Proxy | None]:
        """
        Return the proxies for ``broker_url`` in the order in which they are tried; ``None`` is the straight way.

        On Windows this may ask the network for a script, and wait for it.

        Args:
            secrets: gives the values of ``{secret:NAME}``.

        Raises:
            ConfigError: it is not a proxy's URL; the text does not show it, as it may hold a password.
            SecretError: a secret is missing.
        """
        parts = urlsplit(broker_url)
        host, port = parts.hostname or "", parts.port or 443
        if self.proxy == "none" or exempt(host, port, self.no_proxy):
            return [None]
        if self.proxy != "system":
            return [parse(resolve_url(self.proxy, secrets), "link.proxy in the operator's file")]
        return [parse(url, place) if url else None for url, place in _of_system(host, port)]

    def trust(self) -> ssl.SSLContext:
        """
        Return a context that trusts whom this machine trusts, and ``extra_authorities``.

        For proxies that speak TLS, and to tell who inspects; a broker is never taken on its word.

        Raises:
            ConfigError: the file can't be read.
        """
        context = ssl.create_default_context()
        if sys.platform == "linux" and not os.environ.get("SSL_CERT_FILE") and not context.get_ca_certs():
            for path in _LISTS:
                if os.path.exists(path):
                    context.load_verify_locations(path)
                    break
        if self.extra_authorities is not None:
            try:
                context.load_verify_locations(self.extra_authorities)
            except OSError as exc:  # ssl.SSLError is one
                raise ConfigError(
                    f"link.extra_authorities {self.extra_authorities}: can't be read "
                    f"({exc.strerror or exc}); wants a PEM file with certificates"
                ) from exc
        return context


def _of_system(host: str, port: int) -> list[tuple[str, str]]:
    """Return URLs of proxies, "" for the straight way, and where each was found."""
    said = _environment()
    for key in _ENVIRONMENT:
        if url := said.get(key):
            if exempt(host, port, said.get("no_proxy", "").split(",")):
                return [("", "")]
            return [(url, f"the system's proxy setting ({key.upper()})")]
    if sys.platform == "win32":
        # Imported here: it loads a library that only Windows has.
        from agent.link import winhttp

        return winhttp.proxies(host, port) or [("", "")]
    return [("", "")]


def _environment() -> dict[str, str]:
    """Return the variables by their names in small letters; where there are both, small ones hold, also if empty."""
    return {
        **{name.lower(): value for name, value in os.environ.items()},
        **{name: value for name, value in os.environ.items() if name.islower()},
    }
