"""Who is at the other end of a connection, by the certificate that TLS or a terminator in front of us has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from cloud_broker.identity.certificates import identity_in, read
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

    def peer(self, host: str, port: int, seen: bytes | None, headers: Headers) -> Peer | None:
        """
        Return who it is, or ``None`` without a certificate.

        Args:
            seen: the certificate (DER) that TLS has verified here.

        Raises:
            CertificateInvalid: the certificate names no agent, or can't be trusted.
            NotFromHere: a terminator's headers, from an address that is none.
        """
        certificate, chain = headers.get_all(terminators.CERTIFICATE), headers.get_all(terminators.CHAIN)
        if host in self._front:
            seen, between = terminators.shown(certificate, chain)
            if seen is not None:
                terminators.verify(seen, between, self._trust.for_clients, self._now())
        elif certificate or chain:
            raise NotFromHere(
                f"{terminators.CERTIFICATE} from an address that is no TLS terminator of this broker; link.terminators "
                "names those"
            )
        if not seen:
            return None
        verified = read(seen)
        tenant, agent, serial = identity_in(verified, self._trust_domain)
        issuer = self._trust.issuer_of_verified(verified)
        return Peer(
            tenant,
            agent,
            serial,
            f"{self.address(host, headers)}:{port}",
            not_after=verified.not_valid_after_utc.timestamp(),
            issuer=issuer,
            own_pki=not issuer,
        )
