"""The wall between tenants: a Scope, without which no store call about a tenant's things works."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")  # tenants, agents and groups

SCOPES: Final = (
    "commands:write",
    "commands:read",
    "agents:read",
    "agents:write",
    "dead-letters:write",
    "events:read",
    "business:write",
    "mappings:write",
    "mappings:approve",
    "audit:read",
    "tenant:admin",
    "*",
)


@dataclass(frozen=True, slots=True)
class Scope:
    """
    Whose things a call is about.

    Attributes:
        tenant: decided by the caller's key or the agent's certificate, never by what a request says.
    """

    tenant: str
