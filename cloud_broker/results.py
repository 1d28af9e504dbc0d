"""
Results: stored as they arrive, read while they arrive.

A result is one stream of bytes, cut into row sets. A small one stays in memory and goes into the
store with the command; a larger one is written to a file of its own. Bytes are granted again to the agent
once they are stored here, whether or not anybody reads them: a stalled reader slows nobody, and memory stays
flat. A reader who keeps up has them from memory, and may have them before they are stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from cloud_broker.bell import Bell
from cloud_broker.errors import ResultGone
from cloud_broker.store.commands import RowSetInfo
from cloud_broker.tails import Tail
from cloud_broker.tenants import Scope
from protocol import limits, sealing
from protocol.framing import Buffer
from protocol.messages import RowSetBegins, RowSetDone

log = logging.getLogger(__name__)

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})  # of Windows too: its words for a full disk become these
FULL_RETRY_S: Final = 1.0  # seconds; a full disk is asked again until there is room
MAX_TYPE_CHARS: Final = 32  # of the type of a column; those that there are have fewer
READ_BYTES: Final = 262_144  # bytes per read; a few chunks, so that a fast reader makes few system calls
GATHER_S: Final = 0.01  # seconds; what comes meanwhile is written with it: each write wakes a thread


@dataclass(slots=True)
class _Set:
    columns: tuple[dict[str, str], ...]
    offset: int
    sealed: bool
    rows_as: str
    end: int | None = None
    rows: int = 0
    bytes: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


_Part = tuple[_Set, Buffer, Callable[[int], None]]  # some bytes of a row set, and who is told once they are kept


class LiveResult:
    """
    The result of one attempt while it arrives.

    Attributes:
        taken: bytes handed to us so far, stored or about to be; where sending resumes after a lost link.
        stored: bytes of it that are kept.
        on_cut: called when it was cut for a reason of its own, so that the agent can be told to stop.
    """

    def __init__(
        self, path: str | Path, inline_bytes: int, max_bytes: int, after: asyncio.Task[None] | None = None
    ) -> None:
        """
        Args:
            path: of the file that a large result goes to.
            after: what an earlier attempt still writes there; nothing is written before it ended.
        """
        self._path = path
        self.taken = 0
        self.stored = 0
        self.sets: list[_Set] = []
        self.on_cut: Callable[[], None] = _nothing
        self._inline_bytes = inline_bytes
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._kept = 0  # bytes that are whole in the file
        self._full = False
        self._unsure = False  # whether a sync has failed
        self._pending: list[_Part] = []
        self._flushing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()  # somebody waits for the file
        self._tail = Tail()
        self._readers = 0
        self._after = after
        self._column_bytes = 0
        self._changes = Bell()
        self._ended = False
        self._cut: str | None = None

    def __repr__(self) -> str:
        state = "cut" if self._cut else "ended" if self._ended else "open"
        return f"<LiveResult {state}, {len(self.sets)} row sets, {self.stored} of {self.taken} bytes stored>"

    @property
    def path(self) -> Path:
        """The file that a large result goes to."""
        return Path(self._path)  # made when it is asked for: most results never have a file

    # --- the arriving side ------------------------------------------------------------------------

    def begin(self, message: RowSetBegins) -> None:
        """A row set begins; one that we have already, told again after a resume, is passed over."""
        if message.index < len(self.sets) or self._cut is not None:
            return
        self._column_bytes += sum(len(column.name) + len(column.source_type) for column in message.columns)
        trouble = None
        if message.index > len(self.sets):
            trouble = f"row set {message.index} came where {len(self.sets)} was next"
        elif message.index >= limits.MAX_ROW_SETS or self._column_bytes > limits.MAX_COLUMN_BYTES:
            trouble = (
                f"the result has more than {limits.MAX_ROW_SETS} row sets, "
                f"or names of columns of more than {limits.MAX_COLUMN_BYTES} bytes"
            )
        if trouble is not None:
            self.cut(trouble)
            self.on_cut()
            return
        if self.sets:
            self.sets[-1].end = message.offset
        columns = tuple(
            {"name": column.name, "type": column.type[:MAX_TYPE_CHARS], "source_type": column.source_type}
            for column in message.columns
        )
        sealed = message.format == sealing.FORMAT
        rows_as = "ndjson" if sealed else message.format[:MAX_TYPE_CHARS]
        self.sets.append(_Set(columns, message.offset, sealed, rows_as))
        self._changes.ring()

    def append(self, data: Buffer, rows: int, stored: Callable[[int], None]) -> None:
        """Take some bytes of the last row set; ``stored`` is called with their number once they are kept."""
        if self._cut is not None:
            # What is still on its way is let in and dropped, so that the end can come.
            stored(len(data))
            return
        if self._readers:
            self._tail.add(data, self.taken)
            self._changes.ring()
        self.taken += len(data)
        current = self.sets[-1]
        current.rows += rows
        current.bytes += len(data)
        self._pending.append((current, data, stored))
        if self._flushing is None:
            if self._file is None and self.taken <= self._inline_bytes:
                self._keep_inline()
            else:
                self._flushing = asyncio.create_task(self._flush(), name=f"write {self.path.name}")

    def _keep_inline(self) -> None:
        pending, self._pending = self._pending, []
        for current, data, stored in pending:
            self._buffer += data
            current.digest.update(data)
            self.stored += len(data)
            stored(len(data))
        self._changes.ring()

    async def _flush(self) -> None:
        try:
            if self._after is not None:
                await asyncio.wait((self._after,))
                self._after = None
            while self._pending and self._cut is None:
                await self._gather()
                pending, self._pending = self._pending, []
                trouble = None
                if self.taken > self._max_bytes:
                    trouble = f"the result is larger than {self._max_bytes} bytes (limits.result_bytes)"
                else:
                    trouble = await self._once_there_is_room(partial(self._keep, pending))
                if trouble is not None:
                    # Granted all the same: what is on its way must be let in, so that the end can come.
                    for _, data, stored in pending:
                        stored(len(data))
                    ours = self._cut is None
                    self.cut(trouble)
                    if ours:
                        self.on_cut()
                    return
                for _, data, stored in pending:
                    self.stored += len(data)
                    stored(len(data))
                self._changes.ring()
        finally:
            self._flushing = None
            if self._ended or self._cut is not None:
                self._close()

    async def _gather(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._hurry.wait()

    async def _once_there_is_room(self, write: Callable[[], None]) -> str | None:
        """
        Write, again and again while the disk is full; return why it can't be, or why nobody wants it any more.

        Nothing is granted meanwhile, so the agent keeps what we can't.
        """
        while True:
            try:
                await asyncio.to_thread(write)
            except OSError as exc:
                if exc.errno not in FULL:
                    return f"the broker could not keep the result: {exc.strerror}"
                if not self._full:
                    log.error("%s: no room for a result: %s", self.path, exc.strerror, extra={"event": "results_full"})
                self._full = True
                await asyncio.sleep(FULL_RETRY_S)
                if self._cut is not None:
                    return self._cut
            else:
                self._full = False
                return None

    def _keep(self, pending: Sequence[_Part]) -> None:
        self._write(b"".join([data for _, data, _ in pending]))
        # Only now: what can't be written is tried again.
        for current, data, _ in pending:
            current.digest.update(data)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w+b", buffering=0)
        if self._buffer:
            self._file.seek(0)
            _write_all(self._file, self._buffer)
            self._kept = len(self._buffer)
            # Readers that are at work go on from the file.
            self._buffer = bytearray()
        # What a write that failed has left behind is written over.
        self._file.seek(self._kept)
        _write_all(self._file, data)
        self._kept += len(data)

    async def complete(self, manifest: Sequence[RowSetDone]) -> tuple[tuple[RowSetInfo, ...], bytes | None]:
        """
        Wait until all is stored, compare with the manifest, make it durable.

        Returns:
            The row sets, and the whole result if it is to be kept inline.

        Raises:
            ResultGone: it does not agree with the manifest, is too large, or could not be written.
        """
        await self.flushed()
        self._compare(manifest)
        if self._file is not None:
            self._flushing = asyncio.create_task(self._make_durable(), name=f"sync {self.path.name}")
            await self.flushed()
            if self._cut is not None:
                raise ResultGone(self._cut)
        return self.row_sets(), None if self._file is not None else bytes(self._buffer)

    def complete_inline(self, manifest: Sequence[RowSetDone]) -> tuple[tuple[RowSetInfo, ...], bytes]:
        """Do what ``complete`` does for a result that is not ``on_disk``, where nothing has to be waited for."""
        self._compare(manifest)
        return self.row_sets(), bytes(self._buffer)

    def _compare(self, manifest: Sequence[RowSetDone]) -> None:
        if self._cut is not None:
            raise ResultGone(self._cut)
        have = [RowSetDone(s.bytes, s.rows, s.digest.hexdigest()) for s in self.sets]
        if have != list(manifest):
            self.cut("the rows that arrived are not those that were sent")
            raise ResultGone("the rows that arrived are not those that were sent")

    async def _make_durable(self) -> None:
        try:
            trouble = await self._once_there_is_room(self._sync)
            if trouble is not None:
                self.cut(trouble)
        finally:
            self._flushing = None
            if self._ended or self._cut is not None:
                self._close()

    def _sync(self) -> None:
        if self._file is None:
            return
        if self._unsure:
            self._write_again(self._file)
        self._unsure = True
        _sync(self._file, self.path.parent)
        self._unsure = False

    def _write_again(self, file: BinaryIO) -> None:
        """Write all of it once more: what a sync that failed could not keep, the system may have taken for kept."""
        for current in self.sets:
            digest, position, end = hashlib.sha256(), current.offset, current.offset + current.bytes
            while position < end and (data := _read(file, position, min(end - position, READ_BYTES))):
                digest.update(data)
                file.seek(position)
                _write_all(file, data)
                position += len(data)
            if digest.digest() != current.digest.digest():
                raise OSError(errno.EIO, "the rows are no longer whole")

    async def flushed(self) -> None:
        """Wait until nothing is on its way to the file."""
        if self._flushing is not None:
            self._hurry.set()
            while self._flushing is not None:
                await asyncio.wait((self._flushing,))
            self._hurry.clear()

    def end(self) -> None:
        """The command has its final state: readers come to a clean end."""
        self._ended = True
        self._close()

    def cut(self, reason: str) -> None:
        """Nothing more will come and what came is not whole: readers get ResultGone."""
        if not self._ended and self._cut is None:
            self._cut = reason
            for _, data, stored in self._pending:
                stored(len(data))
            self._pending.clear()
            self._close()

    @property
    def on_disk(self) -> bool:
        """Whether it has a file of its own, or is about to."""
        return self._file is not None or self._flushing is not None

    @property
    def writing(self) -> asyncio.Task[None] | None:
        """What is still being written to the file, by this attempt or one before it."""
        return self._flushing or self._after

    @property
    def reason(self) -> str | None:
        """Why it was cut; ``None`` if it was not."""
        return self._cut

    def _close(self) -> None:
        if self.sets:
            self.sets[-1].end = self.taken
        if self._file is not None and self._flushing is None:
            self._file.close()
        self._changes.ring()

    # --- the reading side -------------------------------------------------------------------------

    def row_sets(self) -> tuple[RowSetInfo, ...]:
        """Return the row sets so far."""
        return tuple(RowSetInfo(s.columns, s.offset, s.bytes, s.rows, s.sealed, s.rows_as) for s in self.sets)

    async def set_begun(self, index: int) -> tuple[dict[str, str], ...] | None:
        """Wait until a row set begins and return its columns; ``None`` if the result ends without it."""
        while len(self.sets) <= index:
            if self._ended or self._cut is not None:
                return None
            await self._changes.rung()
        return self.sets[index].columns

    async def chunks(self, index: int) -> AsyncIterator[bytes]:
        """
        Yield the bytes of one row set that has begun, as they are stored, to its end.

        Raises:
            ResultGone: the result was cut.
        """
        current = self.sets[index]
        position = current.offset
        file: BinaryIO | None = None
        self._readers += 1
        try:
            while True:
                if self._cut is not None:
                    raise ResultGone(self._cut)
                stored = self.stored if current.end is None else min(self.stored, current.end)
                last = self.taken if current.end is None else current.end
                if data := self._tail.read(position, min(last, position + READ_BYTES)):
                    position += len(data)
                    yield data
                elif position < stored:
                    # The buffer may move into the file between two reads, never during one.
                    buffer = self._buffer
                    if buffer:
                        data = bytes(buffer[position:stored])
                    else:
                        file = file or self.path.open("rb")
                        data = await asyncio.to_thread(_read, file, position, min(stored - position, READ_BYTES))
                        if self._cut is not None:
                            # By now the file may be another attempt's.
                            raise ResultGone(self._cut)
                    position += len(data)
                    yield data
                elif current.end is not None and position >= current.end:
                    return
                else:
                    await self._changes.rung()
        finally:
            self._readers -= 1
            if not self._readers:
                self._tail.drop()
            if file is not None:
                file.close()


@dataclass(frozen=True, slots=True)
class RowReader:
    """
    Rows of one row set on their way to a caller.

    Attributes:
        sealed: whether they are a part as in ``protocol/sealing.py``, and not what ``rows_as`` says.
        rows_as: ``ndjson``, or ``arrow``.
    """

    columns: tuple[dict[str, str], ...]
    chunks: Callable[[], AsyncIterator[bytes]]
    sealed: bool = False
    rows_as: str = "ndjson"


class Results:
    """The folder of large results."""

    def __init__(self, folder: Path, inline_bytes: int, max_bytes: int) -> None:
        self._folder = folder
        self._inline_bytes = inline_bytes
        self._max_bytes = max_bytes

    def begin(self, scope: Scope, command_id: str, after: asyncio.Task[None] | None = None) -> LiveResult:
        """Return an empty result for a new attempt; ``after`` is what an earlier one still writes."""
        return LiveResult(self._where(scope, command_id), self._inline_bytes, self._max_bytes, after)

    def path(self, scope: Scope, command_id: str) -> Path:
        """Where a large result is."""
        return Path(self._where(scope, command_id))

    def _where(self, scope: Scope, command_id: str) -> str:
        # The last characters of an id are chance: folders fill evenly.
        return f"{self._folder}/{scope.tenant}/{command_id[-2:]}/{command_id}"

    def reader(self, scope: Scope, command_id: str, info: RowSetInfo, inline: bytes | None) -> RowReader:
        """
        Return a reader over one row set of a finished result.

        Args:
            inline: the whole result, if it was kept in the store.
        """
        path = self.path(scope, command_id)

        async def chunks() -> AsyncIterator[bytes]:
            if inline is not None:
                yield inline[info.offset : info.offset + info.bytes]
                return
            try:
                file = path.open("rb")
            except OSError as exc:
                raise ResultGone("the rows were removed") from exc
            with file:
                position, end = info.offset, info.offset + info.bytes
                while position < end:
                    data = await asyncio.to_thread(_read, file, position, min(end - position, READ_BYTES))
                    if not data:
                        raise ResultGone("the rows are no longer whole")
                    position += len(data)
                    yield data

        return RowReader(info.columns, chunks, info.sealed, info.rows_as)

    def remove(self, scope: Scope, command_id: str) -> None:
        """Remove a large result, if there is one."""
        path = self.path(scope, command_id)
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            # On Windows: somebody reads it. It costs its place on the disk, and nothing else.
            log.warning("%s can't be removed: %s", path, exc.strerror, extra={"event": "result_not_removed"})


def _nothing() -> None:
    return


def _write_all(file: BinaryIO, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _sync(file: BinaryIO, folder: Path) -> None:
    os.fsync(file.fileno())
    if os.name == "posix":
        # The name must survive too; Windows keeps it with the file.
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
