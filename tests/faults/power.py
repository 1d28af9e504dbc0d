"""
What is on a disk when the power goes: only what was forced there.

A program runs under ``strace``, which writes down each word between it and its files. From that and from what was
there before it started, ``synced`` tells the contents of a folder with everything left out that no ``fsync`` covers:
bytes of files by a sync of the file, names by a sync of their folder.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CALLS: Final = (
    "openat,open,creat,write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,"
    "ftruncate,truncate,fallocate,link,linkat"
)
# Before each start: what is there has been there for long.
_TRACE: Final = 'rm -rf "$0.before" && cp -a "$0" "$0.before" && exec strace -o "$0.trace" "$@"'
_LINE: Final = re.compile(r"(?P<pid>\d+) +(?P<rest>.*)")
_CALL: Final = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)", re.DOTALL)
_UNFINISHED: Final = re.compile(r"(?P<begin>\w+\(.*?)(?:, *)?<unfinished \.\.\.>$")
_RESUMED: Final = re.compile(r"<\.\.\. \w+ resumed>(?P<end>.*)")
_HEX: Final = re.compile(r'(?<=["<])(?:\\x[0-9a-f]{2})+(?=[">])')
_WORDS: Final = ("write", "pwrite64")


@dataclass(frozen=True, slots=True)
class Traced:
    """
    A program whose words with its files are written down.

    Attributes:
        folder: whose contents matter; it must be there when the program starts.
    """

    folder: Path

    def words(self) -> list[str]:
        """Return the words before those of the program."""
        follow = ["-f", "-y", "-xx", "-s", "4000000", "--seccomp-bpf", "-e", f"trace={CALLS}"]
        return ["/bin/sh", "-c", _TRACE, str(self.folder), *follow]

    def lose_power(self) -> dict[str, int]:
        """
        Leave in the folder only what was forced to the disk; the program has been killed.

        Returns:
            For the curious: bytes that each file lost, where it lost any.
        """
        kept = synced(Path(f"{self.folder}.trace").read_text().splitlines(), self.folder, Path(f"{self.folder}.before"))
        found = {str(path.relative_to(self.folder)): path.stat().st_size for path in _files(self.folder)}
        folders = [path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_dir()]
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for relative in folders:
            (self.folder / relative).mkdir(parents=True, exist_ok=True)
        for name, data in kept.items():
            (self.folder / name).write_bytes(data)
        lost = {name: size - len(kept.get(name, b"")) for name, size in found.items()}
        return {name: size for name, size in lost.items() if size}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@dataclass(slots=True, eq=False)
class _File:
    """Contents as the program sees them, and as they were when they were last forced to the disk."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass(slots=True)
class _Disk:
    """Files by path, as the program sees them, and as they are found after a power cut."""

    names: dict[str, _File] = field(default_factory=dict)
    synced: dict[str, _File] = field(default_factory=dict)

    def sync(self, path: str, before: bytes | None) -> None:
        if path in self.names:
            file = self.names[path]
            file.synced = bytes(file.content) if before is None else before
            return
        here = {name: file for name, file in self.names.items() if name.rpartition("/")[0] == path}
        elsewhere = {name: file for name, file in self.synced.items() if name.rpartition("/")[0] != path}
        self.synced = {**elsewhere, **here}


def synced(trace: list[str], folder: Path, before: Path) -> dict[str, bytes]:
    """
    Return contents by path below ``folder`` as they are after a power cut.

    Args:
        trace: lines of strace, with paths of descriptors and all strings in hexadecimal.
        before: a copy of the folder as it was when the program started.
    """
    disk = _Disk()
    for path in _files(before):
        data = path.read_bytes()
        disk.names[str(folder / path.relative_to(before))] = _File(bytearray(data), data)
    disk.synced = dict(disk.names)
    for name, arguments, result, content in _calls(trace, disk):
        if result >= 0:
            _apply(disk, name, arguments, content)
    root = f"{folder}/"
    return {path.removeprefix(root): file.synced for path, file in disk.synced.items() if path.startswith(root)}


def _calls(trace: list[str], disk: _Disk) -> Iterator[tuple[str, str, int, bytes | None]]:
    """
    Yield each call when it returns: name, arguments, result, and what its file held when it began.

    What was written while a sync was under way may or may not be covered by it: it is taken as lost.
    """
    begun: dict[str, tuple[str, bytes | None]] = {}
    for line in trace:
        found = _LINE.match(line)
        if found is None:
            continue
        pid, rest = found["pid"], found["rest"]
        content = None
        if unfinished := _UNFINISHED.match(rest):
            path = _paths(unfinished["begin"])[:1]
            file = disk.names.get(path[0]) if path else None
            is_sync = rest.startswith(("fsync", "fdatasync"))
            begun[pid] = (unfinished["begin"], bytes(file.content) if file is not None and is_sync else None)
            continue
        if resumed := _RESUMED.match(rest):
            start, content = begun.pop(pid)
            rest = start + resumed["end"]
        call = _CALL.match(rest)
        if call is not None:
            yield call["name"], call["arguments"], int(call["result"]), content


def _paths(arguments: str) -> list[str]:
    return [_bytes(text).decode(errors="replace") for text in _HEX.findall(arguments)]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _apply(disk: _Disk, name: str, arguments: str, content: bytes | None) -> None:
    strings = _HEX.findall(arguments)
    if name in _WORDS:
        _write(disk, name, arguments, strings)
        return
    paths = [_bytes(text).decode(errors="replace") for text in strings]
    if name in ("fsync", "fdatasync"):
        disk.sync(paths[0], content)
    elif name in ("openat", "open", "creat"):
        path = _joined(paths) if name == "openat" else paths[0]
        if "O_CREAT" in arguments and path not in disk.names:
            disk.names[path] = _File()
        if "O_TRUNC" in arguments and path in disk.names:
            disk.names[path].content = bytearray()
    elif name.startswith("rename"):
        one, other = (paths[0], paths[1]) if len(paths) == 2 else (paths[1], paths[3])
        if one in disk.names:
            disk.names[other] = disk.names.pop(one)
    elif name.startswith("unlink"):
        disk.names.pop(_joined(paths), None)
    elif name in ("ftruncate", "truncate") and paths[0] in disk.names:
        size = int(arguments.rpartition(",")[2])
        file = disk.names[paths[0]]
        file.content = bytearray(file.content[:size].ljust(size, b"\0"))


def _joined(paths: list[str]) -> str:
    """The path that a call with a folder's descriptor means."""
    return paths[-1] if paths[-1].startswith("/") or len(paths) == 1 else f"{paths[0]}/{paths[-1]}"


def _write(disk: _Disk, name: str, arguments: str, strings: list[str]) -> None:
    if not strings or (file := disk.names.get(_bytes(strings[0]).decode(errors="replace"))) is None:
        return
    data = _bytes(strings[1]) if len(strings) > 1 else b""
    # Whoever writes without a place appends: our files are written from beginning to end.
    start = int(arguments.rpartition(",")[2]) if name == "pwrite64" else len(file.content)
    file.content[len(file.content) : start] = b"\0" * max(0, start - len(file.content))
    file.content[start : start + len(data)] = data
