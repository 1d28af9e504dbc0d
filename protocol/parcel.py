"""Records that go in one websocket message."""

from __future__ import annotations

from typing import Final

from protocol import codec
from protocol.codec import Record
from protocol.messages import Accepted, Completed, Started

BEGINNING_BYTES: Final = 128  # of a record with which a command begins, besides its id; more than it ever has


class Parcel:
    """
    What is packed into one message, in order.

    Args:
        brief: whether what a command begins with is left out where its end follows in the same message.

    Attributes:
        size: bytes so far, or a little more.
    """

    def __init__(self, *, brief: bool) -> None:
        self.size = 0
        self._brief = brief
        self._packed: list[bytes | Record] = []
        self._begun: dict[str, list[int]] = {}  # where beginnings stand of which nothing else was packed yet

    def add(self, record: Record) -> None:
        """Pack one record more."""
        if self._brief:
            kind = type(record.message)
            command_id: str = getattr(record.message, "id", "")
            if kind is Accepted or kind is Started:
                self._begun.setdefault(command_id, []).append(len(self._packed))
                self._packed.append(record)
                self.size += BEGINNING_BYTES + len(command_id)
                return
            if command_id in self._begun:
                places = self._begun.pop(command_id)
                if kind is Completed:
                    for place in places:
                        self._packed[place] = b""
        self._packed.append(data := codec.encode(record))
        self.size += len(data)

    def message(self) -> bytes:
        """Return the message; nothing if nothing was packed."""
        return b"".join([one if isinstance(one, bytes) else codec.encode(one) for one in self._packed])
