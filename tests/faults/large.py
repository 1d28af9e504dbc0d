"""A large result through a link that is cut again and again: the same bytes, and memory that stays flat."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from config.dev import processes
from tests.faults.site import Lab
from tests.whole.site import peak_bytes

ROW_BYTES: Final = 1_046  # bytes of a row as it is sent, about
FLAT_BYTES: Final = 160 * 1_048_576  # of a process, however large the result is
LOOK_S: Final = 0.01
WAIT_S: Final = 900.0  # seconds for all of it


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What came of it.

    Attributes:
        command: in its final state.
        peaks: the most memory that each process had at once, in bytes: broker, agent, and its driver.
    """

    command: dict[str, Any]
    bytes: int
    sha256: str
    wanted_sha256: str
    cuts: int
    peaks: dict[str, int]


def large_result(lab: Lab, operation: str, order_no: str, wanted_bytes: int, cuts: int) -> Measured:
    """
    Fetch a result of ``wanted_bytes`` while the link between agent and broker is cut ``cuts`` times.

    Args:
        operation: ``pg-large`` or ``pg-large-once``.
    """
    count = wanted_bytes // ROW_BYTES
    params: dict[str, Any] = {"count": count}
    if operation.endswith("once"):
        params["order_no"] = order_no
    before = lab.link.cuts
    done = threading.Event()
    cutter = threading.Thread(target=_cut, args=(lab, wanted_bytes, cuts, done), name="cut the link")
    headers = {"Authorization": f"Bearer {lab.keys['acme']}"}
    with httpx2.Client(base_url=lab.url, headers=headers, timeout=WAIT_S, trust_env=False) as caller:
        body = {"agent": "plant-1", "operation": operation, "params": params}
        made = caller.post("/v1/commands", json=body, headers={"Idempotency-Key": f"large-{order_no}"})
        command = made.raise_for_status().json()
        cutter.start()
        try:
            while not command["finished_at"]:
                command = caller.get(f"/v1/commands/{command['id']}?wait=60").raise_for_status().json()
        finally:
            done.set()
            cutter.join()
        digest, size = hashlib.sha256(), 0
        with caller.stream("GET", f"/v1/commands/{command['id']}/rows") as answer:
            for part in answer.iter_bytes():
                digest.update(part)
                size += len(part)
    peaks = {"broker": peak_bytes(lab.broker.pid), "agent": peak_bytes(lab.agent.pid)}
    peaks["driver"] = max((peak_bytes(pid) for pid in processes.descendants(lab.agent.pid)), default=0)
    return Measured(command, size, digest.hexdigest(), _wanted(count), lab.link.cuts - before, peaks)


def _cut(lab: Lab, wanted_bytes: int, cuts: int, done: threading.Event) -> None:
    """Cut the link each time another part of the result has passed."""
    began = lab.link.carried["up"]
    for number in range(1, cuts + 1):
        while lab.link.carried["up"] - began < number * wanted_bytes // (cuts + 1):
            if done.wait(LOOK_S):
                return
        lab.link.cut(reset=number % 2 == 0)


def _wanted(count: int) -> str:
    digest = hashlib.sha256()
    for row in _rows(count):
        digest.update(row)
    return digest.hexdigest()


def _rows(count: int) -> Iterator[bytes]:
    for number in range(1, count + 1):
        text = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest() * 32
        yield b'{"n":%d,"text":"%s"}\n' % (number, text.encode())
