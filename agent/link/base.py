"""What a transport to the broker is, and how one is opened."""

from __future__ import annotations

import abc
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec


class Peer(msgspec.Struct, frozen=True):
    """
    What is at the other end, for logs and people.

    Attributes:
        url: where it was dialled, such as ``wss://broker.example.com:8443``.
        address: the IP address and port that answered: the broker's, or the proxy's if there is one.
        proxy: the proxy on the way, without its password; "" if there is none.
        tls: version and cipher, such as ``TLSv1.3 TLS_AES_256_GCM_SHA384``; "" without TLS.
    """

    url: str
    address: str = ""
    proxy: str = ""
    tls: str = ""


class Transport(abc.ABC):
    """
    Whole messages, in order, both ways.

    Attributes:
        peer: who is at the other end.
    """

    peer: Peer

    @abc.abstractmethod
    async def send(self, data: bytes) -> None:
        """
        Send one message; returns when there is room for another.

        Raises:
            LinkError: the link ended.
        """

    @abc.abstractmethod
    async def receive(self) -> bytes:
        """
        Return the next message.

        Raises:
            LinkError: the link ended.
        """

    @abc.abstractmethod
    async def close(self, reason: str = "") -> None:
        """End it, soon whatever the peer does; may be called twice."""


class Dialer(abc.ABC):
    """
    Opens a transport to one broker.

    Attributes:
        target: where, for logs and people.
    """

    target: str

    @abc.abstractmethod
    async def connect(self) -> Transport:
        """
        Dial once; ends within a bounded time.

        Raises:
            AgentError: most often LinkError (not reached) or LinkRefused (reached, and told no); the text
                names the stage, what was found and the fix.
        """


class Ended(msgspec.Struct, frozen=True):
    """
    How a conversation ended.

    Attributes:
        code: that of the Goodbye of either side, or ``lost`` if there was none.
        reason: for people.
        retry_after_s: seconds, from the Goodbye; 0 says nothing about it.
    """

    code: str = "lost"
    reason: str = ""
    retry_after_s: float = 0.0


Serve = Callable[[Transport], Coroutine[Any, Any, Ended]]
