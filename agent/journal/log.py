"""
The log that the journal writes: segments of records in a folder, by one thread.

A segment is made under another name, synced, and only then named, so one with its name is whole. After a failed
write or sync its file is never written again: the next segment says where it goes on, and with that all that came
after is void. A program never goes on with a file of an earlier run, for the same reason.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from agent import RELEASE
from agent.journal import frames, records
from agent.journal.disk import Appender, Disk
from agent.journal.reading import HEAD, PLACE_BITS, SNAPSHOT, Reading, place, segment_name

WRITE_BYTES: Final = 1_048_576  # bytes; as much of a new segment goes to the disk at a time
PART_BYTES: Final = 131_072  # bytes of a segment that are read at a time to write it anew
PARTS: Final = 8  # that are kept meanwhile
PROBE_BYTES: Final = 1_179_648  # bytes; a command's parameters may be 1 MiB


class Log:
    """
    What is written to the folder from here on.

    Attributes:
        mark: of the journal.
        stands: sequence of the last event that is synced, and the chain up to and with it.
        size: bytes of all segments that count.
        chain: their numbers, oldest first.
    """

    def __init__(self, disk: Disk, folder: Path, reading: Reading) -> None:
        self._disk = disk
        self._folder = folder
        self.mark = reading.mark
        self.stands = (reading.position, reading.head)
        self.size = reading.size
        self.chain = list(reading.chain)
        self._highest = reading.highest
        self._file: Appender | None = None
        self._length = 0  # bytes of the file that is written
        self._synced = 0  # of them those that are synced
        self._next = self.position + 1
        self._running = reading.head  # the chain up to and with the last record of the file
        self._told = reading.head  # up to and with the last event

    @property
    def position(self) -> int:
        """Sequence of the last event that is synced."""
        return self.stands[0]

    def append(self, bodies: Sequence[bytes]) -> list[int]:
        """
        Write events at the end, and return their places; they are not synced.

        Raises:
            OSError: none of them may be believed; call ``abandon``.
        """
        self.ready()
        assert self._file is not None  # noqa: S101 - just made sure of; this tells mypy
        number, places, framed = self.chain[-1], [], []
        for body in bodies:
            self._running = frames.follow(self._running, self._next, body)
            framed.append(frames.encode(self._next, body, number, self._running))
            places.append(place(number, self._length))
            self._length += len(framed[-1])
            self.size += len(framed[-1])
            self._next += 1
        self._told = self._running
        self._file.write(b"".join(framed))
        return places

    def sync(self) -> None:
        """
        Return once all that was written survives a power cut.

        Raises:
            OSError: nothing since the last sync may be believed; call ``abandon``.
        """
        if self._file is not None and self._synced < self._length:
            self._file.sync()
            self._synced = self._length
            self.stands = (self._next - 1, self._told)

    def abandon(self) -> None:
        """Never write to this file again; what was not synced is void. The next write begins another segment."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        self.size -= self._length - self._synced
        self._next = self.position + 1
        # The next segment makes it void, whether this works or not; it does so at once.
        with contextlib.suppress(OSError):
            self._disk.cut(self._folder / segment_name(self.chain[-1]), self._synced)

    def rewrite(self, bodies: Iterable[bytes], mark: str, moved: Callable[[list[int]], None]) -> None:
        """
        Begin a segment with all that is known, sync it, and let the others go.

        Args:
            moved: is told the places of ``bodies``, before the old ones are gone.

        Raises:
            OSError: all that was synced is where it was.
            ValueError: as ``bodies`` raised it; likewise.
        """
        self.sync()
        old = self.chain[:]
        places = self._make(0, mark, bodies)
        moved(places)
        self.chain, self.size, self.mark = self.chain[-1:], self._length, mark
        self._remove(segment_name(number) for number in old)

    def ready(self) -> None:
        """
        Make sure that there is a segment to write to.

        Raises:
            OSError: there is none.
        """
        if self._file is None:
            self._make(self.chain[-1] if self.chain else 0, self.mark, ())

    def probe(self, size: int = PROBE_BYTES) -> None:
        """
        Try whether the disk takes some bytes, by default as many as one large command has.

        Raises:
            OSError: it doesn't.
        """
        self._disk.make_folder(self._folder)
        path = self._folder / "probe.new"
        self._disk.remove(path)
        try:
            file = self._disk.create(path)
            try:
                file.write(bytes(size))
                file.sync()
            finally:
                file.close()
        finally:
            self._remove((path.name,))

    def read(self, at: int) -> bytes:
        """
        Return the body of the record at a place.

        Raises:
            OSError: it can't be read.
            ValueError: there is none that fits its checksum.
        """
        number, offset = at >> PLACE_BITS, at & ((1 << PLACE_BITS) - 1)
        path = self._folder / segment_name(number)
        data = self._disk.read(path, offset, 4096)  # enough for most
        size = frames.size(data, number)
        if size is not None and size > len(data):
            data = self._disk.read(path, offset, size)
        return _body(data, 0, number, offset)

    def reader(self) -> Callable[[int], bytes]:
        """Return what ``read`` is, for many records about in their order: it reads each part of a file once."""

        @functools.lru_cache(PARTS)
        def part(number: int, index: int) -> bytes:
            return self._disk.read(self._folder / segment_name(number), index * PART_BYTES, PART_BYTES)

        def read(at: int) -> bytes:
            number, offset = at >> PLACE_BITS, at & ((1 << PLACE_BITS) - 1)
            index, inside = divmod(offset, PART_BYTES)
            frame = frames.at(part(number, index), inside, number)
            # It may end in the next part.
            return self.read(at) if frame is None else frame.body

        return read

    def close(self) -> None:
        """Close the file; never raises."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def clear(self, names: Iterable[str]) -> None:
        """Remove what an earlier run left over."""
        self._remove(names)

    def _make(self, previous: int, mark: str, bodies: Iterable[bytes]) -> list[int]:
        """Make a segment, and write to it from now on."""
        self._highest += 1
        number = self._highest
        path = self._folder / segment_name(number)
        new = path.with_suffix(".new")
        head = records.Head(records.VERSION, previous, self.position + 1, mark, self.stands[1], RELEASE)
        try:
            self._disk.make_folder(self._folder)
            self._disk.remove(new)
            places, length, chain = self._write_new(new, number, head, bodies)
            self._disk.rename(new, path)
            file = self._disk.append_to(path)
        except (OSError, ValueError):
            # If the new name is there in spite of it, nothing more may go to the segments before it.
            self.abandon()
            self._remove((new.name, path.name))
            raise
        self.close()
        self._file, self._length, self._synced = file, length, length
        self._next = self.position + 1
        self._running, self._told = chain, self.stands[1]
        self.chain.append(number)
        self.size += length
        return places

    def _write_new(
        self, path: Path, number: int, head: records.Head, bodies: Iterable[bytes]
    ) -> tuple[list[int], int, bytes]:
        """Return the places of ``bodies``, the bytes written, and the chain up to and with the last record."""
        file = self._disk.create(path)
        places: list[int] = []
        try:
            body = records.encode(head)
            chain = frames.follow(head.chain, HEAD, body)
            waiting = bytearray(frames.encode(HEAD, body, number, chain))
            length = len(waiting)
            for body in bodies:
                chain = frames.follow(chain, SNAPSHOT | len(places), body)
                framed = frames.encode(SNAPSHOT | len(places), body, number, chain)
                places.append(place(number, length))
                length += len(framed)
                waiting += framed
                if len(waiting) >= WRITE_BYTES:
                    file.write(bytes(waiting))
                    waiting.clear()
            if head.previous == 0:
                complete = records.encode(records.Complete(len(places)))
                chain = frames.follow(chain, SNAPSHOT | len(places), complete)
                framed = frames.encode(SNAPSHOT | len(places), complete, number, chain)
                length += len(framed)
                waiting += framed
            file.write(bytes(waiting))
            file.sync()
        finally:
            file.close()
        return places, length, chain

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            # Another program may have it open; it is a leftover at the next start.
            with contextlib.suppress(OSError):
                self._disk.remove(self._folder / name)


def _body(data: bytes, start: int, number: int, offset: int) -> bytes:
    frame = frames.at(data, start, number)
    if frame is None:
        raise ValueError(f"{segment_name(number)}: at byte {offset}: bytes that fit no checksum")
    return frame.body
