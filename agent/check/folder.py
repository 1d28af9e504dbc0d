"""The agent's own folder: whether it can be written for good, has room, and is nobody else's to read."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from agent import durable_file
from agent.app import state_dir
from agent.connectors.base import Finding

if TYPE_CHECKING:
    from agent.check.stages import Sight

SUBJECT: Final = "state folder"
LOW_SPACE_BYTES: Final = 104_857_600
LOOKED_AT: Final = 2000  # files at most; the journal has few, a spool may have many

_FORGETFUL: Final = {"tmpfs": "in memory", "ramfs": "in memory", "overlay": "in a container's own layer"}
_REMOTE: Final = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "glusterfs", "ceph")

# Whom no list of rights on the agent's folder may have, as SDDL calls them: their short names and their numbers.
_EVERYBODY: Final = {
    "WD": "Everyone",
    "S-1-1-0": "Everyone",
    "AU": "Authenticated Users",
    "S-1-5-11": "Authenticated Users",
    "BU": "Users",
    "S-1-5-32-545": "Users",
    "BG": "Guests",
    "S-1-5-32-546": "Guests",
    "AN": "Anonymous",
    "S-1-5-7": "Anonymous",
    "IU": "Interactive",
    "S-1-5-4": "Interactive",
    "NU": "Network",
    "S-1-5-2": "Network",
    "DU": "Domain Users",
    "DG": "Domain Guests",
}
_ALLOWED: Final = re.compile(r"\(A;[^;()]*;[^;()]*;[^;()]*;[^;()]*;([^;()]+)\)")
_DOMAIN_USERS: Final = re.compile(r"S-1-5-21-[\d-]+-51[34]")


async def look(sight: Sight) -> AsyncIterator[Finding]:
    """Write, look at rights and room, and at what kind of disk it is."""
    folder = state_dir(sight.loaded)
    for finding in await asyncio.to_thread(lambda: list(_findings(folder))):
        yield finding


def _findings(folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        wrong = "is no folder" if folder.exists() else "is not there"
        yield Finding(SUBJECT, False, f"{folder}: {wrong}", code="state.missing")
        return
    probe = folder / f"check.{uuid4().hex}"
    try:
        durable_file.write(probe, b"outhaul", 0o600)
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as exc:
        yield Finding(SUBJECT, False, f"{folder}: can't be written: {exc.strerror or exc}", code="state.unwritable")
        return
    strange = not_ours(folder)
    if strange:
        yield Finding(SUBJECT, False, strange, code="state.unwritable")
    else:
        yield Finding(SUBJECT, True, f"{folder}: can be written durably, {free // 1_048_576} MiB free")
    if free < LOW_SPACE_BYTES:
        yield Finding(f"{SUBJECT}: room", False, f"{free // 1_048_576} MiB free", code="state.space")
    open_to = others(folder)
    if open_to:
        yield Finding(f"{SUBJECT}: rights", False, f"open to {open_to}", code="state.rights")
    place = unsafe_place(folder)
    if place:
        yield Finding(f"{SUBJECT}: disk", None, f"is {place}", code="state.unsafe")


def not_ours(folder: Path) -> str:
    """Return why some file in the folder can't be written by this account; "" where all can."""
    looked = 0
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            looked += 1
            if looked > LOOKED_AT:
                return ""
            try:
                mode = path.lstat().st_mode
                if stat.S_ISREG(mode):
                    # Some are read only on purpose, such as the key of the vault.
                    os.close(os.open(path, os.O_RDWR if mode & stat.S_IWUSR else os.O_RDONLY))
            except FileNotFoundError:
                continue  # a running agent took it away
            except OSError as exc:
                return f"{path}: is not this account's to write: {exc.strerror or exc}"
    return ""


def strangers(sddl: str) -> list[str]:
    """Return who of all people an access list, as SDDL, lets in."""
    named = _ALLOWED.findall(sddl)
    found = {_EVERYBODY.get(name) or ("Domain Users" if _DOMAIN_USERS.fullmatch(name) else "") for name in named}
    return sorted(found - {""})


def mount_of(folder: Path, mountinfo: str) -> str:
    """Return the type of the file system that ``folder`` is on, as Linux lists its mounts; "" if none fits."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        place = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), fields[4])
        # The last of equals lies over the others.
        if folder.is_relative_to(place) and len(place) >= best:
            best, kind = len(place), right.split(" ")[0]
    return kind


if sys.platform == "win32":
    import ctypes

    from agent.service.windows_rights import rights

    _REMOTE_DRIVE: Final = 4
    _KINDS: Final = {2: "on a disk that can be taken out", _REMOTE_DRIVE: "on another machine", 6: "in memory"}

    def others(folder: Path) -> str:
        """Return who else may read the folder; "" if nobody."""
        return ", ".join(strangers(rights(folder)))

    def unsafe_place(folder: Path) -> str:
        """Return why what is written there may be lost; "" where it is on a disk of this machine."""
        if str(folder.resolve()).startswith("\\\\"):
            return _KINDS[_REMOTE_DRIVE]
        return _KINDS.get(ctypes.WinDLL("kernel32").GetDriveTypeW(folder.resolve().anchor), "")

else:

    def others(folder: Path) -> str:
        """Return who else may read the folder; "" if nobody."""
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & (stat.S_IRWXG | stat.S_IRWXO):
            return ""
        who = "everybody" if mode & stat.S_IRWXO else "its group"
        return f"{who} (mode {mode:04o}; chmod 700 {folder})"

    def unsafe_place(folder: Path) -> str:
        """Return why what is written there may be lost; "" where it is on a disk of this machine."""
        try:
            kind = mount_of(folder.resolve(), Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"))
        except OSError:
            return ""
        return f"on another machine ({kind})" if kind in _REMOTE else _FORGETFUL.get(kind, "")
