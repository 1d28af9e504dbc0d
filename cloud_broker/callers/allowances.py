"""How much a tenant or an address may ask of the API: counted here, in pure functions of the time."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

from cloud_broker.errors import TooManyAtOnce, TooManyRequests

BURST_S: Final = 2.0  # seconds' worth of requests that may come at once
AT_ONCE_RETRY_S: Final = 1.0  # seconds; when one of the others ends is not known
MAX_NAMES: Final = 10_000  # tenants whose requests are counted, and addresses whose wrong keys are


@dataclass(slots=True)
class Bucket:
    """
    Room for ``size`` requests that fills again with ``rate_per_s``.

    Attributes:
        used: of the room, at ``at``.
    """

    rate_per_s: float
    size: float
    at: float
    used: float = 0.0

    def take(self, now: float) -> float:
        """Take one if there is room; return 0, or the seconds until there is."""
        self._fill(now)
        if self.used + 1 > self.size:
            return (self.used + 1 - self.size) / self.rate_per_s
        self.used += 1
        return 0.0

    def overdraw(self, count: int, now: float) -> float:
        """Take many whether there is room or not; return 0, or the seconds until there would have been."""
        self._fill(now)
        self.used += count
        return max(0.0, self.used - self.size) / self.rate_per_s

    def left(self) -> int:
        """Return how many there is room for."""
        return math.floor(self.size - self.used)

    def _fill(self, now: float) -> None:
        self.used = max(0.0, self.used - max(0.0, now - self.at) * self.rate_per_s)
        self.at = max(self.at, now)


class Buckets:
    """
    A bucket for each name. One that is full again is as good as none and is forgotten; of more than ``MAX_NAMES``,
    so is the one that nobody took from for longest.
    """

    def __init__(self, rate_per_s: float, size: float) -> None:
        self._rate_per_s = rate_per_s
        self._size = size
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()  # the one that was taken from last comes last

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, now: float) -> tuple[float, int]:
        """Take one of ``name``; return 0 or the seconds until there is room, and how many there is room for now."""
        bucket = self._last(name, now)
        wait_s = bucket.take(now)
        self._forget(now)
        return wait_s, bucket.left()

    def overdraw(self, name: str, count: int, now: float) -> float:
        """Take many of ``name`` as ``Bucket.overdraw`` does."""
        wait_s = self._last(name, now).overdraw(count, now)
        self._forget(now)
        return wait_s

    def _last(self, name: str, now: float) -> Bucket:
        bucket = self._buckets.pop(name, None) or Bucket(self._rate_per_s, self._size, now)
        self._buckets[name] = bucket
        return bucket

    def _forget(self, now: float) -> None:
        full_after_s = self._size / self._rate_per_s
        # One comes at a time, so two that may go keep the number down.
        for _ in range(2):
            name, oldest = next(iter(self._buckets.items()))
            if len(self._buckets) <= MAX_NAMES and now - oldest.at < full_after_s:
                return
            del self._buckets[name]


@dataclass(frozen=True, slots=True)
class Standing:
    """
    What is left of a tenant's rate.

    Attributes:
        size: requests that may come at once; ``window_s`` is how long it takes until so many may come again.
        left: how many may come now.
    """

    size: int
    window_s: float
    left: int


class Allowances:
    """
    What the tenants ask now and asked lately.

    Args:
        per_s: requests a second of one tenant; 0 for any number.
        at_once: requests of one tenant under way; 0 for any number.
        lines_per_s: commands a second of one tenant that come in bulk; 0 for any number.
    """

    def __init__(self, per_s: float, at_once: int, lines_per_s: float = 0.0) -> None:
        self._lines_per_s = lines_per_s
        self._lines = Buckets(lines_per_s, max(1.0, lines_per_s * BURST_S))
        self._per_s = per_s
        self._size = max(1.0, per_s * BURST_S)
        self._most = at_once
        self._buckets = Buckets(per_s, self._size)
        self._inside: Counter[str] = Counter()

    def enter(self, tenant: str, now: float) -> Standing | None:
        """
        Count a request, which ends with ``leave``; return what is left, or ``None`` without a rate.

        Raises:
            TooManyRequests, TooManyAtOnce: nothing was counted.
        """
        if self._most and self._inside[tenant] >= self._most:
            raise TooManyAtOnce(
                f"The tenant has {self._most} requests under way, and may have no more; wait for one of them.",
                retry_after_s=AT_ONCE_RETRY_S,
            )
        standing = self._counted(tenant, now) if self._per_s else None
        self._inside[tenant] += 1
        return standing

    def lines(self, tenant: str, count: int, now: float) -> float:
        """Count lines of a request in bulk; return 0, or the seconds that they have to wait."""
        return self._lines.overdraw(tenant, count, now) if self._lines_per_s else 0.0

    def leave(self, tenant: str) -> None:
        """A request has ended."""
        self._inside[tenant] -= 1
        if self._inside[tenant] <= 0:
            del self._inside[tenant]

    def _counted(self, tenant: str, now: float) -> Standing:
        wait_s, left = self._buckets.take(tenant, now)
        if wait_s > 0:
            raise TooManyRequests(
                f"The tenant may ask {self._per_s:g} times a second, and asked more often.", retry_after_s=wait_s
            )
        return Standing(int(self._size), self._size / self._per_s, left)


class WrongKeys:
    """
    Wrong keys by address, so that nobody tries them by the thousand; a good one is never counted or kept out.

    Args:
        per_min: of one address, and how many may come at once; 0 for any number.
    """

    def __init__(self, per_min: int) -> None:
        self._per_min = per_min
        self._seen = Buckets(per_min / 60, per_min)

    def note(self, address: str, now: float) -> float:
        """Count a wrong key; return 0, or the seconds until ``address`` may show another one."""
        if not self._per_min:
            return 0.0
        return self._seen.take(address, now)[0]
