"""The broker's end of measuring a line: little, seldom, and one at a time for each agent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from cloud_broker.link.base import LinkLost, Peer, Transport
from protocol.measure import DOWN, END, NO, PIECE_BYTES, PING, PING_BYTES, UP

MAX_BYTES: Final = 2 * 1_048_576  # bytes each way of one measurement: twice what an agent asks for
MAX_PINGS: Final = 50  # of one measurement
LASTS_S: Final = 60.0  # seconds; 1 MiB each way over 300 kbit/s
AT_ONCE: Final = 4  # of all agents: a fleet that measures itself must not fill the broker's own line
PAUSE_S: Final = 10.0  # seconds between the beginnings of two of one agent
REMEMBERED: Final = 10_000  # agents whose last one is known; more forget those of long ago

log = logging.getLogger(__name__)


class TooMuch(Exception):
    """An agent asks for more than a measurement may be."""


class Measuring:
    """
    Answers agents that measure.

    Args:
        now: returns seconds, ever growing; replaced in tests.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, pause_s: float = PAUSE_S) -> None:
        self._now = now
        self._pause_s = pause_s
        self._began: dict[tuple[str, str], float] = {}
        self._running: set[tuple[str, str]] = set()

    async def serve(self, transport: Transport, peer: Peer) -> None:
        """Carry one measurement to its end."""
        with contextlib.suppress(LinkLost, TimeoutError):
            async with asyncio.timeout(LASTS_S):
                async with self._turn(peer) as refusal:
                    if refusal:
                        await transport.send(NO + refusal.encode())
                        return
                    await _answer(transport)

    @contextlib.asynccontextmanager
    async def _turn(self, peer: Peer) -> AsyncIterator[str]:
        """Yield why this agent can't measure now; "" if it can."""
        who, now = (peer.tenant, peer.agent), self._now()
        refusal = self._refusal(who, now)
        if refusal:
            yield refusal
            return
        self._began.pop(who, None)
        self._began[who] = now
        while len(self._began) > REMEMBERED:
            del self._began[next(iter(self._began))]
        self._running.add(who)
        try:
            yield ""
        finally:
            self._running.discard(who)

    def _refusal(self, who: tuple[str, str], now: float) -> str:
        if who in self._running:
            return "this agent is being measured already"
        wait_s = self._began.get(who, -self._pause_s) + self._pause_s - now
        if wait_s > 0:
            return f"this agent was measured a moment ago; again in {wait_s:.0f} s"
        return "the broker measures others now; try again later" if len(self._running) >= AT_ONCE else ""


async def _answer(transport: Transport) -> None:
    counted, sent, pings = 0, 0, 0
    try:
        while True:
            message = await transport.receive()
            kind, rest = message[:1], message[1:]
            if kind == PING and len(rest) <= PING_BYTES and pings < MAX_PINGS:
                pings += 1
                await transport.send(message)
            elif kind == UP and counted + len(rest) <= MAX_BYTES:
                counted += len(rest)
            elif kind == END and not rest:
                await transport.send(END + counted.to_bytes(8, "big"))
            elif kind == DOWN and len(rest) == 4:
                wanted = int.from_bytes(rest, "big")
                sent += wanted
                if sent > MAX_BYTES:
                    raise TooMuch
                await _send(transport, wanted)
            else:
                raise TooMuch
    except TooMuch:
        await transport.close("that is no measurement, or more than one may be")


async def _send(transport: Transport, wanted: int) -> None:
    piece = os.urandom(PIECE_BYTES)  # which nothing on the way can make smaller
    while wanted > 0:
        await transport.send(DOWN + piece[:wanted])
        wanted -= PIECE_BYTES
