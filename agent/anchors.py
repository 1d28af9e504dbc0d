"""
What ties the agent's journal and the broker's audit trail together: each keeps where the other's chain stood.

Then neither can be cut at its end or written anew without the other one showing it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Final

from agent.journal.base import Anchor, Journal

log = logging.getLogger(__name__)

TELL_S: Final = 60.0  # seconds between two words to the broker about the journal's head, at least
KEEP_S: Final = 50.0  # seconds between two anchors that are kept; less than what a broker leaves between its words
_TOLD: Final = re.compile(r"(\d{1,15}):([0-9a-f]{64})")


class Anchors:
    """
    What one agent tells of its journal, and keeps of the broker's audit trail.

    Args:
        journal: just opened: how it stood then is what the first broker hears. What is written from then on must not
            hide that it had been put back.
        clock: seconds on any scale.
        now: seconds since 1970.
        tenant: returns whose agent this is as it knows it itself, or "": under another name a broker could hide that it
            tells another chain than before.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        tenant: Callable[[], str] = lambda: "",
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._now = now
        self._opened: tuple[int, str] | None = journal.stand()
        self._own_tenant = tenant
        self._tenant = ""
        self._told = self._opened
        self._told_at = -TELL_S
        self._kept_at = -KEEP_S

    def greeting(self) -> tuple[int, str]:
        """Return position and head of the journal for Hello."""
        stand = self._opened or self._journal.stand()
        self._told, self._told_at = stand, self._clock()
        return stand

    def welcomed(self, tenant: str, audit: str) -> None:
        """The broker has heard the greeting, and told where the tenant's audit trail stands."""
        self._opened = None
        self._tenant = self._own_tenant() or tenant
        self.heard(audit)

    def to_tell(self) -> str:
        """Return ``POSITION:HASH`` if the broker is to hear it now, else ""."""
        stand = self._journal.stand()
        if stand == self._told or self._clock() < self._told_at + TELL_S:
            return ""
        self._told, self._told_at = stand, self._clock()
        return f"{stand[0]}:{stand[1]}"

    def heard(self, audit: str) -> None:
        """Keep where the broker's audit trail stands, as ``NUMBER:HASH``; once a minute at most, and if it changed."""
        told = _TOLD.fullmatch(audit)
        if told is None or self._clock() < self._kept_at + KEEP_S:
            return
        anchor = Anchor(self._tenant, int(told[1]), told[2], self._now())
        last = next((one for one in reversed(self._journal.anchors()) if one.tenant == self._tenant), None)
        if last is not None and (last.number, last.hash) == (anchor.number, anchor.hash):
            return
        self._kept_at = self._clock()
        if last is not None and anchor.number <= last.number:
            log.error(
                "the broker's audit trail is not what it was: it had %d records, and now has %d%s; ask whoever runs "
                "the broker, and keep what `outhaul-agent journal anchors` prints",
                last.number,
                anchor.number,
                " with another hash" if anchor.number == last.number else "",
                extra={"event": "audit_misfit", "had": last.number, "has": anchor.number},
            )
        self._journal.anchor(anchor)
