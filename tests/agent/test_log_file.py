"""The agent's log in a file: it never fills a disk, and never ends who writes it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import logs
from agent.errors import ConfigError
from agent.log_file import BoundedFile
from agent.settings import Log

SIZE = 10_000


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The root logger as pytest has it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def all_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_files_stay_within_their_bounds_and_the_newest_line_is_in_the_first(tmp_path: Path) -> None:
    logs.set_up(Log(file="logs/agent.log", file_bytes=SIZE, files=3), tmp_path)
    for number in range(2_000):
        logging.getLogger("agent").info("line %d", number)
    found = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert found == ["agent.log", "agent.log.1", "agent.log.2"]
    assert all_bytes(tmp_path / "logs") <= 3 * SIZE
    assert "line 1999" in (tmp_path / "logs" / "agent.log").read_text("utf-8")


def test_a_file_that_cannot_be_set_aside_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows while somebody has it open."""

    def held(*_: object) -> None:
        raise PermissionError(13, "in use")

    handler = BoundedFile(tmp_path / "agent.log", SIZE, 3)
    monkeypatch.setattr(handler, "rotate", held)
    for number in range(2_000):
        handler.emit(logging.makeLogRecord({"msg": f"line {number}"}))
    handler.close()
    assert all_bytes(tmp_path) <= 2 * SIZE + 100
    assert "line 1999" in (tmp_path / "agent.log").read_text("utf-8")


def test_a_full_disk_costs_lines_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    handler = BoundedFile(Path("/dev/full"), 1 << 30, 2)
    for _ in range(100):
        handler.emit(logging.makeLogRecord({"msg": "x" * 1_000}))
    handler.close()
    assert capfd.readouterr().err == ""


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder", "utf-8")
    with pytest.raises(ConfigError, match=r"log\.file: .*taken.agent\.log can't be written: "):
        logs.set_up(Log(file="taken/agent.log"), tmp_path)


def test_only_who_runs_long_writes_into_the_file(tmp_path: Path) -> None:
    logs.set_up(Log(file="agent.log"))
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr
    assert list(tmp_path.iterdir()) == []
