"""
Byte credits: how much of a result may be on its way.

The receiver grants bytes for each command and for the link as a whole, as it has *stored* what
came, not as it has read it. The sender never sends a chunk that either window does not cover,
so no queue between an ERP and a broker's disk can grow without bound.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Window:
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
