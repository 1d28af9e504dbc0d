"""``outhaul-agent check`` as people and scripts meet it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.check.stages import REACHING
from agent.cli import cli
from agent.cli_check import exit_code
from agent.connectors.base import Finding

FILE = """
agent = "plant-1"
state_dir = "state"
[connections.edi]
type = "file"
root = "inbox"
[operations.pick]
connection = "edi"
pick = "*.csv"
format = { type = "csv" }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "inbox").mkdir()
    path = tmp_path / "agent.toml"
    path.write_text(FILE)
    return path


def check(config: Path, *words: str, color: bool = False) -> Result:
    return CliRunner().invoke(cli, ["check", *words, "--config", str(config)], color=color)


def test_a_line_for_each_and_the_remedy_under_what_failed(config: Path) -> None:
    answer = check(config)
    lines = answer.output.splitlines()
    assert answer.exit_code == 1
    assert lines[1] == f"ok      file {config}: 1 connection, 1 operation"
    failed = lines.index("FAILED  identity: this agent has no certificate yet")
    assert lines[failed + 1] == "        fix: outhaul-agent enroll --token TOKEN"
    assert "note    dns: not tried: identity failed first" in lines
    assert "ok      operation pick: picks *.csv; 0 there now" in lines
    assert "\x1b" not in answer.output


def test_colours_are_for_terminals(config: Path) -> None:
    assert "\x1b[32m" in check(config, color=True).output


def test_one_operation_is_tried_with_what_it_needs_and_no_more(config: Path) -> None:
    answer = check(config, "pick", "--json")
    document = json.loads(answer.stdout)
    assert answer.exit_code == 0
    assert document["ok"] is True
    assert [one["stage"] for one in document["stages"]] == ["account", "file", "secrets", "connections", "operations"]
    assert all(one["seconds"] >= 0 for one in document["stages"] if one["stage"] != "account")


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("agent = 1\n", (), "agent.toml:1: agent: wants"),
        ("agent = \n", (), "agent.toml:1:9"),
        (FILE, ("nope",), "no operation 'nope'; there are pick"),
    ],
)
def test_a_broken_file_is_the_first_thing_that_is_told(
    config: Path, text: str, words: tuple[str, ...], said: str
) -> None:
    config.write_text(text)
    answer = check(config, *words)
    assert answer.exit_code == 2
    assert said in answer.output
    assert "        fix: correct the file where the message says" in answer.output
    assert "note    connections: not tried: file failed first" in answer.output


def test_a_file_that_is_not_there_is_told_as_json_too(tmp_path: Path) -> None:
    answer = check(tmp_path / "none.toml", "--json")
    assert answer.exit_code == 2
    first: dict[str, Any] = next(one for one in json.loads(answer.stdout)["stages"] if one["ok"] is False)
    assert (first["stage"], first["code"]) == ("file", "file.broken")


@pytest.mark.parametrize(
    ("failed", "code"),
    [
        ((), 0),
        (("tls",), 3),
        (tuple(sorted(REACHING)), 3),
        (("dns", "connections"), 1),
        (("identity",), 1),
        (("operations",), 1),
        (("file", "dns"), 2),
    ],
)
def test_the_exit_code_tells_what_kind_of_failure_it_is(failed: tuple[str, ...], code: int) -> None:
    findings = [Finding("x", True, "", stage="clock"), Finding("y", None, "", stage="dns")]
    assert exit_code(findings + [Finding("z", False, "", stage=stage) for stage in failed]) == code


def test_a_name_of_others_can_not_colour_the_terminal(config: Path) -> None:
    config.write_text(FILE.replace('"*.csv"', '"\\u001b[31m*.csv"'))
    assert "\x1b" not in check(config, "pick").output
