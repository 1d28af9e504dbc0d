"""
``make faults``: all combinations of place and fault, and what came of them.

    python -m tests.faults [--seed N] [--only K] [--lanes 2]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.faults import clocks
from tests.faults.combinations import ClockJump, Combination, all_combinations
from tests.faults.erp import erp
from tests.faults.run import Report, run
from tests.faults.site import lab
from tests.faults.soak import soak

LANES: Final = 3  # labs at work beside each other: most of the time is waiting


def main() -> int:
    """Run what was asked for; 1 if any promise was broken."""
    parser = argparse.ArgumentParser(prog="make faults")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, action="append", default=None)
    parser.add_argument("--lanes", type=int, default=LANES)
    parser.add_argument("--soak", type=float, default=None, metavar="MINUTES")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1_000_000)
    if asked.soak is not None:
        return _soak(asked.soak, seed)
    wanted = [found for found in all_combinations() if asked.only is None or found.number in asked.only]
    print(f"== faults: seed {seed}, {len(wanted)} combinations of place and fault", flush=True)
    began = time.monotonic()
    report = Report()
    with ThreadPoolExecutor(asked.lanes) as pool:
        for done in pool.map(lambda part: _lane(part, seed), _dealt(wanted, asked.lanes)):
            report.add(done)
    return _tell(report, seed, time.monotonic() - began)


def _dealt(wanted: Sequence[Combination], lanes: int) -> list[list[Combination]]:
    """Deal combinations to lanes; those about clocks together, for they need programs of their own."""
    clocks = [found for found in wanted if isinstance(found.fault, ClockJump)]
    others = [found for found in wanted if not isinstance(found.fault, ClockJump)]
    return [part for part in (*(others[lane::lanes] for lane in range(lanes)), clocks) if part]


def _lane(part: Sequence[Combination], seed: int) -> Report:
    clock = isinstance(part[0].fault, ClockJump)
    with tempfile.TemporaryDirectory(prefix="outhaul-faults-") as name, erp(Path(name) / "edi") as systems:
        folder = Path(name)
        before = {program: clocks.of(folder, program).words() for program in ("agent", "broker")} if clock else None
        with lab(folder, systems, before) as made:
            return run(made, part, seed, lambda line: print(line, flush=True))


def _soak(minutes: float, seed: int) -> int:
    print(f"== soak: seed {seed}, {minutes:g} minutes", flush=True)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="outhaul-soak-") as name,
        erp(Path(name) / "edi") as systems,
        lab(Path(name), systems) as made,
    ):
        report = soak(made, minutes, seed, lambda line: print(line, flush=True))
    return _tell(report, seed, time.monotonic() - began)


def _tell(report: Report, seed: int, seconds: float) -> int:
    print(f"\n{report.combinations} combinations in {seconds:.0f} s, seed {seed}")
    print(f"  {report.commands} commands, {report.effects} effects")
    print(f"  {report.fired} crash points and failing writes hit, {report.deaths} ends of programs, {report.cuts} cuts")
    print(f"  {len(report.doubts)} in doubt")
    for line in report.doubts:
        print(f"    {line}")
    for line in report.missed:
        print(f"  not passed: {line}")
    print(f"  {len(report.violations)} violations")
    for number, violation in report.violations:
        again = f"make faults SEED={seed}" + (f" ONLY={number}" if number else "")
        print(f"    {violation}\n      again: {again}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
