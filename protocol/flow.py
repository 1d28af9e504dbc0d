"""
How much may be on its way, and how often something may begin.

Byte credits: the receiver grants bytes for each command and for the link as a whole, as it has *stored* what
came, not as it has read it. The sender never sends a chunk that either window does not cover,
so no queue between an ERP and a broker's disk can grow without bound.
"""

from __future__ import annotations

import msgspec


class Window(msgspec.Struct):
    """
    Bytes that may still be sent, or may still come.

    Attributes:
        left: bytes; never negative.
    """

    left: int

    def covers(self, size: int) -> bool:
        """Whether ``size`` bytes may be sent now."""
        return size <= self.left

    def take(self, size: int) -> None:
        """Count ``size`` bytes as sent; they must be covered."""
        if size > self.left:
            raise ValueError(f"{size} bytes in a window of {self.left}")
        self.left -= size

    def give(self, size: int) -> None:
        """Count ``size`` bytes as granted."""
        self.left += size


class Bucket:
    """
    Commands per second, with up to a second's worth at once.

    Source:
        Token bucket, as in RFC 2697 without the second bucket.
    """

    def __init__(self, per_second: float, now: float) -> None:
        self.per_second = per_second
        self._most = max(1.0, per_second)
        self._tokens = self._most
        self._at = now

    def wait(self, now: float) -> float:
        """Return seconds until there is a token: 0.0 if there is one."""
        self._tokens = min(self._most, self._tokens + max(0.0, now - self._at) * self.per_second)
        self._at = now
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self.per_second

    def take(self, now: float) -> float:
        """Take a token if there is one and return 0.0; else return seconds until there will be one."""
        wait = self.wait(now)
        if wait == 0.0:
            self._tokens -= 1.0
        return wait
