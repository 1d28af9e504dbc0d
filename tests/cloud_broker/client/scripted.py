"""An agent that does what a test tells it, on a link in memory: real conversation, real credits, no ERP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloud_broker.link.base import LinkLost, Transport
from protocol import limits
from protocol.codec import Record
from protocol.messages import (
    Accepted,
    Cancel,
    Catalogue,
    Chunk,
    ColumnInfo,
    Completed,
    Hello,
    Holding,
    Limits,
    Outcome,
    RowSetBegins,
    RowSetDone,
    Run,
    Started,
    Welcome,
)
from protocol.session import Session, Side


@dataclass(frozen=True, slots=True)
class RowSet:
    """A row set begins."""

    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class End:
    """How it ends, if not well or with outputs."""

    outcome: Outcome = "succeeded"
    outputs: Mapping[str, Any] | None = None
    code: str = ""
    message: str = ""
    source_code: str = ""


Piece = RowSet | bytes | End
Behaviour = Callable[[dict[str, Any], asyncio.Event], AsyncIterator[Piece]]


class MemoryTransport(Transport):
    """One end of a link in memory."""

    def __init__(self, outgoing: asyncio.Queue[bytes], incoming: asyncio.Queue[bytes]) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    async def send(self, data: bytes) -> None:
        await self._outgoing.put(data)

    async def receive(self) -> bytes:
        data = await self._incoming.get()
        if not data:
            raise LinkLost("closed")
        return data

    async def close(self, reason: str = "") -> None:
        if not self._outgoing.full():
            self._outgoing.put_nowait(b"")


def pair() -> tuple[MemoryTransport, MemoryTransport]:
    """Return both ends of a new link."""
    there: asyncio.Queue[bytes] = asyncio.Queue(4)
    back: asyncio.Queue[bytes] = asyncio.Queue(4)
    return MemoryTransport(there, back), MemoryTransport(back, there)


@dataclass
class _Lane:
    records: deque[Record] = field(default_factory=deque)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def head(self) -> Record | None:
        return self.records[0] if self.records else None

    def sent(self) -> None:
        self.records.popleft()
        self.moved.set()

    def granted(self, size: int) -> None:
        """Nothing is kept."""


class ScriptedAgent:
    """
    Serves one link until it is cancelled.

    Args:
        catalogue: as an agent would send it.
        behaviours: by operation, what each run yields; the event tells of a wish to cancel.
    """

    def __init__(self, transport: Transport, catalogue: bytes, behaviours: Mapping[str, Behaviour]) -> None:
        self._transport = transport
        self._catalogue = catalogue
        self._behaviours = behaviours
        self._own = Limits(max_running=64)
        self._session = Session(Side.AGENT, self._own, now=time.monotonic())
        self._wake = asyncio.Event()
        self._cancels: dict[str, asyncio.Event] = {}

    async def serve(self) -> None:
        """Greet and run what comes."""
        self._session.greet(Hello([limits.VERSION], "test", [], self._own, "journal", time.time()))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(), name="scripted agent writes")
                while True:
                    records = self._session.receive(await self._transport.receive(), time.monotonic())
                    for message, payload in records:
                        if isinstance(message, Welcome):
                            digest = hashlib.sha256(self._catalogue).hexdigest()
                            self._session.say(Catalogue(digest), self._catalogue)
                            self._session.say(Holding([]))
                        elif isinstance(message, Run):
                            tasks.create_task(self._run(message, bytes(payload)), name=f"run {message.id}")
                        elif isinstance(message, Cancel):
                            self._cancels[message.id].set()
                    self._wake.set()
        except* LinkLost:
            pass  # the broker ended

    async def _write(self) -> None:
        while True:
            self._wake.clear()
            while data := self._session.next_message(time.monotonic()):
                await self._transport.send(data)
            await self._wake.wait()

    async def _run(self, run: Run, params: bytes) -> None:
        lane = _Lane()
        cancel = self._cancels[run.id] = asyncio.Event()
        self._session.say(Accepted(run.id, run.epoch))
        self._session.say(Started(run.id, run.epoch))
        self._session.attach(run.id, lane)
        offset, sets, digest, end = 0, list[RowSetDone](), hashlib.sha256(), End()
        async for piece in self._behaviours[run.operation](json.loads(params), cancel):
            if isinstance(piece, RowSet):
                digest = hashlib.sha256()
                columns = [ColumnInfo(name, kind) for name, kind in piece.columns]
                lane.records.append(Record(RowSetBegins(run.id, run.epoch, len(sets), offset, columns)))
                sets.append(RowSetDone(0, 0, digest.hexdigest()))
            elif isinstance(piece, End):
                end = piece
            else:
                for start in range(0, len(piece), limits.CHUNK_BYTES):
                    data = piece[start : start + limits.CHUNK_BYTES]
                    rows = data.count(b"\n")
                    lane.records.append(Record(Chunk(run.id, run.epoch, offset, rows), data))
                    offset += len(data)
                    digest.update(data)
                    last = sets[-1]
                    sets[-1] = RowSetDone(last.bytes + len(data), last.rows + rows, digest.hexdigest())
            self._wake.set()
            while len(lane.records) > 8:
                lane.moved.clear()
                await lane.moved.wait()
        kind = {"rejected": "business", "succeeded": ""}.get(end.outcome, "technical")
        completed = Completed(
            run.id,
            run.epoch,
            end.outcome,
            sets,
            kind,  # type: ignore[arg-type]  # one of the literals by the table above
            end.code,
            end.message,
            end.source_code,
        )
        lane.records.append(Record(completed, json.dumps(end.outputs).encode() if end.outputs is not None else b""))
        self._wake.set()
