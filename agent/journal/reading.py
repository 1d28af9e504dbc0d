"""
The journal's folder, read: what is known, and what is damaged.

Each segment names the one before it, back to one that begins with all that was known; other files are left over from
a moment that a crash cut short. Nothing is changed here, so it may be read while an agent writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.journal import frames, records
from agent.journal.disk import Disk
from agent.journal.frames import Bad, Frame

SNAPSHOT: Final = 1 << 63  # in the sequence of a record that repeats what was known when its segment was begun
PLACE_BITS: Final = 40  # of a place in the log are the offset in its segment; the others its number
_SEGMENT: Final = re.compile(r"(\d{6,12})\.log")
_COMMAND: Final = re.compile(rb"[a-z]{2,8}_[0-9a-hjkmnp-tv-z]{26}")  # as ``protocol.ids`` makes them


@dataclass(frozen=True, slots=True)
class Damage:
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


@dataclass(slots=True)
class Segment:
    """
    One file of the log.

    Attributes:
        data: its bytes; ``None`` if they can't be read.
        head: its first record; ``None`` if that is damaged.
        unknown: whether its records are of another version.
    """

    number: int
    data: bytes | None
    pieces: list[Frame | Bad] = field(default_factory=list)
    head: records.Head | None = None
    unknown: bool = False

    @property
    def name(self) -> str:
        """Of the file."""
        return segment_name(self.number)


@dataclass(slots=True)
class Reading:
    """
    What is in the folder.

    Attributes:
        index: what is known.
        mark: as the newest segment has it; "" if there is none.
        position: how many events were ever written.
        chain: numbers of the segments that it stands in, oldest first.
        highest: number of any file there.
        leftovers: names of files that mean nothing any more.
        size: bytes of the chain's segments.
        count: records in them.
        damages: in order; if there is any, ``mark`` must change.
        unreadable: names of files that can't be read, or are of another version.
        torn: bytes at the end that a stopped write left.
    """

    index: records.Index
    mark: str = ""
    position: int = 0
    chain: list[int] = field(default_factory=list)
    highest: int = 0
    leftovers: list[str] = field(default_factory=list)
    size: int = 0
    count: int = 0
    damages: list[Damage] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
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
        whole: keep also remembered entries in memory, not only their places.

    Raises:
        OSError: the folder can't be read.
    """
    reading = Reading(index)
    segments: dict[int, Segment] = {}
    for name in disk.names(folder):
        if match := _SEGMENT.fullmatch(name):
            number = int(match[1])
            segments[number] = _load(disk, folder / name, number)
        elif name.endswith(".new"):
            reading.leftovers.append(name)
    chain = _chain(segments, reading)
    reading.highest = max(segments, default=0)
    reading.chain = [segment.number for segment in chain]
    reading.leftovers += [segments[number].name for number in sorted(segments.keys() - set(reading.chain))]
    _Follower(reading, chain, whole).follow()
    return reading


def _load(disk: Disk, path: Path, number: int) -> Segment:
    try:
        segment = Segment(number, disk.read(path))
    except OSError:
        return Segment(number, None)
    segment.pieces = list(frames.scan(segment.data or b"", number))
    if segment.pieces and isinstance(first := segment.pieces[0], Frame):
        try:
            head = records.decode(first.body)
        except ValueError:
            return segment
        if isinstance(head, records.Head):
            segment.head, segment.unknown = head, head.version != records.VERSION
    return segment


