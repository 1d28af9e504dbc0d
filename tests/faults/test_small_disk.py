"""A disk that is full, of the agent and of the broker: told plainly, nothing lost, and on without a restart."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
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


@pytest.fixture
def disks(tmp_path: Path) -> dict[str, SmallDisk]:
    folder = tmp_path / "lab"
    return {
        "agent": SmallDisk(folder / "acme" / "state", 8 * MIB),
        "broker": SmallDisk(folder / "broker" / "data", 16 * MIB),
    }


@pytest.fixture
def cramped(tmp_path: Path, systems: Erp, disks: dict[str, SmallDisk]) -> Iterator[Lab]:
    """A lab whose programs have small disks."""
    with lab(tmp_path / "lab", systems, {name: disk.words() for name, disk in disks.items()}) as made:
        yield made


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
def test_a_full_disk_of_the_agent_refuses_work_until_there_is_room(
    cramped: Lab, systems: Erp, disks: dict[str, SmallDisk]
) -> None:
    pid = cramped.agent.pid
    check_all(systems, workload.run_all(cramped.url, cramped.keys, wanted("9300001"), "room"))
    told: list[Told] = []
    disks["agent"].fill(pid)
    callers = threading.Thread(
        target=lambda: told.extend(workload.run_all(cramped.url, cramped.keys, wanted("9300002"), "full"))
    )
    callers.start()
    until(lambda: agent(cramped)["state"] == "degraded", "degraded", 20)
    assert "No space left" in said(cramped.agent)
    disks["agent"].empty(pid)
    callers.join()
    check_all(systems, told)
    until(lambda: agent(cramped)["state"] == "online", "online", 20)
    assert cramped.agent.deaths == 0


@pytest.mark.slow
def test_a_full_disk_of_the_broker_takes_no_command_until_there_is_room(
    cramped: Lab, systems: Erp, disks: dict[str, SmallDisk]
) -> None:
    pid = cramped.broker.pid
    told: list[Told] = []
    callers = threading.Thread(
        target=lambda: told.extend(workload.run_all(cramped.url, cramped.keys, wanted("9300003"), "while it fills"))
    )
    callers.start()
    disks["broker"].fill(pid)
    headers = {"Authorization": f"Bearer {cramped.keys['acme']}"}
    body = {"agent": "plant-1", "operation": "echo", "params": {"text": "x" * 20_000}}
    with httpx2.Client(base_url=cramped.url, headers=headers, trust_env=False, timeout=60) as caller:
        until(lambda: caller.post("/v1/commands", json=body).status_code == 503, "refusing", 30)
        problem = caller.post("/v1/commands", json=body)
    assert problem.headers["content-type"] == "application/problem+json"
    assert "disk" in problem.json()["detail"].lower()
    disks["broker"].empty(pid)
    callers.join()
    check_all(systems, told)
    assert cramped.broker.deaths == 0
