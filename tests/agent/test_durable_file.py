"""A file is there whole or not at all."""

from __future__ import annotations

import errno
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


class Held:
    """A file that another program holds for the first ``times`` tries, as Windows tells it."""

    def __init__(self, times: int, winerror: int | None) -> None:
        self.tries = 0
        self._times = times
        self._winerror = winerror

    def __call__(self) -> None:
        self.tries += 1
        if self.tries <= self._times:
            refused = PermissionError(errno.EACCES, "held")
            refused.winerror = self._winerror  # type: ignore[attr-defined,unused-ignore]  # typed on Windows only
            raise refused


@pytest.mark.parametrize("winerror", durable_file.SHARING_VIOLATIONS)
def test_a_file_that_is_open_elsewhere_for_a_moment_is_waited_for(winerror: int) -> None:
    held = Held(3, winerror)
    durable_file.patiently(held)
    assert held.tries == 4


@pytest.mark.parametrize("winerror", [None, 19])  # 19: the medium is write-protected
def test_a_true_refusal_surfaces_at_once(winerror: int | None) -> None:
    held = Held(1, winerror)
    with pytest.raises(PermissionError, match="held"):
        durable_file.patiently(held)
    assert held.tries == 1


def test_a_file_that_stays_open_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable_file, "RETRY_FOR_S", 0.2)
    held = Held(1_000, 32)
    with pytest.raises(PermissionError, match="held"):
        durable_file.patiently(held)
    assert held.tries > 2
