"""Tokens that let one agent enrol, once."""

from __future__ import annotations

import os
import time
from typing import Final

from cloud_broker.identity import enrolment
from cloud_broker.identity.trust import Trust
from cloud_broker.settings import Settings
from cloud_broker.store.base import Store
from cloud_broker.store.tenants import Token
from protocol.ids import new_id

DEFAULT_TTL_S: Final = 3_600.0  # seconds; long enough to walk to the machine
MAX_TTL_S: Final = 30 * 86_400.0  # seconds; a token that lies around longer is a risk without a use


async def new_token(
    store: Store, trust: Trust, settings: Settings, tenant: str, agent: str, group: str | None, ttl_s: float, by: str
) -> tuple[str, float]:
    """
    Keep a new token; return its text, which is shown once, and when it expires.

    Args:
        group: of the agent that enrols with it.
        ttl_s: seconds that it is valid.
        by: who asks, for the audit trail.
    """
    now = time.time()
    text, sha256 = enrolment.new_token(settings.link.url, tenant, agent, trust.for_tokens)
    token = Token(new_id("tok", int(now * 1000), os.urandom), tenant, agent, group, now, now + ttl_s)
    await store.add_token(token, sha256, by=by)
    return text, token.expires_at
