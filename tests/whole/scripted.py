"""An agent that says what a test tells it to, on a link in memory to a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from agent.errors import LinkError
from agent.link.memory import MemoryTransport, pair
from cloud_broker.link.base import Peer
from cloud_broker.link.conversation import Conversation
from protocol import codec, limits
from protocol.codec import Record
from protocol.messages import (
    Accepted,
    AnyMessage,
    Catalogue,
    Completed,
    Goodbye,
    Held,
    Hello,
    Holding,
    Limits,
    Run,
    Started,
)
from tests.whole.ring import BrokerEnd, Ring

M = TypeVar("M", bound=AnyMessage)

OPERATIONS = {"read": "read", "set": "idempotent", "post": "at-most-once", "book": "once"}  # each with its effect


def document(connection: str = "erp", about: dict[str, Any] | None = None, **limits_: Any) -> dict[str, Any]:
    """Return a catalogue of one connection, and an operation for each effect on it; ``about`` adds to each of them."""
    return {
        "operations": [
            {"name": name, "connection": connection, "effect": effect, "timeout_s": 1.0, "params": {}, **(about or {})}
            for name, effect in OPERATIONS.items()
        ],
        "connections": [{"name": connection, "max_concurrent": 4, **limits_}],
    }


class Scripted:
    """
    One agent's process and its journal, as far as a broker can tell.

    Attributes:
        heard: records that no test has asked for yet.
    """

    def __init__(
        self,
        broker: Ring,
        name: str = "plant-1",
        journal: str = "j",
        catalogue: dict[str, Any] | None = None,
        features: Sequence[str] = (),
    ) -> None:
        self.broker = broker
        self.name = name
        self.journal = journal
        self.catalogue = catalogue if catalogue is not None else document()
        self.features = list(features)
        self.heard: list[Record] = []
        self.conversation: Conversation | None = None
        self._changed = asyncio.Event()
        self._transport: MemoryTransport | None = None
        self._tasks: list[asyncio.Task[Any]] = []

    async def dial(
        self, *, position: int = 0, remembers: int = limits.REMEMBERS, greeting: bytes | None = None
    ) -> None:
        """Open a link and greet, with other bytes where a test wants that."""
        await self.cut()
        ours, self._transport = pair()
        own = Limits(
            stream_window_bytes=limits.STREAM_WINDOW_BYTES,
            link_window_bytes=limits.LINK_WINDOW_BYTES,
            sends_again=limits.SENDS_AGAIN,
        )
        peer = Peer("acme", self.name, "01", "memory:0")
        self.conversation = Conversation(BrokerEnd(ours), peer, self.broker.desk, release="test", own=own)
        self.heard.clear()
        self._tasks = [
            asyncio.create_task(self.conversation.serve(), name="broker's end"),
            asyncio.create_task(self._listen(self._transport), name="scripted agent"),
        ]
        if greeting is not None:
            await self._transport.send(greeting)
            return
        own = Limits(max_running=64, remembers=remembers)
        await self.say(Hello([1], "0", self.features, own, self.journal, time.time(), position))

    async def send(self, data: bytes) -> None:
        """Send bytes, whether or not they are a message."""
        assert self._transport is not None
        await self._transport.send(data)

    def listen_no_more(self) -> None:
        """Read nothing from here on."""
        for task in self._tasks[1:]:
            task.cancel()

    async def holds(self, *held: Held) -> None:
        """Tell what may be run and what is held, and wait until commands can come."""
        data = json.dumps(self.catalogue).encode()
        await self.say(Catalogue(hashlib.sha256(data).hexdigest()), payload=data)
        await self.say(Holding(list(held)))
        async with asyncio.timeout(5):
            while self.conversation is None or not self.conversation.ready:  # noqa: ASYNC110 - nobody tells it
                await asyncio.sleep(0.001)

    async def link(self, *held: Held, position: int = 0) -> None:
        """Dial, greet and tell what is held."""
        await self.dial(position=position)
        await self.holds(*held)

    async def cut(self) -> None:
        """Lose the link without a word."""
        if self._transport is not None:
            await self._transport.close()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._transport = None

    async def say(self, *messages: AnyMessage, payload: bytes = b"") -> None:
        """Say something, whether or not the rules allow it."""
        assert self._transport is not None
        for message in messages:
            await self._transport.send(codec.encode(Record(message, payload)))

    async def say_together(self, *messages: AnyMessage) -> None:
        """Say several things in one message of the transport."""
        assert self._transport is not None
        await self._transport.send(codec.encode_all([Record(message) for message in messages]))

    async def hear(self, kind: type[M]) -> M:
        """Return the first message of a kind that was not asked for yet, waiting for one."""
        async with asyncio.timeout(5):
            while True:
                for number, (message, _) in enumerate(self.heard):
                    if isinstance(message, kind):
                        del self.heard[number]
                        return message
                self._changed.clear()
                await self._changed.wait()

    async def hear_any(self, *kinds: type[AnyMessage]) -> Record:
        """Return the first record of one of these kinds, in the order in which they came; raises when the link ends."""
        while True:
            for number, record in enumerate(self.heard):
                if isinstance(record.message, kinds):
                    del self.heard[number]
                    return record
            if self._transport is None or all(task.done() for task in self._tasks):
                raise LinkError("the link is gone")
            self._changed.clear()
            await self._changed.wait()

    def kinds(self) -> Sequence[str]:
        """Return the kinds of all that was heard and not asked for."""
        return [type(message).__name__ for message, _ in self.heard]

    async def begin(self, *, position: int = 0) -> Run:
        """Take the next command and say that its work began."""
        run = await self.hear(Run)
        await self.say(Accepted(run.id, run.epoch), Started(run.id, run.epoch, position))
        return run

    async def fail(self, run: Run, code: str = "timed_out", **told: Any) -> None:
        """End a command with a technical error that may not be there next time."""
        said = {"outcome": "failed", "error_kind": "technical", "retryable": True, "error_message": "because", **told}
        await self.say(Completed(run.id, run.epoch, error_code=code, **said))

    async def succeed(self, run: Run, outputs: bytes = b"") -> None:
        """End a command well."""
        await self.say(Completed(run.id, run.epoch, "succeeded"), payload=outputs)

    async def _listen(self, transport: MemoryTransport) -> None:
        with contextlib.suppress(LinkError):
            while True:
                records = codec.decode(await transport.receive())
                self.heard.extend(records)
                self._changed.set()
                if any(isinstance(message, Goodbye) for message, _ in records):
                    return


@contextlib.asynccontextmanager
async def scripted(broker: Ring, **options: Any) -> AsyncIterator[Scripted]:
    """An agent that was linked."""
    made = Scripted(broker, **options)
    await made.link()
    try:
        yield made
    finally:
        await made.cut()
