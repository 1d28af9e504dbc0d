"""Time that is up: commands that nobody took or that nobody tells the end of."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from cloud_broker.lines import Entry, Line
from cloud_broker.settlement import SILENT_S, STOP_S, Decision, doubt, ended, gave_up, lost, silent, unheard
from cloud_broker.store.commands import Command, Finish
from protocol import limits
from protocol.messages import Cancel
from protocol.states import PHASES, CommandState

SWEEP_S: Final = 0.5  # seconds between two looks at what has expired
# Seconds past its deadline that an agent has to come back and tell what became of what it was sent: a deadline
# forbids to begin, and a ledger that tells is better than a person who has to look.
AWAY_S: Final = 600.0
SPARE: Final = 1_000  # commands that have ended and are not worth looking for


class Deadlines:
    """
    Looks after the time of every open command.

    Args:
        entries: the open commands, by id.
        working: agents with commands under way.
        end: writes a final state.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        working: Iterable[Line],
        now: Callable[[], float],
        end: Callable[[Entry, Finish], None],
    ) -> None:
        self._entries = entries
        self._working = working
        self._now = now
        self._end = end
        self._expiry: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._expiry)

    def watch(self, command: Command) -> None:
        """Look at a command again when its time is up."""
        heapq.heappush(self._expiry, (command.expires_at, command.id))

    async def sweep(self) -> None:
        """Look now and then, for good."""
        while True:
            now = self._now()
            self._expire(now)
            self._give_up_silent(now)
            await asyncio.sleep(SWEEP_S)

    def _expire(self, now: float) -> None:
        while self._expiry and self._expiry[0][0] <= now:
            _, command_id = heapq.heappop(self._expiry)
            entry = self._entries.get(command_id)
            if entry is None or entry.finishing:
                # One that is tried again after all is watched again.
                continue
            if entry.line is None:
                self._end(entry, ended(CommandState.EXPIRED, now, entry.command.error))
            elif entry.line.link is None:
                patience = entry.command.expires_at + AWAY_S
                if not entry.sent:
                    self._end(entry, ended(CommandState.EXPIRED, now))
                elif lost(entry.command) is Decision.AGAIN:
                    self._end(entry, unheard(now))
                elif now >= patience:
                    lost_agent = entry.line.agent if entry.command.group is not None else ""
                    self._end(entry, doubt(now, False, lost_agent, entry.unsettled))
                else:
                    heapq.heappush(self._expiry, (patience, command_id))
            else:
                # Under way: the agent ends it by the operation's own timeout. Look again later.
                heapq.heappush(self._expiry, (now + limits.SILENCE_S, command_id))
        if len(self._expiry) > 2 * len(self._entries) + SPARE:
            # Most commands end long before their time is up, and one that is tried again is watched again.
            self._expiry = list({item for item in self._expiry if item[1] in self._entries})
            heapq.heapify(self._expiry)

    def _give_up_silent(self, now: float) -> None:
        """End what an agent that is there never tells the end of; ask it to stop that first."""
        clock = time.monotonic()
        for line in list(self._working):
            link = line.link
            if link is None or not link.open:
                continue
            for entry in list(line.flying.values()):
                command, quiet_s = entry.command, clock - entry.heard_at
                if entry.finishing or not entry.sent or quiet_s < SILENT_S:
                    continue
                operation = line.catalogue.operations.get(command.operation) if line.catalogue else None
                timeout_s = operation.timeout_s if operation is not None else 0.0
                if not silent(command, timeout_s, quiet_s, now):
                    continue
                if not entry.told_to_stop and Cancel in PHASES[link.phase(command.id)]:
                    entry.told_to_stop = True
                    link.say(Cancel(command.id, command.epoch))
                elif silent(command, timeout_s, quiet_s - STOP_S, now - STOP_S):
                    self._end(entry, gave_up(command, now))
