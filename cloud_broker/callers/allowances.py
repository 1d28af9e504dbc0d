"""How much a tenant or an address may ask of the API: counted here, in pure functions of the time."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

from cloud_broker.errors import TooManyAtOnce, TooManyRequests

BURST_S: Final = 2.0  # seconds' worth of requests that may come at once
AT_ONCE_RETRY_S: Final = 1.0  # seconds; when one of the others ends is not known
MAX_ADDRESSES: Final = 10_000  # whose wrong keys are counted


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

    def left(self) -> int:
        """Return how many there is room for."""
        return math.floor(self.size - self.used)

    def _fill(self, now: float) -> None:
        self.used = max(0.0, self.used - max(0.0, now - self.at) * self.rate_per_s)
        self.at = max(self.at, now)


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
    """

    def __init__(self, per_s: float, at_once: int) -> None:
        self._per_s = per_s
        self._most = at_once
        self._buckets: dict[str, Bucket] = {}  # one a tenant that is there: as many as the store has
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

    def leave(self, tenant: str) -> None:
        """A request has ended."""
        self._inside[tenant] -= 1
        if self._inside[tenant] <= 0:
            del self._inside[tenant]

    def _counted(self, tenant: str, now: float) -> Standing:
        size = max(1.0, self._per_s * BURST_S)
        bucket = self._buckets.get(tenant)
        if bucket is None:
            bucket = self._buckets[tenant] = Bucket(self._per_s, size, now)
        wait_s = bucket.take(now)
        if wait_s > 0:
            raise TooManyRequests(
                f"The tenant may ask {self._per_s:g} times a second, and asked more often.", retry_after_s=wait_s
            )
        return Standing(int(size), size / self._per_s, bucket.left())


class WrongKeys:
    """
    Wrong keys by address, so that nobody tries them by the thousand; a good one is never counted or kept out.

    Args:
        per_min: of one address, and how many may come at once; 0 for any number.
    """

    def __init__(self, per_min: int) -> None:
        self._per_min = per_min
        self._seen: OrderedDict[str, Bucket] = OrderedDict()

    def note(self, address: str, now: float) -> float:
        """Count a wrong key; return 0, or the seconds until ``address`` may show another one."""
        if not self._per_min:
            return 0.0
        bucket = self._seen.pop(address, None) or Bucket(self._per_min / 60, self._per_min, now)
        self._seen[address] = bucket
        if len(self._seen) > MAX_ADDRESSES:
            self._seen.popitem(last=False)
        return bucket.take(now)
