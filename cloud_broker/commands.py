"""Commands from submission to the caller's answer: the API's side of the path."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Submission:
    """
    What a caller asks for.

    Attributes:
        agent: by name; exactly one of agent and group.
        params: JSON bytes of an object.
        ttl_s: seconds until it may not start any more.
    """

    operation: str
    params: bytes
    agent: str | None = None
    group: str | None = None
    ttl_s: float = 3600.0
    correlation_id: str = ""
    idempotency_key: str | None = None
    ordering_key: str | None = None
    priority: int = 0
    traceparent: str = ""
    key_id: str = ""
