"""``outhaul-agent journal``: what ran here, and what is in doubt."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from agent.cli import cli
from agent.config_file import load
from agent.errors import AgentError
from agent.identity.keys import open_keys
from agent.journal.base import Anchor, Resolution
from agent.journal.file import FOLDER, FileJournal
from agent.journal.resolutions import resolutions, take_resolution
from agent.secrets import open_store
from cloud_broker.client.sealing import SealedCall
from protocol.messages import Completed
from tests.agent.journal.commands import AT, claim, command_id, succeeded

FILE = """
agent = "plant-1"
state_dir = "state"
"""


async def fill(state_dir: Path) -> None:
    """One of each kind."""
    journal = await FileJournal.open(state_dir)
    await journal.begin(claim(1))
    await journal.begin(claim(2, effect="at-most-once"))
    doubtful = Completed(
        command_id(2), 1, "in_doubt", error_kind="unknown", error_code="outcome_unknown", error_message="lost\nit"
    )
    await journal.end(command_id(2), doubtful, b"", AT + 60)
    await journal.begin(claim(3, epoch=2))
    await journal.end(command_id(3), succeeded(3), b'{"order_no":"A-3"}', AT + 61)
    journal.acknowledge(command_id(3))
    journal.note(claim(4, effect="read"), succeeded(4), AT + 62)
    await journal.close()


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    (tmp_path / "agent.toml").write_text(FILE, encoding="utf-8")
    asyncio.run(fill(tmp_path / "state"))
    return tmp_path / "state"


def agent(state_dir: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["journal", *words, "--config", str(state_dir.parent / "agent.toml")])


def told(state_dir: Path, *words: str) -> Any:
    answer = agent(state_dir, *words, "--json")
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ((), [4, 3, 2, 1]),
        (("--limit", "2"), [4, 3]),
        (("--state", "started"), [1]),
        (("--state", "ended"), [2]),
        (("--state", "in_doubt"), [2]),
        (("--state", "acknowledged"), [4, 3]),
        (("--operation", "create-order", "--state", "started"), [1]),
        (("--operation", "another"), []),
    ],
)
def test_a_list_has_what_was_asked_for_the_newest_first(
    state_dir: Path, words: tuple[str, ...], numbers: list[int]
) -> None:
    assert [entry["id"] for entry in told(state_dir, "list", *words)] == [command_id(number) for number in numbers]


def test_a_list_for_people_has_a_line_for_each_and_says_how_many_more_there_are(state_dir: Path) -> None:
    answer = agent(state_dir, "list", "--limit", "3")
    lines = answer.stdout.splitlines()
    assert lines[0].split() == ["id", "operation", "effect", "attempt", "state", "outcome", "started", "ended"]
    assert lines[2].split()[:6] == [command_id(3), "create-order", "once", "2", "acknowledged", "succeeded"]
    assert "in_doubt" in lines[3]
    assert answer.stderr == "1 more; --limit shows them\n"


def test_show_tells_all_of_one(state_dir: Path) -> None:
    assert told(state_dir, "show", command_id(1))["params"] == {"customer": "C042"}
    found = told(state_dir, "show", command_id(3))
    assert (found["state"], found["attempt"], found["outputs"]) == ("acknowledged", 2, {"order_no": "A-3"})
    assert found["ended_at"] == "2026-09-21T14:14:21Z"
    text = agent(state_dir, "show", command_id(2)).stdout
    assert '"code": "outcome_unknown"' in text
    assert "lost\\nit" in text


def test_sealed_parameters_are_shown_sealed_and_opened_on_demand(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(FILE, encoding="utf-8")
    loaded = load(tmp_path / "agent.toml")
    folder = tmp_path / "state"
    keys = open_keys(folder, open_store(loaded.settings, loaded.base_dir))
    call = SealedCall.of("", "plant-1", "order", b'{"customer":"C042"}', keys.public["seal"])

    async def begin() -> None:
        journal = await FileJournal.open(folder)
        one = msgspec.structs.replace(
            claim(1), operation="order", params=call.text.encode(), sealed=True, seal_to=call.seal_to
        )
        await journal.begin(one)
        await journal.begin(msgspec.structs.replace(one, id=command_id(2), operation="other"))
        await journal.close()

    asyncio.run(begin())
    assert told(folder, "show", command_id(1))["params"] == call.text
    assert told(folder, "show", command_id(1), "--open")["params"] == {"customer": "C042"}
    refused = agent(folder, "show", command_id(2), "--open")
    assert refused.exit_code == 1
    assert "can't be opened" in str(refused.exception or refused.output)


def test_one_that_is_not_there_is_an_error_that_says_where_to_look(state_dir: Path) -> None:
    answer = agent(state_dir, "show", "cmd_x")
    assert isinstance(answer.exception, AgentError)
    assert "journal list" in str(answer.exception)


def test_where_nothing_ever_ran_the_list_is_empty_and_nothing_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(FILE, encoding="utf-8")
    assert told(tmp_path / "state", "list") == []
    assert told(tmp_path / "state", "verify")["ok"] is True
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("number", "words", "happened"), [(1, "--happened", True), (2, "--not-happened", False)])
def test_what_a_person_found_out_is_left_for_the_agent(
    state_dir: Path, number: int, words: str, happened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    assert told(state_dir, "resolve", command_id(number), words, "--note", "seen in the ERP")["by"] == "alice"
    ((found, resolution),) = resolutions(state_dir)
    assert found == command_id(number)
    assert (resolution.happened, resolution.by, resolution.note) == (happened, "alice", "seen in the ERP")
    take_resolution(state_dir, found)
    assert resolutions(state_dir) == []


async def test_a_resolution_that_the_agent_took_is_shown_with_the_command(state_dir: Path) -> None:
    journal = await FileJournal.open(state_dir)
    await journal.resolve(command_id(2), Resolution(True, "alice", "seen", AT + 100))
    await journal.close()
    assert told(state_dir, "show", command_id(2))["resolution"]["note"] == "seen"
    assert "in_doubt (happened)" in agent(state_dir, "list").stdout
    assert told(state_dir, "list", "--state", "in_doubt") == []


@pytest.mark.parametrize("number", [3, 4])
def test_what_is_certain_can_not_be_resolved(state_dir: Path, number: int) -> None:
    answer = agent(state_dir, "resolve", command_id(number), "--happened", "--note", "x")
    assert "there is nothing to resolve" in str(answer.exception)
    assert resolutions(state_dir) == []


@pytest.mark.parametrize("words", [("--note", "x"), ("--happened",), ()])
def test_a_resolution_says_whether_and_how(state_dir: Path, words: tuple[str, ...]) -> None:
    assert agent(state_dir, "resolve", command_id(2), *words).exit_code == 2


async def test_all_of_it_works_while_an_agent_runs(state_dir: Path) -> None:
    journal = await FileJournal.open(state_dir)
    await journal.begin(claim(5))
    assert told(state_dir, "list")[0]["id"] == command_id(5)
    assert told(state_dir, "verify")["ok"] is True
    answer = agent(state_dir, "resolve", command_id(5), "--happened", "--note", "x")
    assert (answer.exit_code, "under way" in answer.stderr) == (0, True)
    assert agent(state_dir, "resolve", command_id(2), "--happened", "--note", "x").exit_code == 0
    await journal.close()


def test_verify_names_the_first_that_does_not_fit(state_dir: Path) -> None:
    found = told(state_dir, "verify")
    assert found["ok"] is True
    assert found["records"] == 7
    path = state_dir / FOLDER / "000001.log"
    data = bytearray(path.read_bytes())
    data[data.index(command_id(3).encode())] ^= 1
    path.write_bytes(bytes(data))
    answer = agent(state_dir, "verify")
    assert answer.exit_code == 1
    assert "FAILED  000001.log: at byte" in answer.stdout
    answer = agent(state_dir, "verify", "--json")
    assert answer.exit_code == 1
    assert json.loads(answer.stdout)["damages"][0]["file"] == "000001.log"
    assert path.read_bytes() == bytes(data)


def test_a_file_that_is_no_resolution_is_put_out_of_the_way(state_dir: Path) -> None:
    folder = state_dir / "resolutions"
    folder.mkdir()
    (folder / "by-hand.json").write_text("{}", encoding="utf-8")
    assert resolutions(state_dir) == []
    assert [path.name for path in folder.iterdir()] == ["by-hand.unreadable"]


@pytest.mark.skipif(sys.platform == "win32", reason="rights of accounts are the folder's there")
def test_another_account_is_told_to_be_the_agents(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.journal.resolutions.os.geteuid", lambda: state_dir.stat().st_uid + 1)
    answer = agent(state_dir, "resolve", command_id(2), "--happened", "--note", "x")
    assert "run this as the agent's account" in str(answer.exception)


# --- against the broker's audit trail -------------------------------------------------------------


async def stand(state_dir: Path, *anchors: Anchor) -> tuple[str, int, str]:
    journal = await FileJournal.open(state_dir)
    for anchor in anchors:
        journal.anchor(anchor)
    await journal.begin(claim(50))
    position, head = journal.stand()
    await journal.close()
    return journal.mark, position, head


def exported(folder: Path, mark: str, position: int, head: str) -> str:
    """An export of a broker's audit trail with one note of the journal."""
    detail = {"journal": mark, "position": position, "head": head}
    record = {"tenant": "acme", "number": 7, "at": "t", "actor": "agent:plant-1", "action": "journal_anchor"}
    path = folder / "export.ndjson"
    path.write_text(json.dumps({**record, "detail": detail}) + "\n", encoding="utf-8")
    return str(path)


