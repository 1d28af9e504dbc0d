"""A disk that is full, of the agent and of the broker: told plainly, nothing lost, and on without a restart."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.faults import checker, workload
from tests.faults.erp import Erp
from tests.faults.histories import Histories, Told, Wish
from tests.faults.site import Lab, Watched, lab, until
from tests.faults.small_disk import SmallDisk
from tests.faults.workload import Work

MIB = 1_048_576
WORKS = (
    Work("pg-once", "once", "postgres", settled=True),
    Work("pg-maybe", "at-most-once", "postgres"),
    Work("pg-rows-once", "once", "postgres", settled=True, lines=40),
    Work("my-once", "once", "mariadb", settled=True),
    Work("drop-once", "once", "files"),
    Work("post-verified", "at-most-once", "soap", settled=True),
    Work("pg-read", "read", "postgres", lines=500),
)


@dataclass(frozen=True, slots=True)
class Cramped:
    """A lab whose programs have small disks."""

    lab: Lab
    agent: SmallDisk
    broker: SmallDisk


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory, systems: Erp) -> Iterator[Cramped]:
    """One for both tests; each leaves room on both disks."""
    folder = tmp_path_factory.mktemp("cramped")
    agents = SmallDisk(folder / "acme" / "state", 8 * MIB)
    brokers = SmallDisk(folder / "broker" / "data", 16 * MIB)
    with lab(folder, systems, {"agent": agents.words(), "broker": brokers.words()}) as made:
        yield Cramped(made, agents, brokers)


def wanted(run: str) -> list[list[Wish]]:
    rng = random.Random(run)  # noqa: S311 - the same work each time
    return workload.wishes(rng, run, WORKS * 2, 4)


def agent(made: Lab) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {made.keys['acme']}"}
    with httpx2.Client(base_url=made.url, headers=headers, trust_env=False) as caller:
        found: dict[str, Any] = caller.get("/v1/agents/plant-1").json()
        return found


def said(program: Watched) -> str:
    return (program.folder / "log").read_text(errors="replace")


def check_all(systems: Erp, told: list[Told]) -> None:
    assert checker.check(Histories(told, effects=systems.effects(), stock=systems.stock())) == []
    others = [f"{one.wish.operation} {one.state} {(one.final or {}).get('error')}" for one in told]
    assert [line for line in others if " succeeded " not in line] == []


@pytest.mark.slow
def test_a_full_disk_of_the_agent_refuses_work_until_there_is_room(cramped: Cramped, systems: Erp) -> None:
    there = cramped.lab
    pid = there.agent.pid
    check_all(systems, workload.run_all(there.url, there.keys, wanted("9300001"), "room"))
    told: list[Told] = []
    cramped.agent.fill(pid)
    callers = threading.Thread(
        target=lambda: told.extend(workload.run_all(there.url, there.keys, wanted("9300002"), "full"))
    )
    callers.start()
    until(lambda: agent(there)["state"] == "degraded", "degraded", 20)
    assert "No space left" in said(there.agent)
    cramped.agent.empty(pid)
    callers.join()
    check_all(systems, told)
    until(lambda: agent(there)["state"] == "online", "online", 20)
    assert there.agent.deaths == 0


@pytest.mark.slow
def test_a_full_disk_of_the_broker_takes_no_command_until_there_is_room(cramped: Cramped, systems: Erp) -> None:
    there = cramped.lab
    pid = there.broker.pid
    told: list[Told] = []
    callers = threading.Thread(
        target=lambda: told.extend(workload.run_all(there.url, there.keys, wanted("9300003"), "while it fills"))
    )
    callers.start()
    cramped.broker.fill(pid)
    headers = {"Authorization": f"Bearer {there.keys['acme']}"}
    body = {"agent": "plant-1", "operation": "echo", "params": {"text": "x" * 20_000}}
    with httpx2.Client(base_url=there.url, headers=headers, trust_env=False, timeout=60) as caller:
        until(lambda: caller.post("/v1/commands", json=body).status_code == 503, "refusing", 30)
        problem = caller.post("/v1/commands", json=body)
    assert problem.headers["content-type"] == "application/problem+json"
    assert "disk" in problem.json()["detail"].lower()
    cramped.broker.empty(pid)
    callers.join()
    check_all(systems, told)
    assert there.broker.deaths == 0
