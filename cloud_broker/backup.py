"""
A copy of all that a broker keeps, made while it serves, from which one can be started again.

First the store as of one moment, then what it names: a result that ended before that moment is whole in its file, and
files that came later mean nothing to the copy. So the copy is what a power cut at that moment would have left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud_broker import RELEASE
from cloud_broker.api.views import time_text
from cloud_broker.identity.authority import sync_folder, write_whole
from cloud_broker.settings import ConfigError, Settings
from cloud_broker.store.open import copy_store

FACTS: Final = "backup.json"


@dataclass(frozen=True, slots=True)
class Backup:
    """
    A copy that is whole.

    Attributes:
        folder: where it is; a broker's ``data_dir``.
        files: in it.
        size: bytes of all of them.
    """

    folder: Path
    files: int
    size: int


def make(settings: Settings, to: Path) -> Backup:
    """
    Copy the data folder to a new folder, for its owner's eyes only: the authority's keys are in it.

    Raises:
        ConfigError: ``to`` is there already, or lies in the data folder; or there is no room.
        OSError: something can't be read or written; no folder of this name is there then.
    """
    to = to.absolute()
    source = settings.data_dir.absolute()
    if to.exists():
        raise ConfigError(f"{to}: is there already; name a new folder, each backup has one of its own")
    if source in to.parents:
        raise ConfigError(f"{to}: lies in the broker's own folder; a backup belongs on another disk")
    new = to.with_name(f"{to.name}.unfinished")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700, parents=True)
    try:
        store = copy_store(settings, new)
        own = store.name
        for folder, _, names in os.walk(source):
            inside = new / Path(folder).relative_to(source)
            inside.mkdir(mode=0o700, exist_ok=True)
            for name in names:
                # The store's other files, and its copies of earlier releases, belong to the original.
                if not (Path(folder) == source and name.startswith(own)):
                    _copy(Path(folder) / name, inside / name)
        facts = {"release": RELEASE, "made_at": time_text(time.time()), "data_dir": str(source)}
        write_whole(new / FACTS, json.dumps(facts, indent=1).encode() + b"\n", 0o600)
        for folder, _, _ in os.walk(new):
            sync_folder(Path(folder))
        os.rename(new, to)
    except BaseException:  # half a backup under its name would be taken for a whole one
        shutil.rmtree(new, ignore_errors=True)
        raise
    sync_folder(to.parent)
    found = [path for path in to.rglob("*") if path.is_file()]
    return Backup(to, len(found), sum(path.stat().st_size for path in found))


def _copy(path: Path, to: Path) -> None:
    """Copy a file; one that was removed meanwhile is not needed."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as source:
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(descriptor, "wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
