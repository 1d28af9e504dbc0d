"""``outhaul-agent check``: every part tried, in the order in which they need each other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime

from agent.app import connectors, state_dir
from agent.config_file import Loaded
from agent.connectors.base import Finding
from agent.errors import AgentError, SecretError
from agent.identity.held import ENROL, Identity
from agent.identity.keys import open_keys, public_keys
from agent.identity.own_identity import find, load_any
from agent.identity.validity import Life, left_text
from agent.link.websocket import WebsocketDialer
from agent.secrets import SecretStore, open_store, secret_names
from protocol.signing import fingerprint


async def everything(loaded: Loaded, operation: str | None) -> list[Finding]:
    """Return what was found about every part, or about one operation and its connection."""
    findings = [Finding(f"file {loaded.path}", True, f"{len(loaded.settings.operations)} operations")]
    findings += [Finding(f"file {loaded.path}", None, remark) for remark in loaded.remarks]
    try:
        secrets = await asyncio.to_thread(open_store, loaded.settings, loaded.base_dir)
        findings += await asyncio.to_thread(_secrets, loaded, secrets)
    except SecretError as exc:
        return [*findings, Finding("secrets", False, str(exc))]
    if operation is None:
        findings += await _link(loaded, secrets)
    findings += await _connections(loaded, secrets, operation)
    return findings


def _secrets(loaded: Loaded, secrets: SecretStore) -> list[Finding]:
    return [
        Finding(f"secret {name}", True, "is kept")
        if secrets.get(name) is not None
        else Finding(f"secret {name}", False, "is missing", f"outhaul-agent secret set {name}")
        for name in sorted(secret_names(loaded.settings))
    ]


async def _link(loaded: Loaded, secrets: SecretStore) -> list[Finding]:
    try:
        if await asyncio.to_thread(find, loaded) is None:
            return [Finding("identity", False, "this agent has no certificate yet", ENROL.removeprefix("run: "))]
        who = await asyncio.to_thread(load_any, loaded, secrets)
    except AgentError as exc:
        return [Finding("identity", False, str(exc))]
    findings = [certificate(who, time.time()), await asyncio.to_thread(_keys, loaded, secrets)]
    dialer = WebsocketDialer(state_dir(loaded), loaded.settings.link.proxy, secrets)
    try:
        transport = await dialer.connect_as(who)
    except AgentError as exc:
        return [*findings, Finding("link", False, str(exc))]
    peer = transport.peer
    await transport.close()
    proxy = f", by {peer.proxy}" if peer.proxy else ""
    return [*findings, Finding("link", True, f"{peer.url} at {peer.address}, {peer.tls}{proxy}")]


def _keys(loaded: Loaded, secrets: SecretStore) -> Finding:
    """Look at the agent's own keys; none are made here."""
    try:
        if public_keys(state_dir(loaded)) is None:
            return Finding("keys", None, "the agent's own keys are made when it starts first")
        keys = open_keys(state_dir(loaded), secrets)
    except AgentError as exc:
        return Finding("keys", False, str(exc))
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
        return Finding("identity", False, detail + wrong_clock, renewed)
    return Finding("identity", True if life.warning(now) is None else None, detail, renewed)


async def _connections(loaded: Loaded, secrets: SecretStore, operation: str | None) -> list[Finding]:
    findings: list[Finding] = []
    made = connectors(loaded, secrets)
    try:
        for name, connector in made.items():
            if operation is None:
                # The connection, and each operation on it.
                findings += await connector.check() or [Finding(f"connection {name}", True, "needs nothing")]
            elif loaded.settings.operations[operation].connection == name:
                findings += await connector.check(operation) or [
                    Finding(f"operation {operation}", True, "needs nothing")
                ]
    finally:
        for connector in made.values():
            with contextlib.suppress(AgentError):
                await connector.close()
    return findings
