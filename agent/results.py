"""What a command has to say to the broker: its rows and its end, kept until the broker has them."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from agent.connectors.base import Column
from agent.errors import OutcomeUnknown
from protocol import limits
from protocol.codec import Record
from protocol.errors import RemoteProtocolError
from protocol.messages import Chunk, ColumnInfo, Completed, Held, RowSetBegins, RowSetDone

HIGH_BYTES: Final = 262_144  # unsent bytes at which the source is made to wait
# Sent bytes that are kept for a link that is lost: all that may be on its way without credit, so
# that a result can always go on where a broker that lived has it.
KEPT_BYTES: Final = limits.STREAM_WINDOW_BYTES


class Result:
    """
    One command's lane: filled by the dispatcher, emptied by the link, and by the next link after that one.

    Attributes:
        id: of the command.
        epoch: of the attempt.
        first: offset of the first byte that can still be sent.
        end: offset after the last byte so far.
        ended: whether Completed is in it.
    """

    def __init__(self, command_id: str, epoch: int, grown: Callable[[], None]) -> None:
        self.id = command_id
        self.epoch = epoch
        self.first = 0
        self.end = 0
        self.ended = False
        self._grown = grown
        self._records: deque[Record] = deque()
        self._position = 0  # of the next record to send
        self._kept = 0  # bytes in _records
        self._unsent = 0  # bytes at and after _position
        self._room = asyncio.Event()
        self._room.set()
        self._sets: list[RowSetDone] = []
        self._digest = hashlib.sha256()
        self._rows = 0
        self._set_bytes = 0
        self._in_set = False
        self._column_bytes = 0
        self._abandoned = False

    def __repr__(self) -> str:
        state = "ended" if self.ended else "open"
        return f"<Result {self.id} {state}, {self.first} to {self.end}, {self._unsent} bytes unsent>"

    # --- filled -----------------------------------------------------------------------------------

    def begin(self, columns: Sequence[Column]) -> None:
        """
        A row set begins.

        Raises:
            OutcomeUnknown: there are more row sets or columns than a broker takes.
        """
        self._finish_set()
        self._column_bytes += sum(len(column.name) + len(column.source_type) for column in columns)
        if len(self._sets) >= limits.MAX_ROW_SETS or self._column_bytes > limits.MAX_COLUMN_BYTES:
            raise OutcomeUnknown(
                f"it ran, but its result has more than {limits.MAX_ROW_SETS} row sets, or names of columns of more "
                f"than {limits.MAX_COLUMN_BYTES} bytes; let the operation return fewer"
            )
        self._in_set = True
        self._append(
            Record(
                RowSetBegins(
                    id=self.id,
                    epoch=self.epoch,
                    index=len(self._sets),
                    offset=self.end,
                    columns=[ColumnInfo(column.name, column.type, column.source_type) for column in columns],
                )
            )
        )

    async def rows(self, data: bytes, count: int) -> None:
        """Add some rows; waits while too much is unsent."""
        self._digest.update(data)
        self._rows += count
        self._set_bytes += len(data)
        view = memoryview(data)
        while view:
            part, view = view[: limits.CHUNK_BYTES], view[limits.CHUNK_BYTES :]
            # Rows are counted where the last of them ends.
            chunk = Chunk(id=self.id, epoch=self.epoch, offset=self.end, rows=0 if view else count)
            self.end += len(part)
            self._append(Record(chunk, part))
        await self._room.wait()

    def complete(self, completed: Completed, outputs: bytes) -> None:
        """Add the end; ``completed`` gets the manifest if it is a success."""
        self._finish_set()
        self.ended = True
        self._append(Record(completed, outputs))

    def manifest(self) -> list[RowSetDone]:
        """Return what the row sets were; call it when all rows are in."""
        self._finish_set()
        return self._sets

    def _finish_set(self) -> None:
        if self._in_set:
            self._sets.append(RowSetDone(self._set_bytes, self._rows, self._digest.hexdigest()))
            self._digest = hashlib.sha256()
            self._rows = self._set_bytes = 0
            self._in_set = False

    def abandon(self) -> None:
        """Nobody wants it any more: let go of all, and take whatever comes without keeping it."""
        self._abandoned = True
        self._records.clear()
        self._position = self._kept = self._unsent = 0
        self._room.set()

    def _append(self, record: Record) -> None:
        if self._abandoned:
            return
        self._records.append(record)
        self._kept += len(record.payload)
        self._unsent += len(record.payload)
        if self._unsent > HIGH_BYTES:
            self._room.clear()
        self._grown()

    # --- emptied (a Lane) -------------------------------------------------------------------------

    def head(self) -> Record | None:
        """Return the next record to send."""
        return self._records[self._position] if self._position < len(self._records) else None

    def sent(self) -> None:
        """The head was written; what is no longer needed for a lost link is let go."""
        self._unsent -= len(self._records[self._position].payload)
        self._position += 1
        self._let_go()
        if self._unsent <= HIGH_BYTES:
            self._room.set()

    def _let_go(self) -> None:
        """Drop the oldest sent bytes beyond KEPT_BYTES."""
        while True:
            # The beginnings of row sets go only together with the bytes after them: who has those has them too.
            ahead = next((i for i, record in enumerate(self._records) if isinstance(record.message, Chunk)), None)
            if ahead is None or ahead >= self._position:
                return
            message, payload = self._records[ahead]
            if self._kept - self._unsent - len(payload) < KEPT_BYTES or not isinstance(message, Chunk):
                return
            for _ in range(ahead + 1):
                self._records.popleft()
            self._position -= ahead + 1
            self._kept -= len(payload)
            self.first = message.offset + len(payload)

    # --- after a lost link ------------------------------------------------------------------------

    def held(self) -> Held:
        """Return what to tell a broker that may have lost some of it."""
        return Held(id=self.id, epoch=self.epoch, ended=self.ended, first=self.first, sent=self.end)

    def resume(self, offset: int) -> None:
        """
        Go back so that the byte at ``offset`` is sent next.

        Raises:
            RemoteProtocolError: no chunk begins there; the broker asks for what it was not told of.
        """
        self._position = 0
        for record in self._records:
            message = record.message
            if not isinstance(message, Chunk | RowSetBegins) or message.offset >= offset:
                break
            self._position += 1
        rest = list(self._records)[self._position :]
        following = next((record.message.offset for record in rest if isinstance(record.message, Chunk)), self.end)
        if following != offset:
            raise RemoteProtocolError(f"{self.id}: its result can't go on at byte {offset}, but at {following}")
        self._unsent = sum(len(record.payload) for record in rest)
        if self._unsent <= HIGH_BYTES:
            self._room.set()
        else:
            self._room.clear()
