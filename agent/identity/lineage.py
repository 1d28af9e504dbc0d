"""
Which of two copies of a machine is the agent: a text that changes with every link.

The broker gives a new one with each Welcome and hears the last one with each Hello; whoever shows an old one was put
back to an earlier state, or is one of two. It is kept in ``state_dir/identity/lineage`` as two slots of one size, which
are written in turn and in place: that takes no space, so a full disk does not keep the agent from its link.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from pathlib import Path
from typing import Final

from agent import durable_file

SLOT_BYTES: Final = 512  # a broker's text has some 40 characters


class Lineage:
    """What the broker gave last; all methods read or write the disk."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "identity" / "lineage"
        # A link that is lost while this is written leaves the thread at it; the next link must not overtake that one.
        self._lock = threading.Lock()

    def read(self) -> str:
        """Return what was kept last; "" if nothing was, or what there is can't be read."""
        with self._lock:
            return self._read()[1]

    def keep(self, lineage: str) -> None:
        """
        Put ``lineage`` on the disk.

        Raises:
            OSError: what was kept before is there still.
            ValueError: it is longer than any broker's.
        """
        with self._lock:
            number = self._read()[0] + 1
            slot = _slot(number, lineage)
            if not self._path.exists():
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                durable_file.write(self._path, b" " * (2 * SLOT_BYTES), 0o600)
            with self._path.open("r+b") as file:
                file.seek(number % 2 * SLOT_BYTES)
                file.write(slot)
                file.flush()
                os.fsync(file.fileno())

    def reset(self) -> None:
        """
        Forget it: a new enrolment begins a lineage of its own.

        Raises:
            OSError: it can't be written.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable_file.write(self._path, b" " * (2 * SLOT_BYTES), 0o600)

    def _read(self) -> tuple[int, str]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return 0, ""
        return max(_of_slot(data[:SLOT_BYTES]), _of_slot(data[SLOT_BYTES : 2 * SLOT_BYTES]))


def _slot(number: int, lineage: str) -> bytes:
    content = json.dumps([number, lineage])
    slot = json.dumps([zlib.crc32(content.encode()), content]).encode().ljust(SLOT_BYTES)
    if len(slot) > SLOT_BYTES:
        raise ValueError(f"a lineage of {len(lineage)} characters, which is no broker's")
    return slot


def _of_slot(data: bytes) -> tuple[int, str]:
    try:
        crc32, content = json.loads(data)
        number, lineage = json.loads(content)
        if zlib.crc32(content.encode()) == crc32:
            return int(number), str(lineage)
    except (ValueError, TypeError):
        pass  # never written, or the power went while it was; the other slot is whole
    return 0, ""
