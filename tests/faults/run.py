"""Combinations, one after another on a running lab, each with callers at work and a check at its end."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.faults import checker, workload
from tests.faults.checker import Violation
from tests.faults.combinations import AtPoint, Combination, Damaged, LostAnswer, Signalled
from tests.faults.erp import Effect, System
from tests.faults.faulty import under
from tests.faults.histories import Histories, Told
from tests.faults.site import TENANTS, Lab
from tests.faults.workload import OF_SYSTEM, PROBE, Work

CALLERS: Final = 6
SAMPLES: Final[dict[System, int]] = {"postgres": 10, "mariadb": 5, "files": 3, "soap": 3}


@dataclass(slots=True)
class Report:
    """
    What was done and what came of it.

    Attributes:
        tallies: what was wanted and done in each system.
        doubts: the reason of each command that is in doubt.
        missed: combinations whose point nothing passed.
        violations: by number of the combination; 0 for those seen at the very end only.
    """

    combinations: int = 0
    commands: int = 0
    fired: int = 0
    deaths: int = 0
    cuts: int = 0
    effects: int = 0
    tallies: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    violations: list[tuple[int, Violation]] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take another lane's in."""
        for name in ("combinations", "commands", "fired", "deaths", "cuts", "effects"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.tallies += other.tallies
        self.doubts += other.doubts
        self.missed += other.missed
        self.violations += other.violations


def run(lab: Lab, combinations: Sequence[Combination], seed: int, says: Callable[[str], None]) -> Report:
    """
    Run combinations on a lab.

    Args:
        says: told of each combination as it ends.
    """
    report = Report()
    all_told: list[Told] = []
    for combination in combinations:
        started = time.monotonic()
        try:
            all_told += one(lab, combination, seed, report)
        except TimeoutError as exc:
            # Nothing after it could be told apart from it.
            report.violations.append(
                (combination.number, Violation("it does not go on", combination.fault.name, str(exc)))
            )
            break
        bad = [violation for number, violation in report.violations if number == combination.number]
        word = f"{len(bad)} VIOLATIONS" if bad else "ok"
        says(f"{combination.number:4} {time.monotonic() - started:5.1f} s  {word:4} {combination.fault.name}")
        for violation in bad:
            says(f"       {violation}")
    at_end = look(lab, all_told)
    at_end.damaged = any(isinstance(combination.fault, Damaged) for combination in combinations)
    known = {violation for _, violation in report.violations}
    report.violations += [(0, violation) for violation in checker.check(at_end) if violation not in known]
    report.deaths = lab.agent.deaths + lab.broker.deaths
    report.cuts = lab.link.cuts + sum(proxy.cuts for proxy in lab.erp.links.values())
    report.effects = len(at_end.effects)
    report.tallies = tally(all_told, at_end.effects)
    return report


def one(lab: Lab, combination: Combination, seed: int, report: Report) -> list[Told]:
    """Run one combination; return what the callers were told."""
    name = f"{seed}:{combination.number}"
    rng = random.Random(name)  # noqa: S311 - a seed that can be given again
    wanted = workload.wishes(rng, f"{combination.number:07d}", _works(rng, combination), CALLERS)
    before = len(lab.fired()) + lab.sprung
    with under(lab, combination.fault):
        told = workload.run_all(lab.url, lab.keys, wanted, name)
    lab.wait_ready()
    fired = len(lab.fired()) + lab.sprung - before
    damaged = isinstance(combination.fault, Damaged)
    seen = Histories(told, effects=lab.erp.effects(), stock=lab.erp.stock(), damaged=damaged)
    report.combinations += 1
    report.commands += len({command_id for one_told in told for command_id in one_told.ids})
    report.fired += fired
    if isinstance(combination.fault, AtPoint | LostAnswer) and not fired:
        report.missed.append(f"{combination.number} {combination.fault.name}")
    report.violations += [(combination.number, violation) for violation in checker.check(seen)]
    report.doubts += explained(told)
    return told


def explained(told: Sequence[Told]) -> list[str]:
    """Return what the broker says of each command in doubt."""
    errors = [(one.wish, (one.final or {}).get("error") or {}) for one in told if one.state == "in_doubt"]
    return [f"{wish.operation}: {error.get('code')}: {error.get('message')}" for wish, error in errors]


def tally(told: Sequence[Told], effects: Sequence[Effect]) -> list[str]:
    """Return, for each system, how many things were wanted and done once."""
    orders = Counter(effect.system for effect in effects)
    lines = []
    for system in OF_SYSTEM:
        of_it = [one for one in told if one.wish.system == system and one.wish.effect in ("once", "at-most-once")]
        states = ", ".join(f"{count} {state}" for state, count in sorted(Counter(one.state for one in of_it).items()))
        lines.append(f"{system}: {len(of_it)} keys ({states}), {orders[system]} orders")
    return lines


def _works(rng: random.Random, combination: Combination) -> list[Work]:
    """What is done meanwhile: all of the systems that matter, or some of each where all do."""
    systems, fault = combination.systems, combination.fault
    if isinstance(fault, LostAnswer):
        of_it = [work for work in OF_SYSTEM[fault.link] if work.operation == fault.operation and work.mode == "ok"]
        return [*PROBE, *rng.choices(of_it, k=5)]
    if len(systems) < len(OF_SYSTEM):
        return [*PROBE, *(work for system in systems for work in OF_SYSTEM[system] * 2)]
    if isinstance(fault, AtPoint | Signalled):
        # Most of a restart is that of the drivers' processes: two systems each time, others with another seed.
        systems = ("postgres", rng.choice(systems[1:]))
    return [*PROBE, *(work for system in systems for work in rng.sample(OF_SYSTEM[system], SAMPLES[system]))]


def look(lab: Lab, told: list[Told]) -> Histories:
    """Return what all four saw of everything."""
    broker = {tenant: list(workload.listed(lab.url, lab.keys[tenant])) for tenant in TENANTS}
    effects = lab.erp.effects()
    foreign = [effect.order_no for effect in effects if not effect.order_no.startswith("AC")]
    return Histories(told, broker, lab.journal(), effects, lab.erp.stock(), foreign)
