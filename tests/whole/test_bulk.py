"""Many commands in one request, through a broker that dies in the middle of it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.whole.site import AgentSite, Broker, Caller, agent, broker

LINES: Final = 3_000
PROBE: Final = """
[link]
proxy = "none"
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
synthetic = "echo"
"""


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[tuple[Broker, Caller]]:
    """A broker of the test's own, and a tenant with an agent."""
    with (
        broker(tmp_path / "broker") as made,
        made.tenant("acme") as caller,
        agent(AgentSite(tmp_path / "agent", PROBE), made, caller),
    ):
        yield made, caller


def lines() -> bytes:
    """Return the body: each line with its key."""
    one = {"agent": "plant-1", "operation": "echo"}
    return b"".join(
        json.dumps({**one, "params": {"n": n}, "idempotency_key": f"k{n}"}).encode() + b"\n" for n in range(LINES)
    )


def answered(made: Broker, caller: Caller, die_after: int = LINES + 1) -> dict[int, str]:
    """Send all lines; return the ids of those that were answered. The broker is killed after so many answers."""
    found: dict[int, str] = {}
    connection = http.client.HTTPConnection("127.0.0.1", made.api_port, timeout=60)
    headers = {"Authorization": f"Bearer {caller.key}", "Content-Type": "application/x-ndjson"}
    try:
        connection.request("POST", "/v1/commands/bulk", lines(), headers)
        answer = connection.getresponse()
        while line := answer.readline():
            told = json.loads(line)
            assert told["status"] in (200, 202), told
            found[told["line"]] = told["command"]["id"]
            if len(found) == die_after:
                made.kill()
    except (http.client.HTTPException, OSError, ValueError):
        assert die_after <= LINES  # it was killed: what is cut off was not answered
    finally:
        connection.close()
    return found


def listed(caller: Caller) -> dict[str, str]:
    """Return all commands of the tenant: id and idempotency key."""
    found: dict[str, str] = {}
    cursor: dict[str, str] = {}
    while True:
        page = caller.get("/v1/commands", params={"limit": 200, **cursor}).json()
        found |= {one["id"]: one["idempotency_key"] for one in page["items"]}
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


def test_every_line_that_was_answered_is_there_after_a_kill_and_all_again_make_no_doubles(
    platform: tuple[Broker, Caller],
) -> None:
    made, caller = platform
    before = answered(made, caller, die_after=700)
    assert 700 <= len(before) < LINES
    made.start()

    kept = listed(caller)
    assert all(kept[found] == f"k{line - 1}" for line, found in before.items())

    again = answered(made, caller)
    assert sorted(again) == list(range(1, LINES + 1))
    assert len(set(again.values())) == LINES
    assert {line: again[line] for line in before} == before
    assert len(listed(caller)) == LINES

    deadline = time.monotonic() + 60
    while any(
        caller.get("/v1/commands", params={"state": state, "limit": 1}).json()["items"]
        for state in ("queued", "dispatched", "running")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)  # between two looks
    for line in (1, 700, LINES):
        ended = caller.get(f"/v1/commands/{again[line]}").json()
        assert (ended["state"], ended["outputs"]) == ("succeeded", {"n": line - 1})
