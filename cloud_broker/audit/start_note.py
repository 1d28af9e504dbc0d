"""What the broker notes of its own start and stop: with which settings it ran, without their secrets."""

from __future__ import annotations

import re
from typing import Any, Final

from cloud_broker import RELEASE
from cloud_broker.audit.trail import BROKER, Act
from cloud_broker.settings import Settings
from cloud_broker.store.schema import Migration

_USER: Final = re.compile(r"(?<=://)[^/@\s]*@")  # of an address, where a password stands
_OF_A_SECRET: Final = re.compile(r"secret|password|passphrase|token", re.IGNORECASE)


def started(settings: Settings, now: float) -> Act:
    """Return the note of a start."""
    return Act(BROKER, "broker", "broker_started", "", now, detail={"release": RELEASE, "settings": facts(settings)})


def migrated(migration: Migration, by: str, now: float) -> Act:
    """Return the note of a store that was brought forward."""
    return Act(BROKER, by, "store_migrated", "", now, detail={"from": migration.found, "to": migration.wanted})


def stopped(now: float) -> Act:
    """Return the note of a stop."""
    return Act(BROKER, "broker", "broker_stopped", "", now)


def facts(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON without fractions, and without what may be secret."""
    return {name: _plain(name, value) for name, value in settings.model_dump(mode="json").items()}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, inner) for inner in value]
    if isinstance(value, str):
        return "…" if _OF_A_SECRET.search(name) and value else _USER.sub("…@", value)
    # A fraction is written in other ways by other programs, and the hash would be another.
    return repr(value) if isinstance(value, float) else value
