"""Rows from the database to a caller, sealed by the agent and opened by the client, beside the same in clear."""

from __future__ import annotations

import time
from collections.abc import Generator

from bench.figures import Figure, Lab, alternated
from bench.passages import WAIT_S, Passage, checked
from cloud_broker.client.api import Outhaul
from config.dev.demo.pair import AGENT, Pair


def measure(lab: Lab) -> list[Figure]:
    """Return how fast sealed rows come."""
    rounds, count = (1, 2_000) if lab.short else (3, 200_000)
    ours, open_ = alternated(
        rounds, lambda: sealed(lab.running, "lines", count), lambda: clear(lab.running, "lines", count)
    )
    return [
        Figure(
            "rows sealed by the agent and opened by the client",
            "rows/s",
            [count / one.all_s for one in ours],
            [count / one.all_s for one in open_],
            "the same in clear",
        )
    ]


def sealed(pair: Pair, operation: str, count: int) -> Passage:
    """Submit a sealed command and read its rows as NDJSON while it runs."""
    with _client(pair) as client:
        key = (client.agent(AGENT).keys or {})["seal"]
        started = time.perf_counter()
        call = client.seal(AGENT, operation, {"count": count}, agent_key=key)
        command = client.call(sealed=call)
        return _read(client.unsealed(call).stream(command.id), started, count)


def clear(pair: Pair, operation: str, count: int) -> Passage:
    """The same in clear, by the same client."""
    with _client(pair) as client:
        client.agent(AGENT)
        started = time.perf_counter()
        command = client.call(AGENT, operation, {"count": count})
        return _read(client.stream(command.id), started, count)


def _client(pair: Pair) -> Outhaul:
    return Outhaul(pair.url, pair.key, silence_s=WAIT_S)


def _read(pieces: Generator[bytes, None, None], started: float, count: int) -> Passage:
    first_s, rows = 0.0, 0
    for piece in pieces:
        first_s = first_s or time.perf_counter() - started
        rows += piece.count(b"\n")
    return checked(Passage(rows, first_s, time.perf_counter() - started), count)
