"""What the broker needs of a transport to an agent."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass


class LinkLost(Exception):
    """The transport ended; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """
    Who is at the other end, as its certificate says.

    Attributes:
        serial: of the certificate, hex.
        address: for logs.
        not_after: end of the certificate, seconds since 1970.
        issuer: fingerprint of the authority of ours that issued it, or "".
        own_pki: whether an authority of the operator's own did.
    """

    tenant: str
    agent: str
    serial: str
    address: str
    not_after: float = math.inf
    issuer: str = ""
    own_pki: bool = False


class Transport(abc.ABC):
    """
    Whole messages, in order, both ways.

    Attributes:
        address: of the other end, ``host:port``.
    """

    __slots__ = ()

    address: str

    @abc.abstractmethod
    async def send(self, data: bytes) -> None:
        """
        Send one message; returns when there is room for another.

        Raises:
            LinkLost: the transport ended.
        """

    @abc.abstractmethod
    async def receive(self) -> bytes:
        """
        Return the next message.

        Raises:
            LinkLost: the transport ended.
        """

    @abc.abstractmethod
    async def close(self, reason: str = "") -> None:
        """End it, soon whatever the peer does; may be called twice."""
