"""Whether another release came up, judged from what the agent says of itself; a pure decision for each look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from agent.status import STALE_S, Status

CRASHES: Final = 3  # processes that ended and were started again, after which a release is given up
BEGUN_S: Final = 1.0  # seconds by which a process may say that it began before it was started: clocks are no finer


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    How a trial ended.

    Attributes:
        up: whether the release may stay.
        why: for people, if it may not.
    """

    up: bool
    why: str = ""


@dataclass(slots=True)
class Trial:
    """
    A release on trial.

    Attributes:
        release: which one.
        since: when it was started, seconds since 1970.
        linked_before: whether the one before it was linked; if it was not, running is enough.
        grace_s: seconds that it has to come up.
        steady_s: seconds that it has to stay up.
    """

    release: str
    since: float
    linked_before: bool
    grace_s: float
    steady_s: float
    _pids: set[int] = field(default_factory=set)
    _up_since: float | None = None

    def judge(self, status: Status | None, now: float, *, runs: bool = True) -> Verdict | None:
        """
        Return the verdict, ``None`` while there is none.

        Args:
            status: as the agent wrote it last, also that of an earlier one.
            now: seconds since 1970.
            runs: whether an agent's process is there now, as what it wrote outlives it.
        """
        ours = status if status is not None and status.started_at >= self.since - BEGUN_S else None
        if ours is not None and ours.pid not in self._pids:
            self._pids.add(ours.pid)
            self._up_since = None
        if len(self._pids) > CRASHES:
            return Verdict(False, f"it ended {CRASHES} times within {now - self.since:.0f} s")
        answers = runs and ours is not None and ours.release == self.release and now - ours.at < STALE_S
        if answers and ours is not None and (ours.linked_since is not None or not self.linked_before):
            self._up_since = self._up_since or now
            return Verdict(True) if now - self._up_since >= self.steady_s else None
        self._up_since = None
        if now - self.since < self.grace_s:
            return None
        return Verdict(False, self._why(ours))

    def _why(self, status: Status | None) -> str:
        if status is None:
            return f"it did not start within {self.grace_s:.0f} s"
        if status.release != self.release:
            return f"{status.release} was started in its place: the service does not start what `current` leads to"
        if not self.linked_before:
            return f"it did not stay up within {self.grace_s:.0f} s"
        said = f": {status.link_error}" if status.link_error else ""
        return f"it was not linked within {self.grace_s:.0f} s, as the one before was{said}"
