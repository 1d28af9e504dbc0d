"""What a dial met on its way, step by step: for ``outhaul-agent check``."""

from __future__ import annotations

import msgspec


class Trail(msgspec.Struct):
    """
    Filled in as a dial goes on; what it did not come to stays empty.

    Attributes:
        host: whose name was asked for: the broker's, or the proxy's.
        addresses: that DNS gave for it.
        dns_s: seconds until then.
        address: where TCP came about, ``host:port``.
        tcp_s: seconds for that.
        offers: ways to log in that the proxy offered.
        scheme: the one used.
        proxy_s: seconds from TCP to the tunnel.
        tls_s: seconds for TLS.
        tls: version and cipher.
        issuer: who signed the broker's certificate, for people.
        not_after: end of the broker's certificate, seconds since 1970; 0 where it is not known.
        http_s: seconds from TLS to the websocket.
    """

    host: str = ""
    addresses: list[str] = []
    dns_s: float | None = None
    address: str = ""
    tcp_s: float | None = None
    offers: tuple[str, ...] = ()
    scheme: str = ""
    proxy_s: float | None = None
    tls_s: float | None = None
    tls: str = ""
    issuer: str = ""
    not_after: float = 0.0
    http_s: float | None = None
