"""
What ties the audit trail and the agents' journals together: each keeps where the other's chain stood.

Then neither can be cut at its end or written anew without the other one showing it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from cloud_broker.audit.notary import Notary
from cloud_broker.audit.trail import Act
from cloud_broker.errors import StoreUnavailable
from cloud_broker.link.base import Peer
from cloud_broker.link.conversation import Conversation
from cloud_broker.store.base import Store
from protocol.messages import Beat, Completed

log = logging.getLogger(__name__)

TELL_S: Final = 60.0  # seconds between two words to an agent about the audit trail
KEEP_S: Final = 50.0  # seconds between two anchors of one journal; less than what an agent leaves between its words
TOLD_AT_ONCE: Final = 20  # agents, between two of which nothing else gets its turn
HEAD: Final = re.compile(r"[0-9a-f]{64}")
_TOLD: Final = re.compile(r"(\d{1,15}):([0-9a-f]{64})")


@dataclass(slots=True)
class _Journal:
    """Where one agent's journal stood, as last heard; ``noted`` and ``noted_at`` are of the last note of it."""

    mark: str
    position: int
    head: str
    noted: tuple[str, int, str] | None = None
    noted_at: float = 0.0


def head_of(completed: Completed) -> str:
    """Return where the agent's journal stood when it told an end, as ``POSITION:HASH``, or "" if it did not tell."""
    return f"{completed.position}:{completed.head}" if HEAD.fullmatch(completed.head) else ""


def stands(number: int, digest: bytes) -> str:
    """Return where an audit trail stands, as ``NUMBER:HASH``, or "" if nothing is in it."""
    return f"{number}:{digest.hex()}" if number else ""


class Anchors:
    """
    Where agents' journals stand, as they say, and what they hear of the audit trail.

    Args:
        clock: seconds on any scale.
        now: seconds since 1970.
    """

    def __init__(
        self,
        store: Store,
        notary: Notary,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._notary = notary
        self._clock = clock
        self._now = now
        self._journals: dict[tuple[str, str], _Journal] = {}
        self._told: WeakKeyDictionary[Conversation, str] = WeakKeyDictionary()

    # --- what agents say ----------------------------------------------------------------------------

    def beat(self, peer: Peer, mark: str, told: str) -> None:
        """An agent said where its journal stands, as ``POSITION:HASH``."""
        if (match := _TOLD.fullmatch(told)) is not None:
            self.heard(peer, mark, int(match[1]), match[2])

    def heard(self, peer: Peer, mark: str, position: int, head: str, *, put_back: bool = False) -> None:
        """
        Note where an agent's journal stands, if it is new; once a minute at most, but at once if it is not what it was.

        Args:
            mark: of the journal.
            put_back: whether the journal is known to have had more records.
        """
        if not HEAD.fullmatch(head):
            return
        seen = self._journals.get((peer.tenant, peer.agent))
        if seen is None:
            seen = self._journals[peer.tenant, peer.agent] = _Journal(mark, position, head)
        same = seen.mark == mark
        rewritten = same and position == seen.position and head != seen.head
        if put_back or rewritten or (same and position < seen.position):
            had = f"{seen.position}:{seen.head}" if same and (seen.position, seen.head) != (position, head) else ""
            self._misfit(peer, mark, had, f"{position}:{head}")
            seen.noted, seen.noted_at = (mark, position, head), self._clock()
        elif seen.noted != (mark, position, head) and (
            seen.noted is None or not same or self._clock() >= seen.noted_at + KEEP_S
        ):
            detail = {"journal": mark, "position": position, "head": head}
            self._notary.note(self._act(peer, "journal_anchor", detail))
            seen.noted, seen.noted_at = (mark, position, head), self._clock()
        seen.mark, seen.position, seen.head = mark, position, head

    def _misfit(self, peer: Peer, mark: str, had: str, has: str) -> None:
        log.error(
            "%s/%s: its journal is not what it was: it stood at %s, and stands at %s now; it was put back, cut or "
            "written anew: see `outhaul-agent journal verify --against` there",
            peer.tenant,
            peer.agent,
            had or "a later record",
            has,
            extra={"event": "journal_misfit", "tenant": peer.tenant, "agent": peer.agent},
        )
        self._notary.note(self._act(peer, "journal_misfit", {"journal": mark, "had": had, "has": has}))

    def _act(self, peer: Peer, action: str, detail: dict[str, object]) -> Act:
        return Act(peer.tenant, f"agent:{peer.agent}", action, f"agent:{peer.agent}", self._now(), detail=detail)

    # --- what they hear -----------------------------------------------------------------------------

    async def head(self, tenant: str) -> str:
        """Return where a tenant's audit trail stands, as ``NUMBER:HASH``, or "" if it can't be read now."""
        try:
            return stands(*await self._store.audit_head(tenant))
        except StoreUnavailable:
            return ""

    async def tell(self, links: Iterable[Conversation]) -> None:
        """Tell those on ``links`` where their tenant's audit trail stands, unless they know."""
        heads: dict[str, str] = {}
        for number, link in enumerate(list(links)):
            if number % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)  # one round of the loop: ten thousand words at once would keep commands waiting
            tenant = link.peer.tenant
            if tenant not in heads:
                heads[tenant] = await self.head(tenant)
            if heads[tenant] and link.open and self._told.get(link) != heads[tenant]:
                self._told[link] = heads[tenant]
                link.say(Beat(time=self._now(), audit=heads[tenant]))
