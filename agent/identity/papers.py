"""What the link carries about the agent itself, and who keeps it: lineage, authorities, the next certificate."""

from __future__ import annotations

import abc
from typing import Protocol

import msgspec

from agent.link.base import Ended
from protocol.framing import Buffer
from protocol.messages import AnyMessage, Renewed, Trust, Welcome


class Shown(msgspec.Struct, frozen=True):
    """
    What the greeting says of them.

    Attributes:
        lineage: as ``Hello.lineage``.
        trusts: as ``Hello.trusts``.
        features: that the papers can do.
    """

    lineage: str = ""
    trusts: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


class Voice(Protocol):
    """A link, as the papers see it."""

    @property
    def features(self) -> frozenset[str]:
        """What both sides can do besides."""

    def tell(self, message: AnyMessage, payload: Buffer = b"") -> None:
        """Say something that is about no command; without effect once the link has ended."""

    def end(self, code: str, reason: str) -> None:
        """Say goodbye and close."""


class Papers(abc.ABC):
    """Keeps what the link says of the agent."""

    @abc.abstractmethod
    async def shown(self) -> Shown:
        """
        Return what the next greeting is to say.

        Raises:
            AgentError: it can't be read.
        """

    @abc.abstractmethod
    async def welcomed(self, link: Voice, welcome: Welcome) -> None:
        """
        The broker let us in; returns when the new lineage is on the disk.

        Raises:
            LinkError: it can't be kept, so this link must end.
        """

    @abc.abstractmethod
    def heard(self, message: Renewed | Trust, payload: bytes) -> None:
        """The broker said something of them."""

    @abc.abstractmethod
    async def left(self, ended: Ended) -> None:
        """The link ended."""

    @abc.abstractmethod
    async def run(self) -> None:
        """Do what is due, until it is cancelled."""


class MemoryPapers(Papers):
    """Forgets all with the process; for links without certificates."""

    def __init__(self) -> None:
        self.lineage = ""

    async def shown(self) -> Shown:
        return Shown(lineage=self.lineage)

    async def welcomed(self, link: Voice, welcome: Welcome) -> None:
        self.lineage = welcome.lineage

    def heard(self, message: Renewed | Trust, payload: bytes) -> None:
        """Nothing comes without the feature."""

    async def left(self, ended: Ended) -> None:
        """Nothing is under way."""

    async def run(self) -> None:
        """Nothing is due."""
