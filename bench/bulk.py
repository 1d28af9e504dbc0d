"""
Commands in bulk: from the first line sent to the last command that has succeeded.

Held against the same one by one.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any, Final
from urllib.parse import urlsplit

from bench import commands
from bench.figures import Figure, Lab, alternated
from config.dev.demo.pair import AGENT, Pair

LINES: Final = 1_000  # of one request
WAIT_S: Final = 60
OPEN: Final = ("queued", "dispatched", "running")


def measure(lab: Lab) -> list[Figure]:
    """Return how many commands that come in bulk have succeeded a second."""
    rounds, count = (1, 300) if lab.short else (5, 10_000)
    ours, singly = alternated(
        rounds,
        lambda: through_outhaul(lab.running, count),
        lambda: commands.through_outhaul(lab.running, max(100, count // 4)),
    )
    return [Figure("commands in bulk, sent and succeeded", "commands/s", ours, singly, "sent one by one")]


def through_outhaul(pair: Pair, count: int) -> float:
    """Return commands a second that were sent in bulk and have succeeded."""
    place = urlsplit(pair.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=WAIT_S)
    try:
        started = time.perf_counter()
        ids = [
            found for first in range(0, count, LINES) for found in _sent(connection, pair, min(LINES, count - first))
        ]
        _asked(connection, pair, "GET", f"/v1/commands/{ids[-1]}?wait={WAIT_S}")
        while any(_asked(connection, pair, "GET", f"/v1/commands?state={state}&limit=1")["items"] for state in OPEN):
            pass
        seconds = time.perf_counter() - started
        for number in range(0, count, max(1, count // 20)):
            found = _asked(connection, pair, "GET", f"/v1/commands/{ids[number]}")
            if found["state"] != "succeeded":
                raise RuntimeError(f"a command did not succeed: {found}")
        return count / seconds
    finally:
        connection.close()


def _sent(connection: http.client.HTTPConnection, pair: Pair, count: int) -> list[str]:
    line = json.dumps({"agent": AGENT, "operation": "echo", "params": {"text": "x" * 200}}) + "\n"
    answer = _ask(connection, pair, "POST", "/v1/commands/bulk", line * count, "application/x-ndjson")
    lines = [json.loads(one) for one in answer.splitlines()]
    if len(lines) != count or any(one["status"] != 202 for one in lines):
        raise RuntimeError(f"{count} lines were sent, and {len(lines)} answered: {lines[-1:]}")
    return [str(one["command"]["id"]) for one in lines]


def _asked(connection: http.client.HTTPConnection, pair: Pair, method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_ask(connection, pair, method, path))
    return found


def _ask(
    connection: http.client.HTTPConnection, pair: Pair, method: str, path: str, body: str | None = None, kind: str = ""
) -> bytes:
    headers = {"Authorization": f"Bearer {pair.key}"} | ({"Content-Type": kind} if kind else {})
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
    return content
