"""
``make soak``: callers at work for minutes while programs and drivers are killed at random.

As many orders as keys must be in every system afterwards, save those of which it is told why they are in doubt.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.faults import checker, workload
from tests.faults.histories import Told, Wish
from tests.faults.run import Report, explained, look, tally
from tests.faults.site import Lab
from tests.faults.workload import Caller, Work

CALLERS: Final = 20
KILL_EVERY_S: Final = (0.5, 6.0)  # seconds between two kills, drawn from this range
IN_THE_MIDDLE: Final = 0.05  # of the looks whether all is up again: how often it is killed although it is not
LOOK_S: Final = 0.2
VICTIMS: Final = ("agent", "agent", "broker", "broker", "driver")
PATIENCE_S: Final = 300.0  # seconds without an end until a caller takes its command for lost
EACH: Final = 6  # wishes of one caller at a time
TELL_EVERY_S: Final = 30.0
WORKS: Final = (
    Work("pg-once", "once", "postgres", settled=True),
    Work("pg-verified", "at-most-once", "postgres", settled=True),
    Work("pg-maybe", "at-most-once", "postgres"),
    Work("pg-rows-once", "once", "postgres", settled=True, lines=200),
    Work("pg-read", "read", "postgres", lines=2_000),
    Work("my-once", "once", "mariadb", settled=True),
    Work("my-rows-once", "once", "mariadb", settled=True, lines=200),
    Work("drop-once", "once", "files", settled=True),
    Work("drop-maybe", "at-most-once", "files"),
    Work("post-verified", "at-most-once", "soap", settled=True),
    Work("post-maybe", "at-most-once", "soap"),
)


def soak(lab: Lab, minutes: float, seed: int, says: Callable[[str], None]) -> Report:
    """Let callers work and programs die for some minutes; return what came of it."""
    until = time.monotonic() + minutes * 60
    report = Report(combinations=1)
    drivers = [0]
    told: list[Told] = []
    with ThreadPoolExecutor(CALLERS + 1) as pool:
        stop = threading.Event()
        killer = pool.submit(_kill, lab, random.Random(seed), stop, drivers)  # noqa: S311 - a seed that can be given again
        callers = [pool.submit(_call, lab, number, seed, until, told) for number in range(CALLERS)]
        while any(not caller.done() for caller in callers):
            left_s = max(1.0, until - time.monotonic())
            stop.wait(min(TELL_EVERY_S, left_s))
            deaths = f"{lab.agent.deaths} agents, {lab.broker.deaths} brokers, {drivers[0]} drivers"
            says(f"{len(told)} commands; killed: {deaths}")
            if time.monotonic() > until:
                stop.set()
                killer.result()
                for caller in callers:
                    caller.result()
    lab.wait_ready()
    seen = look(lab, told)
    report.commands = len({command_id for one in told for command_id in one.ids})
    report.deaths = lab.agent.deaths + lab.broker.deaths + drivers[0]
    report.effects = len(seen.effects)
    report.tallies = tally(told, seen.effects)
    report.doubts = explained(told)
    report.violations = [(0, violation) for violation in checker.check(seen)]
    return report


def _call(lab: Lab, number: int, seed: int, until: float, told: list[Told]) -> None:
    """One caller: asks for some things at a time and waits for them, until the time is up."""
    rng = random.Random(f"{seed}:{number}")  # noqa: S311 - a seed that can be given again
    caller = Caller(lab.url, lab.keys, f"{seed}:{number}", PATIENCE_S)
    turn = 0
    while time.monotonic() < until:
        # Seven digits: the caller and its turn; three more number the wish.
        run = f"{number:02d}{turn:05d}"
        wanted: list[Wish] = workload.wishes(rng, run, rng.choices(WORKS, k=EACH), 1)[0]
        told += caller.run(wanted, look_again=turn % 10 == 0)
        turn += 1


def _kill(lab: Lab, rng: random.Random, stop: threading.Event, drivers: list[int]) -> None:
    while not stop.wait(rng.uniform(*KILL_EVERY_S)):
        while rng.random() > IN_THE_MIDDLE and not lab.linked() and not stop.wait(LOOK_S):
            pass  # or nothing would ever get done on a slow machine
        victim = rng.choice(VICTIMS)
        if victim != "driver":
            (lab.agent if victim == "agent" else lab.broker).signal(signal.SIGKILL)
        elif there := lab.driver_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(there), signal.SIGKILL)
                drivers[0] += 1
