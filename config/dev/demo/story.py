"""How the demo tells what happens: short, in colour on a terminal only, with a table of proofs at the end."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

WIDTH: Final = 100  # characters of a line of prose
SHOWN_LINES: Final = 26  # of a program's output; the rest is counted

BOLD, DIM, RED, GREEN, CYAN = "1", "2", "31", "32", "36"


class Untrue(Exception):
    """Something is not as the demo says it is; the text has what was wanted and what was found."""


@dataclass
class Step:
    """One thing that is shown, and what proves it; ``failed`` says why it is not true."""

    title: str
    proofs: list[str] = field(default_factory=list)
    failed: str = ""


class Story:
    """Prints as it goes, and remembers the steps with their proofs."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    @property
    def true(self) -> bool:
        """Whether every step was proved."""
        return all(step.proofs and not step.failed for step in self.steps)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Tell one step; what is untrue in it is printed, kept for the end, and the story goes on."""
        self.steps.append(Step(title))
        print(f"\n{self._as(BOLD, f'{len(self.steps)}. {title}')}")
        try:
            yield
        except Untrue as exc:
            self.steps[-1].failed = str(exc)
            print(self._as(RED, f"   NOT TRUE: {exc}"), flush=True)

    def says(self, text: str) -> None:
        """Print a sentence or two of prose."""
        print(textwrap.fill(text, WIDTH, initial_indent="   ", subsequent_indent="   "), flush=True)

    def asks(self, words: Sequence[str], into: str = "") -> None:
        """Print a command as a person would type it; ``into`` names the file that takes its output."""
        line = shlex.join(words) + (f" > {shlex.quote(into)}" if into else "")
        print(f"   {self._as(CYAN, f'$ {line}')}", flush=True)

    def answers(self, text: str) -> None:
        """Print what a program said, cut after some lines."""
        lines = text.rstrip().splitlines()
        for line in lines[:SHOWN_LINES]:
            print(f"     {line.rstrip()}")
        if len(lines) > SHOWN_LINES:
            print(self._as(DIM, f"     … {len(lines) - SHOWN_LINES} more lines"))
        sys.stdout.flush()

    def proves(self, text: str) -> None:
        """Print what was found to be so where it counts, and keep it for the end."""
        self.steps[-1].proofs.append(text)
        print(self._as(GREEN, f"   ✓ {text}"), flush=True)

    def summary(self) -> None:
        """Print the table of steps and proofs."""
        print(f"\n{self._as(BOLD, 'What was shown, and how we know')}")
        width = max(len(step.title) for step in self.steps)
        for number, step in enumerate(self.steps, 1):
            ok = bool(step.proofs) and not step.failed
            mark = self._as(GREEN, "✓") if ok else self._as(RED, "✗")
            told = [*step.proofs, f"NOT TRUE: {step.failed}"] if step.failed else step.proofs
            for place, line in enumerate(told or ["nothing was proved"]):
                head = f"{number:2} {mark} {step.title:<{width}}" if place == 0 else f"{'':{width + 5}}"
                print(f"{head}  {line.splitlines()[0]}")
        word = self._as(GREEN, "all of it is true") if self.true else self._as(RED, "NOT all of it is true")
        print(f"\n{word}: {sum(not step.failed for step in self.steps)} of {len(self.steps)} steps", flush=True)

    def _as(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def want(truth: bool, otherwise: str) -> None:
    """
    Go on only if ``truth``.

    Raises:
        Untrue: with ``otherwise``, which says what was wanted and what was found.
    """
    if not truth:
        raise Untrue(otherwise)
