"""What the lab says is on a disk after a power cut is what was forced there; and both programs go on from that."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import checker, workload
from tests.faults.erp import Erp
from tests.faults.histories import Histories, Told
from tests.faults.power import Traced, synced
from tests.faults.site import Lab, lab, until
from tests.faults.workload import FILES, MARIADB, POSTGRES, SOAP

ROUNDS = 2
CASES: dict[str, tuple[str, dict[str, bytes]]] = {
    "a write that was synced": ("w = new(); w.write(b'12'); os.fsync(w); sync()", {"new": b"12", "old": b"old"}),
    "a write that was not": ("w = old(); w.write(b'12')", {"old": b"old"}),
    "a name that was not": ("w = new(); w.write(b'12'); os.fsync(w)", {"old": b"old"}),
    "bytes after the sync": ("w = old(); w.write(b'12'); os.fsync(w); w.write(b'34')", {"old": b"old12"}),
    "bytes in the middle": ("w = old('r+b'); os.pwrite(w.fileno(), b'X', 1); os.fsync(w)", {"old": b"oXd"}),
    "a file put in place of another": ("w = new(); w.write(b'12'); os.fsync(w); move(); sync()", {"old": b"12"}),
    "one put there without a word to its folder": ("w = new(); w.write(b'12'); os.fsync(w); move()", {"old": b"old"}),
    "a file removed": ("os.unlink(OLD); sync()", {}),
    "a file removed that comes back": ("os.unlink(OLD)", {"old": b"old"}),
    "a file cut off": ("w = old('r+b'); w.truncate(1); os.fsync(w)", {"old": b"o"}),
}
BEGIN = """
import os, sys
FOLDER = sys.argv[1]
OLD, NEW = f"{FOLDER}/old", f"{FOLDER}/new"
new = lambda: open(NEW, "wb", 0)
old = lambda mode="ab": open(OLD, mode, 0)
move = lambda: os.replace(NEW, OLD)
sync = lambda: os.fsync(os.open(FOLDER, os.O_RDONLY))
"""


@pytest.mark.parametrize("case", CASES)
def test_only_what_was_synced_is_there_afterwards(tmp_path: Path, case: str) -> None:
    code, expected = CASES[case]
    folder = tmp_path / "disk"
    folder.mkdir()
    (folder / "old").write_bytes(b"old")
    subprocess.run([*Traced(folder).words(), sys.executable, "-c", BEGIN + code, str(folder)], check=True)
    trace = Path(f"{folder}.trace").read_text().splitlines()
    assert synced(trace, folder, Path(f"{folder}.before")) == expected


@pytest.fixture
def traced(tmp_path: Path, systems: Erp) -> Iterator[tuple[Lab, dict[str, Traced]]]:
    """A lab whose programs are written down."""
    disks = {
        "agent": Traced(tmp_path / "lab" / "acme" / "state"),
        "broker": Traced(tmp_path / "lab" / "broker" / "data"),
    }
    with lab(tmp_path / "lab", systems, {name: disk.words() for name, disk in disks.items()}) as made:
        yield made, disks


@pytest.mark.slow
def test_a_power_cut_loses_nothing_that_was_told(traced: tuple[Lab, dict[str, Traced]], systems: Erp) -> None:
    made, disks = traced
    lost: dict[str, int] = {}
    for number in range(ROUNDS):
        rng = random.Random(number)  # noqa: S311 - the same moments each time
        works = [*rng.sample(POSTGRES, 8), *MARIADB, *FILES, *rng.sample(SOAP, 2)]
        wanted = workload.wishes(rng, f"92000{number:02d}", works, 4)
        told: list[Told] = []
        callers = threading.Thread(
            target=lambda: told.extend(workload.run_all(made.url, made.keys, wanted, f"power {number}"))  # noqa: B023
        )
        before = len(systems.effects())
        callers.start()
        until(lambda: len(systems.effects()) > before + rng.randrange(6), "at work")  # noqa: B023 - called here only
        for program in (made.agent, made.broker):
            program.kill()
        for disk in disks.values():
            lost |= disk.lose_power()
        made.broker.start()
        made.agent.start()
        made.wait_ready()
        callers.join()
        assert checker.check(Histories(told, effects=systems.effects(), stock=systems.stock())) == []
    assert lost, "something was on its way to the disk, or the lab sees nothing"
