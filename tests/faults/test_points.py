"""The points of the lab are where they say, and work passes them."""

from __future__ import annotations

import importlib
import random

import pytest

from tests.faults import workload
from tests.faults.points import POINTS, RENEWAL, TIMERS, WRITES, Point
from tests.faults.program import MODULES, Arming, places
from tests.faults.site import Lab, until
from tests.faults.workload import OF_SYSTEM, PROBE


@pytest.mark.parametrize("point", [*POINTS, *WRITES, *RENEWAL], ids=lambda point: point.name)
def test_a_point_is_around_a_method_that_is_there(point: Point) -> None:
    importlib.import_module(MODULES[point.program])
    found = list(places(point.target))
    assert found
    for owner, name in found:
        assert callable(getattr(owner, name))


@pytest.mark.parametrize("timer", TIMERS)
def test_a_timer_of_the_lab_is_one_of_the_programs(timer: str) -> None:
    module, _, name = timer.partition(":")
    assert isinstance(getattr(importlib.import_module(module), name), float)


def test_no_point_has_the_name_of_another() -> None:
    names = [point.name for point in (*POINTS, *WRITES, *RENEWAL)]
    assert len(names) == len(set(names))


def test_every_point_is_passed_by_work_that_has_no_fault(running: Lab) -> None:
    running.arm(Arming("*", action="note"))
    try:
        works = [*PROBE, *(work for of_one in OF_SYSTEM.values() for work in of_one)]
        rng = random.Random(1)  # noqa: S311 - the same work each time
        wanted = workload.wishes(rng, "9000001", works, 4)
        told = workload.run_all(running.url, running.keys, wanted, "points")
        assert [one for one in told if not one.state] == []
        # A link anew: those of the greeting.
        running.link.cut()
        expected = {point.name for point in POINTS if not point.first}
        until(lambda: expected <= set(running.fired()), "passed", 20)
    except TimeoutError:
        assert expected - set(running.fired()) == set()
    finally:
        running.arm(None)
