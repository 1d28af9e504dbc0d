"""What is told on standard error while a command runs: one line that changes, and only on a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from cloud_broker.client.records import Command, ReplayRun

if TYPE_CHECKING:
    from rich.status import Status

WAITING: Final = {
    "agent": "waiting for {where} to connect",
    "paused": "waiting: the connection is paused at the agent's machine, and only there it can go on",
    "window": "waiting for the hours in which the connection may be used",
    "rate": "waiting for its turn: the connection's rate is used up",
    "order": "waiting for earlier commands of the same ordering key",
    "breaker": "waiting: the connection failed several times and is left alone for a while",
    "retry": "waiting for the next try",
}


SHOWN_S: Final = 0.2  # seconds between two changes of a line that would change all the time


class Progress:
    """One line on a terminal, nothing elsewhere. ``shown`` tells which."""

    def __init__(self) -> None:
        # Rows on the same terminal would tear the line apart; ``stop`` is called before them.
        self.shown = sys.stderr.isatty()
        self._started = time.monotonic()
        self._status: Status | None = None
        self._shown_at = 0.0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def state(self, command: Command) -> None:
        """Show where a command stands."""
        self._show(in_words(command))

    def rows(self, count: int) -> None:
        """Show how many rows came, and how fast."""
        self._show(f"{count:,} rows, {count / max(self.seconds, 0.001):,.0f} a second")

    def sent(self, sent: int, of: int) -> None:
        """Show how much of a content was sent, and how fast."""
        self._bytes("sent", sent, of)

    def received(self, received: int, of: int) -> None:
        """Show how much of a content came, and how fast."""
        self._bytes("received", received, of)

    def _bytes(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._shown_at >= SHOWN_S or done == of:
            self._shown_at = now
            rate = done / 1e6 / max(self.seconds, 0.001)
            self._show(f"{what} {done / 1e6:,.0f} of {of / 1e6:,.0f} MB, {rate:,.0f} a second")

    def run(self, run: ReplayRun) -> None:
        """Show how far a replay in bulk is."""
        self._show(f"{run.replayed + run.skipped_count:,} of {run.total:,} dead letters")

    def stop(self) -> None:
        """Take the line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _show(self, text: str) -> None:
        if not self.shown:
            return
        # Deferred: loading rich takes longer than a short command, and scripts never see this line.
        from rich.console import Console
        from rich.text import Text

        line = Text(f"{text} ({self.seconds:.0f} s)", no_wrap=True, overflow="ellipsis")
        if self._status is None:
            console = Console(stderr=True, force_terminal=True, highlight=False)
            self._status = console.status(line, spinner="line")
            self._status.start()
        else:
            self._status.update(line)


def in_words(command: Command) -> str:
    """Return where a command stands, for people."""
    where = f"the agent {command.agent}" if command.agent else f"an agent of the group {command.group}"
    if command.state == "queued" and command.waiting_for:
        waiting = WAITING.get(command.waiting_for, f"waiting for {command.waiting_for}").format(where=where)
        return f"{waiting}; the last one failed: {command.error.message}" if command.error is not None else waiting
    return {
        "queued": "queued",
        "dispatched": f"sent to {where}",
        "running": f"running on {where}",
    }.get(command.state, command.state.replace("_", " "))
