"""The frozen program on Linux, with nothing of this machine's Python."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from agent import RELEASE


def test_a_frozen_program_is_whole(frozen: Path) -> None:
    done = subprocess.run(
        [frozen / "outhaul-agent", "selfcheck", "--json"], env={"PATH": ""}, capture_output=True, text=True, check=True
    )
    assert [one for one in json.loads(done.stdout) if not one["ok"]] == []
    assert (frozen / "VERSION").read_text() == f"{RELEASE}\n"
