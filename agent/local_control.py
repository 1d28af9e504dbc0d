"""What people at this machine say to a running agent, and what it tells them: files in ``state_dir``, no port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from agent import pauses, status
from agent.folder_watch import FolderWatch
from agent.pauses import Pause
from agent.status import Status

log = logging.getLogger(__name__)

BUSY_S: Final = 0.5  # seconds between two words about an agent that works, or that is not linked


class LocalControl:
    """Obeys ``outhaul-agent pause`` and ``resume``, and writes down what ``outhaul-agent status`` shows."""

    def __init__(
        self,
        state_dir: Path,
        connections: tuple[str, ...],
        obey: Callable[[Mapping[str, Pause]], None],
        how: Callable[[], Status],
    ) -> None:
        """
        Args:
            connections: all that the file has.
            obey: called at first, and whenever what is paused has changed.
            how: returns how the agent is.
        """
        self._state_dir = state_dir
        self._connections = connections
        self._obey = obey
        self._how = how
        self._said: tuple[Pause, ...] | None = None
        self._doubtful = False
        self._written: Status | None = None
        self._told_trouble = False
        self._watch = FolderWatch(state_dir / pauses.FOLDER)
        self._soon: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Have what changed just now written down; called for the beginning of a link, or its end."""
        self._watch.wake()

    def work_began(self) -> None:
        """Have it written down in a moment, not at once: nearly all commands are over by then."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(BUSY_S, self._look_now)

    def _look_now(self) -> None:
        self._soon = None
        self._watch.wake()

    async def look(self) -> None:
        """Obey what is said now."""
        said = await asyncio.to_thread(pauses.said, self._state_dir)
        # On Windows another program may hold a file for a moment: what can't be read is believed the second time.
        self._doubtful = self._said is not None and not self._doubtful and any(one.unreadable for one in said)
        if said == self._said or self._doubtful:
            return
        before, paused = self._said, pauses.in_force(said, self._connections)
        for one in said:
            if one not in (before or ()):
                log.warning(
                    "paused: %s",
                    one.connection or "all connections",
                    extra={"event": "paused", "by": one.by, "reason": one.reason, "stop": one.stop},
                )
        for one in before or ():
            if one.connection not in {other.connection for other in said}:
                log.warning("resumed: %s", one.connection or "all connections", extra={"event": "resumed"})
        self._obey(paused)
        self._said = said

    async def run(self) -> None:
        """Look, and write down how the agent is, until cancelled."""
        try:
            while True:
                try:
                    await self.look()
                    await self._write()
                except Exception:  # a mistake of ours must not keep all later pauses from being obeyed
                    log.exception("what is paused could not be looked at", extra={"event": "control_bug"})
                # The broker's beats come before that, and wake it.
                await self._watch.changed(2 * status.EVERY_S if self._rests() else BUSY_S)
        finally:
            if self._soon is not None:
                self._soon.cancel()
            self._watch.close()

    def _rests(self) -> bool:
        """Whether nothing changes that nobody tells: a link is up, and no command is here."""
        known = self._written
        return (
            known is not None
            and known.linked_since is not None
            and not self._doubtful
            and not any(one.running or one.held for one in known.connections.values())
        )

    async def _write(self) -> None:
        now, before = self._how(), self._written
        same = before is not None and msgspec.structs.replace(now, at=before.at) == before
        if before is not None and same and now.at - before.at < status.EVERY_S - BUSY_S:
            return
        try:
            await asyncio.to_thread(status.write, self._state_dir, now)
        except OSError as exc:
            # A full disk; commands have their own word for it.
            if not self._told_trouble:
                log.warning(
                    "%s: can't be written: %s", self._state_dir / status.NAME, exc, extra={"event": "no_status"}
                )
            self._told_trouble = True
            return
        self._written, self._told_trouble = now, False
