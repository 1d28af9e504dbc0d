"""
Where a result's records are kept until the broker has them.

``Window`` is for what may be run again: it keeps in memory what may be on its way, and makes the source wait
for the link. ``Spool`` is for what must not run twice: it keeps everything from the first byte, large results in a
file, so that the source need not wait, and the result survives the link, the broker and this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, ParamSpec, Protocol

from agent import durable_file
from agent.errors import OutcomeUnknown
from protocol import codec, framing, limits
from protocol.codec import Record
from protocol.errors import RemoteProtocolError
from protocol.messages import AnyMessage, Chunk, RowSetBegins

P = ParamSpec("P")

HIGH_BYTES: Final = 262_144  # unsent bytes at which a source that may be run again is made to wait
# Sent bytes that are kept at most for a link that is lost: all that may be on its way without credit, so
# that a result can always go on where a broker that lived has it.
KEPT_BYTES: Final = limits.STREAM_WINDOW_BYTES
SMALL_BYTES: Final = 65_536  # records up to this many bytes stay in memory and go into the journal; more go into a file
SPOOL_BYTES: Final = 8 * 1_073_741_824  # of all spooled results together; beyond it sources wait
READ_BYTES: Final = 262_144  # read ahead from the file
HEADER_BYTES: Final = 8_192  # read at once where only headers are looked at
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
ROOM_S: Final = 1.0  # seconds until a full disk is tried again


class Shelf(Protocol):
    """
    Keeps records in order.

    Attributes:
        first: offset of the first byte that can still be sent.
    """

    first: int

    async def put(self, record: Record) -> None:
        """Add a record, once it can be kept."""

    async def room(self) -> None:
        """Wait until the source may go on."""

    def head(self) -> Record | None:
        """Return the next record to send."""

    def sent(self) -> None:
        """The head was written."""

    def granted(self, size: int) -> None:
        """The broker has ``size`` bytes more for sure: they need not be kept."""

    def rewind(self, offset: int) -> int:
        """
        Go back to the first record that is not wholly before ``offset``.

        Return the offset of the next byte that is to be sent; -1 if there is none.
        """

    def drop(self) -> None:
        """Let go of everything, and keep nothing more."""


class Window:
    """In memory, bounded: the source waits for the link, and what the broker has for sure is let go."""

    def __init__(self) -> None:
        self.first = 0
        self._records: deque[Record] = deque()
        self._position = 0  # of the next record to send
        self._kept = 0  # bytes in _records
        self._safe = 0  # offset up to which the broker has all
        self._unsent = 0  # bytes at and after _position
        self._dropped = False
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, record: Record) -> None:
        if self._dropped:
            return
        self._records.append(record)
        self._kept += len(record.payload)
        self._unsent += len(record.payload)
        if self._unsent > HIGH_BYTES:
            self._room.clear()

    async def room(self) -> None:
        await self._room.wait()

    def head(self) -> Record | None:
        return self._records[self._position] if self._position < len(self._records) else None

    def sent(self) -> None:
        self._unsent -= len(self._records[self._position].payload)
        self._position += 1
        self._let_go()
        self._open()

    def granted(self, size: int) -> None:
        self._safe += size
        self._let_go()

    def rewind(self, offset: int) -> int:
        self._position = next(
            (i for i, record in enumerate(self._records) if _not_before(record.message, offset)), len(self._records)
        )
        self._safe = offset
        rest = list(self._records)[self._position :]
        self._unsent = sum(len(record.payload) for record in rest)
        self._open()
        return _next_byte(record.message for record in rest)

    def drop(self) -> None:
        self._dropped = True
        self._records.clear()
        self._position = self._kept = self._unsent = 0
        self._room.set()

    def _open(self) -> None:
        if self._unsent <= HIGH_BYTES:
            self._room.set()
        else:
            self._room.clear()

    def _let_go(self) -> None:
        """Drop the oldest sent bytes: those that the broker has, and those beyond KEPT_BYTES."""
        while True:
            # The beginnings of row sets go only together with the bytes after them: who has those has them too.
            ahead = next((i for i, record in enumerate(self._records) if isinstance(record.message, Chunk)), None)
            if ahead is None or ahead >= self._position:
                return
            message, payload = self._records[ahead]
            if not isinstance(message, Chunk):
                return
            safe = message.offset + len(payload) <= self._safe
            if not safe and self._kept - self._unsent - len(payload) < KEPT_BYTES:
                return
            for _ in range(ahead + 1):
                self._records.popleft()
            self._position -= ahead + 1
            self._kept -= len(payload)
            self.first = message.offset + len(payload)


class SpoolFolder:
    """
    The files of one agent's spool, and how much they may hold together.

    Attributes:
        used: bytes in all files.
    """

    def __init__(self, path: Path, most: int = SPOOL_BYTES) -> None:
        self.path = path
        self.used = 0
        self._most = most
        self._freed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<SpoolFolder {self.path}, {self.used} bytes>"

    def open(self, wanted: set[str]) -> None:
        """Make the folder, and remove the files of all commands but the wanted ones."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in self.path.iterdir():
            if file.name not in wanted:
                # On Windows a scanner may have it open: the start after this one removes it.
                with contextlib.suppress(OSError):
                    file.unlink()

    def file(self, command_id: str) -> Path:
        """Where the result of a command is."""
        return self.path / command_id

    async def take(self, size: int, held: int) -> None:
        """
        Wait until there is room for ``size`` bytes more.

        Args:
            held: bytes that the same result has already.

        Raises:
            OutcomeUnknown: the result alone is larger than all the room there is.
        """
        if held + size > self._most:
            raise OutcomeUnknown(
                f"its result is larger than the {self._most} bytes that are kept for results with an effect; "
                "let the operation return fewer rows"
            )
        while self.used + size > self._most:
            self._freed.clear()
            await self._freed.wait()
        self.used += size

    def give(self, size: int) -> None:
        """Give room back."""
        self.used -= size
        self._freed.set()


