"""What stands in the journal's records, and what the journal knows once it has read them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from agent.journal.base import Anchor, Claim, Entry, Shown
from agent.journal.signatures import Shows
from protocol.limits import REMEMBERS
from protocol.messages import Completed

VERSION: Final = 1  # of the log; an earlier one is written anew in this one, a later one is refused
ANCHORS: Final = 1_000  # of the broker's audit trail that are kept; one a minute at most comes
SMALL_OUTPUT_BYTES: Final = 4096  # bytes; outputs up to this size are remembered after the broker has them


class Record(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """One thing that is known."""


class Head(Record, frozen=True, tag="head"):
    """
    The first record of a segment.

    Attributes:
        version: of the log. Every release can read this record, whatever comes after it.
        previous: number of the segment before it; 0 if it begins with all that was known, so that none is needed.
        base: sequence of its first event. What earlier segments have from there on was never answered for: void.
        mark: of the journal.
        chain: up to and with the event before ``base``.
        release: of the program that began it; "" is 0.1.0, which did not say.
    """

    version: int
    previous: int
    base: int
    mark: str
    chain: bytes
    release: str = ""


class Complete(Record, frozen=True, tag="complete"):
    """
    All that was known when the segment was begun stands before this.

    Attributes:
        entries: how many records.
    """

    entries: int


class Begun(Record, frozen=True, tag="begun"):
    """A command is about to run, with the signature that it came with."""

    claim: Claim
    shown: Shown | None = None


class SignatureShown(Record, frozen=True, tag="shown"):
    """A signature came with a command that may be run again, or came before the segment was begun."""

    shown: Shown


class RowsKept(Record, frozen=True, tag="rows"):
    """The rows of a command under way are kept: themselves, or as so many bytes in the spool."""

    id: str
    rows: bytes | None
    spooled: int


class Ended(Record, frozen=True, tag="ended"):
    """
    A command ended.

    Attributes:
        claim: without its parameters; says what ended even if the record of its beginning is lost.
    """

    claim: Claim
    completed: Completed
    outputs: bytes
    at: float


class Kept(Record, frozen=True, tag="kept"):
    """All that is known of one command."""

    entry: Entry


class Forgotten(Record, frozen=True, tag="forgotten"):
    """Nothing is known of a command any more: so many came after it before it could be written that it was done."""

    id: str


class Anchored(Record, frozen=True, tag="anchored"):
    """The broker told where its audit trail stood."""

    anchor: Anchor


AnyRecord = Head | Complete | Begun | SignatureShown | RowsKept | Ended | Kept | Forgotten | Anchored
Event = Begun | SignatureShown | RowsKept | Ended | Kept | Forgotten | Anchored
Standing = Kept | SignatureShown | Anchored  # each says by itself all that it is about, so a rewrite can repeat it

_FACTS: Final = ("completed", "outputs", "rows", "spooled", "ended_at", "resolution")

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyRecord] = msgspec.msgpack.Decoder(AnyRecord)


def encode(record: AnyRecord) -> bytes:
    """Return a record's body."""
    return _encoder.encode(record)


def decode(body: bytes) -> AnyRecord:
    """
    Return the record of a body.

    Raises:
        ValueError: it is none of this version.
    """
    return _decoder.decode(body)


def without_params(claim: Claim) -> Claim:
    """Return a claim that says what ran, but not with what."""
    return msgspec.structs.replace(claim, params=b"")


def remembered(entry: Entry) -> Entry:
    """Return what is kept of a command once the broker has its end."""
    small = entry.outputs is not None and len(entry.outputs) <= SMALL_OUTPUT_BYTES
    return msgspec.structs.replace(
        entry,
        claim=without_params(entry.claim),
        outputs=entry.outputs if small else None,
        rows=None,
        spooled=0,
        acknowledged=True,
    )


class Index:
    """
    What the journal knows, made of its records in their order.

    Attributes:
        open: entries that the broker has not told us to forget, oldest first.
        remembered: of the others the newest, oldest first: the entry, or the place in the log where it stands.
        shows: signatures that came with commands.
        anchors: of the broker's audit trail, oldest first.
    """

    def __init__(self, remembers: int = REMEMBERS) -> None:
        self.open: dict[str, Entry] = {}
        # Ordered by itself: of a plain one to find the first takes longer the more of them have gone.
        self.remembered: OrderedDict[str, Entry | int] = OrderedDict()
        self.shows = Shows()
        self.anchors: list[Anchor] = []
        self._remembers = remembers

    def apply(self, event: Event, place: int | None) -> None:
        """
        Take in a record.

        Args:
            place: where it stands in the log; ``None`` to keep what it says in memory.
        """
        if isinstance(event, Begun):
            self._forget(event.claim.id)
            self.open[event.claim.id] = Entry(event.claim)
            if event.shown is not None:
                self.shows.add(event.shown)
        elif isinstance(event, SignatureShown):
            self.shows.add(event.shown)
        elif isinstance(event, RowsKept):
            if (entry := self.open.get(event.id)) is not None:
                self.open[event.id] = msgspec.structs.replace(entry, rows=event.rows, spooled=event.spooled)
        elif isinstance(event, Ended):
            self._change(event.claim, {"completed": event.completed, "outputs": event.outputs, "ended_at": event.at})
        elif isinstance(event, Forgotten):
            self._forget(event.id)
        elif isinstance(event, Anchored):
            self.anchor(event.anchor)
        elif event.entry.acknowledged:
            self.remember(event.entry, place)
        else:
            self._change(event.entry.claim, {name: getattr(event.entry, name) for name in _FACTS})

    def _change(self, claim: Claim, facts: dict[str, Any]) -> None:
        known = self.remembered.get(claim.id)
        if isinstance(known, Entry) and claim.id not in self.open:
            # The broker told us to forget it while this was on its way to the disk.
            self.remembered[claim.id] = remembered(msgspec.structs.replace(known, **facts))
            return
        self.remembered.pop(claim.id, None)
        self.open[claim.id] = msgspec.structs.replace(self.open.get(claim.id) or Entry(claim), **facts)

    def anchor(self, anchor: Anchor) -> None:
        """Keep an anchor. Of many every other one goes, but the first and the last: old ones stand far apart then."""
        if anchor in self.anchors[-1:]:
            return
        self.anchors.append(anchor)
        if len(self.anchors) > ANCHORS:
            self.anchors = self.anchors[:-1:2] + self.anchors[-1:]

    def standing(self) -> Sequence[Event]:
        """Return what is known besides entries, as a rewrite repeats it."""
        return [*map(SignatureShown, self.shows.all()), *map(Anchored, self.anchors)]

    def remember(self, entry: Entry, place: int | None) -> None:
        """Keep an entry as the newest of those that the broker needs no more, and let the oldest go."""
        self._forget(entry.claim.id)
        self.remembered[entry.claim.id] = entry if place is None else place
        while len(self.remembered) > self._remembers:
            self.remembered.popitem(last=False)

    def written(self, entry: Entry, place: int) -> None:
        """An entry that was kept in memory stands in the log."""
        if self.remembered.get(entry.claim.id) is entry:
            self.remembered[entry.claim.id] = place

    def _forget(self, command_id: str) -> None:
        self.open.pop(command_id, None)
        self.remembered.pop(command_id, None)
