"""The stages in their order, and the loop through them."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from agent import config_file, logs
from agent.app import connectors
from agent.check import clock, folder, identity, network, sources
from agent.check import secrets as kept
from agent.check.remedies import not_tried, with_remedy
from agent.config_file import Loaded
from agent.connectors.base import Connector, Finding
from agent.errors import ConfigError
from agent.secrets import SecretStore

Look = Callable[["Sight"], AsyncIterator[Finding]]


@dataclass(slots=True)
class Sight:
    """
    What stages look at, and what earlier ones found.

    Attributes:
        loaded: the operator's file.
        operation: the only one that is asked about, with what it needs; ``None`` for all.
        secrets: ``None`` until the store is open.
        failed: subjects of what failed.
    """

    loaded: Loaded
    operation: str | None = None
    secrets: SecretStore | None = None
    failed: list[str] = field(default_factory=list)
    _connectors: dict[str, Connector] | None = None

    def first_failed(self, *needed: str) -> str | None:
        """Return which of these subjects failed first, if any did."""
        return next((subject for subject in self.failed if subject in needed), None)

    @property
    def connectors(self) -> dict[str, Connector]:
        """One for each connection of the file; closed at the end of the check."""
        if self._connectors is None:
            self._connectors = connectors(self.loaded, self.secrets)
        return self._connectors

    async def close(self) -> None:
        """End what was opened."""
        for connector in (self._connectors or {}).values():
            await connector.close()


async def _network(sight: Sight) -> AsyncIterator[Finding]:
    if first := sight.first_failed(kept.STORE, identity.SUBJECT):
        for stage in network.STAGES:
            yield not_tried(stage, first, stage=stage)
        return
    async for finding in network.network(sight.loaded, sight.secrets):
        yield finding


@dataclass(frozen=True, slots=True)
class Stage:
    """
    Attributes:
        look: yields what it finds.
        whole: whether it is left out where one operation is asked about.
    """

    name: str
    look: Look
    whole: bool = False


STAGES: Final = (
    Stage("clock", clock.look, whole=True),
    Stage("state", folder.look, whole=True),
    Stage("secrets", kept.look),
    Stage("identity", identity.look, whole=True),
    Stage("network", _network, whole=True),
    Stage("connections", sources.connections),
    Stage("operations", sources.operations),
)
FILE: Final = "file"
REACHING: Final = frozenset(network.STAGES) - {identity.SUBJECT}  # those whose failure means: the broker isn't reached


async def everything(path: Path, operation: str | None = None) -> AsyncIterator[Finding]:
    """
    Try every part, or one operation and what it needs, and yield what is found as it is found.

    Args:
        path: of the operator's file.
    """
    began = time.monotonic()
    try:
        loaded = config_file.load(path)
        if operation is not None and operation not in loaded.settings.operations:
            raise ConfigError(
                f"{path}: no operation {operation!r}; there are {', '.join(loaded.settings.operations) or 'none'}"
            )
    except ConfigError as exc:
        yield with_remedy(Finding(f"file {path}", False, str(exc), code="file.broken", stage=FILE))
        for stage in STAGES:
            yield not_tried(stage.name, FILE, stage=stage.name)
        return
    logs.set_up(loaded.settings.log)
    # What the agent would log of a connection that it can't use stands among the findings.
    logging.getLogger("agent.app").setLevel(logging.CRITICAL)
    yield Finding(f"file {path}", True, _counts(loaded), stage=FILE, seconds=time.monotonic() - began)
    for remark in loaded.remarks:
        yield Finding(f"file {path}", None, remark, stage=FILE)
    sight = Sight(loaded, operation)
    try:
        for stage in STAGES:
            if operation is None or not stage.whole:
                async for finding in _one(stage, sight):
                    yield finding
    finally:
        await sight.close()


async def _one(stage: Stage, sight: Sight) -> AsyncIterator[Finding]:
    since = time.monotonic()
    async for found in stage.look(sight):
        now = time.monotonic()
        finding = msgspec.structs.replace(
            found,
            stage=found.stage or stage.name,
            seconds=now - since if found.seconds is None else found.seconds,
        )
        if finding.ok is False:
            sight.failed.append(finding.subject)
        yield with_remedy(finding)
        since = time.monotonic()


def _counts(loaded: Loaded) -> str:
    settings = loaded.settings
    counted = ((len(settings.connections), "connection"), (len(settings.operations), "operation"))
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counted)
