"""Who is at the other end of a connection, by the certificate that TLS or a terminator in front of us has seen."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cloud_broker.identity.certificates import end_told, identity_in, identity_told, read
from cloud_broker.identity.trust import Trust
from cloud_broker.link import terminators
from cloud_broker.link.base import Peer
from cloud_broker.link.terminators import Terminators


class Headers(Protocol):
    """Of a request."""

    def get_all(self, key: str) -> Sequence[str]:
        """Return every value of one name."""


class NotFromHere(Exception):
    """Somebody who is no terminator says what only a terminator may; the text is for people."""


class Identification:
    """
    Tells peers from certificates.

    Args:
        trust: whose certificates are taken.
        trust_domain: in their names.
        front: addresses of TLS terminators.
        now: seconds since 1970.
    """

    def __init__(
        self,
        trust: Trust,
        trust_domain: str,
        front: Terminators | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._trust = trust
        self._trust_domain = trust_domain
        self._front = front if front is not None else Terminators(())
        self._now = now

    def address(self, host: str, headers: Headers) -> str:
        """Return where somebody really comes from."""
        return terminators.address_of(headers.get_all(terminators.FORWARDED), host) if host in self._front else host

    def peer(
        self, host: str, port: int, tls: ssl.SSLObject | None, told: Mapping[str, Any], headers: Headers
    ) -> Peer | None:
        """
        Return who it is, or ``None`` without a certificate.

        Args:
            tls: the connection, if TLS ends here.
            told: what it told of the certificate that it has verified; empty without one.

        Raises:
            CertificateInvalid: the certificate names no agent, or can't be trusted.
            NotFromHere: a terminator's headers, from an address that is none.
        """
        certificate, chain = headers.get_all(terminators.CERTIFICATE), headers.get_all(terminators.CHAIN)
        address = f"{self.address(host, headers)}:{port}"
        if host in self._front:
            seen, between = terminators.shown(certificate, chain)
            if seen is None:
                return None
            terminators.verify(seen, between, self._trust.for_clients, self._now())
            return self._read(seen, address)
        if certificate or chain:
            raise NotFromHere(
                f"{terminators.CERTIFICATE} from an address that is no TLS terminator of this broker; link.terminators "
                "names those"
            )
        if not told:
            return None
        issuer = self._trust.issuer_named(told["issuer"])
        if issuer is None:
            issuer = self._trust.issuer_of(_seen(tls))
        tenant, agent, serial = identity_told(told, self._trust_domain)
        ends = end_told(told)
        return Peer(tenant, agent, serial, address, not_after=ends, issuer=issuer, own_pki=not issuer)

    def _read(self, seen: bytes, address: str) -> Peer:
        verified = read(seen)
        tenant, agent, serial = identity_in(verified, self._trust_domain)
        issuer, ends = self._trust.issuer_of(seen), verified.not_valid_after_utc.timestamp()
        return Peer(tenant, agent, serial, address, not_after=ends, issuer=issuer, own_pki=not issuer)


def _seen(tls: ssl.SSLObject | None) -> bytes:
    """Return the certificate that TLS has verified; empty without one."""
    return (tls.getpeercert(binary_form=True) if tls is not None else None) or b""
