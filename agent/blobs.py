"""
Contents that are too large for parameters: fetched from the broker into a file before their command begins.

What was stored stays over a lost link and over this process, and fetching goes on behind it. Whether the bytes are
those that were meant is seen by who uses them, who reads them all anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from agent.errors import BlobUnavailable, ParametersInvalid, SignatureInvalid
from agent.parameters import BlobName
from agent.settings import DropOperation, Operation
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.framing import Buffer
from protocol.messages import AnyMessage, BlobChunk, BlobGone, BlobInfo, Fetch, Run

log = logging.getLogger(__name__)

AT_ONCE: Final = 4  # fetched at the same time; each may have a window of bytes in memory
PART_BYTES: Final = limits.BLOB_WINDOW_BYTES // 8  # asked for at once
SPARE_BYTES: Final = 256 * 1_048_576  # bytes that are left free on the disk, for the journal and the spool
KEPT_S: Final = 3_600.0  # seconds that one stays whose command may be tried again
OLD_S: Final = 2 * 86_400.0  # seconds; what earlier processes left and nobody came for


def wanted(operation: Operation, content: object, run: Run | None, *, signed: bool) -> BlobInfo | None:
    """
    Return the blob that is to be fetched for a drop; ``None`` if its content is in the parameters.

    Args:
        content: of the drop, as ``agent.parameters.decode`` returns it.
        signed: whether the parameters were signed, and the blob must be named by its digest.

    Raises:
        ParametersInvalid: it is too large, is not the one that is meant, or can't be fetched.
        SignatureInvalid: what was signed does not tell it from another.
    """
    if not isinstance(content, BlobName) or run is None:
        return None
    if signed and content.sha256 is None:
        raise SignatureInvalid(
            "the signature is refused: the content is a blob whose digest was not signed, so it could be any; the "
            'caller gives it as {"blob": ID, "sha256": HEX} and signs again',
            touched=False,
        )
    if run.sealed:
        raise ParametersInvalid(
            "content: sealed parameters can't name a blob, which the broker can read", touched=False
        )
    if run.blob is None or run.blob.id != content.id:
        raise ParametersInvalid(
            f"content: the broker does not offer the blob {content.id!r}; it may be of an earlier release",
            touched=False,
        )
    if content.sha256 is not None and content.sha256 != run.blob.sha256:
        raise ParametersInvalid(
            f"content: the broker offers a blob with the SHA-256 {run.blob.sha256[:64]}, and not {content.sha256}",
            touched=False,
        )
    if isinstance(operation, DropOperation) and run.blob.bytes > operation.max_bytes:
        raise ParametersInvalid(
            f"content: {run.blob.bytes} bytes, and at most {operation.max_bytes} are written "
            f"(operations.{run.operation}.max_bytes); an operator allows it by raising that number",
            touched=False,
        )
    return run.blob


class Blobs:
    """The blobs of one agent's commands, each in a file of its command's name."""

    def __init__(self, folder: Path, say: Callable[[AnyMessage], None]) -> None:
        """
        Args:
            say: tells the broker, if there is one to tell.
        """
        self._folder = folder
        self._say = say
        self._room = asyncio.Semaphore(AT_ONCE)
        self._coming: dict[str, _Coming] = {}
        self._kept: dict[str, asyncio.TimerHandle] = {}

    def open(self) -> None:
        """Remove what nobody came for."""
        before = time.time() - OLD_S
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < before:
                        path.unlink()

    async def fetch(self, run: Run, blob: BlobInfo) -> Path:
        """
        Return the file with a command's blob, once all of it is there.

        Raises:
            BlobUnavailable: the broker does not have it any more, or it can't be stored here.
        """
        if (timer := self._kept.pop(run.id, None)) is not None:
            timer.cancel()
        path = self._folder / run.id
        async with self._room:
            file = await self._opened(path, blob.bytes)
            coming = self._coming[run.id] = _Coming(run, blob, file.tell(), self._say)
            try:
                while coming.stored < blob.bytes:
                    coming.ask()
                    data = await coming.some()
                    await self._stored(path, file, data)
                    coming.stored += len(data)
            finally:
                del self._coming[run.id]
                file.close()
        return path

    def heard(self, message: BlobChunk | BlobGone, data: Buffer) -> None:
        """
        The broker gives a part of a blob, or says that it can't.

        Raises:
            RemoteProtocolError: not the part that was asked for, or not whole.
        """
        coming = self._coming.get(message.id)
        if coming is None or coming.epoch != message.epoch:
            return  # its command ended meanwhile
        if isinstance(message, BlobGone):
            coming.gone(message.reason)
        else:
            coming.came(message, data)

    def again(self, command_id: str) -> None:
        """What was asked for on an earlier link will not come any more."""
        if (coming := self._coming.get(command_id)) is not None:
            coming.ask_again()

    def done(self, command_id: str, *, again: bool) -> None:
        """
        A command has ended: remove its blob, if it has one.

        Args:
            again: whether the same command may be tried again soon.
        """
        if command_id in self._kept or not (self._folder / command_id).exists():
            return
        loop = asyncio.get_running_loop()
        if again:
            self._kept[command_id] = loop.call_later(KEPT_S, self._drop, command_id)
        else:
            self._drop(command_id)

    def _drop(self, command_id: str) -> None:
        self._kept.pop(command_id, None)
        # Large files take a while to remove, and nobody waits for it.
        asyncio.get_running_loop().run_in_executor(None, _remove, self._folder / command_id)

    async def _opened(self, path: Path, size: int) -> BinaryIO:
        try:
            return await asyncio.to_thread(_open, path, size)
        except OSError as exc:
            raise _unstorable(path, exc) from exc

    async def _stored(self, path: Path, file: BinaryIO, data: bytes) -> None:
        writing = asyncio.ensure_future(asyncio.to_thread(_write, file, data))
        try:
            await asyncio.shield(writing)
        except OSError as exc:
            raise _unstorable(path, exc) from exc
        except asyncio.CancelledError:
            # Nothing can stop the thread, and the file must not be closed under it.
            await asyncio.wait((writing,))
            raise


class _Coming:
    """
    One blob on its way.

    Attributes:
        stored: bytes in the file.
    """

    def __init__(self, run: Run, blob: BlobInfo, stored: int, say: Callable[[AnyMessage], None]) -> None:
        self.epoch = run.epoch
        self.stored = stored
        self._id = run.id
        self._size = blob.bytes
        self._say = say
        self._asked = stored  # offset after the last byte that was asked for, and the same of those that came
        self._came = stored
        self._pieces: list[Buffer] = []
        self._gone = ""
        self._changed = asyncio.Event()

    def ask(self) -> None:
        """Ask for what there is room for."""
        while self._asked < self._size and self._asked + PART_BYTES <= self.stored + limits.BLOB_WINDOW_BYTES:
            part = min(PART_BYTES, self._size - self._asked)
            self._say(Fetch(self._id, self.epoch, self._asked, part))
            self._asked += part

    def ask_again(self) -> None:
        """Ask for all that has not come."""
        self._asked = self._came
        self.ask()

    async def some(self) -> bytes:
        """
        Wait for what comes next, and return all that is there.

        Raises:
            BlobUnavailable: nothing will.
        """
        while not self._pieces:
            if self._gone:
                raise BlobUnavailable(f"the content can't be had: {self._gone}", touched=False)
            self._changed.clear()
            await self._changed.wait()
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def came(self, chunk: BlobChunk, data: Buffer) -> None:
        if chunk.offset != self._came or chunk.offset + len(data) > self._asked:
            raise RemoteProtocolError(f"{self._id}: bytes of its blob at {chunk.offset}, where {self._came} comes next")
        if zlib.crc32(data) != chunk.crc32:
            raise RemoteProtocolError(f"{self._id}: the bytes of its blob at {chunk.offset} do not fit their checksum")
        self._came += len(data)
        self._pieces.append(data)
        self._changed.set()

    def gone(self, reason: str) -> None:
        self._gone = reason[: limits.MAX_ERROR_CHARS]
        self._changed.set()


def _open(path: Path, size: int) -> BinaryIO:
    """Open a file to go on at its end; what is longer than it may be is no part of this blob."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
    if file.seek(0, os.SEEK_END) > size:
        file.truncate(0)
        file.seek(0)
    # Imported here: it brings libraries of archives along, and most agents move no files.
    import shutil

    free = shutil.disk_usage(path.parent).free
    if free < size - file.tell() + SPARE_BYTES:
        file.close()
        raise OSError(f"{free // 1_048_576} MiB are free, and it has {size // 1_048_576}; make room")
    return file


def _write(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _remove(path: Path) -> None:
    # On Windows a scanner may have it open: a later start removes it.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _unstorable(path: Path, exc: OSError) -> BlobUnavailable:
    log.error("%s: a blob can't be stored: %s", path.parent, exc.strerror or exc, extra={"event": "blob_not_stored"})
    return BlobUnavailable(
        f"the content can't be stored in {path.parent}: {exc.strerror or exc}", touched=False, may_work_later=True
    )