class Spool:
    """One result, from its first byte on: in memory while it is small, in a file of its own beyond that."""

    def __init__(self, folder: SpoolFolder, command_id: str) -> None:
        self.first = 0
        self._folder = folder
        self._path = folder.file(command_id)
        self._small: list[Record] = []
        self._small_bytes = 0
        self._next = 0  # index of the next record in _small
        self._writer: BinaryIO | None = None
        self._reader: BinaryIO | None = None
        self._size = 0  # of the file
        self._read = 0  # bytes of the file read so far
        self._head: Record | None = None  # read and not sent
        self._writing = False
        self._dropped = False

    def __repr__(self) -> str:
        return f"<Spool {self._path.name}, {self._size or self._small_bytes} bytes>"

    @classmethod
    def restored(cls, folder: SpoolFolder, command_id: str, rows: bytes | None, spooled: int) -> Spool:
        """
        Return the spool that an earlier process kept.

        Args:
            rows: the records themselves, if there were few.
            spooled: bytes in the file otherwise.

        Raises:
            OutcomeUnknown: the file is gone, or shorter than it was.
        """
        spool = cls(folder, command_id)
        if spooled:
            try:
                there = spool._path.stat().st_size
                if there >= spooled:
                    os.truncate(spool._path, spooled)
            except OSError as exc:
                raise OutcomeUnknown(f"its rows were in {spool._path}, which can't be used: {exc.strerror}") from exc
            if there < spooled:
                raise OutcomeUnknown(f"its rows were in {spool._path}, which has lost {spooled - there} bytes")
            folder.used += spooled
            spool._size = spooled
        elif rows:
            # Copies: the records must not hold on to what they were read from.
            spool._small = [Record(message, bytes(payload)) for message, payload in codec.decode(rows)]
            spool._small_bytes = len(rows)
        return spool

    def records(self) -> Iterator[Record]:
        """Yield all of it from the start."""
        if not self._size:
            yield from self._small
            return
        with self._open(READ_BYTES) as file:
            position = 0
            while position < self._size:
                record, size = _read_record(file)
                position += size
                yield record

    async def put(self, record: Record) -> None:
        if self._dropped:
            return
        data = codec.encode(record)
        if not self._size and self._small_bytes + len(data) <= SMALL_BYTES:
            self._small.append(record)
            self._small_bytes += len(data)
            return
        if not self._size:
            data = codec.encode_all([*self._small, record])
        await self._folder.take(len(data), self._size)
        self._writing = True
        try:
            await self._write(data)
        except BaseException:  # being cancelled too: what was not written takes no room
            self._folder.give(len(data))
            raise
        finally:
            self._writing = False
        if not self._size:
            self._go_to_the_file()
        self._size += len(data)
        if self._dropped:
            self._remove()

    async def room(self) -> None:
        return

    async def keep(self) -> tuple[bytes, int]:
        """
        Make what is in the file durable.

        Return the records themselves if they are few, and the bytes in the file otherwise; the journal keeps that.

        Raises:
            OSError: it could not be.
        """
        if not self._size:
            return codec.encode_all(self._small) if self._small else b"", 0
        if self._writer is not None:
            await _undisturbed(_sync, self._writer, self._folder.path)
        return b"", self._size

    async def _write(self, data: bytes) -> None:
        while True:
            try:
                return await _undisturbed(self._append, data)
            except OSError as exc:
                if exc.errno not in FULL or self._dropped:
                    raise OutcomeUnknown(f"its rows can't be kept in {self._path}: {exc.strerror}") from exc
            # The dispatcher bounds how long it waits for somebody to make room.
            await asyncio.sleep(ROOM_S)

    def _append(self, data: bytes) -> None:
        if self._writer is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
            self._writer = os.fdopen(os.open(self._path, flags, 0o600), "r+b", buffering=0)
        try:
            view = memoryview(data)
            while view:
                view = view[self._writer.write(view) :]
        except OSError:
            # A part of it may be there: the next try begins where this one did.
            self._writer.truncate(self._size)
            self._writer.seek(self._size)
            raise

    def _go_to_the_file(self) -> None:
        """From here on it is read from the file, which has all of ``_small``."""
        self._read = sum(len(codec.encode(record)) for record in self._small[: self._next])
        self._small.clear()
        self._small_bytes = self._next = 0

    def head(self) -> Record | None:
        if not self._size:
            return self._small[self._next] if self._next < len(self._small) else None
        if self._head is None and self._read < self._size:
            if self._reader is None:
                self._reader = self._open(READ_BYTES)
                self._reader.seek(self._read)
            self._head, size = _read_record(self._reader)
            self._read += size
        return self._head

    def sent(self) -> None:
        if self._size:
            self._head = None
        else:
            self._next += 1

    def granted(self, size: int) -> None:
        """All of it is kept until the end."""

    def rewind(self, offset: int) -> int:
        self._head = None
        if not self._size:
            self._next = next(
                (i for i, record in enumerate(self._small) if _not_before(record.message, offset)), len(self._small)
            )
            return _next_byte(record.message for record in self._small[self._next :])
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._read = self._size
        following = -1
        for message, position in self._headers():
            if self._read == self._size and not _not_before(message, offset):
                continue
            self._read = min(self._read, position)
            if isinstance(message, Chunk):
                following = message.offset
                break
        return following

    def _headers(self) -> Iterator[tuple[AnyMessage, int]]:
        """Yield each message of the file and where its record begins, without reading payloads."""
        with self._open(HEADER_BYTES) as file:
            position = 0
            while position < self._size:
                try:
                    header, payload = framing.unpack_lengths(file.read(framing.LENGTHS.size))
                    message = codec.decode_header(file.read(header))
                except (RemoteProtocolError, OSError, struct.error) as exc:
                    raise OutcomeUnknown(f"its rows in {self._path} can't be read any more: {exc}") from exc
                yield message, position
                position += framing.LENGTHS.size + header + payload
                file.seek(position)

    def _open(self, buffer: int) -> BinaryIO:
        try:
            return self._path.open("rb", buffering=buffer)
        except OSError as exc:
            raise OutcomeUnknown(f"its rows were kept in {self._path}, which can't be read: {exc.strerror}") from exc

    def drop(self) -> None:
        self._dropped = True
        self._small.clear()
        self._head = None
        self._next = self._small_bytes = 0
        if not self._writing:
            self._remove()

    def close(self) -> None:
        """Close the file; it stays for the next process."""
        for file in (self._writer, self._reader):
            if file is not None:
                file.close()
        self._writer = self._reader = None

    def _remove(self) -> None:
        self.close()
        if self._size:
            # On Windows a scanner may have it open: the next start removes it.
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._folder.give(self._size)
            self._size = self._read = 0


