"""
Blobs: contents that are too large for parameters, kept in files until the agents of the commands that name them have
written them.

A blob's bytes are whole and durable under their final name before the store knows of it, so what can be named is there.
Its id comes of its bytes: who sends the same again may name the same, so a command that is repeated stays the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Final
from uuid import uuid4

from cloud_broker.errors import BlobNotFound, NoRoom, ParametersInvalid, RequestInvalid, RequestTooLarge
from cloud_broker.identity.authority import sync_folder
from cloud_broker.settings import LimitSettings
from cloud_broker.store.base import Store
from cloud_broker.store.blobs import Blob
from cloud_broker.tenants import Scope
from protocol.ids import new_id

log = logging.getLogger(__name__)

ID: Final = re.compile(r"blob_[0-9a-hjkmnp-tv-z]{26}")
SHA256: Final = re.compile(r"[0-9a-f]{64}")
WRITE_BYTES: Final = 1_048_576  # gathered before a thread writes them: each hand-over costs as much as a small write
SPARE_BYTES: Final = 512 * 1_048_576  # bytes that blobs leave free on the disk, for commands and results
LOOK_BYTES: Final = 64 * 1_048_576  # bytes between two looks at what is free
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
DAY_S: Final = 86_400.0
FORGET: Final = 500  # in one transaction
COMING: Final = "coming"  # folder of those that are not whole, in the tenant's own
LAST_USES_S: Final = 3_600.0  # seconds; a note that a command names a blob is older than the command, but not by that


class Blobs:
    """
    The blobs of all tenants.

    Args:
        folder: of the files.
        spare_bytes: what they leave free on its disk.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        limits: LimitSettings,
        now: Callable[[], float] = time.time,
        spare_bytes: int = SPARE_BYTES,
    ) -> None:
        self._store = store
        self._folder = folder
        self._limits = limits
        self._now = now
        self._spare_bytes = spare_bytes
        self._totals: Counter[str] = Counter()  # bytes by tenant, those on their way included
        self._named: dict[str, Blob] = {}  # by the ids of the open commands
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Take up what is kept, and remove what a broker that died has left half done."""
        self._totals = Counter(await self._store.blob_totals())
        self._named = await self._store.open_blob_uses()
        for path in await asyncio.to_thread(self._files):
            if await self._store.blob(Scope(path.parent.parent.name), path.name) is None:
                await asyncio.to_thread(_remove, path)

    # --- in ---------------------------------------------------------------------------------------

    async def receive(
        self, scope: Scope, pieces: AsyncIterator[bytes], *, by: str, declared: int = 0, sha256: str | None = None
    ) -> Blob:
        """
        Keep what comes, durably.

        Args:
            by: id of the credential that sends it.
            declared: how many bytes are said to come; 0 if nobody said.
            sha256: of all bytes, hex, where the sender knows it.

        Raises:
            RequestTooLarge: more than one blob may have.
            NoRoom: the tenant's blobs, or the disk, have no room for it.
            RequestInvalid: it has another digest.
        """
        self._fits(scope, declared)
        upload = _Upload(self._folder / scope.tenant, self._spare_bytes)
        counted = 0
        try:
            await _off_the_loop(upload.begin, declared)
            gathered: list[bytes] = []
            size = 0
            async for piece in pieces:
                self._fits(scope, 0, counted + len(piece), coming=len(piece))
                self._totals[scope.tenant] += len(piece)
                counted += len(piece)
                gathered.append(piece)
                size += len(piece)
                if size >= WRITE_BYTES:
                    await _off_the_loop(upload.write, gathered)
                    gathered, size = [], 0
            await _off_the_loop(upload.write, gathered)
            found = upload.digest.hexdigest()
            if sha256 not in (None, found):
                raise RequestInvalid(f"The body has the SHA-256 {found}, and not {sha256}, as was said; send it again.")
            await _off_the_loop(upload.sync)
            blob, new = await self._keep(scope, upload, counted, by)
        except BaseException:  # also a sender who left: what came of it is no blob
            self._totals[scope.tenant] -= counted
            await asyncio.shield(asyncio.to_thread(upload.drop))
            raise
        if not new:
            self._totals[scope.tenant] -= counted
        return blob

    async def _keep(self, scope: Scope, upload: _Upload, size: int, by: str) -> tuple[Blob, bool]:
        """Give what came its name, and return it, and whether it is new."""
        now, digest = self._now(), upload.digest.digest()
        blob_id = new_id("blob", int.from_bytes(digest[:6], "big"), lambda count: digest[6 : 6 + count])
        # Never while blobs are removed: the same one may be among them.
        async with self._changing:
            await _off_the_loop(upload.keep, self.path(scope, blob_id))
            new = await self._store.add_blob(scope, Blob(scope.tenant, blob_id, size, digest.hex(), now, now, by))
        return Blob(scope.tenant, blob_id, size, digest.hex(), now, now, by), new

    def _fits(self, scope: Scope, declared: int, so_far: int = 0, coming: int = 0) -> None:
        """Raise unless one more blob of ``declared`` bytes, or ``coming`` bytes more of one, may be kept."""
        most, all_of_it = self._limits.blob_bytes, self._limits.tenant_blob_bytes
        if max(declared, so_far) > most:
            raise RequestTooLarge(
                f"The body has more than the {most} bytes that a blob may have (limits.blob_bytes).", limit=most
            )
        if all_of_it and self._totals[scope.tenant] + max(declared, coming) > all_of_it:
            raise NoRoom(
                f"The tenant's blobs have {self._totals[scope.tenant]} bytes, and with this one they would have more "
                f"than the {all_of_it} that they may (limits.tenant_blob_bytes); each is removed a while after its use."
            )

    # --- named by commands ------------------------------------------------------------------------

    async def use(self, scope: Scope, reference: dict[str, object], command_id: str) -> None:
        """
        Note that a command names a blob; from here on it stays.

        Args:
            reference: as it stands in the parameters: ``{"blob": ID}``, and the digest if the caller says it.

        Raises:
            BlobNotFound: this tenant has none of this id.
            ParametersInvalid: the caller says another digest.
        """
        blob_id = reference["blob"]
        blob = None
        if isinstance(blob_id, str) and ID.fullmatch(blob_id):
            blob = await self._store.use_blob(scope, blob_id, command_id, self._now())
        if blob is None:
            raise BlobNotFound(f"there is no blob {str(blob_id)[:100]!r}; send the content to POST /v1/blobs first")
        if reference.get("sha256", blob.sha256) != blob.sha256:
            raise ParametersInvalid(f"content: the blob {blob.id} has the SHA-256 {blob.sha256}, and not the one given")
        self._named[command_id] = blob

    def named_by(self, command_id: str) -> Blob | None:
        """Return the blob that an open command names."""
        return self._named.get(command_id)

    def ended(self, command_id: str) -> None:
        """A command has its end, or never came to be."""
        self._named.pop(command_id, None)

    # --- files ------------------------------------------------------------------------------------

    def path(self, scope: Scope, blob_id: str) -> Path:
        """Where a blob's bytes are."""
        # The last characters of an id are chance: folders fill evenly.
        return self._folder / scope.tenant / blob_id[-2:] / blob_id

    async def tidy(self) -> None:
        """Remove what nothing has named for a while."""
        before = self._now() - max(self._limits.blob_days * DAY_S, LAST_USES_S)
        more = True
        while more:
            async with self._changing:
                gone = await self._store.forget_blobs(before, FORGET)
                more = bool(gone)
                for blob in gone:
                    self._totals[blob.tenant] -= blob.bytes
                    await asyncio.to_thread(_remove, self.path(Scope(blob.tenant), blob.id))

    def _files(self) -> list[Path]:
        return [path for path in self._folder.glob("*/*/*") if path.is_file()]


