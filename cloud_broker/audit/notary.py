"""Acts that others can make happen as often as they like: some of them are noted, the others counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from cloud_broker.audit.trail import Act

WINDOW_S: Final = 60.0  # seconds
ALIKE: Final = 5  # acts in a window that do the same to the same
OF_STRANGERS: Final = 60  # refusals in a window in one chain, whatever names a stranger makes up
MAX_WHY_CHARS: Final = 200  # of a reason


class Notary:
    """
    Notes in the audit trail what nobody waits for, without letting anybody fill the disk with it.

    Args:
        note_soon: as the store's.
        clock: seconds on any scale.
        now: seconds since 1970.
    """

    def __init__(
        self,
        note_soon: Callable[[Act], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._note_soon = note_soon
        self._clock = clock
        self._now = now
        self._until = 0.0  # when the window ends
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._left_out: Counter[tuple[str, str]] = Counter()

    def refused(self, tenant: str, action: str, target: str, why: str, address: str = "") -> None:
        """
        Note that somebody was not let in.

        Args:
            tenant: whose key, token or agent it was; ``BROKER`` where that is not known.
            action: ``login_refused``, ``token_refused`` or ``agent_refused``.
            target: ``key:ID``, ``token:ID``, ``agent:NAME``, or "" where it is none that is known here.
            why: without anything secret that was shown.
            address: where from.
        """
        detail = {"why": why[:MAX_WHY_CHARS], **({"address": address} if address else {})}
        self._note(Act(tenant, "broker", action, target, self._now(), detail=detail), OF_STRANGERS)

    def note(self, act: Act) -> None:
        """Note an act of somebody who is known here, or count it if there were many that did the same to the same."""
        self._note(act, None)

    def _note(self, act: Act, most: int | None) -> None:
        if self._clock() >= self._until:
            self.flush()
        kind = (act.tenant, act.action)
        alike = (*kind, act.target)
        if self._counts[alike] >= ALIKE or (most is not None and self._counts[kind] >= most):
            self._left_out[kind] += 1
            return
        self._counts[kind] += 1
        self._counts[alike] += 1
        if left_out := self._left_out.pop(kind, 0):
            act = msgspec.structs.replace(act, detail={**act.detail, "left_out": left_out})
        self._note_soon(act)

    def flush(self) -> None:
        """Begin another window; say how many were left out in the last one."""
        self._until = self._clock() + WINDOW_S
        self._counts.clear()
        left, self._left_out = self._left_out, Counter()
        for (tenant, action), count in left.items():
            self._note_soon(Act(tenant, "broker", action, "", self._now(), detail={"left_out": count}))
