"""Two agents of one group, one of them lost every few seconds; ``make soak`` does it for minutes."""

from __future__ import annotations

from pathlib import Path

from tests.faults.erp import Erp
from tests.faults.groups import MEMBERS, group_lab, work

SEED = 7
SECONDS = 15.0


def test_nothing_is_lost_and_nothing_is_there_twice_in_a_group(tmp_path: Path, systems: Erp) -> None:
    with group_lab(tmp_path, systems) as made:
        report = work(made, SECONDS, SEED, lambda line: None)
    assert report.violations == []
    assert report.commands > 0
    assert report.faults.total() > 0
    assert set(report.at) == set(MEMBERS)