class _Upload:
    """One blob on its way to a file; blocking."""

    def __init__(self, folder: Path, spare_bytes: int) -> None:
        self.digest = hashlib.sha256()
        self._unfinished = folder / COMING / uuid4().hex
        self._spare_bytes = spare_bytes
        self._file: BinaryIO | None = None
        self._until_look = 0

    def begin(self, declared: int) -> None:
        self._unfinished.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._look(declared)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(self._unfinished, flags, 0o600), "wb", buffering=0)

    def write(self, pieces: list[bytes]) -> None:
        assert self._file is not None  # noqa: S101 - begin came first
        data = memoryview(b"".join(pieces))
        self.digest.update(data)
        self._until_look -= len(data)
        if self._until_look <= 0:
            self._look(len(data))
        while data:
            data = data[self._file.write(data) :]

    def sync(self) -> None:
        assert self._file is not None  # noqa: S101 - begin came first
        os.fsync(self._file.fileno())
        self._file.close()

    def keep(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.replace(self._unfinished, path)
        # Folder by folder: the tenant's own may be as new as the file.
        for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
            sync_folder(folder)

    def drop(self) -> None:
        if self._file is not None:
            self._file.close()
        _remove(self._unfinished)

    def _look(self, wanted: int) -> None:
        self._until_look = LOOK_BYTES
        if shutil.disk_usage(self._unfinished.parent).free < wanted + self._spare_bytes:
            raise OSError(errno.ENOSPC, "too little is free", str(self._unfinished))


async def _off_the_loop(work: Callable[..., None], *given: object) -> None:
    try:
        await asyncio.to_thread(work, *given)
    except OSError as exc:
        if exc.errno in FULL:
            log.error("no room for a blob: %s", exc, extra={"event": "blobs_full"})
            raise NoRoom("The broker's disk has no room for this; its operator has to make some.") from exc
        log.error("a blob can't be kept: %s", exc, extra={"event": "blob_not_kept"})
        raise NoRoom(f"The broker can't keep this: {exc.strerror}; its operator's log says more.") from exc


def _remove(path: Path) -> None:
    # On Windows somebody may read it: it costs its place on the disk, and nothing else.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
