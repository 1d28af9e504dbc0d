"""
The first tutorial, done as it is written.

Its blocks are run in their order: ``sh`` is typed, ``sh stays`` gets a terminal of its own (the same words again
stop the one before), ``sh fails`` must not succeed, ``sh setup`` was done by who runs the tests. ``toml NAME`` is
written to that file, or added to it; ``text`` is what the block before it must have printed.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from config.dev.reference import ROOT

TUTORIAL = ROOT / "docs" / "tutorial" / "first-command.md"
WAIT_S = 60.0  # seconds; for a program to be ready on a slow machine
READY = {"outhaul-broker serve": "serving: API", "outhaul-agent run": "welcomed as"}


class Desk:
    """The reader of the tutorial, with a folder and some terminals."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, ExitStack] = {}
        self._ports = {port: str(_free_port()) for port in ("8440", "8443")}
        programs = str(Path(sys.executable).parent)
        self._environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(folder / "home"),
        }
        self.output = ""

    def do(self, info: str, text: str) -> None:
        """Do what one block says."""
        for port, free in self._ports.items():
            text = text.replace(port, free)
        if info in ("sh", "sh fails"):
            self._type(text, fails=info == "sh fails")
        elif info == "sh stays":
            self._start(text.strip())
        elif info.startswith("toml "):
            with (self._folder / info.removeprefix("toml ")).open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        elif info == "text":
            printed = [line.rstrip() for line in self.output.splitlines()]
            assert [line for line in text.splitlines() if line.rstrip() not in printed] == [], self.output
        else:
            assert info == "sh setup"

    def leave(self) -> None:
        """Stop all that runs."""
        for terminal in self._running.values():
            terminal.close()

    def _type(self, text: str, *, fails: bool) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        self.output = done.stdout
        assert (done.returncode != 0) == fails, self.output

    def _start(self, command: str) -> None:
        if command in self._running:
            self._running.pop(command).close()
        log = self._folder / f"{command.replace(' ', '-')}-{time.monotonic_ns()}.log"
        terminal = self._running[command] = ExitStack()
        process = terminal.enter_context(self._terminal(command, log))
        _until(lambda: READY[command] in log.read_text(encoding="utf-8"), process, log)
        if command == "outhaul-agent run" and (self._folder / "home").exists():
            named = tomllib.loads((self._folder / "agent.toml").read_text(encoding="utf-8"))["operations"]
            _until(lambda: set(named) <= set(self._operations()), process, log)

    def _operations(self) -> list[str]:
        """The operations that the broker knows; it is told of them some moments after the welcome."""
        done = subprocess.run(
            ["outhaul", "operations", "plant-1"],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        return re.findall(r"^([a-z-]+) ", done.stdout, re.MULTILINE)

    @contextmanager
    def _terminal(self, command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        with log.open("wb") as file:
            process = subprocess.Popen(
                command.split(), cwd=self._folder, env=self._environment, stdout=file, stderr=subprocess.STDOUT
            )
            try:
                yield process
            finally:
                process.send_signal(signal.SIGINT)
                try:
                    assert process.wait(WAIT_S) == 0, log.read_text(encoding="utf-8")
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise


def _until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    found = re.findall(r"^```([^\n]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert [info for info, _ in found][:3] == ["sh setup", "sh", "toml broker.toml"]
    desk = Desk(tmp_path)
    try:
        for info, block in found:
            desk.do(info, block)
    finally:
        desk.leave()
