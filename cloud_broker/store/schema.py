"""
Which version the tables of a store's file have: made, checked, brought forward, copied.

A file of an earlier release is brought forward by ``migrate`` only, never by the way: the release that wrote it may
still be running. A copy of it as it was is kept beside it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud_broker import RELEASE
from cloud_broker.settings import ConfigError
from cloud_broker.store.connections import connect_to_read, connect_to_write
from cloud_broker.store.queries import MIGRATIONS, QUERIES, RELEASES, SCHEMA, SCHEMA_VERSION, statements

SPARE_BYTES: Final = 16 * 1_048_576  # bytes that a disk must have left after a copy


@dataclass(frozen=True, slots=True)
class Migration:
    """
    What brings a file forward.

    Attributes:
        path: the file.
        found: version of its tables.
        wanted: version that they then have.
        copy: where it is kept as it was.
    """

    path: Path
    found: int
    wanted: int
    copy: Path

    @property
    def steps(self) -> list[str]:
        """What each step does, for people."""
        numbers = range(self.found + 1, self.wanted + 1)
        return [MIGRATIONS[number].splitlines()[0].removeprefix("-- ") for number in numbers]


def make_or_check(connection: sqlite3.Connection, path: Path) -> None:
    """
    Make the tables where there are none.

    Raises:
        ConfigError: another release wrote this file.
    """
    connection.execute(QUERIES["begin"])
    found = _version(connection)
    if found == 0:
        for statement in statements(SCHEMA):
            connection.execute(statement)
    elif found < SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: written by release {RELEASES[found]} (schema {found}; this is {RELEASE}, with schema "
            f"{SCHEMA_VERSION}). Stop the broker of that release; then `outhaul-broker migrate` brings the store "
            "forward and keeps a copy, and `outhaul-broker serve` does so too"
        )
    else:
        _refuse_later(path, found)
    connection.execute(QUERIES["commit"])


def planned(path: Path) -> Migration | None:
    """
    Return what there is to do to a file, or ``None`` if it needs nothing; changes nothing.

    Raises:
        ConfigError: a later release wrote it, or it can't be read.
    """
    if not path.exists():
        return None
    with _as_store(path), contextlib.closing(connect_to_read(path)) as connection:
        found = _version(connection)
    _refuse_later(path, found)
    if found in (0, SCHEMA_VERSION):
        return None
    return Migration(path, found, SCHEMA_VERSION, path.with_name(f"{path.name}.schema-{found}"))


def migrate(path: Path) -> Migration | None:
    """
    Bring a file forward, all of it or nothing; a copy as it was lies beside it then. Return what was done.

    Raises:
        ConfigError: a later release wrote it, there is no room for the copy, or it can't be read or written.
    """
    todo = planned(path)
    if todo is None:
        return None
    with _as_store(path), contextlib.closing(connect_to_write(path)) as connection:
        # From here on no other program writes, so the copy has all that there is.
        connection.execute(QUERIES["begin"])
        if _version(connection) == todo.found:
            copy(path, todo.copy)
            for number in range(todo.found + 1, todo.wanted + 1):
                for statement in statements(MIGRATIONS[number]):
                    connection.execute(statement)
        connection.execute(QUERIES["commit"])
    for older in path.parent.glob(f"{path.name}.schema-*"):
        if older != todo.copy:  # one copy is enough to go back one step
            older.unlink(missing_ok=True)
    return todo


def copy(path: Path, to: Path) -> None:
    """
    Copy a file as of one moment, whoever writes to it meanwhile; whole and on the disk when this returns.

    Raises:
        ConfigError: there is no room for it, or it can't be read or written.
    """
    size = sum(one.stat().st_size for one in (path, path.with_name(f"{path.name}-wal")) if one.exists())
    room = shutil.disk_usage(to.parent).free
    if room < size + SPARE_BYTES:
        raise ConfigError(
            f"{to.parent}: has {room // 1_048_576} MiB left, and a copy of {path.name} needs {size // 1_048_576 + 16}; "
            "nothing was changed. Make room, and try again"
        )
    new = to.with_name(f"{to.name}.new")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with (
        _as_store(path),
        contextlib.closing(connect_to_read(path)) as source,
        contextlib.closing(sqlite3.connect(new)) as target,
    ):
        source.backup(target)
    _sync(new)
    os.replace(new, to)
    _sync(to.parent)


@contextlib.contextmanager
def _as_store(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise ConfigError(f"{path}: can't be opened as the broker's store: {exc}") from exc


def _version(connection: sqlite3.Connection) -> int:
    found: int = connection.execute(QUERIES["schema_version"]).fetchone()[0]
    return found


def _refuse_later(path: Path, found: int) -> None:
    if found > SCHEMA_VERSION:
        raise ConfigError(
            f"{path}: written by a later release (schema {found}; this is {RELEASE}, which knows {SCHEMA_VERSION}); "
            "start that release, or restore a backup made by this one"
        )


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows can't, and keeps names itself
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
