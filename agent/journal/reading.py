"""
The journal's folder, read: what is known, and what is damaged.

Each segment names the one before it, back to one that begins with all that was known; other files are left over from
a moment that a crash cut short. Nothing is changed here, so it may be read while an agent writes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from agent import RELEASE
from agent.errors import JournalOfLaterRelease
from agent.journal import frames, records
from agent.journal.disk import Disk
from agent.journal.frames import Bad, Frame

SNAPSHOT: Final = 1 << 63  # in the sequence of a record that repeats what was known when its segment was begun
HEAD: Final = 0  # sequence of a segment's first record; events count from 1
HEAD_BYTES: Final = 4096  # bytes; more than any head has
PUT_BACK: Final = "put-back"  # a file whose being there says that the journal is a copy of an earlier moment
INCOMPLETE: Final = "of what was known before, the end is missing"
FIRST_RELEASE: Final = "0.1.0"  # which did not write down what it is
PLACE_BITS: Final = 40  # of a place in the log are the offset in its segment; the others its number
_SEGMENT: Final = re.compile(r"(\d{6,12})\.log")
_COMMAND: Final = re.compile(rb"[a-z]{2,8}_[0-9a-hjkmnp-tv-z]{26}")  # as ``protocol.ids`` makes them


class Damage(msgspec.Struct, frozen=True):
    """
    Something that should be in the log and isn't, or the other way round.

    Attributes:
        file: its name.
        offset: of the first byte concerned.
        end: of the byte after the last; as ``offset`` if something is missing there.
        what: for people.
        ids: of commands that may be concerned.
    """

    file: str
    offset: int
    end: int
    what: str
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        concerned = f"; commands that may be concerned: {', '.join(self.ids)}" if self.ids else ""
        return f"{self.file}: at byte {self.offset}: {self.what}{concerned}"


class Segment(msgspec.Struct):
    """
    One file of the log.

    Attributes:
        head: its first record; ``None`` if that is damaged.
        unusable: why nothing in it can be used; "" if it can.
    """

    number: int
    head: records.Head | None = None
    unusable: str = ""

    @property
    def name(self) -> str:
        """Of the file."""
        return segment_name(self.number)


class Reading(msgspec.Struct):
    """
    What is in the folder.

    Attributes:
        index: what is known.
        mark: as the newest segment has it; "" if there is none.
        release: of the program that began the newest segment; "" if there is none.
        version: of the format of the oldest.
        position: how many events were ever written.
        head: the chain up to and with the last of them.
        base: sequence of the last event that was let go when the log was written anew.
        heads: the chain at each event from ``base`` on, where all was asked for.
        chain: numbers of the segments that it stands in, oldest first.
        highest: number of any file there.
        leftovers: names of files that mean nothing any more.
        size: bytes of the chain's segments.
        count: records in them.
        damages: in order; if there is any, ``mark`` must change.
        unusable: names of files that can't be read, or say that all is to be doubted.
        torn: bytes at the end that a stopped write left.
    """

    index: records.Index
    mark: str = ""
    release: str = ""
    version: int = records.VERSION
    position: int = 0
    head: bytes = frames.BEGINNING
    base: int = 0
    heads: dict[int, bytes] = {}
    chain: list[int] = []
    highest: int = 0
    leftovers: list[str] = []
    size: int = 0
    count: int = 0
    damages: list[Damage] = []
    unusable: list[str] = []
    torn: int = 0


def segment_name(number: int) -> str:
    """Return the name of a segment's file."""
    return f"{number:06}.log"


def place(number: int, offset: int) -> int:
    """Return where a record stands, as one number."""
    return number << PLACE_BITS | offset


