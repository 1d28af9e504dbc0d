"""The frozen program as another release of itself, without freezing it again: one constant is another one in it."""

from __future__ import annotations

import marshal
import shutil
import zlib
from pathlib import Path
from typing import Final

from PyInstaller.archive.readers import CArchiveReader  # type: ignore[import-untyped]  # has no types

from agent import RELEASE

_NAME: Final = "outhaul-agent"
_HEAD: Final = 8  # bytes of an archive of modules before the place of its list
_ENTRIES: Final = ("PYZ.pyz", "PYZ-00.pyz")


def as_another(frozen: Path, into: Path) -> str:
    """
    Copy a frozen folder, as another release.

    Returns:
        The release: a later one.
    """
    shutil.copytree(frozen, into, symlinks=True)
    program = next(path for path in (into / _NAME, into / f"{_NAME}.exe") if path.exists())
    whole = bytearray(program.read_bytes())
    reader = CArchiveReader(str(program))
    place, size, packed, *_ = reader.toc[next(name for name in _ENTRIES if name in reader.toc)]
    assert packed
    start = reader._start_offset + place  # its only word for it
    archive = bytes(whole[start : start + size])
    listed = int.from_bytes(archive[_HEAD : _HEAD + 4], "big")
    names = dict(marshal.loads(archive[listed:]))  # noqa: S302 - of our own build
    _, at, length = names["agent"]
    release, made = _other(archive[at : at + length])
    whole[start + at : start + at + length] = made.ljust(length, b"\0")
    program.write_bytes(whole)
    (into / "VERSION").write_text(f"{release}\n", "ascii")
    return release


def _other(packed: bytes) -> tuple[str, bytes]:
    """Return a release, and the module of it, no longer than this one's: nothing behind it may move."""
    module = zlib.decompress(packed)
    assert module.count(RELEASE.encode()) == 1
    for number in range(100, 1000):
        release = f"{number // 100}.{number // 10 % 10}.{number % 10}"
        made = zlib.compress(module.replace(RELEASE.encode(), release.encode()), 9)
        if len(made) <= len(packed):
            return release, made
    raise AssertionError("no later release is as short")
