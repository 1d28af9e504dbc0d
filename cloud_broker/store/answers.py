"""What a store answers besides what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list; ``next`` goes into the call for the following part, ``None`` at the end."""

    items: Sequence[Any] = field(default_factory=tuple)
    next: str | None = None


class IdempotencyConflict(Exception):
    """The idempotency key was used before, with another request."""


class Exists(Exception):
    """Something of this name is there already."""
