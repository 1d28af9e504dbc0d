"""The way to the broker: name, TCP, proxy, TLS, upgrade, identity, round trip, throughput."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from agent.check.remedies import not_tried
from agent.config_file import Loaded
from agent.connectors.base import Finding
from agent.errors import AgentError, LinkError
from agent.identity import held
from agent.identity.held import Identity
from agent.identity.own_identity import load_any
from agent.identity.validity import left_text
from agent.link.measure import Measured, NotMeasured, measure
from agent.link.proxy import Proxy
from agent.link.routes import Routes
from agent.link.trail import Trail
from agent.link.websocket import STAGES as DIALLED
from agent.link.websocket import WebsocketTransport, open_websocket
from agent.secrets import SecretStore
from protocol.measure import PATH, PROBE_BYTES

STAGES: Final = ("dns", "tcp", "proxy", "tls", "upgrade", "identity", "round trip", "throughput")
WORD_S: Final = 5.0  # seconds for the broker to say who it takes us for
SLOW_S: Final = 1.0  # seconds of a round trip from which on it is worth a word
# The stage of a dial that failed, as the check calls it.
_FAILED: Final = {
    "dns": "dns",
    "tcp": "tcp",
    "proxy": "proxy",
    "tls": "tls",
    "certificate": "identity",
    "http": "upgrade",
    "setup": "proxy",
}
# Some troubles belong to another stage: the broker's own no comes as an answer to the upgrade, and is about who we are.
_BLAMED: Final = {"refused": "identity", "proxy-unknown": "dns", "proxy-not-reached": "tcp"}


@dataclass(slots=True)
class Dial:
    """
    One way that was tried.

    Attributes:
        url: of the broker.
        proxy: on the way; ``None`` if there is none.
        error: why it failed; ``None`` if it did not.
    """

    url: str
    proxy: Proxy | None
    trail: Trail = field(default_factory=Trail)
    transport: WebsocketTransport | None = None
    error: LinkError | None = None


async def network(loaded: Loaded, secrets: SecretStore | None) -> AsyncIterator[Finding]:
    """
    Try the way to the broker, step by step.

    Yields findings whose ``stage`` is one of ``STAGES``; one that failed has a ``code`` of ``remedies.REMEDIES``, and
    where a step can't be tried because of an earlier one, ``remedies.not_tried`` says so. Only called once there is an
    identity. An agent may be linked with the same identity meanwhile: it must not be disturbed.

    Args:
        secrets: ``None`` if the store can't be opened.
    """
    if secrets is None:
        return
    routes = Routes.of(loaded.settings.link, loaded.base_dir)
    try:
        who = await asyncio.to_thread(load_any, loaded, secrets)
        context = await asyncio.to_thread(held.client_context, who)
        ways = await asyncio.to_thread(_ways, routes, who, secrets)
    except AgentError as exc:
        yield Finding("proxy", False, str(exc), stage="proxy", code="network.proxy-setting")
        for stage in STAGES:
            if stage != "proxy":
                yield not_tried(stage, "proxy", stage=stage)
        return
    async for finding in _tried(ways, who, context, routes.trust):
        yield finding


def _ways(routes: Routes, who: Identity, secrets: SecretStore) -> list[Dial]:
    return [Dial(url, proxy) for url in routes.addresses(who.url) for proxy in routes.proxies(url, secrets)]


async def _tried(
    ways: list[Dial], who: Identity, context: ssl.SSLContext, trust: Callable[[], ssl.SSLContext]
) -> AsyncIterator[Finding]:
    """Dial one way after the other until one answers; what is told is the one that came furthest."""
    for dial in ways:
        await _dial(dial, who, context, trust)
        if dial.transport is not None:
            break
    reached = [dial for dial in ways if dial.transport is not None]
    for dial in ways:
        if reached and dial.error is not None:
            yield Finding(_name(dial), None, f"does not answer: {dial.error}", stage=_stage(dial.error))
    best = reached[0] if reached else max(ways, key=_came_to)
    for finding in _steps(best, who):
        yield finding
    if best.transport is not None:
        async for finding in _on_the_link(best, who, context, trust):
            yield finding


async def _dial(dial: Dial, who: Identity, context: ssl.SSLContext, trust: Callable[[], ssl.SSLContext]) -> None:
    # At /prove: whoever comes to /link with the identity of an agent that runs would take its place.
    try:
        dial.transport = await open_websocket(
            dial.url,
            "/prove",
            context,
            dial.proxy,
            certificate_ends=who.not_after,
            known=trust,
            trail=dial.trail,
        )
    except LinkError as exc:
        dial.error = exc


def _name(dial: Dial) -> str:
    return f"{dial.url}{f' by {dial.proxy.shown}' if dial.proxy else ''}"


def _came_to(dial: Dial) -> int:
    stage = dial.error.stage if dial.error else "link"
    return DIALLED.index(stage) if stage in DIALLED else 0


def _stage(error: LinkError) -> str:
    return _BLAMED.get(error.trouble) or _FAILED.get(error.stage, "upgrade")


def _steps(dial: Dial, who: Identity) -> list[Finding]:
    """Return what is to be said of each step of one dial, failed or not."""
    failed = _stage(dial.error) if dial.error is not None else ""
    found: list[Finding] = []
    for stage, tell in (("dns", _dns), ("tcp", _tcp), ("proxy", _proxy), ("tls", _tls), ("upgrade", _upgrade)):
        if stage == failed:
            break
        found.append(tell(dial))
    if dial.error is None:
        return found
    error = dial.error
    found.append(Finding(failed, False, error.found, error.fix, code=_code(error), stage=failed))
    found += [not_tried(stage, failed, stage=stage) for stage in STAGES[STAGES.index(failed) + 1 :]]
    return found


def _code(error: LinkError) -> str:
    return f"network.{error.trouble}" if error.trouble else "network.unreachable"


def _dns(dial: Dial) -> Finding:
    trail = dial.trail
    if not trail.addresses:
        return Finding("dns", True, "left to the proxy", stage="dns")
    addresses = ", ".join(trail.addresses)
    what = f"{trail.host} is {addresses}" if trail.addresses != [trail.host] else f"{trail.host} is an address"
    return Finding("dns", True, what, stage="dns", seconds=trail.dns_s)


def _tcp(dial: Dial) -> Finding:
    where = dial.trail.address or (dial.proxy.shown if dial.proxy else dial.url)
    took = f" in {dial.trail.tcp_s * 1000:.0f} ms" if dial.trail.tcp_s is not None else ""
    return Finding("tcp", True, f"{where} answered{took}", stage="tcp", seconds=dial.trail.tcp_s)


def _proxy(dial: Dial) -> Finding:
    if dial.proxy is None:
        return Finding("proxy", True, "none; the broker is dialled straight", stage="proxy")
    trail = dial.trail
    offers = f"; it takes {', '.join(trail.offers)}" if trail.offers else "; it wants no login"
    used = f", logged in by {trail.scheme}" if trail.scheme else ""
    if dial.proxy.scheme.startswith("socks"):
        offers = "; with a user" if dial.proxy.user else ""
    found = f"{dial.proxy.shown}, from {dial.proxy.place}{offers}{used}"
    return Finding("proxy", True, found, stage="proxy", seconds=trail.proxy_s)


def _tls(dial: Dial) -> Finding:
    trail = dial.trail
    left = f"; the broker's certificate {left_text(trail.not_after, time.time())}" if trail.not_after else ""
    issuer = f", issued by {trail.issuer}" if trail.issuer else ""
    return Finding("tls", True, f"{trail.tls}{issuer}{left}", stage="tls", seconds=trail.tls_s)


def _upgrade(dial: Dial) -> Finding:
    return Finding("upgrade", True, f"{dial.url} is a broker", stage="upgrade", seconds=dial.trail.http_s)


async def _on_the_link(
    dial: Dial, who: Identity, context: ssl.SSLContext, trust: Callable[[], ssl.SSLContext]
) -> AsyncIterator[Finding]:
    assert dial.transport is not None  # noqa: S101 - the caller looked
    began = time.monotonic()
    said = await _who_we_are(dial.transport)
    tenant, agent = said or (who.tenant, who.agent)
    yield Finding(
        "identity",
        True,
        f"accepted as {agent} of {tenant}",
        stage="identity",
        seconds=time.monotonic() - began,
    )
    try:
        transport = await open_websocket(
            dial.url, PATH, context, dial.proxy, certificate_ends=who.not_after, known=trust
        )
    except LinkError as exc:
        older = exc.trouble == "no-broker"
        for stage in STAGES[6:]:
            what = "not measured: the broker is older than this" if older else f"not measured: {exc}"
            yield Finding(stage, None, what, stage=stage)
        return
    try:
        measured = await measure(transport)
    except (NotMeasured, LinkError) as exc:
        for stage in STAGES[6:]:
            yield Finding(stage, None, f"not measured: {exc}", stage=stage)
        return
    finally:
        await transport.close()
    for finding in _line(measured):
        yield finding


def _line(measured: Measured) -> list[Finding]:
    slow = measured.round_trip_s > SLOW_S
    trip = f"{measured.round_trip_s * 1000:.1f} ms"
    return [
        Finding(
            "round trip",
            None if slow else True,
            trip + (": each question of the broker waits for so long" if slow else ""),
            stage="round trip",
            seconds=measured.round_trip_s,
        ),
        Finding(
            "throughput",
            True,
            f"{_rate(measured.up_s)} up, {_rate(measured.down_s)} down",
            stage="throughput",
            seconds=measured.up_s + measured.down_s,
        ),
    ]


def _rate(seconds: float) -> str:
    return f"{PROBE_BYTES * 8 / 1e6 / max(seconds, 1e-6):.1f} Mbit/s"


async def _who_we_are(transport: WebsocketTransport) -> tuple[str, str] | None:
    """Return tenant and agent as the broker has them; ``None`` if it does not say."""
    try:
        with contextlib.suppress(LinkError, TimeoutError, ValueError, KeyError, TypeError):
            async with asyncio.timeout(WORD_S):
                said = json.loads(await transport.receive())
            return str(said["tenant"]), str(said["agent"])
    finally:
        await transport.close()
    return None
