"""Standard output and error of a service."""

import sys
from pathlib import Path

import pytest

from agent.service import log_stream
from agent.service.log_stream import LogStream


def test_what_is_printed_stands_in_the_file_as_it_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LogStream(tmp_path / "logs" / "agent.log") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        sys.stderr.write("Größe € \udc80\n")
        sys.stderr.write("100 %s\n")
    assert (tmp_path / "logs" / "agent.log").read_text("utf-8") == "Größe € \\udc80\n100 %s\n"


def test_the_files_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_stream, "MOST_BYTES", 1000)
    with LogStream(tmp_path / "agent.log") as stream:
        for number in range(1000):
            stream.write(f"line {number:06}\n")
    files = list(tmp_path.iterdir())
    assert len(files) == log_stream.KEPT
    assert all(file.stat().st_size <= 1000 for file in files)
    assert (tmp_path / "agent.log").read_text().endswith("line 000999\n")
