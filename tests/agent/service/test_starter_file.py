"""The operator's file of an agent that has none yet."""

import re
from pathlib import Path

import pytest

from agent import config_file
from agent.service.starter_file import machine_name, starter_file, state_dir_of
from agent.settings import NAME


@pytest.mark.parametrize("agent", ["", "plant-1"])
def test_a_new_file_can_be_read_and_allows_nothing(agent: str) -> None:
    settings = config_file.parse(starter_file(agent), "agent.toml")
    assert settings.agent == (agent or machine_name())
    assert (settings.state_dir, dict(settings.operations)) == ("state", {})


def test_what_a_new_file_shows_is_right_once_it_is_no_comment() -> None:
    text = re.sub(r"(?m)^# (?=[\[a-z].*[\]=])", "", starter_file("plant-1"))
    assert list(config_file.parse(text, "agent.toml").operations) == ["open-invoices"]


@pytest.mark.parametrize("host", ["ERP01", "erp01.example.com", "_Büro ERP_", "ÄÖÜ", "-", "x" * 80])
def test_the_machines_name_makes_a_name_for_an_agent(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert re.fullmatch(NAME, machine_name())


@pytest.mark.parametrize(
    ("text", "folder"),
    [('agent = "a"\nstate_dir = "own"\n', "own"), ("not TOML", "state"), (None, "state")],
)
def test_the_agents_folder_is_known_also_where_the_file_is_not(tmp_path: Path, text: str | None, folder: str) -> None:
    file = tmp_path / "agent.toml"
    if text is not None:
        file.write_text(text)
    assert state_dir_of(file) == tmp_path / folder
