"""A short run of what ``make soak`` does a thousand times: no fault locks an agent out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.renewals import Fault, faults, renew

PLANTS = 4
WANTED = 16
LIFE_S = 3.0


def chosen() -> list[Fault]:
    """One fault of each kind, and the agent killed where it matters most."""
    wanted = (
        "nothing",
        "cut at agent.renewed.before (1)",
        "kill at agent.beside.after (1)",
        "cut at agent.prove.before (1)",
        "kill at agent.switch.before (1)",
        "kill at agent.switch.after (1)",
        "kill at agent.welcomed.before (1)",
        "kill at agent.settled.before (1)",
        "kill at agent.back.after (1)",
        "sleep, kill at agent.recover.after (1)",
        "sleep, cut at broker.recover.after (1)",
        "fail at agent.fsync.before (3)",
        "fail at agent.lineage.before (1)",
        "raise at broker.next.before (1)",
        "kill at broker.greet.after (1)",
        "suspend",
    )
    found = {str(fault): fault for fault in faults()}
    return [found[name] for name in wanted]


@pytest.mark.parametrize("seed", [4])
def test_no_agent_is_locked_out(seed: int, tmp_path: Path) -> None:
    told = renew(tmp_path, WANTED, PLANTS, seed, print, life_s=LIFE_S, chosen=chosen())
    assert told.locked_out == []
    assert told.renewed == WANTED
    assert told.missed.total() <= 2, told.missed  # a slow machine may be past a point when it is armed
