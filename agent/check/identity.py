"""Who this agent is: its certificate, and its own keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from agent.app import state_dir
from agent.check.remedies import not_tried
from agent.check.secrets import STORE
from agent.connectors.base import Finding
from agent.errors import AgentError
from agent.identity.held import ENROL, Identity
from agent.identity.keys import open_keys, public_keys
from agent.identity.own_identity import find, load_any
from agent.identity.validity import Life, left_text
from protocol.signing import fingerprint

if TYPE_CHECKING:
    from agent.check.stages import Sight
    from agent.secrets import SecretStore

SUBJECT: Final = "identity"


async def look(sight: Sight) -> AsyncIterator[Finding]:
    """Look at certificate and keys; nothing is made."""
    if sight.secrets is None:
        yield not_tried(SUBJECT, STORE)
        return
    try:
        if await asyncio.to_thread(find, sight.loaded) is None:
            fix = ENROL.removeprefix("run: ")
            yield Finding(SUBJECT, False, "this agent has no certificate yet", fix, code="identity.none")
            return
        who = await asyncio.to_thread(load_any, sight.loaded, sight.secrets)
    except AgentError as exc:
        yield Finding(SUBJECT, False, str(exc), code="identity.unusable")
        return
    yield certificate(who, time.time())
    yield await asyncio.to_thread(_keys, sight, sight.secrets)


def _keys(sight: Sight, secrets: SecretStore) -> Finding:
    folder = state_dir(sight.loaded)
    try:
        if public_keys(folder) is None:
            return Finding("keys", None, "the agent's own keys are made when it starts first")
        keys = open_keys(folder, secrets)
    except AgentError as exc:
        return Finding("keys", False, str(exc), code="identity.keys")
    return Finding(
        "keys", True, f"signs with {keys.public['sign']}, of the fingerprint {fingerprint(keys.public['sign'])}"
    )


def certificate(who: Identity, now: float) -> Finding:
    """Return what is to be said of a certificate's remaining life; ``now`` in seconds since 1970."""
    life = Life(who.obtained_at, who.not_after)
    until = datetime.fromtimestamp(who.not_after, UTC).strftime("%Y-%m-%d %H:%M UTC")
    detail = f"{who.agent} of {who.tenant}; the certificate {left_text(who.not_after, now)}, until {until}"
    renewed = f"put a renewed certificate into {who.certificate}" if who.own else "start the agent: it renews by itself"
    if now >= who.not_after:
        wrong_clock = "" if life.over(now) else "; it had when it came: is this machine's clock right?"
        return Finding(SUBJECT, False, detail + wrong_clock, renewed, code="identity.over")
    return Finding(SUBJECT, True if life.warning(now) is None else None, detail, renewed)
