"""Some places with some faults, always the same; ``make faults`` has all of them."""

from __future__ import annotations

import pytest

from tests.faults.combinations import Combination, all_combinations
from tests.faults.run import Report, one
from tests.faults.site import Lab

SEED = 3
CHOSEN = (
    "kill at agent.end.after, passing 1",
    "kill at agent.find.after, passing 1, after agent.asked.after, passing 1",
    "orphan at worker.commit.before, passing 1",
    "kill at worker.appear.after, passing 1",
    "kill at broker.add_command.after, passing 1",
    "kill at broker.finish.before, passing 4",
    "fail ENOSPC at agent.fsync.before, passing 3",
    "broker: cut after 0.1, 0.4, 0.7, 1, 1.3 s",
    "broker: swallowed, then cut down after 0.15 s",
    "soap: swallowed, then cut down after 0.1 s",
    "pg-once: the answer to its COMMIT lost, which came through",
    "my-rows-once: the answer to its COMMIT lost, which never came",
    "pg-once: its COMMIT under way for 9 s",
)


def test_there_are_at_least_two_hundred_and_none_is_there_twice() -> None:
    names = [found.fault.name for found in all_combinations()]
    assert len(set(names)) == len(names) >= 200


@pytest.mark.parametrize("name", CHOSEN)
def test_nothing_is_lost_and_nothing_is_there_twice(running: Lab, name: str) -> None:
    combination: Combination = next(found for found in all_combinations() if found.fault.name == name)
    report = Report()
    one(running, combination, SEED, report)
    assert report.violations == []
    assert report.missed == []
