"""A large file to the agent's folder and back, beside a plain copy of the same file with its digest and its sync."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from bench.figures import Figure, Goal, Lab, alternated
from cloud_broker.client.api import Outhaul
from config.dev import processes
from config.dev.demo.pair import AGENT, Pair, pair

MIB: Final = 1_048_576
SMALL_BYTES: Final = 16 * MIB  # fills every window: what is told as growth comes of the size alone
WAIT_S: Final = 600.0  # seconds
OPERATOR_FILE: Final = """
agent = "plant-1"
state_dir = "state"
link.proxy = "none"

[connections.edi]
type = "file"
root = "../edi"

[operations.drop]
connection = "edi"
drop = "{name}"
format = { type = "raw" }
overwrite = true
effect = "idempotent"
timeout = "10min"
params.name = { type = "string" }

[operations.pick]
connection = "edi"
pick = "picked.bin"
format = { type = "raw" }
timeout = "10min"
"""


def measure(lab: Lab) -> list[Figure]:
    """Return how fast a large file goes both ways, and what memory it costs."""
    rounds, size = (1, 8 * MIB) if lab.short else (1, 2_048 * MIB)
    folder = lab.folder / "files"
    edi = folder / "edi"
    edi.mkdir(parents=True)
    small, big, copy = (folder / name for name in ("small.bin", "big.bin", "copy.bin"))
    _write(small, SMALL_BYTES)
    _write(big, size)
    with pair(folder, OPERATOR_FILE, {}, usual_ports=False) as running, running.caller() as client:
        os.link(small, edi / "picked.bin")
        _drop(client, small)
        _pick(client, small)
        before = _memory(running)
        (edi / "picked.bin").unlink()
        os.link(big, edi / "picked.bin")
        dropped, copied = alternated(rounds, lambda: _drop(client, big), lambda: _copy(big, copy))
        picked, read = alternated(rounds, lambda: _pick(client, big), lambda: _copy(big, copy))
        grown = _memory(running) - before
    shutil.rmtree(folder)
    megabytes = size / 1e6
    beside = "cp, sync and sha256sum of the same file"
    return [
        Figure(
            "a large file from the caller to the agent's folder",
            "MB/s",
            [megabytes / one for one in dropped],
            [megabytes / one for one in copied],
            beside,
        ),
        Figure(
            "a large file from the agent's folder to the caller",
            "MB/s",
            [megabytes / one for one in picked],
            [megabytes / one for one in read],
            beside,
        ),
        Figure(
            "memory that broker and agent grow by from a file of 16 MiB to one of 2 GiB",
            "MiB",
            [max(grown / MIB, 0.01)],
            goal=None if lab.short else Goal("at most", 16),
        ),
    ]


def _write(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def _drop(client: Outhaul, file: Path) -> float:
    """Send a file, and return the seconds until it stands in the agent's folder."""
    began = time.perf_counter()
    blob = client.send_blob(file)
    command = client.call(AGENT, "drop", {"name": "dropped.bin", "content": blob.content}, wait_s=WAIT_S)
    took = time.perf_counter() - began
    if not command.succeeded or command.outputs["bytes"] != file.stat().st_size:
        raise RuntimeError(f"the file was not dropped: {command.error}")
    return took


def _pick(client: Outhaul, file: Path) -> float:
    """Have the file picked, and return the seconds until its last byte is here, with its digest looked at."""
    began = time.perf_counter()
    command = client.call(AGENT, "pick")
    digest, size = hashlib.sha256(), 0
    with closing(client.content(command.id)) as pieces:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
    receipt = client.command(command.id, wait_s=WAIT_S).outputs["files"][0]
    took = time.perf_counter() - began
    if (receipt["bytes"], receipt["sha256"]) != (size, digest.hexdigest()) or size != file.stat().st_size:
        raise RuntimeError("the file did not come whole")
    return took


def _copy(file: Path, to: Path) -> float:
    began = time.perf_counter()
    shutil.copyfile(file, to)
    with to.open("rb+") as copied:
        os.fsync(copied.fileno())
    subprocess.run(["sha256sum", str(to)], check=True, capture_output=True)
    return time.perf_counter() - began


def _memory(running: Pair) -> int:
    """Return the most memory that both programs had so far, drivers included, in bytes."""
    found = 0
    for program in (running.broker, running.agent):
        for pid in (program.pid, *processes.descendants(program.pid)):
            status = Path(f"/proc/{pid}/status").read_text("ascii")
            found += next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return found
