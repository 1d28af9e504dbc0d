"""The agent as a whole, where nothing runs yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from agent.app import Agent, Unusable
from agent.config_file import load
from agent.connectors.base import Call, Connector, Finding, Outputs, Piece
from agent.errors import SourceUnavailable
from agent.journal.base import Claim, Resolution
from agent.journal.file import FileJournal
from agent.journal.resolutions import leave, resolutions
from agent.pauses import EVERY, Pause, pause

FILE = """
agent     = "plant-1"
state_dir = "state"

[connections.probe]
type = "synthetic"

[operations.post]
connection = "probe"
synthetic  = "echo"
effect     = "at-most-once"
"""


async def test_a_connection_without_its_secret_tells_nobody_that_nothing_is_known() -> None:
    with pytest.raises(SourceUnavailable, match="the secret is missing"):
        await Unusable("erp", "the secret is missing").find(Call("cmd_1", "order", b"{}", 1.0))


async def test_what_a_person_found_out_while_the_agent_was_down_is_heard_before_anybody_is_asked(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "agent.toml").write_text(FILE)
    journal = await FileJournal.open(state)
    await journal.begin(Claim("cmd_1", 1, "f", "post", "at-most-once", b"{}", "c", 1.0))
    await journal.close()
    leave(state, "cmd_1", Resolution(True, "anna", "it is there", 2.0))
    agent = await Agent.open(load(tmp_path / "agent.toml"))
    try:
        (running,) = agent.dispatcher._commands.values()
        assert running.task is not None
        await running.task
        assert running.result.last is not None
        assert running.result.last.outcome == "succeeded"
        assert "anna" in running.result.last.warnings[0]
        assert resolutions(state) == []
    finally:
        await agent.journal.close()


class Asked(Connector):
    """Notes what it is asked to describe."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def run(self, call: Call) -> AsyncGenerator[Piece, None]:
        raise SourceUnavailable("it is not there", touched=False)
        yield  # makes this a generator, as the interface wants

    async def find(self, call: Call) -> Outputs | None:
        return None

    async def check(self, operation: str | None = None) -> list[Finding]:
        return []

    async def describe(self, operation: str) -> dict[str, Any] | None:
        self.names.append(operation)
        return None


async def test_a_paused_system_is_not_asked_to_describe_itself(tmp_path: Path) -> None:
    soap = """
[connections.erp]
type = "soap"
wsdl = "http://127.0.0.1:9/erp?wsdl"

[operations.book]
connection = "erp"
call       = "Book"
"""
    (tmp_path / "agent.toml").write_text(FILE + soap)
    pause(tmp_path / "state", Pause(EVERY, "", "maria", 1.0))
    agent = await Agent.open(load(tmp_path / "agent.toml"))
    try:
        agent._connectors["erp"] = erp = Asked()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agent._describe(), 0.2)
        assert erp.names == []
        agent._obey({})
        await agent._describe()
        assert erp.names == ["book"]
    finally:
        await agent.journal.close()
