"""The text that tells a machine from its copy is on the disk, whatever the disk does."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from agent.identity.lineage import SLOT_BYTES, Lineage


def test_what_was_kept_last_is_read(tmp_path: Path) -> None:
    assert Lineage(tmp_path).read() == ""
    for text in ("first", "second", "third"):
        Lineage(tmp_path).keep(text)
        assert Lineage(tmp_path).read() == text


def test_it_never_grows_so_that_a_full_disk_has_room_for_it(tmp_path: Path) -> None:
    kept = Lineage(tmp_path)
    for number in range(50):
        kept.keep(f"lineage {number}")
        path = tmp_path / "identity" / "lineage"
        assert path.stat().st_size == 2 * SLOT_BYTES
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("cut", [0, 1, 10, 60, SLOT_BYTES - 1])
def test_a_write_that_the_power_ended_leaves_the_one_before(cut: int, tmp_path: Path) -> None:
    kept = Lineage(tmp_path)
    kept.keep("before")
    path = tmp_path / "identity" / "lineage"
    before = path.read_bytes()
    kept.keep("after")
    after = path.read_bytes()
    # The second text is in the first slot; its first bytes only came to the disk.
    path.write_bytes(after[:cut] + before[cut:])
    assert kept.read() == ("after" if after[:cut] + before[cut:] == after else "before")
    kept.keep("later")
    assert kept.read() == "later"


@pytest.mark.parametrize("data", [b"", b"\xff" * 2 * SLOT_BYTES, b'[1, "x"]', b'[0, "[3, 4]"]'.ljust(2 * SLOT_BYTES)])
def test_what_can_not_be_read_is_as_if_it_were_not_there(data: bytes, tmp_path: Path) -> None:
    kept = Lineage(tmp_path)
    kept.keep("text")
    (tmp_path / "identity" / "lineage").write_bytes(data)
    assert kept.read() == ""
    kept.keep("again")
    assert kept.read() == "again"


def test_no_text_is_too_long_for_its_slot_unseen(tmp_path: Path) -> None:
    kept = Lineage(tmp_path)
    kept.keep("text")
    with pytest.raises(ValueError, match="which is no broker's"):
        kept.keep("é" * 300)
    assert kept.read() == "text"


def test_a_new_enrolment_begins_anew(tmp_path: Path) -> None:
    kept = Lineage(tmp_path)
    kept.keep("text")
    kept.reset()
    assert kept.read() == ""


def test_a_disk_that_does_not_take_it_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Lineage(tmp_path)
    kept.keep("before")

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="I/O error"):
        kept.keep("after")
    assert kept.read() in ("before", "after")
