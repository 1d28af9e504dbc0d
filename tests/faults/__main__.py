"""
``make faults``: all combinations of place and fault, and what came of them.

    python -m tests.faults [--seed N] [--only K] [--lanes 2]
    python -m tests.faults --renewals 1000 [--seed N]
    python -m tests.faults --standing 5
    python -m tests.faults --groups 5 [--seed N]
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.faults import clocks
from tests.faults.checker import Violation
from tests.faults.combinations import ClockJump, Combination, all_combinations
from tests.faults.erp import erp
from tests.faults.groups import group_lab, work
from tests.faults.large import FLAT_BYTES, large_result
from tests.faults.renewals import renew
from tests.faults.run import Report, run
from tests.faults.site import Lab, lab
from tests.faults.soak import soak
from tests.faults.standing import HEAD, STATES, stand

KEPT: Final = "kept"  # a file that says: not to be removed
LARGE_CUTS: Final = 10
LIFE_S: Final = 4.0  # seconds of a certificate that is renewed again and again
PLANTS: Final = 8  # agents at work beside each other when certificates are renewed
LANES: Final = 3  # labs at work beside each other: most of the time is waiting


def main() -> int:
    """Run what was asked for; 1 if any promise was broken."""
    parser = argparse.ArgumentParser(prog="make faults")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, action="append", default=None)
    parser.add_argument("--lanes", type=int, default=LANES)
    parser.add_argument("--large", type=int, default=None, metavar="BYTES", help="a result of this size besides")
    parser.add_argument("--soak", type=float, default=None, metavar="MINUTES")
    parser.add_argument("--renewals", type=int, default=None, metavar="COUNT", help="of certificates, under faults")
    parser.add_argument("--standing", type=float, default=None, metavar="MINUTES", help="in every state that lasts")
    parser.add_argument("--groups", type=float, default=None, metavar="MINUTES", help="agents of one group, and lost")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1_000_000)
    if asked.soak is not None:
        return _soak(asked.soak, seed)
    if asked.standing is not None:
        return _standing(asked.standing)
    if asked.groups is not None:
        return _groups(asked.groups, seed)
    if asked.renewals is not None:
        return _renewals(asked.renewals, seed)
    wanted = [found for found in all_combinations() if asked.only is None or found.number in asked.only]
    print(f"== faults: seed {seed}, {len(wanted)} combinations of place and fault", flush=True)
    began = time.monotonic()
    report = Report()
    with ThreadPoolExecutor(asked.lanes) as pool:
        for done in pool.map(lambda part: _lane(part, seed), _dealt(wanted, asked.lanes)):
            report.add(done)
    if asked.large is not None:
        report.violations += _large(asked.large)
    return _tell(report, "faults", seed, time.monotonic() - began)


def _large(size: int) -> list[tuple[int, Violation]]:
    """A large result through a link that is cut ten times, read and once; return what was not as it should be."""
    found: list[tuple[int, Violation]] = []
    with _fresh() as made:
        for number, operation in enumerate(("pg-large", "pg-large-once")):
            began = time.monotonic()
            seen = large_result(made, operation, f"AC980000{number:03d}", size, LARGE_CUTS)
            peaks = ", ".join(f"{name} {peak >> 20} MiB" for name, peak in seen.peaks.items())
            taken_s = time.monotonic() - began
            print(
                f"{operation}: {seen.bytes:,} bytes in {taken_s:.0f} s, {seen.cuts} cuts, at most {peaks}", flush=True
            )
            if seen.command["state"] != "succeeded" or seen.sha256 != seen.wanted_sha256:
                found.append((0, Violation("a large result is another one", operation, str(seen.command))))
            if max(seen.peaks.values()) > FLAT_BYTES:
                found.append((0, Violation("memory grows with a result", operation, peaks)))
    return found


@contextlib.contextmanager
def _fresh() -> Iterator[Lab]:
    with _folder() as folder, erp(folder / "edi") as systems, lab(folder, systems) as made:
        yield made


def _dealt(wanted: Sequence[Combination], lanes: int) -> list[list[Combination]]:
    """Deal combinations to lanes; those about clocks together, for they need programs of their own."""
    clocks = [found for found in wanted if isinstance(found.fault, ClockJump)]
    others = [found for found in wanted if not isinstance(found.fault, ClockJump)]
    return [part for part in (*(others[lane::lanes] for lane in range(lanes)), clocks) if part]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder with all that the programs write, which stays where something went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="outhaul-faults-"))
    try:
        yield folder
    except BaseException:  # Ctrl-C too: what was written until then is what somebody wants to see
        print(f"what they wrote is in {folder}", flush=True)
        raise
    if not (folder / KEPT).exists():
        shutil.rmtree(folder)


def _lane(part: Sequence[Combination], seed: int) -> Report:
    clock = isinstance(part[0].fault, ClockJump)
    with _folder() as folder, erp(folder / "edi") as systems:
        before = {program: clocks.of(folder, program).words() for program in ("agent", "broker")} if clock else None
        with lab(folder, systems, before) as made:
            report = run(made, part, seed, lambda line: print(line, flush=True))
        if report.violations:
            (folder / KEPT).touch()
            print(f"what they wrote is in {folder}", flush=True)
        return report


def _soak(minutes: float, seed: int) -> int:
    print(f"== soak: seed {seed}, {minutes:g} minutes", flush=True)
    began = time.monotonic()
    with _fresh() as made:
        report = soak(made, minutes, seed, lambda line: print(line, flush=True))
    return _tell(report, "soak", seed, time.monotonic() - began)


def _groups(minutes: float, seed: int) -> int:
    print(f"== groups: seed {seed}, {minutes:g} minutes", flush=True)
    with _folder() as folder, erp(folder / "edi") as systems, group_lab(folder, systems) as made:
        report = work(made, minutes * 60, seed, lambda line: print(line, flush=True))
        if report.violations:
            (folder / KEPT).touch()
            print(f"what they wrote is in {folder}", flush=True)
    print("\n" + "\n".join(report.lines()))
    if report.violations:
        print(f"  again: make soak SEED={seed}")
    return 1 if report.violations else 0


def _renewals(wanted: int, seed: int) -> int:
    print(f"== renewals: seed {seed}, {wanted} certificates", flush=True)
    began = time.monotonic()
    with _folder() as folder:
        told = renew(folder, wanted, PLANTS, seed, lambda line: print(line, flush=True), life_s=LIFE_S)
        if told.locked_out:
            (folder / KEPT).touch()
            print(f"what they wrote is in {folder}", flush=True)
    print(
        f"\n{told.renewed} certificates in {time.monotonic() - began:.0f} s, seed {seed}, "
        f"{told.deaths} ends of programs"
    )
    print(f"  faults: {', '.join(f'{count} {name}' for name, count in told.fired.most_common())}")
    print(f"  agents said: {', '.join(f'{count} {name}' for name, count in told.events.most_common())}")
    for name, count in told.missed.most_common():
        print(f"  not passed: {count} {name}")
    print(f"  {len(told.locked_out)} agents locked out")
    for text in told.locked_out:
        print(f"    {text}\n      again: make soak SEED={seed}")
    return 1 if told.locked_out else 0


def _standing(minutes: float) -> int:
    print(f"== standing: {minutes:g} minutes in each of {len(STATES)} states, side by side", flush=True)
    with _folder() as folder:
        slopes = stand(folder, minutes * 60, lambda line: print(line, flush=True))
        wrong = [(one.who, text) for one in slopes for text in one.wrong]
        if wrong:
            (folder / KEPT).touch()
            print(f"what they wrote is in {folder}", flush=True)
    print(f"\n{HEAD}")
    for one in slopes:
        print(one.line())
    print(f"\n  {len(wrong)} of them grow")
    for who, text in wrong:
        print(f"    {who}: {text}")
    return 1 if wrong else 0


def _tell(report: Report, what: str, seed: int, seconds: float) -> int:
    print(f"\n{report.combinations} combinations in {seconds:.0f} s, seed {seed}")
    print(f"  {report.commands} commands, {report.effects} effects")
    print(f"  {report.fired} crash points and failing writes hit, {report.deaths} ends of programs, {report.cuts} cuts")
    for line in report.tallies:
        print(f"  {line}")
    print(f"  {len(report.doubts)} in doubt")
    for line, count in Counter(report.doubts).most_common():
        print(f"    {count} of: {line[:200]}")
    for line in report.missed:
        print(f"  not passed: {line}")
    print(f"  {len(report.violations)} violations")
    for number, violation in report.violations:
        again = f"make {what} SEED={seed}" + (f" ONLY={number}" if number else "")
        print(f"    {violation}\n      again: {again}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
