"""How fast the line to the broker is: for ``outhaul-agent check``."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from dataclasses import dataclass
from typing import Final

from agent.link.base import Transport
from protocol.measure import DOWN, END, NO, PIECE_BYTES, PING, PINGS, PROBE_BYTES, UP

LASTS_S: Final = 60.0  # seconds for all of it; a line that needs longer is too slow to be told in numbers


class NotMeasured(Exception):
    """The broker does not measure now, or the line is too slow; the text says which."""


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What a line can do; all in seconds.

    Attributes:
        round_trip_s: the median of some questions and their answers.
        up_s: for ``PROBE_BYTES`` from here to the broker.
        down_s: for as many from there.
    """

    round_trip_s: float
    up_s: float
    down_s: float


async def measure(transport: Transport) -> Measured:
    """
    Measure a line on a websocket to ``protocol.measure.PATH``.

    Raises:
        NotMeasured: it can't be.
        LinkError: the line was lost.
    """
    try:
        async with asyncio.timeout(LASTS_S):
            trips = [await _round_trip(transport, number) for number in range(PINGS)]
            return Measured(statistics.median(trips), await _up(transport), await _down(transport))
    except TimeoutError as exc:
        raise NotMeasured(f"the line needs more than {LASTS_S:.0f} s for {PROBE_BYTES >> 20} MiB each way") from exc


async def _round_trip(transport: Transport, number: int) -> float:
    began = time.monotonic()
    await transport.send(PING + str(number).encode())
    await _answer(transport, PING)
    return time.monotonic() - began


async def _up(transport: Transport) -> float:
    piece = UP + os.urandom(PIECE_BYTES)  # which nothing on the way can make smaller
    began = time.monotonic()
    for _ in range(PROBE_BYTES // PIECE_BYTES):
        await transport.send(piece)
    await transport.send(END)
    if int.from_bytes(await _answer(transport, END), "big") != PROBE_BYTES:
        raise NotMeasured("the broker counted other bytes than were sent")
    return time.monotonic() - began


async def _down(transport: Transport) -> float:
    began, got = time.monotonic(), 0
    await transport.send(DOWN + PROBE_BYTES.to_bytes(4, "big"))
    while got < PROBE_BYTES:
        got += len(await _answer(transport, DOWN))
    return time.monotonic() - began


async def _answer(transport: Transport, kind: bytes) -> bytes:
    message = await transport.receive()
    if message[:1] == NO:
        raise NotMeasured(message[1:].decode("utf-8", "replace")[:300])
    if message[:1] != kind or (kind == DOWN and len(message) == 1):
        raise NotMeasured("the broker answered something else")
    return message[1:]
