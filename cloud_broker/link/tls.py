"""The TLS of the agents' port: what the broker shows, and whose certificates it takes."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud_broker.identity.authority import Authority


class Door:
    """
    A TLS context that can change while the port is open: who dials next meets the one of today.

    Attributes:
        context: for the listener.

    Args:
        make: returns the context of today.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext]) -> None:
        self._make = make
        self.context = self._today = make()
        # Called also for a client that names no host; whom we trust and what we show both come with the context.
        self.context.sni_callback = self._let_in

    def change(self) -> None:
        """Make the context anew."""
        self._today = self._make()

    def _let_in(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if self._today is not context:
            connection.context = self._today


def server_context(
    authority: Authority,
    hosts: Sequence[str],
    now: float,
    *,
    trusted: Sequence[x509.Certificate] | None = None,
    own: tuple[Path, Path] | None = None,
) -> ssl.SSLContext:
    """
    Return the TLS context of the agents' port.

    A client without a certificate gets in, for enrolment comes without one; whoever serves ``/link`` must ask for
    it. One with a certificate that nobody trusted issued, that has run out or has another purpose does not.

    Args:
        authority: makes the server's certificate.
        hosts: names and IP addresses under which agents dial.
        trusted: whose certificates agents may show; by default only the authority's.
        own: certificate and key of the operator's own, to be shown in place of ours.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for certificate in [authority.certificate] if trusted is None else trusted:
        context.load_verify_locations(cadata=certificate.public_bytes(Encoding.DER))
    # No session tickets: a resumed session would not have its certificate verified again.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    if own is None:
        authority.server_certificate(hosts, now)
        own = authority.folder / "server.crt", authority.folder / "server.key"
    context.load_cert_chain(*own, password=_none)
    return context


def _none() -> str:
    """Stand in for a passphrase: without this OpenSSL would ask on the terminal for that of a locked key."""
    return ""
