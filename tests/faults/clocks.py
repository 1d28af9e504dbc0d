"""Clocks of programs that can be put ahead and back while they run (libfaketime)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of one program; only the time of day jumps, intervals stay what they are."""

    file: Path

    def words(self) -> list[str]:
        """Return the words before those of the program."""
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        self.set(0)
        return [
            "/usr/bin/env",
            f"LD_PRELOAD={library}",
            f"FAKETIME_TIMESTAMP_FILE={self.file}",
            "FAKETIME_CACHE_DURATION=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "FAKETIME_DONT_RESET=1",
        ]

    def set(self, ahead_s: int) -> None:
        """Put it so many seconds ahead; it is noticed within a second."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(f"{ahead_s:+d}\n")


def of(folder: Path, program: str) -> Clock:
    """Return the clock of one program of the lab in a folder."""
    return Clock(folder / f"clock-of-{program}")
