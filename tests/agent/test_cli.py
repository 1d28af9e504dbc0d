"""The agent's command as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILE = """
agent = "plant-1"
state_dir = "state"
[connections.probe]
type = "synthetic"
[operations.echo]
connection = "probe"
description = "Écho → zurück 中"
synthetic = "echo"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "agent.toml"
    made.write_text(FILE, encoding="utf-8")
    return made


def agent(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command as Windows would: its pipes speak an old code page until they are told otherwise."""
    return subprocess.run(
        [sys.executable, "-c", "from agent.cli import main; main()", *words],
        input=stdin,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252:strict", "PYTHONUTF8": "0"},
        check=False,
    )


@pytest.mark.parametrize("words", [["operations"], ["operations", "--json"]])
def test_pipes_get_utf8_whatever_the_code_page(file: Path, words: list[str]) -> None:
    answer = agent(*words, "--config", file)
    assert answer.returncode == 0, answer.stderr
    assert "Écho → zurück 中" in answer.stdout.decode("utf-8")


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n"])
def test_a_secret_from_a_pipe_is_utf8_without_mark_and_line_end(file: Path, before: bytes, after: bytes) -> None:
    kept = agent("secret", "set", "word", "--config", file, stdin=before + "päss→中".encode() + after)
    assert kept.returncode == 0, kept.stderr
    script = (
        "from pathlib import Path; from agent.config_file import load; from agent.secrets import open_store; "
        f"read = load(Path({str(file)!r})); print(ascii(open_store(read.settings, read.base_dir).get('word')))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.strip() == ascii("päss→中")


def test_a_secret_that_is_not_utf8_is_refused_and_not_shown(file: Path) -> None:
    answer = agent("secret", "set", "word", "--config", file, stdin=b"p\xe4ss")
    assert answer.returncode == 1
    assert b"is not UTF-8" in answer.stderr
    assert b"Traceback" not in answer.stderr
