"""The journal in a folder: `state_dir/journal/`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from agent import RELEASE
from agent.errors import ConfigError, JournalUnavailable
from agent.journal import copies, reading, records
from agent.journal.base import Anchor, Claim, Entry, Journal, Resolution, Shown
from agent.journal.disk import Disk
from agent.journal.lock import FolderLock
from agent.journal.log import Log
from agent.journal.reading import Damage, Reading
from agent.journal.records import Anchored, Begun, Ended, Event, Forgotten, Index, Kept, RowsKept, SignatureShown
from agent.journal.writer import Renewal, Request, Writer
from protocol.limits import REMEMBERS
from protocol.messages import Completed

log = logging.getLogger(__name__)

FOLDER: Final = "journal"  # in state_dir
SIGN_OF_LIFE: Final = "sign of life"  # in place of a command's id, of which one thing is written at a time
CLOSE_S: Final = 10.0  # seconds that the disk has to take what is on its way, when the agent stops


class FileJournal(Journal):
    """
    The journal in a folder; made by ``open``.

    Attributes:
        changed: called on the event loop when ``trouble`` appears or goes; may be set at any time.
        damages: that were found when it was opened; with any, the mark is a new one.
    """

    def __init__(self, writer: Writer, journal_log: Log, index: Index, lock: FolderLock, where: Path) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.damages: tuple[Damage, ...] = ()
        self._writer = writer
        self._log = journal_log
        self._index = index
        self._lock = lock
        self._where = where

    @classmethod
    async def open(
        cls,
        state_dir: Path,
        *,
        changed: Callable[[], None] = lambda: None,
        remembers: int = REMEMBERS,
        disk: Disk | None = None,
    ) -> FileJournal:
        """
        Open the journal of ``state_dir``; it is this agent's until it is closed.

        Args:
            changed: called on the event loop when ``trouble`` appears or goes.
            remembers: how many of those are kept that the broker needs no more.
            disk: another one, in tests.

        Raises:
            ConfigError: another agent runs with this folder, or it can't be read at all.
            JournalOfLaterRelease: a later release wrote it in a format that this one does not know.
        """
        loop = asyncio.get_running_loop()
        opened: list[FileJournal] = []

        def tell() -> None:
            for journal in opened:
                journal.changed()

        journal = await asyncio.to_thread(_open, state_dir, remembers, disk or Disk(), loop, tell)
        journal.changed = changed
        opened.append(journal)
        return journal

    def __repr__(self) -> str:
        return f"<FileJournal {self._where}>"

    @property
    def mark(self) -> str:  # type: ignore[override]  # set by what is found in the log, never from outside
        """As the interface says."""
        return self._writer.mark

    @property
    def position(self) -> int:  # type: ignore[override]  # counted by the log, never set from outside
        """As the interface says; of records that may still be lost none is counted."""
        return self._log.position

    @property
    def head(self) -> str:  # type: ignore[override]  # counted by the log, never set from outside
        """As the interface says."""
        return self._log.stands[1].hex()

    @property
    def trouble(self) -> str | None:  # type: ignore[override]  # set by the writer, never from outside
        """As the interface says."""
        trouble = self._writer.trouble
        return None if trouble is None else f"{self._where}: {trouble}"

    async def begin(self, claim: Claim, shown: Shown | None = None) -> None:
        if shown is None:
            await self._keep(claim.id, lambda index: Begun(claim), touched=False)
        else:
            await self._keep_shown(shown, lambda index: Begun(claim, shown), self._remembers(claim.id))

    async def show(self, shown: Shown) -> None:
        # What it came with may be run again, whether anything is known of it or not.
        await self._keep_shown(shown, lambda index: SignatureShown(shown), True)

    async def keep_rows(self, command_id: str, rows: bytes, spooled: int) -> None:
        def make(index: Index) -> Event:
            self._known(command_id)
            return RowsKept(command_id, rows or None, spooled)

        await self._keep(command_id, make)

    async def end(self, command_id: str, completed: Completed, outputs: bytes, at: float) -> None:
        def make(index: Index) -> Event:
            entry = self._known(command_id)
            if entry.acknowledged:
                facts = msgspec.structs.replace(entry, completed=completed, outputs=outputs, ended_at=at)
                return Kept(records.remembered(facts))
            return Ended(records.without_params(entry.claim), completed, outputs, at)

        await self._keep(command_id, make)

    def note(self, claim: Claim, completed: Completed, at: float) -> None:
        with self._writer.lock:
            if claim.id not in self._index.open:
                entry = Entry(records.without_params(claim), completed, ended_at=at, acknowledged=True)
                self._index.remember(entry, None)
        self._ride_along(claim.id)

    def acknowledge(self, command_id: str) -> None:
        with self._writer.lock:
            entry = self._index.open.get(command_id)
            if entry is None:
                return
            self._index.remember(records.remembered(entry), None)
        self._ride_along(command_id)

    def stand(self) -> tuple[int, str]:
        position, head = self._log.stands
        return position, head.hex()

    def anchor(self, anchor: Anchor) -> None:
        with self._writer.lock:
            known = self._index.anchors[-1:]
            if any((one.tenant, one.number, one.hash) == (anchor.tenant, anchor.number, anchor.hash) for one in known):
                return
            self._index.anchor(anchor)
        # Of one id one record is written at a time; each anchor is a thing of its own.
        self._writer.put(Request(f"anchor {anchor.number} {anchor.hash}", lambda index: Anchored(anchor)))

    def anchors(self) -> Sequence[Anchor]:
        with self._writer.lock:
            return list(self._index.anchors)

    async def resolve(self, command_id: str, resolution: Resolution) -> None:
        def make(index: Index) -> Event:
            return Kept(msgspec.structs.replace(self._known(command_id), resolution=resolution))

        await self._keep(command_id, make)

    def find(self, command_id: str) -> Entry | None:
        with self._writer.lock:
            try:
                return self._known(command_id)
            except KeyError:
                return None

    def unacknowledged(self) -> Sequence[Entry]:
        with self._writer.lock:
            return list(self._index.open.values())

    async def sign_of_life(self) -> None:
        """
        Wait until the writer has had its turn and the disk has taken something; for ever if one of them hangs.

        Raises:
            JournalUnavailable: the disk says no, as a full one does.
        """
        await self._ask(SIGN_OF_LIFE, None, touched=False)

    async def close(self) -> None:
        if await asyncio.to_thread(self._writer.close, CLOSE_S):
            self._lock.release()
        else:
            # The lock ends with the process: until then the disk may still take what was asked of it.
            log.error("%s: the disk does not answer", self._where, extra={"event": "journal_not_closed"})

    # --- asking the writer ------------------------------------------------------------------------

    async def _keep(self, command_id: str, make: Callable[[Index], Event], *, touched: bool = True) -> None:
        await self._ask(command_id, make, touched=touched)

    async def _ask(self, command_id: str, make: Callable[[Index], Event] | None, *, touched: bool) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writer.put(Request(command_id, make, answer))
        try:
            await answer
        except OSError as exc:
            raise JournalUnavailable(f"the journal can't keep it: {exc}", touched=touched) from exc

    async def _keep_shown(self, shown: Shown, make: Callable[[Index], Event], known: bool) -> None:
        with self._writer.lock:
            # At once, as another command may come with it before this is written.
            first = self._index.shows.take(shown, known=known)
        try:
            await self._keep(shown.id, make, touched=False)
        except JournalUnavailable:
            if first:
                with self._writer.lock:
                    self._index.shows.release(shown)
            raise

    def _remembers(self, command_id: str) -> bool:
        with self._writer.lock:
            return command_id in self._index.open or command_id in self._index.remembered

    def _ride_along(self, command_id: str) -> None:
        def make(index: Index) -> Event | None:
            known = index.remembered.get(command_id)
            if isinstance(known, Entry):
                return Kept(known)
            # Else it stands in the log already, began again, or has left before its turn came.
            return Forgotten(command_id) if known is None and command_id not in index.open else None

        self._writer.put(Request(command_id, make))

    def _known(self, command_id: str) -> Entry:
        """
        Return what is known of a command; called with the lock held.

        Raises:
            KeyError: nothing.
            JournalUnavailable: what was, can't be read any more.
        """
        if (entry := self._index.open.get(command_id)) is not None:
            return entry
        known = self._index.remembered[command_id]
        if isinstance(known, Entry):
            return known
        try:
            record = records.decode(self._log.read(known))
            if isinstance(record, Kept) and record.entry.claim.id == command_id:
                return record.entry
            raise ValueError("another record stands in its place")
        except (OSError, ValueError) as exc:
            self._writer.renew()
            raise JournalUnavailable(f"what the journal has of it can't be read any more: {exc}") from exc


def _open(
    state_dir: Path, remembers: int, disk: Disk, loop: asyncio.AbstractEventLoop, told: Callable[[], None]
) -> FileJournal:
    folder = state_dir / FOLDER
    lock = FolderLock(state_dir)
    try:
        found = reading.read(disk, folder, Index(remembers))
    except OSError as exc:
        lock.release()
        raise ConfigError(
            f"{folder}: can't be read ({exc.strerror or exc}); run this as the agent's account, and see that "
            "state_dir is its own"
        ) from exc
    except BaseException:  # a mistake of ours too must not leave the folder locked in this process
        lock.release()
        raise
    for damage in found.damages:
        log.error(
            "journal damaged: %s",
            damage,
            extra={
                "event": "journal_damaged",
                "file": damage.file,
                "offset": damage.offset,
                "commands": list(damage.ids),
            },
        )
    if found.chain and found.release != RELEASE and found.version == records.VERSION:
        copies.keep_if_possible(disk, folder, found.release)
    journal_log = Log(disk, folder, found)
    writer = Writer(
        journal_log,
        found.index,
        where=str(folder),
        new_mark=_new_mark,
        loop=loop,
        told=told,
        renewal=_renewal(disk, folder, found),
    )
    writer.start()
    if writer.trouble is None:
        journal_log.clear(found.leftovers)
    journal = FileJournal(writer, journal_log, found.index, lock, folder)
    journal.damages = tuple(found.damages)
    return journal


def _new_mark() -> str:
    return os.urandom(8).hex()


def _renewal(disk: Disk, folder: Path, found: Reading) -> Renewal | None:
    """Return what has to be done before the journal that was found can be gone on with."""
    if found.damages or not found.mark:
        return Renewal(_new_mark(), lambda: _set_aside(disk, folder, found))
    if found.version < records.VERSION:
        # Without a copy it stays as it is: there would be no way back.
        return Renewal(found.mark, lambda: copies.keep(disk, folder, found.release))
    try:
        # What an earlier run wrote may be in the system's memory only; from here on it is relied on.
        file = disk.append_to(folder / reading.segment_name(found.chain[-1]))
        try:
            file.sync()
        finally:
            file.close()
    except OSError:
        return Renewal(found.mark, lambda: None)
    return None


def _set_aside(disk: Disk, folder: Path, found: Reading) -> None:
    """
    Keep damaged bytes in files of their own, for whoever wants to look.

    Raises:
        OSError: they can't be written.
    """
    for name in found.unusable:
        # It may be gone already; if it can't be moved, it is no part of the log any more all the same.
        with contextlib.suppress(OSError):
            disk.rename(folder / name, folder / f"set-aside-{name}")
    for damage in found.damages:
        if damage.file in found.unusable or damage.end <= damage.offset:
            continue
        try:
            data = disk.read(folder / damage.file, damage.offset, damage.end - damage.offset)
        except OSError:
            continue
        path = folder / f"set-aside-{Path(damage.file).stem}-{damage.offset}"
        disk.remove(path)
        file = disk.create(path)
        try:
            file.write(data)
            file.sync()
        finally:
            file.close()
