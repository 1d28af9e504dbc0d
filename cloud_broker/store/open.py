"""Which store the settings name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cloud_broker.settings import ConfigError, Settings
from cloud_broker.store import schema
from cloud_broker.store.base import Store
from cloud_broker.store.schema import Migration
from cloud_broker.store.sqlite import SqliteStore

STORES: Final[dict[str, Callable[[Settings], Store]]] = {
    "sqlite": lambda settings: SqliteStore(settings.store_file),
}


def open_store(settings: Settings) -> Store:
    """
    Return the store of these settings, to be opened.

    Raises:
        ConfigError: this release has no such store.
    """
    make = STORES.get(settings.store)
    if make is None:
        raise ConfigError(f"store = {settings.store!r}: comes with a later release; use one of {', '.join(STORES)}")
    return make(settings)


def migration(settings: Settings, *, do: bool) -> Migration | None:
    """
    Return what brings the store of an earlier release forward, ``None`` if nothing is to be done.

    Args:
        do: also do it; a copy of the store as it was is kept beside it.

    Raises:
        ConfigError: a later release wrote it, there is no room for the copy, or it can't be read or written.
    """
    return schema.migrate(settings.store_file) if do else schema.planned(settings.store_file)


def copy_store(settings: Settings, folder: Path) -> Path:
    """
    Copy the store as of one moment, whoever writes to it meanwhile, into a folder; return the copy.

    Raises:
        ConfigError: there is no room for it, or it can't be read or written.
    """
    copy = folder / settings.store_file.name
    schema.copy(settings.store_file, copy)
    return copy