def read(disk: Disk, folder: Path, index: records.Index, *, whole: bool = False) -> Reading:
    """
    Read all there is.

    Args:
        index: an empty one to fill.
        whole: keep also remembered entries, and the chain at each event, in memory.

    Raises:
        OSError: the folder can't be read.
        JournalOfLaterRelease: a later release wrote it in a format that this one does not know.
    """
    reading = Reading(index)
    segments: dict[int, Segment] = {}
    for name in disk.names(folder):
        if match := _SEGMENT.fullmatch(name):
            number = int(match[1])
            segments[number] = _load(disk, folder / name, number)
        elif name.endswith(".new"):
            reading.leftovers.append(name)
        elif name == PUT_BACK:
            what = "the journal was put back from a copy; what happened after that is not in it"
            reading.damages.append(Damage(name, 0, 0, what))
            reading.unusable.append(name)
    for segment in segments.values():
        if segment.head is not None and segment.head.version > records.VERSION:
            raise _later(folder, segment.head)
    chain = _chain(segments, reading)
    heads = [segment.head for segment in chain if segment.head is not None]
    if heads:
        reading.release = heads[-1].release or FIRST_RELEASE
        reading.version = min(head.version for head in heads)
    reading.highest = max(segments, default=0)
    reading.chain = [segment.number for segment in chain]
    reading.leftovers += [segments[number].name for number in sorted(segments.keys() - set(reading.chain))]
    _Follower(disk, folder, reading, whole).follow(chain)
    return reading


def _load(disk: Disk, path: Path, number: int) -> Segment:
    try:
        first = frames.at(disk.read(path, 0, HEAD_BYTES), 0, number)
    except OSError as exc:
        return Segment(number, unusable=f"it can't be read ({exc.strerror or exc})")
    try:
        head = records.decode(first.body) if first is not None else None
    except ValueError:
        return Segment(number)
    if not isinstance(head, records.Head):
        return Segment(number)
    return Segment(number, head)


def _later(folder: Path, head: records.Head) -> JournalOfLaterRelease:
    return JournalOfLaterRelease(
        f"{folder}: written by release {head.release or 'unknown'}, in format {head.version}; this is {RELEASE}, which "
        f"knows format {records.VERSION}. Nothing was changed. Start release {head.release} again; or, to stay with "
        f"{RELEASE}, put the copy that was kept of its journal in the place of this one: outhaul-agent journal put-back"
    )


def _chain(segments: dict[int, Segment], reading: Reading) -> list[Segment]:
    """Return the segments that count, found from the newest one backwards."""
    chain: list[Segment] = []
    number = max(segments, default=0)
    while number:
        segment = segments[number]
        chain.append(segment)
        below = max((other for other in segments if other < number), default=0)
        if segment.head is None:
            number = below  # which one it followed is not known: rather one too many
        elif segment.head.previous in segments:
            number = segment.head.previous
        elif segment.head.previous:
            missing = segment_name(segment.head.previous)
            reading.damages.append(Damage(missing, 0, 0, "the file is missing"))
            number = below
        else:
            number = 0
    return chain[::-1]