def _not_before(message: AnyMessage, offset: int) -> bool:
    """Whether a message is still wanted by who has the bytes before ``offset``."""
    return not isinstance(message, Chunk | RowSetBegins) or message.offset >= offset


def _next_byte(messages: Iterable[AnyMessage]) -> int:
    return next((message.offset for message in messages if isinstance(message, Chunk)), -1)


def _read_record(file: BinaryIO) -> tuple[Record, int]:
    try:
        prefix = file.read(framing.LENGTHS.size)
        lengths = framing.unpack_lengths(prefix)
        (record,) = codec.decode(prefix + file.read(sum(lengths)))
        if isinstance(record.message, Chunk) and zlib.crc32(record.payload) != record.message.crc32:
            raise ValueError("bytes that do not fit their checksum")
    except (RemoteProtocolError, OSError, struct.error, ValueError) as exc:
        raise OutcomeUnknown(f"its rows were kept in {file.name}, which can't be read any more: {exc}") from exc
    return record, len(prefix) + sum(lengths)


def _sync(file: BinaryIO, folder: Path) -> None:
    os.fsync(file.fileno())
    durable_file.sync_folder(folder)


async def _undisturbed(work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Do ``work`` in a thread; one that is cancelled waits for the thread first, which nothing can stop."""
    writing = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait((writing,))
        raise
