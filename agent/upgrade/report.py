"""What became of the last upgrade: ``state_dir/upgrade.json``, for ``upgrade --status`` and ``status``; no secret."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final, Literal

import msgspec

from agent import durable_file

NAME: Final = "upgrade.json"
State = Literal["installing", "watching", "done", "failed", "stuck"]


class Report(msgspec.Struct, frozen=True):
    """
    One upgrade.

    Attributes:
        state: ``done``: the new release came up; ``failed``: the old one runs again; ``stuck``: neither does.
        before: the release that ran.
        after: the release that was to run.
        at: when this was written, seconds since 1970.
        why: it failed.
        until: when it must have ended, seconds since 1970; later than that nobody watches any more.
    """

    state: State
    before: str
    after: str
    at: float
    why: str = ""
    until: float = 0.0

    @property
    def under_way(self) -> bool:
        """Whether somebody watches."""
        return self.state in ("installing", "watching") and time.time() < self.until

    @property
    def text(self) -> str:
        """All of it in a sentence."""
        if self.state in ("installing", "watching") and not self.under_way:
            return f"the upgrade from {self.before} to {self.after} was cut off, and nobody watches it: see what runs"
        return {
            "installing": f"{self.after} is being installed",
            "watching": f"{self.after} is being watched; if it does not come up, {self.before} is put back",
            "done": f"{self.after} came up in the place of {self.before}",
            "failed": f"upgrade to {self.after} failed, {self.before} runs: {self.why}",
            "stuck": f"upgrade to {self.after} failed: {self.why}; {self.before} was put back, and does not come up "
            "either: see its log",
        }[self.state]


def write(state_dir: Path, report: Report) -> None:
    """
    Write it down, for the agent and whoever may read its folder.

    Raises:
        OSError: it can't be written.
    """
    durable_file.write(state_dir / NAME, msgspec.json.encode(report), 0o644)


def read(state_dir: Path) -> Report | None:
    """Return that of the last upgrade, or ``None`` if there was none."""
    try:
        return msgspec.json.decode((state_dir / NAME).read_bytes(), type=Report)
    except (OSError, ValueError):
        return None
