"""What grows while an agent stands still is seen; the long run is `make soak`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.standing import HEAD, STATES, Look, slope, stand

STILL = Look(at=0.0, memory=40_000, threads=5, handles=12, children=0, kept=50_000)


def looks(**grown: int) -> list[Look]:
    """Two minutes of looks, in which some things grow by so much a second."""
    return [
        replace(STILL, at=float(second), **{name: getattr(STILL, name) + by * second for name, by in grown.items()})
        for second in range(120)
    ]


@pytest.mark.parametrize("name", ["memory", "threads", "handles", "children", "kept"])
def test_what_grows_is_named(name: str) -> None:
    found = slope("linked", 0, looks(**{name: 80_000 if name == "kept" else 50}))
    assert len(found.wrong) == 1
    assert {"kept": "its folder has"}.get(name, f"{name} grow") in found.wrong[0]


def test_what_stands_still_is_not(tmp_path: Path) -> None:
    found = slope("linked", 7, looks())
    assert (found.wrong, found.per_hour) == ([], 0.0)
    assert len(found.line()) == len(HEAD)


def test_what_is_loaded_once_is_no_growth() -> None:
    warm = [replace(one, memory=20_000 if one.at < 40 else 60_000) for one in looks()]
    assert slope("linked", 0, warm).wrong == []


def test_pages_of_a_store_that_grew_are_no_growth() -> None:
    found = slope("the broker", 0, looks(memory=50))
    assert found.wrong
    assert replace(found, pages=2_000).wrong == []


@pytest.mark.slow
def test_agents_are_looked_at_in_their_states(tmp_path: Path) -> None:
    names = ("linked and busy", "names not found", "not enrolled")
    chosen = [state for state in STATES if state.name in names]
    found = stand(tmp_path, 8.0, lambda _: None, chosen)
    assert [one.who for one in found] == [*names, "the broker of them all"]
    assert all(one.last.memory > 10_000 and one.last.threads > 0 for one in found)
    busy = found[0]
    assert busy.last.children > 0, "its drivers are children of it"
    assert busy.tries > 10, "what it did is in its log"
