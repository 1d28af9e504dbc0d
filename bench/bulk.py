"""
Commands in bulk: from the first line sent to the last command that has succeeded.

Held against calls over Crossbar.io, which keeps nothing.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any, Final
from urllib.parse import urlsplit

from bench import commands, crossbar
from bench.figures import Figure, Goal, Lab, alternated
from config.dev.demo.pair import AGENT, Pair, pair

LINES: Final = 1_000  # of one request
WAIT_S: Final = 60
# More at once than by itself: what there is to keep and to tell at one moment is kept and told together.
OPERATOR_FILE: Final = f"max_running = 512\nconnections.probe.max_concurrent = 512\n{commands.OPERATOR_FILE}"
OPEN: Final = ("queued", "dispatched", "running")


def measure(lab: Lab) -> list[Figure]:
    """Return how many commands that come in bulk have succeeded a second."""
    name, unit = "commands in bulk, sent and succeeded", "commands/s"
    if lab.short:
        return [Figure(name, unit, [through_outhaul(lab.running, 300)])]
    folder = lab.folder / "bulk"
    folder.mkdir()
    with (
        pair(folder, OPERATOR_FILE, {}, usual_ports=False) as ours,
        crossbar.running(lab) as calls,
    ):
        found, peer = alternated(3, lambda: through_outhaul(ours, 10_000, "look"), lambda: calls(10_000))
    beside = f"{crossbar.PACKAGE.replace('==', ' ')}, {crossbar.OUTSTANDING} calls at once"
    return [Figure(name, unit, found, peer, beside, Goal("at least", 2.5))]


def through_outhaul(running: Pair, count: int, operation: str = "echo") -> float:
    """Return commands a second that were sent in bulk and have succeeded."""
    place = urlsplit(running.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=WAIT_S)
    try:
        started = time.perf_counter()
        ids = [
            found
            for first in range(0, count, LINES)
            for found in _sent(connection, running, operation, min(LINES, count - first))
        ]
        _asked(connection, running, "GET", f"/v1/commands/{ids[-1]}?wait={WAIT_S}")
        while any(_asked(connection, running, "GET", f"/v1/commands?state={state}&limit=1")["items"] for state in OPEN):
            pass
        seconds = time.perf_counter() - started
        for number in range(0, count, max(1, count // 20)):
            found = _asked(connection, running, "GET", f"/v1/commands/{ids[number]}")
            if found["state"] != "succeeded":
                raise RuntimeError(f"a command did not succeed: {found}")
        return count / seconds
    finally:
        connection.close()


def _sent(connection: http.client.HTTPConnection, running: Pair, operation: str, count: int) -> list[str]:
    line = json.dumps({"agent": AGENT, "operation": operation, "params": {"text": "x" * 200}}) + "\n"
    answer = _ask(connection, running, "POST", "/v1/commands/bulk", line * count, "application/x-ndjson")
    lines = [json.loads(one) for one in answer.splitlines()]
    if len(lines) != count or any(one["status"] != 202 for one in lines):
        raise RuntimeError(f"{count} lines were sent, and {len(lines)} answered: {lines[-1:]}")
    return [str(one["command"]["id"]) for one in lines]


def _asked(connection: http.client.HTTPConnection, running: Pair, method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_ask(connection, running, method, path))
    return found


def _ask(
    connection: http.client.HTTPConnection,
    running: Pair,
    method: str,
    path: str,
    body: str | None = None,
    kind: str = "",
) -> bytes:
    headers = {"Authorization": f"Bearer {running.key}"} | ({"Content-Type": kind} if kind else {})
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
    return content
