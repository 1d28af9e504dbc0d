"""That the benchmarks run and tell what they measured; no time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import Figure, Goal, table

WAIT_S = 900  # seconds; about ten on a quiet machine, and a minute more where the agent is not frozen yet


@pytest.mark.slow
@pytest.mark.timeout(WAIT_S + 30)
def test_a_short_run_measures_every_subject(tmp_path: Path) -> None:
    output, page = tmp_path / "figures" / "bench.json", tmp_path / "page.md"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--short", "--output", str(output), "--page", str(page)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(output.read_text("utf-8"))
    assert document["short"] is True
    for figure in document["figures"]:
        assert min(*figure["ours"], *figure["peer"], 1) > 0
        assert figure["name"] in done.stdout
        assert figure["name"] in page.read_text("utf-8")


def test_a_figure_is_the_ratio_of_two_medians() -> None:
    figure = Figure("rows", "rows/s", [10.0, 30.0, 20.0], [40.0, 400.0, 4.0], "bare", Goal("at least", 0.9))
    assert figure.ratio == 0.5
    assert figure.met is False
    assert figure.document()["median_peer"] == 40.0
    found = " ".join(table([figure]).splitlines()[1].split())
    assert found == "rows rows/s 20.00 40.00 bare 0.50 at least 0.9 NO 10.00 to 30.00"


def test_a_goal_without_a_peer_is_held_against_the_figure() -> None:
    figure = Figure("idle", "MiB", [39.0], goal=Goal("at most", 40))
    assert (figure.ratio, figure.met) == (None, True)
    assert Figure("idle", "MiB", [39.0]).met is None
