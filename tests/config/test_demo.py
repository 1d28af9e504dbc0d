"""The demo of the README: that it proves itself, stops, and leaves nothing behind."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.dev import processes
from config.dev.demo.steps import STEPS
from config.dev.demo.story import Story, Untrue, want

WAIT_S = 240  # seconds; about thirty on a quiet machine


@pytest.mark.slow
@pytest.mark.timeout(WAIT_S + 30)
def test_the_demo_proves_each_of_its_steps(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "config.dev.demo", "--once", "--folder", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=WAIT_S,
        check=False,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert told.rstrip().endswith("everything is stopped")
    assert f"{len(STEPS)} of {len(STEPS)} steps" in told
    assert "\x1b[" not in told


@pytest.mark.slow
@pytest.mark.timeout(WAIT_S + 30)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stops_everything_when_it_is_told_to(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "demo.log"
    with log.open("wb") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "config.dev.demo", "--folder", str(tmp_path / "demo")], stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + WAIT_S
        while b"\n1. " not in log.read_bytes():
            assert demo.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.1)
        demo_runs = processes.descendants(demo.pid)
        demo.send_signal(number)
        assert demo.wait(WAIT_S) == 1, log.read_text("utf-8")
    finally:
        demo.kill()
        demo.wait()
    assert len(demo_runs) >= 4, "PostgreSQL, node, broker and agent"
    assert processes.still_there(demo_runs) == set()
    assert "everything is stopped" in log.read_text("utf-8")


def test_a_story_with_one_untrue_step_is_not_true(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story()
    with story.step("one"):
        story.proves("it is so")
    assert story.true
    with story.step("two"):
        want(1 > 2, "wants 2, found 1")
    with story.step("three"):
        story.proves("it is so too")
    story.summary()
    assert not story.true
    assert "2 of 3 steps" in capsys.readouterr().out


def test_what_the_story_shows_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    Story().asks(["outhaul", "call", "sku=A 1"], into="/home/a b/invoices.csv")

    told = capsys.readouterr().out.strip().removeprefix("$ ")
    assert shlex.split(told) == ["outhaul", "call", "sku=A 1", ">", "/home/a b/invoices.csv"]


def test_a_step_without_a_proof_is_not_true(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story()
    with story.step("one"):
        story.says("words only")
    story.summary()
    assert not story.true
    assert "nothing was proved" in capsys.readouterr().out


def test_what_is_untrue_says_what_was_found() -> None:
    with pytest.raises(Untrue, match="wants 2, found 1"):
        want(False, "wants 2, found 1")
