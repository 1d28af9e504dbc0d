"""What only a terminal gets to see: a line of progress, colour, and cells that fit."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.cloud_broker.client.broker import Broker
from tests.cloud_broker.client.conftest import PROGRAM, Outhaul

DEADLINE_S = 30.0  # seconds
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Terminal:
    """A program on a terminal of 80 columns; what it wrote there, and what it wrote beside it."""

    process: subprocess.Popen[bytes]
    screen: int
    shown: str = ""

    def until(self, done: Callable[[str], bool]) -> str:
        """Read until ``done`` says so of all that was shown, or the program left the terminal."""
        deadline = time.monotonic() + DEADLINE_S
        while not done(self.shown):
            assert time.monotonic() < deadline, self.shown
            try:
                piece = os.read(self.screen, 65_536)
            except OSError:  # Linux says so once the last program has left
                break
            if not piece:
                break
            self.shown += piece.decode(errors="replace")
        return self.shown

    def end(self) -> str:
        """Read to the end and return what was shown."""
        self.until(lambda shown: False)
        self.process.wait(DEADLINE_S)
        os.close(self.screen)
        return self.shown


def start(outhaul: Outhaul, *words: str, stdout_too: bool = True, stdin_too: bool = False) -> Terminal:
    """Start ``outhaul`` with standard error on a terminal, and the others if wished."""
    screen, line = pty.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [PROGRAM, *words],
        stdin=line if stdin_too else subprocess.DEVNULL,
        stdout=line if stdout_too else subprocess.PIPE,
        stderr=line,
        env=outhaul.environ | {"TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(line)
    return Terminal(process, screen)


def test_why_a_command_waits_is_shown_while_it_waits(outhaul: Outhaul) -> None:
    terminal = start(outhaul, "call", "plant-2", "echo", "a=1", "--ttl", "5min", "--wait", "2.5")
    shown = terminal.until(lambda text: "waiting for the agent plant-2 to connect" in text)
    assert "waiting for the agent plant-2 to connect" in shown
    shown = terminal.end()
    assert terminal.process.returncode == 1
    assert "not ended yet" in shown


def test_rows_are_counted_while_they_go_into_a_file(outhaul: Outhaul) -> None:
    terminal = start(outhaul, "call", "plant-1", "stuck", "--format", "csv", stdout_too=False)
    shown = terminal.until(lambda text: "2 rows" in text or "1 rows" in text)
    assert "a second" in shown
    assert terminal.process.stdout is not None
    assert terminal.process.stdout.readline() == b"n\r\n"
    terminal.process.terminate()
    terminal.process.stdout.close()
    terminal.end()


def test_rows_on_the_terminal_are_not_torn_by_progress(outhaul: Outhaul) -> None:
    shown = start(outhaul, "call", "plant-1", "rows", "count=3", "--format", "csv").end()
    lines = [CONTROL.sub("", line).strip() for line in shown.splitlines()]
    assert [line for line in lines if line][:4] == [
        "n,text",
        "0,row number 0 of many",
        "1,row number 1 of many",
        "2,row number 2 of many",
    ]


@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}])
def test_colour_is_for_terminals_and_may_be_refused(outhaul: Outhaul, environ: dict[str, str]) -> None:
    outhaul.environ.update(environ)
    shown = start(outhaul, "call", "plant-2", "echo", "--ttl", "5min", "--wait", "1.5").end()
    codes = {int(code) for found in COLOUR.findall(shown) for code in found[2:-1].split(";") if code}
    assert any(30 <= code <= 107 for code in codes) is not bool(environ), "the spinner is green"


def test_a_missing_value_is_dimmed_on_a_terminal(outhaul: Outhaul) -> None:
    assert re.search(r"\x1b\[2m *NULL", start(outhaul, "call", "plant-1", "open-invoices", "customer=x").end())


def test_long_cells_are_shortened_to_fit(outhaul: Outhaul) -> None:
    shown = start(outhaul, "call", "plant-1", "open-invoices", "customer=x").end()
    lines = [CONTROL.sub("", line) for line in shown.splitlines()]
    assert all(len(line) <= 80 for line in lines)
    assert any("…" in line for line in lines)
    assert any("12345678901234567890" in line for line in lines), "numbers are worth more than notes"


def test_more_columns_than_fit_become_lines(outhaul: Outhaul) -> None:
    shown = CONTROL.sub("", start(outhaul, "call", "plant-1", "wide").end())
    assert "row 1" in shown
    assert re.search(r"c39\s+39", shown)


def test_ids_of_dead_letters_are_never_shortened(outhaul: Outhaul) -> None:
    outhaul("call", "plant-1", "ends", "as=failed", "--correlation-id", "cor-ids")
    shown = CONTROL.sub("", start(outhaul, "dead-letters", "--correlation-id", "cor-ids").end())
    assert re.search(r"cmd_[0-9a-z]{26}", shown)
    assert "customer C042 is blocked" in shown


@pytest.mark.parametrize(("answer", "code", "told"), [("y", 0, "done"), ("n", 1, "aborted")])
def test_a_replay_of_many_asks_first_on_a_terminal(outhaul: Outhaul, answer: str, code: int, told: str) -> None:
    outhaul("call", "plant-1", "ends", "as=failed", "--correlation-id", f"cor-{answer}")
    terminal = start(outhaul, "replay", "--all", "--correlation-id", f"cor-{answer}", stdin_too=True)
    terminal.until(lambda text: "Go on?" in text)
    assert "1 dead letter" in terminal.shown
    os.write(terminal.screen, f"{answer}\n".encode())
    shown = CONTROL.sub("", terminal.end())
    assert terminal.process.returncode == code
    assert told in shown


def test_the_key_is_asked_for_and_not_shown(outhaul: Outhaul, broker: Broker) -> None:
    terminal = start(outhaul, "login", stdin_too=True)
    terminal.until(lambda text: "Address of the broker" in text)
    os.write(terminal.screen, f"{broker.url}\n".encode())
    terminal.until(lambda text: "Key" in text)
    os.write(terminal.screen, f"{broker.key}\n".encode())
    shown = terminal.end()
    assert terminal.process.returncode == 0, shown
    assert broker.key not in shown
    assert "kept in" in shown
