"""The broker's process is told to stop, in whatever it is doing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.whole.site import AgentSite, Broker, Caller, agent, broker

PROBE = """
[link]
proxy = "none"
[connections.probe]
type = "synthetic"
max_concurrent = 4
[operations.rows]
connection = "probe"
synthetic = "rows"
effect = "at-most-once"
[operations.write]
connection = "probe"
synthetic = "sleep"
effect = "at-most-once"
"""
GRACE_S = 12.0  # seconds; less than any service manager waits before it kills


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[tuple[Broker, Caller]]:
    with broker(tmp_path / "broker") as made, made.tenant("acme") as caller:
        yield made, caller


def test_a_broker_that_is_told_to_stop_under_load_answers_who_waits_and_loses_nothing(
    tmp_path: Path, platform: tuple[Broker, Caller]
) -> None:
    made, caller = platform
    with agent(AgentSite(tmp_path / "agent", PROBE), made, caller):
        answers: list[httpx2.Response] = []

        def wait() -> None:
            with Caller(made.url, caller.key) as other:
                wanted: dict[str, Any] = {"headers": {"Prefer": "wait=60"}, "correlation_id": "waited for"}
                answers.append(other.submit("write", {"seconds": 3.0}, **wanted))

        waiter = threading.Thread(target=wait)
        waiter.start()
        deadline = time.monotonic() + 20
        while not (found := caller.get("/v1/commands", params={"correlation_id": "waited for"}).json()["items"]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        large = caller.submit("rows", {"count": 400_000}).json()
        others = [caller.submit("write", {"seconds": 0.1}).json() for _ in range(40)]
        began = time.monotonic()
        made.program.stop()
        assert time.monotonic() - began < GRACE_S, made.program.tail()
        waiter.join()
        assert "Traceback" not in made.program.log.read_text("utf-8")
        assert [answer.status_code for answer in answers] == [202]
        made.start()
        for command in (*found, large, *others):
            ended = caller.final(command)
            told = caller.get(f"/v1/commands/{command['id']}/timeline").json()["items"]
            # One whose turn came in the moment of the stop was kept as sent, and then not sent.
            unsent = sum(step["detail"] == "the link was lost before it was sent" for step in told)
            assert (ended["state"], ended["attempts"] - unsent) == ("succeeded", 1), (ended, told)
