"""
The journal as another release left it: a copy beside it, made before this release writes there, and the way back.

``state_dir/journal.backup-RELEASE``; one is kept.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Final

from agent import RELEASE, durable_file
from agent.errors import AgentError
from agent.journal.disk import RIGHTS, Disk
from agent.journal.reading import PUT_BACK

log = logging.getLogger(__name__)

SPARE_BYTES: Final = 16 * 1_048_576  # bytes that must be left on the disk: work comes before copies


def copy_of(folder: Path, release: str) -> Path:
    """Return where the journal in ``folder`` is kept as ``release`` left it."""
    return folder.with_name(f"{folder.name}.backup-{release}")


def keep(disk: Disk, folder: Path, release: str) -> None:
    """
    Copy the journal as ``release`` left it, whole and durably, in the place of earlier copies.

    Raises:
        OSError: there is no room for it, or it can't be written; what was kept before is there still.
    """
    # Imported here: it brings libraries of archives along, and a journal is copied once in a release.
    import shutil

    to = copy_of(folder, release)
    new = to.with_name(f"{to.name}.new")
    names = [name for name in disk.names(folder) if name.endswith(".log")]
    size = sum((folder / name).stat().st_size for name in names)
    if shutil.disk_usage(folder).free < size + SPARE_BYTES:
        raise OSError(errno.ENOSPC, f"no room for a copy of the journal of {release} ({size} bytes), {to}")
    shutil.rmtree(new, ignore_errors=True)
    disk.make_folder(new)
    for name in names:
        file = disk.create(new / name)
        try:
            file.write(disk.read(folder / name))
            file.sync()
        finally:
            file.close()
    durable_file.sync_folder(new)
    for older in folder.parent.glob(f"{folder.name}.backup-*"):
        if older != new:
            shutil.rmtree(older, ignore_errors=True)
    disk.rename(new, to)
    log.info("kept the journal as release %s left it: %s", release, to, extra={"event": "journal_copied"})


def keep_if_possible(disk: Disk, folder: Path, release: str) -> None:
    """Copy it where nothing in its format changes: who can't, goes on, as the other release could go on too."""
    try:
        keep(disk, folder, release)
    except OSError as exc:
        log.warning("no copy was kept of the journal of release %s: %s", release, exc)


def put_back(folder: Path, release: str = RELEASE, *, nothing_ran: bool = False) -> Path:
    """
    Put the copy of ``release`` in the journal's place; return where the journal that was there is now.

    No agent may run with it. Unless ``nothing_ran`` since the copy was made, all that was under way is in doubt then:
    the broker sends none of it again.

    Raises:
        AgentError: there is no such copy, or the folders can't be renamed.
    """
    # Imported here: as above.
    import shutil

    kept = copy_of(folder, release)
    if not kept.is_dir():
        raise AgentError(f"{kept}: there is no copy of the journal as release {release} left it")
    aside = folder.with_name(f"{folder.name}.put-aside")
    try:
        if not nothing_ran:
            os.close(os.open(kept / PUT_BACK, os.O_WRONLY | os.O_CREAT, RIGHTS))
            given = kept.stat()
            if hasattr(os, "chown"):
                os.chown(kept / PUT_BACK, given.st_uid, given.st_gid)
            durable_file.sync_folder(kept)
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            os.rename(folder, aside)
        os.rename(kept, folder)
        durable_file.sync_folder(folder.parent)
    except OSError as exc:
        raise AgentError(f"{exc.filename}: {exc.strerror}; the journal can't be put back") from exc
    return aside
