"""What the router keeps in memory: each open command, and each agent with what waits for it and what it works on."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from cloud_broker.catalogues import Catalogue
from cloud_broker.link.conversation import Conversation
from cloud_broker.queues import Queue
from cloud_broker.results import LiveResult
from cloud_broker.store.base import Command
from cloud_broker.tenants import Scope
from protocol.messages import Ack
from protocol.states import PHASES


@dataclass(slots=True, eq=False)
class Entry:
    """
    A command without a final state.

    Attributes:
        number: grows with each submission.
        sent: whether Run was said on a link that may still be answering.
        result: of the attempt under way.
        spilled: whether an earlier attempt may have left a file of rows.
        writing: what an earlier attempt still writes to that file.
        uncredited: result bytes stored and not yet granted again on the link.
        finishing: whether its end has come, and is being looked into or written.
        moved: set, and replaced, when ``result`` changes or the end is reached.
    """

    command: Command
    number: int
    line: Line | None = None
    sent: bool = False
    result: LiveResult | None = None
    spilled: bool = False
    writing: asyncio.Task[None] | None = None
    uncredited: int = 0
    finishing: bool = False
    waiters: set[asyncio.Future[Command]] = field(default_factory=set)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self) -> None:
        """Wake those who wait for another result or the end."""
        self.moved.set()
        self.moved = asyncio.Event()

    def drop_result(self, why: str) -> None:
        """Let go of what an attempt brought."""
        if self.result is not None:
            self.result.cut(why)
            self.spilled = self.spilled or self.result.on_disk
            self.writing = self.result.writing
            self.result = None
            self.move()

    @property
    def scope(self) -> Scope:
        return Scope(self.command.tenant)


@dataclass(slots=True, eq=False)
class Line:
    """
    One agent: its link, what waits for it, what it works on.

    Attributes:
        busy: commands under way, by connection.
        uncredited: result bytes of all of them, stored and not yet granted again on the link.
    """

    tenant: str
    agent: str
    group: str | None = None
    link: Conversation | None = None
    catalogue: Catalogue | None = None
    digest: str = ""
    queue: Queue = field(default_factory=Queue)
    flying: dict[str, Entry] = field(default_factory=dict)
    busy: Counter[str] = field(default_factory=Counter)
    uncredited: int = 0

    @property
    def ready(self) -> bool:
        """Whether commands can be sent now."""
        return self.link is not None and self.link.ready and self.link.open

    def free(self, connection: str) -> bool:
        """Whether the connection takes one more."""
        allowed = self.catalogue.max_concurrent.get(connection, 1) if self.catalogue else 1
        return self.busy[connection] < allowed

    def flying_on(self, link: Conversation, command_id: str) -> Entry | None:
        """Return the command if this link is the one it flies on; what an older link says is of no effect."""
        return self.flying.get(command_id) if self.link is link else None


def forget(link: Conversation, command_id: str, epoch: int) -> None:
    """Let the agent forget a command, if it holds it or has told its end on this link, and does so still."""
    if Ack in PHASES[link.phase(command_id)]:
        link.say(Ack(command_id, epoch))
