"""A disk in memory that fails on demand, and knows at every moment what a power cut would leave."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.journal.disk import Appender, Disk


@dataclass
class Inode:
    """A file: what is on the platter, and what was written since."""

    synced: bytes = b""
    writes: list[bytes] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        return self.synced + b"".join(self.writes)


@dataclass
class Content:
    """
    All files of one folder.

    Attributes:
        names: as programs see them.
        durable: as a power cut leaves them.
        changes: of names since the folder was synced: a name, and what it stands for, or ``None``.
    """

    names: dict[str, Inode] = field(default_factory=dict)
    durable: dict[str, Inode] = field(default_factory=dict)
    changes: list[tuple[str, Inode | None]] = field(default_factory=list)

    def after_power_cut(self, chance: random.Random | None) -> Content:
        """
        Return what is there when the power is back.

        Args:
            chance: what becomes of all that was not synced; ``None`` loses all of it.
        """
        names = dict(self.durable)
        for name, inode in self.changes:
            if chance is not None and chance.random() < 0.5:
                names.pop(name, None)
                if inode is not None:
                    names[name] = inode
        left = {name: Inode(_left(inode, chance)) for name, inode in names.items()}
        return Content(dict(left), dict(left))


def _left(inode: Inode, chance: random.Random | None) -> bytes:
    """What is left of a file: the beginning of what was written, perhaps with zeros for the rest."""
    if chance is None or not inode.writes:
        return inode.synced
    written = b"".join(inode.writes)
    kept = written[: chance.randint(0, len(written))]
    return inode.synced + kept + bytes(chance.choice((0, 0, len(written) - len(kept), 700)))


class MemoryDisk(Disk):
    """
    Attributes:
        content: of the one folder.
        failing: is asked before each step, by its name, and returns an error number to fail with.
        steps: names of all steps that were done.
        watch: called after each step.
    """

    def __init__(self, content: Content | None = None) -> None:
        self.content = content or Content()
        self.failing: Callable[[str], int | None] = lambda step: None
        self.watch: Callable[[], None] = lambda: None
        self.steps: list[str] = []

    def _step(self, step: str) -> None:
        if (number := self.failing(step)) is not None:
            raise OSError(number, os.strerror(number))
        self.steps.append(step)

    def make_folder(self, folder: Path) -> None:
        self._step("folder")

    def names(self, folder: Path) -> list[str]:
        return list(self.content.names)

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        self._step("read")
        try:
            data = self.content.names[path.name].data
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None
        return data[offset:] if size < 0 else data[offset : offset + size]

    def create(self, path: Path) -> Appender:
        self._step("create")
        if path.name in self.content.names:
            raise FileExistsError(errno.EEXIST, "it is there", str(path))
        inode = Inode()
        self.content.names[path.name] = inode
        self.content.changes.append((path.name, inode))
        self.watch()
        return MemoryFile(self, inode)

    def append_to(self, path: Path) -> Appender:
        self._step("open")
        return MemoryFile(self, self.content.names[path.name])

    def rename(self, path: Path, to: Path) -> None:
        self._step("rename")
        inode = self.content.names.pop(path.name)
        self.content.names[to.name] = inode
        self.content.changes += [(to.name, inode), (path.name, None)]
        self.watch()
        self._step("sync folder")
        self.content.durable = dict(self.content.names)
        self.content.changes.clear()
        self.watch()

    def remove(self, path: Path) -> None:
        self._step("remove")
        if self.content.names.pop(path.name, None) is not None:
            self.content.changes.append((path.name, None))
            self.watch()

    def cut(self, path: Path, size: int) -> None:
        self._step("cut")
        inode = self.content.names[path.name]
        inode.synced, inode.writes = inode.data[:size], []
        self.watch()


class MemoryFile:
    def __init__(self, disk: MemoryDisk, inode: Inode) -> None:
        self._disk = disk
        self._inode = inode

    def write(self, data: bytes) -> None:
        try:
            self._disk._step("write")
        except OSError:
            self._inode.writes.append(data[: len(data) // 2])  # as a disk that is full does it
            self._disk.watch()
            raise
        self._inode.writes.append(data)
        self._disk.watch()

    def sync(self) -> None:
        try:
            self._disk._step("sync")
        except OSError:
            self._inode.writes.clear()  # as Linux does it: the pages are marked clean, and dropped
            raise
        self._inode.synced, self._inode.writes = self._inode.data, []
        self._disk.watch()

    def close(self) -> None:
        """Nothing to do."""


def cuts(content: Content, seed: int, times: int) -> Iterator[Content]:
    """Yield what power cuts at this moment may leave."""
    yield content.after_power_cut(None)
    chance = random.Random(seed)  # noqa: S311 - what a power cut leaves is no secret
    for _ in range(times):
        yield content.after_power_cut(chance)
