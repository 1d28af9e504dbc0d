"""A file is there whole or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from agent import durable_file


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    durable_file.write(path, b"first\r\n", 0o600)
    durable_file.write(path, b"second", 0o600)
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f"kept.{os.getpid()}.tmp").write_bytes(b"half")
    durable_file.write(tmp_path / "kept", b"whole", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_was_there_stays_when_the_new_one_can_not_take_its_place(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="kept"):
        durable_file.write(path, b"new", 0o600)
    assert [found.name for found in tmp_path.iterdir()] == ["kept"]
