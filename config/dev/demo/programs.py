"""The programs of the demo as processes: started, watched, asked, and stopped so that none is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from config.dev import processes

START_S: Final = 60.0  # seconds for a program to be ready; one or two on a quiet machine
STOP_S: Final = 20.0  # seconds from the wish to stop to the kill
TAIL_LINES: Final = 25  # of a log, where something went wrong
LOOK_S: Final = 0.05  # seconds between two looks at a condition


class ProgramError(RuntimeError):
    """A program did not do what it is there for; the text has the end of its log."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command that ended said."""

    exit_code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both as a person sees them on a terminal."""
        return "\n".join(part.rstrip() for part in (self.out, self.err) if part.strip())


def script(name: str) -> str:
    """Return the path of one of our three programs, which lies beside this Python."""
    return str(Path(sys.executable).parent / name)


def run(
    words: Sequence[str], *, stdin: str = "", environment: Mapping[str, str] | None = None, timeout_s: float = 120.0
) -> Answer:
    """
    Run one of our commands to its end.

    Raises:
        ProgramError: it took longer than ``timeout_s`` seconds.
    """
    try:
        done = subprocess.run(
            [script(words[0]), *words[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**os.environ, **(environment or {})},
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ProgramError(f"{' '.join(words[:3])} did not end within {timeout_s:.0f} s") from exc
    return Answer(done.returncode, done.stdout, done.stderr)


def begin(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start one of our commands whose end is waited for later."""
    return subprocess.Popen(
        [script(words[0]), *words[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        start_new_session=True,
    )


def must(words: Sequence[str], *, stdin: str = "") -> str:
    """
    Run one of our commands and return what it printed.

    Raises:
        ProgramError: its exit code is not 0.
    """
    answer = run(words, stdin=stdin)
    if answer.exit_code != 0:
        raise ProgramError(f"{' '.join(words[:3])} … ended with {answer.exit_code}:\n{answer.text}")
    return answer.out


class Program:
    """One of our programs that runs until it is stopped, with its words in a log file."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self.name = words[0]
        self.log = log
        self._words = [script(words[0]), *words[1:]]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; `wait_until` tells when it is ready."""
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches the demo only, which then stops its programs in order.
                start_new_session=True,
            )

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """
        Wait until ``ready`` says so.

        Raises:
            ProgramError: it ended, or took longer than START_S.
        """
        deadline = time.monotonic() + START_S
        while not ready():
            if not self.running or time.monotonic() > deadline:
                why = f"is not {what} after {START_S:.0f} s" if self.running else f"ended before it was {what}"
                raise ProgramError(f"{self.name} {why}; the end of {self.log}:\n{self.tail()}")
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """
        Ask it to stop, and see that it and its children are gone.

        Raises:
            ProgramError: it left processes behind, which are killed now.
        """
        process, self._process = self._process, None
        if process is None:
            return
        children = processes.descendants(process.pid)
        process.terminate()
        processes.end(process, STOP_S)
        left = processes.still_there(children)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if left:
            raise ProgramError(
                f"{self.name} left processes behind: {sorted(left)}; the end of {self.log}:\n{self.tail()}"
            )

    def kill(self) -> None:
        """End it as a power cut would, as far as processes go; its children see that it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def tail(self) -> str:
        """Return the end of its log."""
        try:
            lines = self.log.read_text("utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return "(it wrote no log)"
        return "\n".join(lines[-TAIL_LINES:])
