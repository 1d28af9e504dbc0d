"""What a command has to say to the broker: its rows and its end, kept until the broker has them."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Callable, Sequence

import msgspec

from agent.connectors.base import Column, RowsAs
from agent.errors import OutcomeUnknown, ResultLost
from agent.sealing import ResultSeal
from agent.spool import Shelf, Spool, SpoolFolder, Window
from protocol import limits, sealing
from protocol.codec import Record
from protocol.errors import RemoteProtocolError
from protocol.messages import Chunk, ColumnInfo, Completed, Held, RowSetBegins, RowSetDone

log = logging.getLogger(__name__)


def rows_lost(completed: Completed, why: str) -> Completed:
    """Return the end, not proved, of a command that happened, and whose rows or outputs are gone."""
    return msgspec.structs.replace(
        completed,
        outcome="in_doubt",
        row_sets=[],
        error_kind="unknown",
        error_code=ResultLost.code,
        error_message=f"it happened, once, but its result is lost: {why}"[: limits.MAX_ERROR_CHARS],
        proof="",
    )


class Result:
    """
    One command's lane: filled by the dispatcher, emptied by the link, and by the next link after that one.

    Attributes:
        id: of the command.
        epoch: of the attempt.
        end: offset after the last byte so far.
        came: bytes of rows that the source gave; more than ``end`` if some could not be kept.
        ended: whether Completed is in it.
        seal: for all of it; ``None`` leaves it in clear. Set it before there is anything.
    """

    def __init__(self, command_id: str, epoch: int, grown: Callable[[], None], shelf: Shelf | None = None) -> None:
        """
        Args:
            grown: called when there is more to send.
            shelf: where the rows are kept; a ``Window`` if none is given.
        """
        self.id = command_id
        self.epoch = epoch
        self.end = 0
        self.came = 0
        self.ended = False
        self.seal: ResultSeal | None = None
        self._sealer: sealing.Sealer | None = None  # of the row set that is not closed
        self._grown = grown
        self._shelf: Shelf = shelf if shelf is not None else Window()
        self._last: Record | None = None  # the end, once it is there
        self._told = False  # whether it was sent on this link
        self._sets: list[RowSetDone] = []
        self._digest = hashlib.sha256()
        self._rows = 0
        self._set_bytes = 0
        self._in_set = False
        self._column_bytes = 0
        self._spoiled = ""  # why rows that were kept can't be read again

    def __repr__(self) -> str:
        state = "ended" if self.ended else "open"
        return f"<Result {self.id} {state}, {self.first} to {self.end}>"

    @property
    def first(self) -> int:
        """Offset of the first byte that can still be sent."""
        return self._shelf.first

    @property
    def last(self) -> Completed | None:
        """How it ended."""
        message = self._last.message if self._last is not None else None
        return message if isinstance(message, Completed) else None

    # --- filled -----------------------------------------------------------------------------------

    def spool(self, folder: SpoolFolder) -> Spool:
        """Keep all rows from here on, for a command that must not run twice; call it before there are any."""
        spool = Spool(folder, self.id)
        self._shelf = spool
        return spool

    def restore(self, spool: Spool) -> None:
        """Take over the rows that an earlier process kept."""
        self._shelf = spool
        for message, payload in spool.records():
            if isinstance(message, RowSetBegins):
                self._finish_set()
                self._in_set = True
            elif isinstance(message, Chunk):
                self._count(payload, message.rows)
                self.end += len(payload)

    async def begin(self, columns: Sequence[Column], rows_as: RowsAs = "ndjson") -> None:
        """
        A row set begins.

        Raises:
            OutcomeUnknown: there are more row sets or columns than a broker takes.
        """
        await self.close()
        self._finish_set()
        self._column_bytes += sum(len(column.name) + len(column.source_type) for column in columns)
        if len(self._sets) >= limits.MAX_ROW_SETS or self._column_bytes > limits.MAX_COLUMN_BYTES:
            raise OutcomeUnknown(
                f"it ran, but its result has more than {limits.MAX_ROW_SETS} row sets, or names of columns of more "
                f"than {limits.MAX_COLUMN_BYTES} bytes; let the operation return fewer"
            )
        self._in_set = True
        infos = [ColumnInfo(column.name, column.type, column.source_type) for column in columns]
        begins = RowSetBegins(self.id, self.epoch, len(self._sets), self.end, infos, rows_as)
        if self.seal is None:
            await self._shelf.put(Record(begins))
            self._grown()
            return
        await self._shelf.put(Record(msgspec.structs.replace(begins, columns=[], format=sealing.FORMAT)))
        first, sealer = self.seal.row_set(begins.index, infos)
        await self._add(first, 0)
        self._sealer = sealer

    async def rows(self, data: bytes, count: int) -> None:
        """
        Add some rows; waits while there is no room for more.

        Raises:
            OutcomeUnknown: they can't be kept.
        """
        self.came += len(data)
        await self._add(data if self._sealer is None else self._sealer.frames(data), count)

    async def close(self) -> None:
        """All rows of the row set are in: a sealed one gets its end. Call it before the rows are kept or counted."""
        if self._sealer is not None:
            sealer, self._sealer = self._sealer, None
            await self._add(sealer.frame(b"", last=True), 0)

    async def _add(self, data: bytes, count: int) -> None:
        view = memoryview(data)
        while view:
            part, view = view[: limits.CHUNK_BYTES], view[limits.CHUNK_BYTES :]
            # Rows are counted where the last of them ends.
            rows = 0 if view else count
            chunk = Chunk(id=self.id, epoch=self.epoch, offset=self.end, rows=rows, crc32=zlib.crc32(part))
            await self._shelf.put(Record(chunk, part))
            # Not before: of what can't be kept no link is told, as none could go on behind it.
            self._count(part, chunk.rows)
            self.end += len(part)
            self._grown()
            await self._shelf.room()

    def complete(self, completed: Completed, outputs: bytes) -> None:
        """Add the end; ``completed`` has the manifest if it is a success."""
        self._finish_set()
        self.ended = True
        if self._spoiled and completed.outcome == "succeeded":
            completed, outputs = rows_lost(completed, self._spoiled), b""
        self._last = Record(completed, outputs)
        self._grown()

    def manifest(self) -> list[RowSetDone]:
        """Return what the row sets were; call it when all rows are in."""
        self._finish_set()
        return self._sets

    def _count(self, data: memoryview | bytes | bytearray, rows: int) -> None:
        self._digest.update(data)
        self._rows += rows
        self._set_bytes += len(data)

    def _finish_set(self) -> None:
        if self._in_set:
            self._sets.append(RowSetDone(self._set_bytes, self._rows, self._digest.hexdigest()))
            self._digest = hashlib.sha256()
            self._rows = self._set_bytes = 0
            self._in_set = False

    def abandon(self) -> None:
        """Nobody wants it any more: let go of all, and take whatever comes without keeping it."""
        self._shelf.drop()
        self._last = None

    # --- emptied (a Lane) -------------------------------------------------------------------------

    def head(self) -> Record | None:
        """Return the next record to send."""
        record = self._kept_head()
        if record is None and not self._told:
            record = self._last
        return record

    def _kept_head(self) -> Record | None:
        try:
            return self._shelf.head()
        except OutcomeUnknown as exc:
            self._spoil(exc.message)
            return None

    def _spoil(self, why: str) -> None:
        """Rows that were kept are lost: the command ends without them."""
        log.error("rows are lost: %s", why, extra={"event": "rows_lost", "command": self.id})
        self._spoiled = why
        self._shelf.drop()
        if self._last is not None and self.last is not None:
            self.complete(self.last, bytes(self._last.payload))

    def sent(self) -> None:
        """The head was written; what is no longer needed for a lost link is let go."""
        if self._kept_head() is not None:
            self._shelf.sent()
        else:
            self._told = True

    def granted(self, size: int) -> None:
        """The broker has so many bytes more."""
        self._shelf.granted(size)

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
        self._told = False
        if self._spoiled:
            return  # its end is all that there is to say
        try:
            following = self._shelf.rewind(offset)
        except OutcomeUnknown as exc:
            return self._spoil(exc.message)
        if following < 0:
            following = self.end
        if following != offset:
            raise RemoteProtocolError(f"{self.id}: its result can't go on at byte {offset}, but at {following}")
