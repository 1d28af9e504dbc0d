"""A blob on its way to an agent: read from its file as the agent asks for it, a little ahead of the link."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol import limits
from protocol.codec import Record
from protocol.errors import RemoteProtocolError
from protocol.messages import BlobChunk, BlobGone

log = logging.getLogger(__name__)

READ_BYTES: Final = 4 * limits.CHUNK_BYTES  # at once
LOW: Final = 4  # chunks that wait for the link; with fewer the next are read


class BlobFeed:
    """
    One attempt's lane on one link (a ``protocol.session.Lane``); what was asked for on a lost link is asked for again.

    Attributes:
        epoch: of the attempt.
    """

    def __init__(self, command_id: str, epoch: int, path: Path, grown: Callable[[], None]) -> None:
        """
        Args:
            grown: called when there is more to send.
        """
        self.epoch = epoch
        self._command_id = command_id
        self._path = path
        self._grown = grown
        self._asked: deque[tuple[int, int]] = deque()  # offset and bytes, not read yet
        self._ready: deque[Record] = deque()
        self._reading: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<BlobFeed {self._path.name}, {len(self._ready)} chunks ahead>"

    def ask(self, offset: int, size: int) -> None:
        """
        The agent wants a part that is there, after those that it wanted before.

        Raises:
            RemoteProtocolError: it wants far more than it can take.
        """
        if len(self._asked) >= limits.MAX_FETCHES:
            raise RemoteProtocolError(f"{self._command_id}: asks for too many parts of its blob at once")
        if size:
            self._asked.append((offset, size))
            self._fill()

    def head(self) -> Record | None:
        """Return the next record to send."""
        return self._ready[0] if self._ready else None

    def granted(self, size: int) -> None:
        """The agent asks for what it has room for."""

    def sent(self) -> None:
        """The head was written."""
        self._ready.popleft()
        self._fill()

    def _fill(self) -> None:
        if self._reading is None and self._asked and len(self._ready) < LOW:
            self._reading = asyncio.create_task(self._read(), name=f"read {self._path.name}")

    async def _read(self) -> None:
        offset, size = self._asked.popleft()
        if size > READ_BYTES:
            self._asked.appendleft((offset + READ_BYTES, size - READ_BYTES))
            size = READ_BYTES
        try:
            data = memoryview(await asyncio.to_thread(_part, self._path, offset, size))
            for begin in range(0, size, limits.CHUNK_BYTES):
                piece = data[begin : begin + limits.CHUNK_BYTES]
                chunk = BlobChunk(self._command_id, self.epoch, offset + begin, zlib.crc32(piece))
                self._ready.append(Record(chunk, piece))
        except OSError as exc:
            log.error("%s can't be read: %s", self._path, exc.strerror, extra={"event": "blob_unreadable"})
            self._asked.clear()
            self._ready.append(Record(BlobGone(self._command_id, self.epoch, "the broker can't read it any more")))
        finally:
            self._reading = None
        self._grown()
        self._fill()


def _part(path: Path, offset: int, size: int) -> bytes:
    # Opened each time: so nothing is left open, however the command and its link end.
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise OSError(None, "it is shorter than it was")
    return data