def _chain(segments: dict[int, Segment], reading: Reading) -> list[Segment]:
    """Return the segments that count, found from the newest one backwards."""
    chain: list[Segment] = []
    number = max(segments, default=0)
    while number:
        segment = segments[number]
        chain.append(segment)
        below = max((other for other in segments if other < number), default=0)
        if segment.head is None or segment.unknown:
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

    def __init__(self, reading: Reading, chain: list[Segment], whole: bool) -> None:
        self._reading = reading
        self._chain = chain
        self._whole = whole
        self._next: int | None = None  # sequence of the event that has to come; not known after some damages

    def follow(self) -> None:
        for place_in_chain, segment in enumerate(self._chain):
            if segment.data is None or segment.unknown:
                why = "it can't be read" if segment.data is None else "it is of another version of the agent"
                self._damage(segment, 0, len(segment.data or b""), why)
                self._reading.unreadable.append(segment.name)
                self._next = None
                continue
            self._reading.size += len(segment.data)
            void = min(
                (later.head.base for later in self._chain[place_in_chain + 1 :] if later.head and not later.unknown),
                default=SNAPSHOT,
            )
            self._segment(segment, void, last=segment is self._chain[-1])
            if segment.head is not None:
                self._reading.mark = segment.head.mark
        if self._next is not None:
            self._reading.position = max(self._reading.position, self._next - 1)

    def _segment(self, segment: Segment, void: int, *, last: bool) -> None:
        head = segment.head
        if head is not None:
            if self._next is not None and self._next != head.base:
                self._damage(segment, 0, 0, f"{head.base - self._next} records before it are missing")
            self._next = head.base
        snapshot = 0 if head is not None and head.previous == 0 else None  # how many of its records came
        for piece in segment.pieces[1:] if head is not None else segment.pieces:
            if isinstance(piece, Bad):
                if piece.end == len(segment.data or b"") and (piece.torn or self._next == void):
                    self._torn(segment, piece, last)
                else:
                    self._damage(segment, piece.offset, piece.end, "bytes that fit no checksum")
                continue
            if piece.sequence & SNAPSHOT:
                snapshot = self._repeated(segment, piece, snapshot)
            elif piece.sequence >= void:
                break
            else:
                if snapshot is not None:
                    self._damage(segment, piece.offset, piece.offset, "the end of what was known before is missing")
                    snapshot = None
                self._event(segment, piece)
        if snapshot is not None:
            end = len(segment.data or b"")
            self._damage(segment, end, end, "the end of what was known before is missing")

    def _torn(self, segment: Segment, piece: Bad, last: bool) -> None:
        if last:
            self._reading.torn = piece.end - piece.offset

    def _repeated(self, segment: Segment, piece: Frame, snapshot: int | None) -> int | None:
        """Take in a record of what was known before; return how many came, or ``None`` once it is complete."""
        record = self._record(segment, piece)
        if isinstance(record, records.Complete):
            if snapshot is not None and snapshot != record.entries:
                missing = record.entries - snapshot
                self._damage(segment, piece.offset, piece.offset, f"{missing} records before it are missing")
            return None
        if isinstance(record, records.Kept):
            self._apply(segment, piece, record)
            return None if snapshot is None else snapshot + 1
        return snapshot

    def _event(self, segment: Segment, piece: Frame) -> None:
        if self._next is not None and piece.sequence < self._next:
            self._damage(segment, piece.offset, piece.end, "a record that was there before")
            return
        if self._next is not None and piece.sequence > self._next:
            missing = piece.sequence - self._next
            self._damage(segment, piece.offset, piece.offset, f"{missing} records before it are missing")
        self._next = piece.sequence + 1
        record = self._record(segment, piece)
        if isinstance(record, records.Begun | records.RowsKept | records.Ended | records.Kept):
            self._apply(segment, piece, record)

    def _apply(self, segment: Segment, piece: Frame, event: records.Event) -> None:
        self._reading.count += 1
        self._reading.index.apply(event, None if self._whole else place(segment.number, piece.offset))

    def _record(self, segment: Segment, piece: Frame) -> records.AnyRecord | None:
        try:
            return records.decode(piece.body)
        except ValueError as exc:
            self._damage(segment, piece.offset, piece.end, f"a record that can't be read ({exc})")
            return None

    def _damage(self, segment: Segment, offset: int, end: int, what: str) -> None:
        data = segment.data or b""
        ids = sorted({found.decode() for found in _COMMAND.findall(data[offset:end])})
        self._reading.damages.append(Damage(segment.name, offset, end, what, tuple(ids)))
