"""Local systems: each connection opened, each operation tried against what is really there; nothing is run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from agent.check.remedies import not_tried
from agent.check.secrets import STORE
from agent.connectors.base import Finding
from agent.secrets.resolve import secret_names

if TYPE_CHECKING:
    from agent.check.stages import Sight


async def connections(sight: Sight) -> AsyncIterator[Finding]:
    """Try each connection, or that of the operation that is asked about."""
    settings = sight.loaded.settings
    asked = settings.operations[sight.operation].connection if sight.operation is not None else None
    for name, connection in settings.connections.items():
        if asked not in (None, name):
            continue
        subject = f"connection {name}"
        names = secret_names(connection)
        first = sight.first_failed(STORE, *(f"secret {one}" for one in names)) if names else None
        if first is not None:
            yield not_tried(subject, first)
            # What depends on it can't be tried either.
            sight.failed.append(subject)
            continue
        for finding in await sight.connectors[name].check() or [Finding(subject, True, "needs nothing")]:
            yield finding


async def operations(sight: Sight) -> AsyncIterator[Finding]:
    """Try each operation, or the one that is asked about."""
    for name, operation in sight.loaded.settings.operations.items():
        if sight.operation not in (None, name):
            continue
        if first := sight.first_failed(f"connection {operation.connection}"):
            yield not_tried(f"operation {name}", first)
            continue
        found = await sight.connectors[operation.connection].check(name)
        for finding in found or [Finding(f"operation {name}", True, "needs nothing")]:
            yield finding
