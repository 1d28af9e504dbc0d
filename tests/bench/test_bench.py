"""That the benchmarks run and tell what they measured; no time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import SUBJECTS
from bench.figures import Figure, Goal, alternated, table
from bench.page import page
from bench.peers import PeerMissing, unpacked
from bench.record import Measured, keep, kept

WAIT_S = 500  # seconds; two minutes on a quiet machine, and one more where the agent is not frozen yet


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
    assert list(document["subjects"]) == list(SUBJECTS)
    for figure in (figure for measured in document["subjects"].values() for figure in measured["figures"]):
        least = min(*figure["ours"], *figure["peer"], 1)
        # Memory need not have grown, and of its processor the system tells hundredths of a second.
        may_be_none = any(word in f"{figure['name']} {figure['unit']}" for word in ("MiB", "processor"))
        assert least > 0 or (least == 0 and may_be_none), figure
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


def test_a_goal_of_ours_is_not_judged_by_the_peer_that_is_shown() -> None:
    figure = Figure("start", "ms", [310.0], [900.0], "another", Goal("at most", 300, of_ours=True))
    assert (figure.ratio, figure.met) == (310 / 900, False)
    assert "at most 300 ms" in table([figure])


def test_a_missing_peer_leaves_its_figures_blank_and_judges_nothing() -> None:
    def missing() -> float:
        raise PeerMissing("it can't be had")

    ours, peer = alternated(2, lambda: 7.0, missing)
    figure = Figure("calls", "calls/s", ours, peer, "another", Goal("at least", 1.2))
    assert (ours, peer, figure.ratio, figure.met) == ([7.0, 7.0], [], None, None)
    measured = Measured("2026-11-22", 1.0, ["it can't be had"], [figure])
    assert "- Not measured beside: it can't be had\n" in page({"calls": measured}, short=False)


def test_why_a_peer_is_missing_is_one_line() -> None:
    with pytest.raises(PeerMissing, match=r"^no-such-package-of-debian can't be installed here: .+$"):
        unpacked("no-such-package-of-debian")


def test_one_subject_measured_again_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "new" / "bench.json"
    goal = Goal("at most", 2, of_ours=True)
    rows = Measured("2026-11-22", 9.0, ["why"], [Figure("rows", "rows/s", [1.0], [3.0], "bare", goal)])
    keep(file, {"rows": rows}, short=False)
    found = kept(file, short=False)
    assert found == {"rows": rows}
    assert kept(file, short=True) == {}
    assert kept(tmp_path / "none", short=False) == {}
    file.write_text('{"figures": []}', "utf-8")
    assert kept(file, short=False) == {}