class _Follower:
    """Follows the records of a chain in their order."""

    def __init__(self, disk: Disk, folder: Path, reading: Reading, whole: bool) -> None:
        self._disk = disk
        self._folder = folder
        self._reading = reading
        self._whole = whole
        self._next: int | None = None  # sequence of the event that has to come; not known after some damages
        self._running: bytes | None = None  # the chain up to the record that has to come; not known after damages
        self._told: bytes | None = None  # up to and with the last event; likewise
        self._name = ""  # of the segment that is read
        self._data = b""
        self._torn_at_end = 0  # bytes

    def follow(self, chain: list[Segment]) -> None:
        void = SNAPSHOT
        voids: dict[int, int] = {}  # for each segment the sequence from which on it was never answered for
        for segment in reversed(chain):
            voids[segment.number] = void
            void = min(void, segment.head.base) if segment.head is not None else void
        for segment in chain:
            self._name, self._data = segment.name, b""
            self._read(segment)
            if segment.unusable:
                self._damage(0, 0, segment.unusable)
                self._reading.unusable.append(segment.name)
                self._next = self._running = self._told = None
                continue
            self._segment(segment, voids[segment.number])
            self._reading.torn = self._torn_at_end
        if self._next is not None:
            self._reading.position = max(self._reading.position, self._next - 1)

    def _read(self, segment: Segment) -> None:
        if not segment.unusable:
            try:
                self._data = self._disk.read(self._folder / segment.name)
            except OSError as exc:
                segment.unusable = f"it can't be read ({exc.strerror or exc})"
        self._reading.size += len(self._data)

    def _segment(self, segment: Segment, void: int) -> None:
        """
        Take in the records of one segment.

        Args:
            void: sequence from which on nothing in it counts.
        """
        self._torn_at_end = 0
        head = segment.head
        pieces = frames.scan(self._data, segment.number)
        if head is None:
            self._damage(0, 0, "its first record is damaged")
            self._running = self._told = None
        else:
            first = next(pieces, None)
            if self._told is not None and self._told != head.chain and self._next == head.base:
                self._damage(0, 0, "it does not go on with the chain of the segment before it")
            self._running, self._told = head.chain, head.chain
            self._reading.head = head.chain
            if head.previous == 0:
                self._reading.base = head.base - 1
                self._reading.heads.clear()
            self._note_head(head.base - 1)
            if isinstance(first, Frame):
                self._follows(first)
            if self._next is not None and self._next != head.base:
                self._damage(0, 0, f"{head.base - self._next} records before it are missing")
            self._next = head.base
            self._reading.mark = head.mark
        repeated = 0 if head is not None and head.previous == 0 else None  # records of what was known before
        for piece in pieces:
            if repeated is None and self._next is not None and self._next >= void:
                break
            if isinstance(piece, Bad):
                if piece.torn:
                    self._torn_at_end = piece.end - piece.offset
                else:
                    self._damage(piece.offset, piece.end, "bytes that fit no checksum")
                    self._running = None
            elif piece.sequence == HEAD:
                if head is not None:  # else it is not where it should be, which was told
                    self._damage(piece.offset, piece.end, "a first record, where there was one already")
            elif piece.sequence & SNAPSHOT:
                repeated = self._repeated(segment, piece, repeated)
            elif piece.sequence >= void:
                break
            else:
                if repeated is not None:
                    self._damage(piece.offset, piece.offset, INCOMPLETE)
                    repeated = None
                self._event(segment, piece)
        if repeated is not None:
            self._damage(len(self._data), len(self._data), INCOMPLETE)

    def _repeated(self, segment: Segment, piece: Frame, repeated: int | None) -> int | None:
        """Take in what was known before; return how many such records came, or ``None`` once it is complete."""
        record = self._record(piece) if self._follows(piece) else None
        if isinstance(record, records.Complete):
            if repeated is not None and repeated != record.entries:
                missing = record.entries - repeated
                self._damage(piece.offset, piece.offset, f"{missing} records before it are missing")
            return None
        if isinstance(record, records.Standing):
            self._apply(segment, piece, record)
            return None if repeated is None else repeated + 1
        return repeated

    def _event(self, segment: Segment, piece: Frame) -> None:
        if self._next is not None and piece.sequence < self._next:
            self._damage(piece.offset, piece.end, "a record that was there before")
            return
        if self._next is not None and piece.sequence > self._next:
            missing = piece.sequence - self._next
            self._damage(piece.offset, piece.offset, f"{missing} records before it are missing")
            self._running = None
        self._next = piece.sequence + 1
        record = self._record(piece) if self._follows(piece) else None
        self._told = self._reading.head = piece.chain
        self._note_head(piece.sequence)
        if record is not None and not isinstance(record, records.Head | records.Complete):
            self._apply(segment, piece, record)

    def _follows(self, piece: Frame) -> bool:
        """Whether a record goes on with the chain; where that is not known, it is believed."""
        chain, self._running = self._running, piece.chain
        if chain is None or frames.follow(chain, piece.sequence, piece.body) == piece.chain:
            return True
        self._damage(
            piece.offset, piece.end, "a record that does not follow the one before it: one of them was changed"
        )
        return False

    def _note_head(self, position: int) -> None:
        if self._whole:
            self._reading.heads[position] = self._reading.head

    def _apply(self, segment: Segment, piece: Frame, event: records.Event) -> None:
        self._reading.count += 1
        self._reading.index.apply(event, None if self._whole else place(segment.number, piece.offset))

    def _record(self, piece: Frame) -> records.AnyRecord | None:
        try:
            return records.decode(piece.body)
        except ValueError as exc:
            self._damage(piece.offset, piece.end, f"a record that can't be read ({exc})")
            return None

    def _damage(self, offset: int, end: int, what: str) -> None:
        ids = sorted({found.decode() for found in _COMMAND.findall(self._data[offset:end])})
        self._reading.damages.append(Damage(self._name, offset, end, what, tuple(ids)))
