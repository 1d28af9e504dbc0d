"""Which store the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cloud_broker.settings import ConfigError, Settings
from cloud_broker.store.base import Store
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
