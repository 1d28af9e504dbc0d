"""How long to wait before the broker is dialled again."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final

BASE_S: Final = 1.0  # seconds; the first wait is below it
CAP_S: Final = 60.0  # seconds; an operator who repaired a line sees the agent back within a minute
REFUSED_CAP_S: Final = 900.0  # seconds; a refusal is only cured by a person
RETRY_AFTER_CAP_S: Final = 3_600.0  # seconds; a broker's slip must not send an agent away for good
FLOOR_CAP_S: Final = 900.0  # seconds; no kind of trouble keeps an agent away for longer by itself
SPREAD: Final = 0.2  # agents told the same Retry-After come back within this part of it, before and after
_MOST_TRIES: Final = 16  # 2^16 s is beyond every cap; a larger exponent overflows in the end


class Backoff:
    """
    Draws waits, without end: there is no number of tries after which it gives up.

    Each wait is drawn from [0, ceiling); the ceiling doubles from BASE_S to CAP_S. Drawing from the
    whole range ("full jitter") keeps thousands of agents from dialling at the same moment. The ceiling falls
    back only after a link that stayed up past a grace time, itself drawn: without it, a link that comes up and
    dies at once would be dialled every second.

    Attributes:
        tries: how often in a row it failed.

    Source:
        Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; the grace is cloudflared's.
    """

    def __init__(self, rng: Callable[[], float] = random.random) -> None:
        self._rng = rng
        self.tries = 0

    def next_delay(
        self, up_s: float = 0.0, *, refused: bool = False, retry_after_s: float = 0.0, floor_s: float = 0.0
    ) -> float:
        """
        Return the seconds to wait after one more try has ended.

        Args:
            up_s: how long the link was up; 0 if it never was.
            refused: the broker or a proxy said no; then the ceiling goes on to REFUSED_CAP_S.
            retry_after_s: what the broker asked for; obeyed within SPREAD.
            floor_s: what passes at least; the draw comes on top.
        """
        if up_s > self._rng() * self._ceiling(2 * CAP_S, self.tries + 2) and up_s > 0:
            self.tries = 0
        ceiling = self._ceiling(REFUSED_CAP_S if refused else CAP_S, self.tries)
        self.tries += 1
        if math.isfinite(retry_after_s) and retry_after_s > 0:
            return min(retry_after_s, RETRY_AFTER_CAP_S) * (1 - SPREAD + 2 * SPREAD * self._rng())
        return min(floor_s, FLOOR_CAP_S) + self._rng() * ceiling

    @staticmethod
    def _ceiling(cap_s: float, doublings: int) -> float:
        return min(cap_s, BASE_S * 2.0 ** min(doublings, _MOST_TRIES))