def test_verify_compares_with_what_the_broker_noted(state_dir: Path) -> None:
    mark, position, head = asyncio.run(stand(state_dir))
    answer = agent(state_dir, "verify", "--against", exported(state_dir, mark, position, head))
    assert (answer.exit_code, "it is what the broker noted 1 times" in answer.stdout) == (0, True)
    assert f"position {position}, head {head}" in answer.stdout
    for noted, found in (
        ((mark, position + 3, head), f"record {position + 1} is missing: the broker knows {position + 3} of them"),
        ((mark, position, "0" * 64), f"record {position} or one before it was written anew"),
        (("another", position, head), "it was begun anew"),
    ):
        answer = agent(state_dir, "verify", "--against", exported(state_dir, *noted))
        assert (answer.exit_code, found in answer.stdout) == (1, True), answer.stdout
        answer = agent(state_dir, "verify", "--json", "--against", exported(state_dir, *noted))
        assert found in json.loads(answer.stdout)["against"]["misfit"]


def test_a_file_that_is_no_export_is_told(state_dir: Path) -> None:
    answer = agent(state_dir, "verify", "--against", str(state_dir.parent / "agent.toml"))
    assert "line 2: wants a record of the broker's audit trail" in str(answer.exception)


def test_anchors_are_printed_as_the_broker_takes_them(state_dir: Path) -> None:
    anchors = [Anchor("acme", 5, "a" * 64, AT), Anchor("acme", 4, "b" * 64, AT + 60)]
    asyncio.run(stand(state_dir, *anchors))
    lines = [json.loads(line) for line in agent(state_dir, "anchors").stdout.splitlines()]
    assert lines == told(state_dir, "anchors")["items"]
    assert lines[0] == {"tenant": "acme", "number": 5, "hash": "a" * 64, "at": "2026-09-21T14:13:20Z"}
    answer = agent(state_dir, "verify")
    assert answer.exit_code == 0
    assert "the broker's audit trail is not what it was: it had 5 records and then 4" in answer.stdout
