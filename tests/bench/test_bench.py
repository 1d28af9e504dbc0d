"""That the benchmarks run and tell what they measured; no time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.figures import Figure, table

WAIT_S = 900  # seconds; about ten on a quiet machine, and a minute more where the agent is not frozen yet


@pytest.mark.slow
@pytest.mark.timeout(WAIT_S + 30)
def test_a_short_run_measures_rows_and_commands(tmp_path: Path) -> None:
    output = tmp_path / "figures" / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--short", "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(output.read_text("utf-8"))
    assert document["short"] is True
    assert {figure["unit"] for figure in document["figures"]} == {"rows/s", "ms", "commands/s"}
    for figure in document["figures"]:
        assert min(*figure["ours"], *figure["bare"]) > 0
        assert figure["name"] in done.stdout
    (agent,) = document["footprints"]
    assert agent["processes"] == 1
    assert 0 < agent["disk_mib"] < 60
    assert 0 < agent["resident_mib"] < 80


def test_a_figure_is_the_ratio_of_two_medians() -> None:
    figure = Figure("rows", "rows/s", ours=[10.0, 30.0, 20.0], bare=[40.0, 400.0, 4.0])
    assert figure.ratio == 0.5
    assert figure.document()["median_bare"] == 40.0
    assert table([figure]).splitlines()[1].split() == [
        "rows",
        "rows/s",
        "20.00",
        "40.00",
        "0.50",
        "10.00",
        "to",
        "30.00",
    ]
